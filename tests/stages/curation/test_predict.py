"""Heads on embeddings against plain formulas, how predictors share a backbone, and what the stage's settings say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from ugaf.stages.curation.embed import Embed
from ugaf.stages.curation.predict import SCORES, Predict

from ugaf.base.errors import ConfigError, StopRun
from ugaf.imaging import images
from ugaf.models.encoders import unit
from ugaf.models.predictors import predict_all
from ugaf.models.predictors.head import HeadPredictor
from ugaf.models.predictors.heads import head_of, read_head
from ugaf.pipeline import config
from ugaf.stage import Failure, Row, engines

LOOKS: list[int] = []
"""How many photographs `MeanColour` was given, by call."""


class MeanColour:
    """An encoder by hand: the direction of the mean colour; black has none."""

    name = "mean"
    version = 1
    dim = 3

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")
        gamma: float = 1.0

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def encode(self, photos: Sequence[Callable[[], np.ndarray]]) -> list[np.ndarray | Failure]:
        LOOKS.append(len(photos))
        found: list[np.ndarray | Failure] = []
        for photo in photos:
            try:
                found.append(unit((photo().reshape(-1, 3).mean(0) / 255)[None] ** self.settings.gamma)[0])
            except Exception as error:
                found.append(Failure.of(error))
        return found


class Redness:
    """A predictor of a user's own, without a backbone; it cannot do what is wider than high."""

    name = "redness"
    version = 3
    settings: Any = None

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def predict(self, photos: Sequence[Callable[[], np.ndarray]]) -> list[float | Failure]:
        found: list[float | Failure] = []
        for photo in photos:
            try:
                pixels = photo()
            except Exception as error:
                found.append(Failure.of(error))
                continue
            wide = pixels.shape[1] > pixels.shape[0]
            found.append(Failure("TooWide", "it is wide") if wide else float(pixels[..., 0].mean()))
        return found


ENCODER = {"engine": "test_predict:MeanColour"}
REDNESS = {"engine": "test_predict:Redness"}


def saved(path: Path, **entries: Any) -> str:
    np.savez(path, **{name.replace("__", "."): np.asarray(value, np.float32) for name, value in entries.items()})
    return str(path)


def row(colour: Sequence[int], number: int = 0, size: tuple[int, int] = (20, 16)) -> Row:
    pixels = np.full((*size, 3), colour, np.uint8)
    return Row(f"{number:032x}", {"image": images.encode(pixels)})


def stage_of(**predictors: dict[str, Any]) -> Predict:
    stage = Predict("curation.predict", Predict.Settings(predictors=predictors))
    stage.setup()
    return stage


# -- heads -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_a_head_is_its_layers_one_after_the_other(widths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    widths = [*widths, 1]
    entries, expected = {}, rng.normal(size=widths[0])
    embedding = expected
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        weight, bias = rng.normal(size=(outputs, inputs)), rng.normal(size=outputs)
        entries |= {f"layers.{number * 3}.weight": weight, f"layers.{number * 3}.bias": bias}
        expected = np.array([sum(w * x for w, x in zip(line, expected, strict=True)) for line in weight]) + bias
        if number + 2 < len(widths):
            expected = np.array([max(0.0, value) for value in expected])
    head = head_of(dict(reversed(entries.items())), "head", activation="relu")
    assert head.dim == widths[0]
    assert head(embedding) == pytest.approx(expected[0], rel=1e-9, abs=1e-9)


def test_layers_follow_their_numbers_and_not_their_letters() -> None:
    entries = {"layers.10.weight": [[1.0, 1.0]], "layers.2.weight": [[1.0], [2.0]]}
    assert head_of({name: np.array(value) for name, value in entries.items()}, "head")(np.array([3.0])) == 9


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("none", -2.0),
        ("relu", 0.0),
        ("tanh", np.tanh(-2.0)),
        ("silu", -2.0 / (1 + np.exp(2.0))),
        ("gelu", -0.04550026389635842),
    ],
)
def test_what_stands_between_the_layers(activation: Any, expected: float) -> None:
    entries = {"0.weight": np.array([[-2.0]]), "1.weight": np.array([[1.0]])}
    assert head_of(entries, "head", activation)(np.array([1.0])) == pytest.approx(expected)


