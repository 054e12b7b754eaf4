"""Predictors on tiny random checkpoints in their real formats, with heads as they are published."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_encoders as tiny
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from ugaf.stages.curation.predict import Predict

from ugaf.base.errors import ConfigError
from ugaf.imaging import images
from ugaf.models.encoders import transformers_engine
from ugaf.models.predictors.classifier import ClassifierPredictor
from ugaf.stage import Failure, Row

pytestmark = pytest.mark.torch

CLOSE = 1e-5


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("predictors")


@pytest.fixture(scope="session")
def clip(folder: Path) -> Path:
    return tiny.build_clip(folder / "clip")


@pytest.fixture(scope="session")
def classifier(folder: Path) -> Path:
    return tiny.build_classifier(folder / "classifier")


@pytest.fixture(scope="session")
def pictures(photos: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Of four shapes."""
    astronaut, coffee = cv2.resize(photos["astronaut"], (96, 96)), cv2.resize(photos["coffee"], (144, 96))
    return [astronaut, coffee, astronaut[:, ::-1], coffee[::-1], coffee.transpose(1, 0, 2), astronaut[:20, :30]]


def mlp(*widths: int, between: Callable[[], list[torch.nn.Module]] = list) -> torch.nn.Sequential:
    torch.manual_seed(1)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), *between()]
    return torch.nn.Sequential(*layers[: len(layers) - len(between())]).eval()


def rows(pictures: Sequence[np.ndarray]) -> list[Row]:
    return [Row(f"{i:032x}", {"image": images.encode(picture)}) for i, picture in enumerate(pictures)]


def stage_of(**predictors: dict[str, Any]) -> Predict:
    stage = Predict("curation.predict", Predict.Settings(predictors=predictors))
    stage.setup()
    return stage


def head(clip: Path, path: Path, **options: Any) -> dict[str, Any]:
    encoder = {"engine": "transformers", "model": str(clip), "device": "cpu", "batch_size": 4}
    return {"engine": "head", "path": str(path), "encoder": encoder, **options}


