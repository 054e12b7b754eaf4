"""Image encoders on tiny random checkpoints in their real formats, and the stage that stores what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import tiny_encoders as tiny
import torch
import transformers
from PIL import Image
from ugaf.stages.curation.embed import Embed

from ugaf.base.errors import ConfigError, StopRun
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.imaging import images
from ugaf.models.encoders import open_encoder
from ugaf.models.encoders.torchscript_engine import TorchScriptEncoder
from ugaf.models.encoders.transformers_engine import TransformersEncoder
from ugaf.pipeline import config
from ugaf.stage import Failure, Row, engines

pytestmark = pytest.mark.torch

CLOSE = 1e-5


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    built = {name: getattr(tiny, f"build_{name}")(folder / name) for name in ("clip", "siglip", "dinov2")}
    built["shapes"] = tiny.build_dinov2(folder / "shapes", crop=False)
    built["script"] = tiny.build_torchscript(folder / "sscd.torchscript.pt")
    return built


@pytest.fixture(scope="session")
def pictures(photos: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Of four shapes, two of each but one; one is smaller than what the models take."""
    astronaut, coffee = cv2.resize(photos["astronaut"], (96, 96)), cv2.resize(photos["coffee"], (144, 96))
    return [astronaut, coffee, astronaut[:, ::-1], coffee[::-1], coffee.transpose(1, 0, 2), astronaut[:20, :30]]


def encoder(path: Path, **options: Any) -> TransformersEncoder:
    return TransformersEncoder(TransformersEncoder.Settings(model=str(path), **{"device": "cpu", **options}))


def script(path: Path, **options: Any) -> TorchScriptEncoder:
    return TorchScriptEncoder(TorchScriptEncoder.Settings(path=str(path), **{"device": "cpu", **options}))


def loaders(pictures: Sequence[np.ndarray]) -> list[Callable[[], np.ndarray]]:
    return [lambda picture=picture: picture for picture in pictures]


def good(found: Sequence[np.ndarray | Failure]) -> np.ndarray:
    assert not [str(one) for one in found if isinstance(one, Failure)]
    return np.stack([one for one in found if not isinstance(one, Failure)])


def direct(path: Path, picture: np.ndarray, read: Callable[[Any, Any], torch.Tensor]) -> np.ndarray:
    """The library asked by hand about one picture, at length 1."""
    model = transformers.AutoModel.from_pretrained(path).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    with torch.no_grad():
        vector = read(model, processor(images=[Image.fromarray(picture)], return_tensors="pt")["pixel_values"])[0]
    return (vector / vector.norm()).numpy()


READ = {
    "clip": lambda model, pixels: model.visual_projection(model.vision_model(pixels).pooler_output),
    "siglip": lambda model, pixels: model.vision_model(pixels).pooler_output,
    "dinov2": lambda model, pixels: model(pixels).last_hidden_state[:, 0],
    "shapes": lambda model, pixels: model(pixels).last_hidden_state[:, 0],
}


@pytest.mark.parametrize("name", READ)
def test_embeddings_are_those_of_the_library_whatever_the_batch(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], name: str
) -> None:
    found = encoder(checkpoints[name], batch_size=3)
    together = good(found.encode(loaders(pictures)))
    assert together.dtype == np.float32
    assert together.shape == (len(pictures), found.dim)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=CLOSE)
    for picture, vector in zip(pictures, together, strict=True):
        assert vector == pytest.approx(good(found.encode(loaders([picture])))[0], abs=CLOSE)
        assert vector == pytest.approx(direct(checkpoints[name], picture, READ[name]), abs=CLOSE)
    # The test can fail: different pictures are not at one place.
    assert np.abs(together[0] - together[1]).max() > 100 * CLOSE


def test_the_dimension_is_that_of_the_space_that_is_given(checkpoints: dict[str, Path]) -> None:
    assert encoder(checkpoints["clip"]).dim == tiny.SHARED
    assert encoder(checkpoints["clip"], pooling="cls").dim == tiny.SIZES["hidden_size"]


@pytest.mark.parametrize(
    ("name", "pooling", "read"),
    [
        ("clip", "pooled", lambda model, pixels: model.vision_model(pixels).pooler_output),
        ("clip", "cls", lambda model, pixels: model.vision_model(pixels).last_hidden_state[:, 0]),
        ("dinov2", "mean", lambda model, pixels: model(pixels).last_hidden_state[:, 1:].mean(1)),
    ],
)
def test_another_pooling_is_taken_where_it_is_named(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], name: str, pooling: str, read: Any
) -> None:
    (found,) = good(encoder(checkpoints[name], pooling=pooling).encode(loaders(pictures[:1])))
    assert found == pytest.approx(direct(checkpoints[name], pictures[0], read), abs=CLOSE)