def test_standardised_first_and_a_probability_at_the_end() -> None:
    entries = {
        "norm.mean": np.array([1.0, 2.0]),
        "norm.variance": np.array([4.0, 0.25]),
        "linear_1.weight": np.array([[1.0, -1.0]]),
        "linear_1.bias": np.array([0.5]),
    }
    score = (3.0 - 1) / 2 - (1.0 - 2) / 0.5 + 0.5
    assert head_of(entries, "head", output="sigmoid")(np.array([3.0, 1.0])) == pytest.approx(1 / (1 + np.exp(-score)))
    far = {"weight": np.array([[1e6]])}
    assert head_of(far, "head", output="sigmoid")(np.array([-1.0])) == 0
    assert head_of(far, "head", output="sigmoid")(np.array([1.0])) == 1


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "holds no layer"),
        ({"running_mean": [1.0]}, "'running_mean' is no entry of a head"),
        ({"bias": [1.0]}, "there is a bias, but no 'weight'"),
        ({"norm.weight": [1.0, 1.0]}, r"'norm.weight' has the shape \(2,\)"),
        ({"weight": [[1.0, 2.0]], "bias": [1.0, 2.0]}, "bias of 'weight'"),
        ({"weight": [[1.0], [2.0]]}, "ends in 2 numbers; a score is one"),
        ({"0.weight": [[1.0, 1.0], [1.0, 1.0]], "1.weight": [[1.0]]}, "gives 2 numbers, the next one takes 1"),
        ({"weight": [[np.nan]]}, "not finite"),
        ({"weight": [[1.0]], "norm.mean": [0.0]}, "a mean and a variance, not mean"),
        ({"weight": [[1.0]], "norm.mean": [0.0], "norm.variance": [0.0]}, "variance above 0"),
        ({"weight": [[1.0]], "norm.mean": [0.0, 0.0], "norm.variance": [1.0, 1.0]}, "of 2 numbers"),
    ],
)
def test_what_is_no_head_is_said_with_the_entry(entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        head_of({name: np.array(value) for name, value in entries.items()}, "head x.npz")


def test_a_file_that_is_no_head_is_named(tmp_path: Path) -> None:
    (tmp_path / "head.npz").write_bytes(b"not a zip")
    (tmp_path / "head.onnx").write_bytes(b"")
    for name, message in (("head.npz", "cannot be read"), ("head.onnx", "read from a file of"), ("no.npz", "no such")):
        with pytest.raises(ConfigError, match=message):
            read_head(str(tmp_path / name))


def test_a_pickle_in_an_npz_is_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "head.npz", weight=np.array([object()], dtype=object))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_head(str(tmp_path / "head.npz"))


# -- predictors --------------------------------------------------------------------------------------------------------


def test_the_score_is_the_head_on_the_embedding(tmp_path: Path) -> None:
    path = saved(tmp_path / "head.npz", weight=[[1.0, 2.0, 3.0]], bias=[0.5])
    stage = stage_of(aesthetic={"engine": "head", "encoder": ENCODER, "path": path})
    (outcome,) = stage([row((30, 60, 90))])
    length = np.sqrt(30**2 + 60**2 + 90**2)
    assert outcome["aesthetic"] == pytest.approx((30 + 120 + 270) / length + 0.5, rel=1e-6)
    assert outcome == {"aesthetic": outcome["aesthetic"], "iqa": None, "nsfw": None, "generated": None}