def embeddings(clip: Path, pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """CLIP's own, at length 1, one by one."""
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(clip)
    with torch.no_grad():
        found = [
            model.visual_projection(
                model.vision_model(**processor(images=[Image.fromarray(p)], return_tensors="pt")).pooler_output
            )
            for p in pictures
        ]
    return torch.nn.functional.normalize(torch.cat(found))


def test_published_kinds_of_heads_give_what_their_modules_give(
    clip: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    """One layer (LAION's first); five with dropout between them (its second); relu and sigmoid (its NSFW head)."""
    linear = torch.nn.Linear(tiny.SHARED, 1)
    dropped = mlp(tiny.SHARED, 16, 8, 4, 1, between=lambda: [torch.nn.Dropout(0.2)])
    probability = mlp(tiny.SHARED, 16, 8, 1, between=lambda: [torch.nn.ReLU()])
    torch.save(linear.state_dict(), tmp_path / "linear.pth")
    torch.save({"state_dict": {f"layers.{k}": v for k, v in dropped.state_dict().items()}}, tmp_path / "mlp.ckpt")
    save_file({f"linear_{k}": v.half() for k, v in probability.state_dict().items()}, tmp_path / "nsfw.safetensors")
    probability = probability.half().float()
    stage = stage_of(
        aesthetic=head(clip, tmp_path / "linear.pth"),
        iqa=head(clip, tmp_path / "mlp.ckpt"),
        nsfw=head(clip, tmp_path / "nsfw.safetensors", activation="relu", output="sigmoid"),
    )
    found = stage(rows(pictures))
    vectors = embeddings(clip, pictures)
    with torch.no_grad():
        expected = {
            "aesthetic": linear(vectors)[:, 0],
            "iqa": dropped(vectors)[:, 0],
            "nsfw": probability(vectors)[:, 0].sigmoid(),
        }
    for name, values in expected.items():
        assert [outcome[name] for outcome in found] == pytest.approx(values.tolist(), abs=CLOSE)
        assert values.max() - values.min() > 100 * CLOSE, "the pictures must differ for the test to mean something"
    assert all(outcome["generated"] is None for outcome in found)


def test_three_heads_take_one_forward_pass(
    clip: Path, pictures: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        torch.save(torch.nn.Linear(tiny.SHARED, 1).state_dict(), tmp_path / f"{name}.pth")
    built: list[Any] = []
    init = transformers_engine.TransformersEncoder.__init__
    monkeypatch.setattr(
        transformers_engine.TransformersEncoder,
        "__init__",
        lambda self, settings: built.append(self) or init(self, settings),
    )
    names = dict(zip(("aesthetic", "iqa", "nsfw"), "abc", strict=True))
    stage = stage_of(**{name: head(clip, tmp_path / f"{file}.pth") for name, file in names.items()})
    assert len(built) <= 1
    encoder, seen = stage.predictors["iqa"].backbone, []
    run = encoder._run
    monkeypatch.setattr(encoder, "_run", lambda tensors: seen.append(len(tensors["pixel_values"])) or run(tensors))
    stage(rows(pictures))
    assert sum(seen) == len(pictures)


def test_a_head_of_another_size_is_refused(clip: Path, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(768, 1).state_dict(), tmp_path / "l14.pth")
    with pytest.raises(ConfigError, match=r"takes embeddings of 768 numbers, but transformers:clip gives 12"):
        stage_of(aesthetic=head(clip, tmp_path / "l14.pth"))


def test_a_pickle_that_runs_code_is_not_read(clip: Path, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(tiny.SHARED, 1), tmp_path / "module.pt")  # the module itself, not its state
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    for name, message in (("module.pt", "cannot be read"), ("tensor.pt", "expected a state dict")):
        with pytest.raises(ConfigError, match=message):
            stage_of(aesthetic=head(clip, tmp_path / name))


def by_hand(path: Path, pictures: Sequence[np.ndarray], function: str) -> np.ndarray:
    """The library's own pipeline: (n, labels) in the order of the labels."""
    classify = transformers.pipeline("image-classification", model=str(path), function_to_apply=function, top_k=None)
    answers = [classify(Image.fromarray(picture)) for picture in pictures]
    names = list(transformers.AutoConfig.from_pretrained(path).id2label.values())
    return np.array([[next(a["score"] for a in answer if a["label"] == name) for name in names] for answer in answers])


def test_a_label_s_probability_is_that_of_the_library(classifier: Path, pictures: list[np.ndarray]) -> None:
    spec = {"engine": "classifier", "model": str(classifier), "device": "cpu", "batch_size": 4}
    stage = stage_of(generated={**spec, "labels": ["render", "drawing"]}, iqa={**spec, "labels": "PHOTO"})
    assert stage.predictors["generated"].backbone is stage.predictors["iqa"].backbone
    found = stage(rows(pictures))
    expected = by_hand(classifier, pictures, "softmax")
    assert [outcome["iqa"] for outcome in found] == pytest.approx(expected[:, 1], abs=CLOSE)
    assert [outcome["generated"] for outcome in found] == pytest.approx(expected[:, 0] + expected[:, 2], abs=CLOSE)
    assert np.ptp(expected[:, 1]) > 100 * CLOSE
    for row, outcome in zip(rows(pictures), found, strict=True):
        (alone,) = stage([row])
        assert alone["iqa"] == pytest.approx(outcome["iqa"], abs=CLOSE)


@pytest.mark.parametrize("problem", ["multi_label_classification", None])
def test_labels_that_do_not_exclude_each_other_are_read_by_sigmoid(
    folder: Path, pictures: list[np.ndarray], problem: str | None
) -> None:
    labels = ("nsfw", "drawing") if problem else ("nsfw",)
    path = tiny.build_classifier(folder / f"sigmoid-{len(labels)}", labels, problem)
    spec = {"engine": "classifier", "model": str(path), "device": "cpu"}
    found = stage_of(nsfw={**spec, "labels": ["nsfw"]})(rows(pictures))
    assert [one["nsfw"] for one in found] == pytest.approx(by_hand(path, pictures, "sigmoid")[:, 0], abs=CLOSE)
    if problem:
        with pytest.raises(ConfigError, match="do not exclude each other"):
            stage_of(nsfw={**spec, "labels": ["nsfw", "drawing"]})


def test_a_photograph_that_cannot_be_decoded_fails_alone(
    clip: Path, classifier: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    torch.save(torch.nn.Linear(tiny.SHARED, 1).state_dict(), tmp_path / "a.pth")
    spec = {"engine": "classifier", "model": str(classifier), "device": "cpu", "labels": "render"}
    stage = stage_of(aesthetic=head(clip, tmp_path / "a.pth"), generated=spec)
    given = rows(pictures)
    given[3] = Row(f"{3:032x}", {"image": b"no picture at all"})
    found = list(stage(given))
    assert isinstance(found[3], Failure)
    assert found[3].type == "ImageError"
    whole = list(stage(rows(pictures)))
    for i in (0, 1, 2, 4, 5):
        for name in ("aesthetic", "generated"):
            assert found[i][name] == pytest.approx(whole[i][name], abs=CLOSE)


def test_answers_that_are_no_numbers_fail_their_photograph(
    classifier: Path, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ClassifierPredictor.Settings(model=str(classifier), device="cpu", labels="photo")
    predictor = ClassifierPredictor(spec)
    forward = predictor.backbone._model.forward

    def overflow(pixel_values: torch.Tensor) -> Any:
        answer = forward(pixel_values=pixel_values)
        answer.logits[(pixel_values.mean((1, 2, 3)) == pixel_values.mean((1, 2, 3)).max())] = float("inf")
        return answer

    monkeypatch.setattr(predictor.backbone._model, "forward", overflow)
    found = predictor.predict([lambda: pictures[0], lambda: pictures[1]])
    assert all(isinstance(one, Failure) and "dtype: float32" in one.message for one in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": "fotos"}, r"'fotos' is no label of .*did you mean 'photo'"),
        ({"labels": "x", "model": "nowhere/at-all"}, "'nowhere/at-all' cannot be loaded"),
        ({"labels": "photo", "device": "cuda"}, "classifier.device=cpu does without"),
    ],
)
def test_what_cannot_be_used_is_said_before_any_row(classifier: Path, change: dict[str, Any], message: str) -> None:
    if torch.cuda.is_available() and change.get("device") == "cuda":
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match=message):
        stage_of(nsfw={"engine": "classifier", "model": str(classifier), "device": "cpu", **change})


def test_a_regression_is_no_classifier(folder: Path) -> None:
    path = tiny.build_classifier(folder / "regression", ("score",), "regression")
    with pytest.raises(ConfigError, match="gives a number, not probabilities"):
        stage_of(iqa={"engine": "classifier", "model": str(path), "device": "cpu", "labels": "score"})
