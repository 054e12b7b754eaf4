"""What the author of a stage writes, and what becomes of it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from engine_tools import go, pipeline, table
from pydantic import ValidationError

from ugaf.imaging import images
from ugaf.pipeline import config
from ugaf.stage import Column, Row, Stage, WholeRunStage, photo_stage


@photo_stage(bright=Column(float, "share of bright pixels, 0..1", range=(0, 1)), keep={"bright": {"max": 0.5}}, side=32)
def bright(photo: np.ndarray, *, least: int = 200) -> Any:
    """How much of the photograph is bright?"""
    return (photo.min(axis=2) >= least).mean()


@photo_stage(red=float, green=pa.float32(), version=3)
def two(photo: np.ndarray) -> dict[str, float]:
    return {"red": float(photo[..., 0].mean()), "green": float(photo[..., 1].mean())}


def half_white(side: int = 64) -> bytes:
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[: side // 2] = 255
    return images.encode(pixels)


def test_a_function_is_a_stage_of_its_name() -> None:
    assert issubclass(bright, Stage)
    assert (bright.__name__, bright.__module__, bright.reads) == ("bright", __name__, ("image",))
    assert bright.schema == pa.schema([("bright", pa.float64())])
    assert (bright.columns["bright"].about, bright.columns["bright"].range) == ("share of bright pixels, 0..1", (0, 1))
    assert set(bright.Settings.model_fields) == {"least", "side"}
    assert (two.version, two.schema.field("green").type) == (3, pa.float32())
    assert config.stage_class(f"{__name__}:bright") is bright


def test_it_measures_what_the_function_returns() -> None:
    row = Row("0" * 32, {"image": half_white()})
    assert bright("bright").process(row) == {"bright": 0.5}
    assert bright("bright", bright.Settings(least=0)).process(row) == {"bright": 1.0}
    assert two("two").process(row) == {"red": 127.5, "green": 127.5}
    assert bright.function(np.full((2, 2, 3), 255, np.uint8)) == 1  # type: ignore[attr-defined]


def test_its_settings_are_checked_and_travel() -> None:
    with pytest.raises(ValidationError):
        bright.Settings(least="much")
    with pytest.raises(ValidationError):
        bright.Settings(most=3)
    settings = bright.Settings(least=7)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert pickle.loads(pickle.dumps(bright)) is bright


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_it_runs_in_a_pipeline(tmp_path: Path, executor: str) -> None:
    (tmp_path / "photos").mkdir()
    for number, value in enumerate((10, 240)):
        (tmp_path / "photos" / f"{number}.png").write_bytes(images.encode(np.full((40, 60, 3), value, np.uint8)))
    stages = [{f"{__name__}:bright": {"least": 220}}, f"{__name__}:two"]
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", stages, engine={"executor": executor}))
    found = {(row["bright"], row["status"], row["red"]) for row in table(view, "image", ["bright", "red"]).values()}
    assert found == {(0.0, "kept", 10.0), (1.0, "rejected", None)}


def test_a_function_of_another_form_is_refused() -> None:
    with pytest.raises(TypeError, match="settings after a `\\*`: least"):

        @photo_stage(x=float)
        def wrong(photo: np.ndarray, least: int = 3) -> float:
            return float(photo.max() > least)

    with pytest.raises(TypeError, match="call the argument otherwise"):

        @photo_stage(x=float, side=32)
        def twice(photo: np.ndarray, *, side: int = 3) -> float:
            return float(photo.max() > side)


def test_a_setting_may_be_called_side_where_the_photograph_is_not_reduced() -> None:
    @photo_stage(x=int)
    def measured(photo: np.ndarray, *, side: int = 3) -> int:
        return photo.shape[0] // side

    assert measured("measured").process(Row("0" * 32, {"image": half_white(60)})) == {"x": 20}


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [("own_pool", True, "needs"), ("gpus", 1.0, "needs"), ("batch_rows", 4, "needs"), ("fans_out", True, "identity"),
     ("whole_run", True, "WholeRunStage"), ("ranges", {}, "Column")],
)  # fmt: skip
def test_what_is_said_elsewhere_now_is_named(name: str, value: Any, instead: str) -> None:
    with pytest.raises(TypeError, match=rf"Older\.{name}: .*{instead}"):
        type("Older", (Stage,), {"writes": {"x": float}, name: value, "__module__": __name__})


def test_columns_may_be_types_columns_or_a_schema() -> None:
    class Mixed(Stage):
        writes: ClassVar = {"a": float, "b": Column(pa.list_(pa.int32()), "some"), "c": str, "d": bool, "e": int}

    class Arrow(Stage):
        writes = pa.schema([("a", pa.float64()), ("b", pa.list_(pa.int32())), ("c", pa.string()), ("d", pa.bool_()),
                            ("e", pa.int64())])  # fmt: skip

    assert Mixed.schema == Arrow.schema
    with pytest.raises(TypeError, match="a column's type is float, int, bool, str"):
        type("Wrong", (Stage,), {"writes": {"x": "float"}, "__module__": __name__})


def test_an_identity_alone_fans_out() -> None:
    class Fan(Stage):
        writes: ClassVar = {"n": int}
        identity = ("n",)

    class Again(Fan):
        pass

    assert Fan.fans_out
    assert Again.fans_out
    assert Again.schema == Fan.schema
    assert not Stage.fans_out
    assert WholeRunStage.whole_run