def test_heads_on_one_encoder_look_once_and_on_another_again(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{n}.npz", weight=[[n, 0.0, 0.0]]) for n in (1.0, 2.0, 3.0)]
    specs = [{"engine": "head", "encoder": ENCODER, "path": path} for path in paths]
    stage = stage_of(aesthetic=specs[0], iqa=specs[1], nsfw={**specs[2], "encoder": {**ENCODER, "gamma": 2.0}})
    LOOKS.clear()
    outcomes = stage([row((255, 0, 0), 1), row((0, 255, 0), 2)])
    assert LOOKS == [2, 2]
    assert [tuple(outcome[name] for name in SCORES) for outcome in outcomes] == [(1, 2, 3, None), (0, 0, 0, None)]


def test_one_bad_photograph_costs_no_other_its_scores(tmp_path: Path) -> None:
    path = saved(tmp_path / "head.npz", weight=[[1.0, 0.0, 0.0]])
    stage = stage_of(aesthetic={"engine": "head", "encoder": ENCODER, "path": path}, iqa=REDNESS)
    rows = [row((200, 0, 0), n, size) for n, size in enumerate([(20, 16), (20, 16), (16, 20), (20, 16), (20, 16)])]
    rows[1] = Row(f"{1:032x}", {"image": rows[0]["image"][:60]})
    rows[3] = row((0, 0, 0), 3)
    first, broken, wide, black, last = stage(rows)
    assert first == last == {"aesthetic": 1.0, "iqa": 200.0, "nsfw": None, "generated": None}
    assert isinstance(broken, Failure)
    assert broken.type == "ImageError"
    assert "aesthetic" not in broken.message, "the photograph is at fault, no predictor"
    assert wide == Failure("TooWide", "iqa: it is wide")
    assert isinstance(black, Failure)
    assert black.message.startswith("aesthetic: the encoder gave a vector of zeros")


def test_a_score_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    path = saved(tmp_path / "head.npz", **{"0__weight": [[3e38, 0, 0]], "1__weight": [[3e38]], "2__weight": [[3e38]],
        "3__weight": [[3e38]], "4__weight": [[3e38]], "5__weight": [[3e38]], "6__weight": [[3e38]],
        "7__weight": [[3e38]], "8__weight": [[3e38]]})  # fmt: skip
    (outcome,) = stage_of(nsfw={"engine": "head", "encoder": ENCODER, "path": path})([row((9, 9, 9))])
    assert isinstance(outcome, Failure)
    assert "no number" in outcome.message


def test_what_is_no_row_s_fault_stops_the_run() -> None:
    class Lost(Redness):
        def predict(self, photos: Sequence[Callable[[], np.ndarray]]) -> list[float | Failure]:
            raise StopRun(f"the GPU failed at {len(photos)} photographs")

    stage = stage_of(iqa=REDNESS)
    stage.predictors = {"iqa": Lost(Redness.Settings())}
    with pytest.raises(StopRun):
        stage([row((1, 1, 1))])


def test_a_predictor_that_forgets_a_photograph_is_found_out() -> None:
    class Short(Redness):
        def predict(self, photos: Sequence[Callable[[], np.ndarray]]) -> list[float | Failure]:
            return super().predict(photos)[1:]

    with pytest.raises(TypeError, match="gave 1 scores for 2 photographs"):
        predict_all({"iqa": Short(Redness.Settings())}, [lambda: np.zeros((4, 4, 3), np.uint8)] * 2)


def test_a_head_for_another_encoder_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = saved(tmp_path / "head.npz", weight=[[1.0] * 768])
    with pytest.raises(ConfigError, match=r"takes embeddings of 768 numbers, but mean gives 3"):
        stage_of(aesthetic={"engine": "head", "encoder": ENCODER, "path": path})


# -- settings ----------------------------------------------------------------------------------------------------------


def pipeline(**settings: Any) -> config.Pipeline:
    return config.parse({"name": "p", "inputs": ["sample://"], "stages": [{"curation.predict": settings}]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "name at least one predictor, such as aesthetic"),
        ({"predictors": {}}, "name at least one predictor"),
        ({"predictors": {"aestetic": REDNESS}}, "did you mean 'aesthetic'"),
        ({"predictors": {"iqa": {"engine": "heads"}}}, "unknown engine 'heads'; did you mean 'head'"),
        ({"predictors": {"iqa": {"engine": "head", "path": "a.npz"}}}, "encoder: required"),
        (
            {"predictors": {"iqa": {"engine": "head", "path": "a.npz", "encoder": {"engine": "transformer"}}}},
            "encoder: unknown engine 'transformer'; did you mean 'transformers'",
        ),
        ({"predictors": {"nsfw": {"engine": "classifier", "model": "a/b"}}}, "labels: required"),
        ({"predictors": {"nsfw": {"engine": "classifier", "model": "a/b", "labels": ["x", "x"]}}}, "named twice"),
    ],
)
def test_settings_that_cannot_be_used_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(**settings)


