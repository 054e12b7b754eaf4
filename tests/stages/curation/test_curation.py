"""The default keep rules pass photographs and reject what has gone wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from ugaf.stages.curation.photometric import Photometric
from ugaf.stages.curation.resolution import Resolution

from ugaf.imaging import images
from ugaf.stage import Failure, Row, Stage


def broken_rules(stage: Stage, columns: Mapping[str, Any]) -> set[str]:
    """Columns outside the stage's default limits."""
    return {
        name
        for name, rule in stage.keep.items()
        if columns[name] is not None and not rule.get("min", -np.inf) <= columns[name] <= rule.get("max", np.inf)
    }


def photometric(data: bytes, **settings: Any) -> Mapping[str, Any]:
    stage = Photometric("curation.photometric", Photometric.Settings(**settings))
    (outcome,) = stage([Row("0" * 32, {"image": data})])
    assert isinstance(outcome, Mapping), outcome
    assert list(outcome) == stage.schema.names
    return outcome


def verdict(rgb: np.ndarray) -> set[str]:
    return broken_rules(Photometric("curation.photometric"), photometric(images.encode(rgb, "jpeg", 90)))


def blur(rgb: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(rgb, (0, 0), max(rgb.shape) / 250)


def greyscale(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def washed_out(rgb: np.ndarray) -> np.ndarray:
    return (rgb * 0.15 + 180).astype(np.uint8)


def underexposed(rgb: np.ndarray) -> np.ndarray:
    return (rgb * 0.1).astype(np.uint8)


def overexposed(rgb: np.ndarray) -> np.ndarray:
    return np.clip(rgb.astype(int) + 190, 0, 255).astype(np.uint8)


def noise(rgb: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, rgb.shape, dtype=np.uint8)


def sepia(rgb: np.ndarray) -> np.ndarray:
    return np.clip(greyscale(rgb) * [1.2, 1.0, 0.75], 0, 255).astype(np.uint8)


def faded(rgb: np.ndarray) -> np.ndarray:
    grey = greyscale(rgb).astype(float)
    return (grey + 0.1 * (rgb - grey)).astype(np.uint8)


def letterboxed(rgb: np.ndarray) -> np.ndarray:
    return np.pad(rgb, ((60, 60), (0, 0), (0, 0)))


def burnt_out(rgb: np.ndarray) -> np.ndarray:
    return np.clip(rgb.astype(int) * 9, 0, 255).astype(np.uint8)


NAMES = ["astronaut", "chelsea", "coffee", "rocket", "motorcycle"]


@pytest.mark.parametrize("name", NAMES)
def test_photographs_pass(photos: dict[str, np.ndarray], name: str) -> None:
    assert verdict(photos[name]) == set()


def test_other_photographs_pass(shared_images: Path) -> None:
    paths = sorted(shared_images.glob("p*/*.*"))
    stage = Photometric("curation.photometric")
    broken = {path.name: broken_rules(stage, photometric(path.read_bytes())) for path in paths}
    assert broken == {path.name: set() for path in paths}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("degrade", "reason"),
    [
        (blur, "sharpness"),
        (greyscale, "saturation"),
        (washed_out, "texture"),
        (underexposed, "brightness"),
        (overexposed, "rgb_entropy"),
        (noise, "sharpness"),
        (sepia, "grey_share"),
        (faded, "colourfulness"),
        (washed_out, "contrast"),
        (letterboxed, "border"),
        (burnt_out, "rgb_entropy"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_degraded_photographs_fail(
    photos: dict[str, np.ndarray], name: str, degrade: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    assert reason in verdict(degrade(photos[name]))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_images_fail(level: int) -> None:
    assert {"rgb_entropy", "saturation", "clarity", "sharpness", "texture"} <= verdict(
        np.full((300, 400, 3), level, np.uint8)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_photograph_that_jpeg_ruined_fails(photos: dict[str, np.ndarray], name: str) -> None:
    whole = cv2.resize(photos[name], None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    columns = photometric(images.encode(whole, "jpeg", 4))
    assert "blockiness" in broken_rules(Photometric("curation.photometric"), columns)


def test_jpeg_and_png_of_a_photograph_measure_nearly_the_same(photos: dict[str, np.ndarray]) -> None:
    large = cv2.resize(photos["astronaut"], (1024, 1024), interpolation=cv2.INTER_CUBIC)
    png, jpeg = photometric(images.encode(large)), photometric(images.encode(large, "jpeg"))
    assert jpeg == pytest.approx(png, rel=0.1, abs=0.002)


@pytest.mark.parametrize("names", [["noise_level"], ["blockiness"], ["brightness", "blockiness", "border"]])
def test_descriptors_that_are_not_asked_for_are_null_and_break_no_rule(
    photos: dict[str, np.ndarray], names: list[str]
) -> None:
    data = images.encode(greyscale(photos["coffee"]))
    everything, some = photometric(data), photometric(data, descriptors=names)
    assert some == {name: everything[name] if name in names else None for name in everything}
    assert broken_rules(Photometric("curation.photometric"), some) == set()


def test_the_order_of_descriptors_changes_nothing() -> None:
    chosen = Photometric.Settings(descriptors=["border", "clarity", "border", "brightness"])
    assert chosen.descriptors == ["clarity", "brightness", "border"]
    everything = Photometric.Settings(descriptors=sorted(Photometric.schema.names))
    assert everything == Photometric.Settings()
    assert everything.descriptors == Photometric.schema.names


def test_unknown_descriptors_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="'colorfulness'; did you mean 'colourfulness'"):
        Photometric.Settings(descriptors=["colorfulness"])
    with pytest.raises(ValidationError, match="at least 1"):
        Photometric.Settings(descriptors=[])


def test_one_decode_serves_the_grid_and_the_working_size(
    photos: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, decoded = images.decode, []
    monkeypatch.setattr(images, "decode", lambda *args: decoded.append(args[1]) or decode(*args))
    row = Row("0" * 32, {"image": images.encode(photos["coffee"], "jpeg", 20)})
    (columns,) = Photometric("curation.photometric")([row])
    assert columns["blockiness"] > 1.2
    row.photo(256)
    Photometric("curation.photometric")([row, Row("1" * 32, {}, parent=row)])
    assert decoded == [256]


def test_a_photograph_that_another_stage_asked_for_first_has_the_same_descriptors(
    photos: dict[str, np.ndarray],
) -> None:
    data = images.encode(photos["coffee"], "jpeg", 20)
    row = Row("0" * 32, {"image": data})
    seen = row.photo(256)
    (columns,) = Photometric("curation.photometric")([row])
    assert columns == photometric(data)
    assert row.photo(256) is seen


def test_blockiness_is_null_where_the_decode_has_no_grid_left(photos: dict[str, np.ndarray]) -> None:
    data = images.encode(photos["astronaut"], "jpeg")
    assert photometric(data, working_side=64)["blockiness"] is None
    assert photometric(data, working_side=128)["blockiness"] is not None


def test_the_working_side_is_a_setting_with_limits(photos: dict[str, np.ndarray]) -> None:
    data = images.encode(photos["astronaut"])
    assert photometric(data, working_side=512)["sharpness"] != photometric(data)["sharpness"]
    with pytest.raises(ValidationError, match="working_side"):
        Photometric.Settings(working_side=8)
    with pytest.raises(ValidationError, match="working_sid"):
        Photometric.Settings(working_sid=256)


def test_a_truncated_photograph_is_a_failure_and_its_neighbours_are_not(photos: dict[str, np.ndarray]) -> None:
    good = images.encode(photos["coffee"], "jpeg")
    rows = [Row(str(i), {"image": data}) for i, data in enumerate([good, good[: len(good) // 2], good])]
    first, cut, last = Photometric("curation.photometric")(rows)
    assert isinstance(cut, Failure)
    assert cut.type == "ImageError"
    assert "truncated" in cut.message
    assert first == last


@pytest.mark.parametrize(
    ("size", "expected", "broken"),
    [
        ((640, 480), (480, 4 / 3), set()),
        ((480, 640), (480, 4 / 3), set()),
        ((256, 256), (256, 1.0), set()),
        ((255, 300), (255, 300 / 255), {"short_side"}),
        ((3000, 900), (900, 10 / 3), {"aspect_ratio"}),
    ],
)
def test_resolution(size: tuple[int, int], expected: tuple[int, float], broken: set[str]) -> None:
    stage = Resolution("curation.resolution")
    (outcome,) = stage([Row("0" * 32, {"width": size[0], "height": size[1]})])
    assert isinstance(outcome, Mapping)
    assert (outcome["short_side"], outcome["aspect_ratio"]) == (expected[0], pytest.approx(expected[1]))
    assert broken_rules(stage, outcome) == broken


def test_an_impossible_size_is_a_failure_with_the_size() -> None:
    (outcome,) = Resolution("curation.resolution")([Row("0" * 32, {"width": 0, "height": 5})])
    assert isinstance(outcome, Failure)
    assert "0 x 5" in outcome.message