def test_pictures_of_one_prepared_size_share_a_batch_and_others_do_not(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two squares; two of 3:2, and the small one comes to the same; one of 2:3.
    for name, expected in (("dinov2", [2, 4]), ("shapes", [1, 2, 3])):
        found, seen = encoder(checkpoints[name], batch_size=4), []
        run = found._run

        def watch(tensors: Any, run: Any = run, seen: list[int] = seen) -> np.ndarray:
            seen.append(len(tensors["pixel_values"]))
            return run(tensors)

        monkeypatch.setattr(found, "_run", watch)
        good(found.encode(loaders(pictures)))
        assert sorted(seen) == expected


def test_half_precision_points_nearly_the_same_way(checkpoints: dict[str, Path], pictures: list[np.ndarray]) -> None:
    whole = good(encoder(checkpoints["siglip"]).encode(loaders(pictures)))
    half = good(encoder(checkpoints["siglip"], dtype="bfloat16").encode(loaders(pictures)))
    assert half.dtype == np.float32
    assert (whole * half).sum(1) == pytest.approx(1, abs=0.01)
    assert np.abs(whole - half).max() > 0


def test_sscd_is_run_as_it_is_published(checkpoints: dict[str, Path], pictures: list[np.ndarray]) -> None:
    found = script(checkpoints["script"], side=64, batch_size=4)
    vectors = good(found.encode(loaders(pictures)))
    module = torch.jit.load(str(checkpoints["script"]))
    for picture, vector in zip(pictures, vectors, strict=True):
        shrinks = min(picture.shape[:2]) >= 64
        small = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        pixels = torch.from_numpy(small).permute(2, 0, 1).float() / 255
        pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
        with torch.no_grad():
            expected = torch.nn.functional.normalize(module(pixels[None]))[0].numpy()
        assert vector == pytest.approx(expected, abs=CLOSE)
    assert found.name == "torchscript:sscd.torchscript.pt"


@pytest.mark.parametrize(("fit", "shape"), [("squash", (64, 64)), ("shorter", (64, 96)), ("crop", (64, 64))])
def test_a_photograph_gets_to_its_size_as_it_is_said(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], fit: str, shape: tuple[int, int]
) -> None:
    prepared = script(checkpoints["script"], side=64, fit=fit)._prepared(pictures[1])["pixels"]
    assert tuple(prepared.shape) == (1, 3, *shape)
    if fit == "crop":
        wide = script(checkpoints["script"], side=64, fit="shorter")._prepared(pictures[1])["pixels"]
        assert torch.equal(prepared, wide[..., 16:80])


@pytest.mark.parametrize("engine", ["dinov2", "script"])
def test_a_photograph_that_cannot_be_decoded_fails_alone(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], engine: str
) -> None:
    spec = {"engine": "transformers", "model": str(checkpoints["dinov2"]), "device": "cpu"}
    if engine == "script":
        spec = {"engine": "torchscript", "path": str(checkpoints["script"]), "device": "cpu"}
    stage = Embed("curation.embed", Embed.Settings(encoder=spec))
    stage.setup()
    rows = [Row(f"{i:032x}", {"image": images.encode(picture)}) for i, picture in enumerate(pictures)]
    rows[2] = Row(f"{2:032x}", {"image": images.encode(pictures[2])[:300]})
    outcomes = list(stage(rows))
    assert isinstance(outcomes[2], Failure)
    assert outcomes[2].type == "ImageError"
    for i, outcome in enumerate(outcomes):
        if i != 2:
            (alone,) = stage([rows[i]])
            assert outcome["embedding"].astype(np.float32) == pytest.approx(
                alone["embedding"].astype(np.float32), abs=2e-3
            )
    assert all(not row._memo for row in rows), "decoded pixels must not pile up with the batch"