def test_the_fingerprint_covers_weights_and_models_and_not_places(tmp_path: Path) -> None:
    one, other = (saved(tmp_path / f"{n}.npz", weight=[[n, 0.0, 0.0]]) for n in (1.0, 2.0))
    (tmp_path / "moved").mkdir()
    moved = str(tmp_path / "moved" / "head.npz")
    Path(moved).write_bytes(Path(one).read_bytes())
    encoder = {"engine": "transformers", "model": "some/encoder"}

    def folder(path: str = one, **changes: Any) -> str:
        spec = {"engine": "head", "path": path, "encoder": {**encoder, **changes}}
        return pipeline(predictors={"aesthetic": spec}).stage("curation.predict").folder

    assert folder() == folder(moved) == folder(device="cpu") == folder(batch_size=4)
    assert (
        len({folder(), folder(other), folder(revision="abc"), folder(model="some/other"), folder(dtype="float32")}) == 5
    )


def test_a_finished_run_is_read_without_the_head(tmp_path: Path) -> None:
    path = saved(tmp_path / "head.npz", weight=[[1.0, 0.0, 0.0]])
    settings = Predict.Settings(predictors={"iqa": {"engine": "head", "path": path, "encoder": ENCODER}})
    Path(path).unlink()
    again = Predict.Settings(**settings.model_dump(mode="json"))
    assert engines.identity(again) == engines.identity(settings)


def test_predictors_on_one_model_take_one_share_of_a_gpu(tmp_path: Path) -> None:
    path = saved(tmp_path / "head.npz", weight=[[1.0, 0.0, 0.0]])
    encoder = {"engine": "transformers", "model": "some/encoder"}
    head = {"engine": "head", "path": path, "encoder": encoder}
    classifier = {"engine": "classifier", "model": "some/classifier", "labels": "bad"}

    def needs(**predictors: Any) -> Any:
        return Predict.needs(Predict.Settings(predictors=predictors))

    single, shared = needs(aesthetic=head), needs(aesthetic=head, iqa=head)
    assert single.own_pool
    assert (single.gpus, single.cpus) == (shared.gpus, shared.cpus)
    three = needs(aesthetic=head, iqa=head, nsfw=classifier)
    assert three.gpus == 2 * single.gpus
    assert three.models == ("some/encoder", "some/classifier")
    assert three.without_gpu == (
        "predictors.aesthetic.encoder.device=cpu, predictors.iqa.encoder.device=cpu, predictors.nsfw.device=cpu"
    )
    assert set(three.packages.values()) == {"transformers"}
    assert needs(nsfw={**classifier, "device": "cpu"}).gpus == 0


def test_a_pytorch_head_needs_torch_and_a_numpy_one_does_not(tmp_path: Path) -> None:
    for name, packages in (("a.pth", {"torch"}), ("a.safetensors", {"safetensors"}), ("a.npz", set())):
        (tmp_path / name).write_bytes(b"")
        settings = HeadPredictor.Settings(path=str(tmp_path / name), encoder=ENCODER)
        assert set(HeadPredictor.needs(settings).packages) == packages


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    for name in ("torch", "transformers", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.pt").write_bytes(b"")
    encoders = [{"engine": "transformers", "model": "a/b"}, {"engine": "torchscript", "path": str(tmp_path / "a.pt")}]
    for spec in encoders:
        with pytest.raises(ConfigError, match=r"pip install '\.\[transformers\]'"):
            Embed("curation.embed", Embed.Settings(encoder=spec)).setup()
    classifier = {"engine": "classifier", "model": "a/b", "labels": "x"}
    with pytest.raises(ConfigError, match=r"pip install '\.\[transformers\]'"):
        stage_of(nsfw=classifier)
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ConfigError, match=r"pip install '\.\[transformers\]'"):
            read_head(str(tmp_path / name))


class TestUnit:
    values: ClassVar[np.ndarray] = np.array([[3.0, 4.0], [1e-30, 0.0], [1e30, 1e30]], np.float32)

    def test_directions_stay_and_lengths_go(self) -> None:
        found = unit(self.values)
        assert found.dtype == np.float32
        assert found == pytest.approx(np.array([[0.6, 0.8], [1, 0], [0.5**0.5, 0.5**0.5]]), rel=1e-6)

    @pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
    def test_what_has_no_direction_is_refused(self, bad: float) -> None:
        with pytest.raises(ValueError, match=r"finite|direction"):
            unit(np.array([[1.0, 1.0], [bad, bad]]))