def test_a_vector_that_is_no_direction_is_a_failure(tmp_path: Path) -> None:
    class Dark(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean((2, 3)) * (pixels.mean() > 0.3)

    torch.jit.script(Dark()).save(str(tmp_path / "dark.pt"))
    found = script(tmp_path / "dark.pt", mean=[0, 0, 0], std=[1, 1, 1])
    black = np.zeros((40, 40, 3), np.uint8)
    bright = np.full((40, 40, 3), 200, np.uint8)
    first, second = found.encode(loaders([black])), found.encode(loaders([bright]))
    assert isinstance(first[0], Failure)
    assert "no direction" in first[0].message
    assert good(second)[0] == pytest.approx(1 / np.sqrt(3), abs=CLOSE)


def test_a_batch_that_does_not_fit_into_memory_is_halved(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = encoder(checkpoints["clip"])
    whole, run = good(found.encode(loaders(pictures))), found._run

    def tight(tensors: Any) -> np.ndarray:
        if len(tensors["pixel_values"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(tensors)

    monkeypatch.setattr(found, "_run", tight)
    assert good(found.encode(loaders(pictures))) == pytest.approx(whole, abs=CLOSE)


def test_a_lost_gpu_stops_the_run(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = encoder(checkpoints["clip"])
    monkeypatch.setattr(found, "_run", lambda _: (_ for _ in ()).throw(torch.AcceleratorError("gone")))
    with pytest.raises(StopRun, match="GPU failed"):
        found.encode(loaders(pictures))


def test_one_process_has_a_model_once(checkpoints: dict[str, Path]) -> None:
    spec = {"engine": "transformers", "model": str(checkpoints["clip"]), "device": "cpu"}
    first = open_encoder(spec)
    assert open_encoder(engines.check("encoder", spec)) is first
    assert open_encoder({**spec, "pooling": "cls"}) is not first


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"engine": "transformers", "model": "nowhere/at-all"}, "'nowhere/at-all' cannot be loaded"),
        ({"engine": "transformers", "model": "{clip}", "pooling": "wide"}, "pooling"),
        ({"engine": "transformers", "model": "{clip}", "device": "cuda"}, "encoder.device=cpu does without"),
        ({"engine": "torchscript", "path": "{clip}/config.json"}, "config.json is no TorchScript module"),
        ({"engine": "torchscript", "path": "{clip}/nothing.pt"}, "there is no TorchScript file"),
        ({"engine": "torchscript", "path": "{script}", "std": [1, 0, 1]}, "above 0"),
    ],
)
def test_what_cannot_be_used_is_said_before_any_row(
    checkpoints: dict[str, Path], spec: dict[str, Any], message: str
) -> None:
    if torch.cuda.is_available() and spec.get("device") == "cuda":
        pytest.skip("there is a GPU here")
    filled = {key: value.format(**checkpoints) if isinstance(value, str) else value for key, value in spec.items()}
    with pytest.raises(ConfigError, match=message):
        open_encoder({"device": "cpu", **filled})


def test_a_module_that_gives_no_vectors_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "same.pt"))
    with pytest.raises(ConfigError, match=r"gives \(1, 3, 320, 320\); expected one tensor"):
        script(tmp_path / "same.pt")


def test_the_stage_runs_in_a_pipeline_and_stores_half_precision(
    checkpoints: dict[str, Path], pictures: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for i, picture in enumerate(pictures):
        (tmp_path / "in" / f"{i}.png").write_bytes(images.encode(picture))
    (tmp_path / "in" / "broken.png").write_bytes(images.encode(pictures[0])[:2000])
    spec = {"engine": "transformers", "model": str(checkpoints["clip"]), "device": "cpu", "batch_size": 2}
    pipeline = config.parse(
        {
            "name": "embedding",
            "inputs": [str(tmp_path / "in")],
            "output": str(tmp_path / "run"),
            "engine": {"executor": "inline"},
            "stages": [{"curation.embed": {"encoder": spec}}],
        }
    )
    runner.run(pipeline, runner.RunOptions(), lambda _: None, lambda _: None)
    rows = pa.concat_tables(RunView(pipeline.output, pipeline).rows("image", ["embedding", "encoder", "sources"]))
    kept = [row for row in rows.to_pylist() if row["status"] == "kept"]
    assert len(kept) == len(pictures)
    assert {row["encoder"] for row in kept} == {"transformers:clip"}
    assert pipeline.stage("curation.embed").cls.schema.field("embedding").type == pa.list_(pa.float16())
    expected = {f"{i}.png": vector for i, vector in enumerate(good(open_encoder(spec).encode(loaders(pictures))))}
    for row in kept:
        name = row["sources"][0].rsplit("/", 1)[1]
        assert np.float32(row["embedding"]) == pytest.approx(expected[name], abs=1e-3)


def test_needs_name_the_gpu_and_the_extra() -> None:
    settings = Embed.Settings(encoder={"engine": "transformers", "model": "some/model"})
    needs = Embed.needs(settings)
    assert needs.own_pool
    assert 0 < needs.gpus <= 1
    on_cpu = {"engine": "transformers", "model": "some/model", "device": "cpu"}
    assert Embed.needs(Embed.Settings(encoder=on_cpu)).gpus == 0
    assert needs.without_gpu == "encoder.device=cpu"
    assert set(needs.packages.values()) == {"transformers"}
    assert needs.models == ("some/model",)
