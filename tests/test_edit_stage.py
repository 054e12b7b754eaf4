"""generation.edit: rows in, pairs out, encoded as the settings say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stages.generation.edit import GenerateEdit
from ugaf import images
from ugaf.stage import Failure, Row

BOX = [60, 50, 140, 120]


def disc() -> dict[str, Any]:
    y, x = np.mgrid[-1:1:70j, -1:1:80j]
    return {"box": BOX, "label": None, "score": 0.9, "mask": images.encode_mask(x**2 + y**2 <= 1)}


@pytest.fixture(scope="module")
def photo(photos: dict[str, np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(photos["chelsea"][60:220, 60:270])


def rows_of(photo: np.ndarray, edits: list[dict[str, Any]], image: bytes | None = None) -> list[Row]:
    values = {"image": image if image is not None else images.encode(photo), "objects": [disc()]}
    parent = Row("p" * 32, values)
    rows = []
    for number, edit in enumerate(edits):
        own = {"instruction": "", "boxes": [BOX], "donor": None, **edit}
        own["params"] = edit["params"] if isinstance(edit["params"], str) else json.dumps(edit["params"])
        rows.append(Row(f"{number:032x}", own, parent))
    return rows


def stage_of(**settings: Any) -> GenerateEdit:
    stage = GenerateEdit("generation.edit", GenerateEdit.Settings(**settings), seed=7)
    stage.setup()
    return stage


RECOLOR = {"task": "recolor", "params": {"object": 0, "rgb": [20, 60, 200]}}
ADD = {"task": "add", "params": {"object": 0}}
TONE = {"task": "tone", "params": {"tone": "sepia"}, "boxes": []}


def test_columns_say_which_side_the_photograph_is(photo: np.ndarray) -> None:
    rows = rows_of(photo, [RECOLOR, ADD, TONE])
    outcomes = stage_of()(rows)
    for row, outcome in zip(rows, outcomes, strict=True):
        assert isinstance(outcome, dict), outcome
        assert set(outcome) == set(GenerateEdit.writes.names)
        assert outcome["editor"] == "templates/1"
        row.values.update(outcome)
    recolor, add, tone = rows
    assert recolor["source_image"] is None
    np.testing.assert_array_equal(recolor.source(), photo)
    assert add["edited_image"] is None
    np.testing.assert_array_equal(add.edited(), photo)
    assert tone["edit_mask"] is None
    for row in (recolor, add):
        outside = ~images.decode_mask(row["edit_mask"])
        np.testing.assert_array_equal(row.source()[outside], row.edited()[outside])


def test_one_bad_row_costs_no_other(photo: np.ndarray) -> None:
    bad = [
        {"task": "recolor", "params": "{not json"},
        {"task": "recolor", "params": "[1]"},
        {"task": "remove", "params": {"object": 4}},
        {"task": "replace", "params": {"object": 0, "donor_object": 0}, "donor": "f" * 32},
        {"task": "juggle", "params": {}},
    ]
    outcomes = stage_of()(rows_of(photo, [bad[0], RECOLOR, *bad[1:], ADD]))
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [True, False, True, True, True, True, False]
    assert "not JSON" in str(outcomes[0])
    assert "f" * 32 in str(outcomes[4])


def test_an_undecodable_photograph_fails_its_rows(photo: np.ndarray) -> None:
    outcomes = stage_of()(rows_of(photo, [RECOLOR, TONE], image=images.encode(photo)[:500]))
    assert all(isinstance(outcome, Failure) and outcome.type == "ImageError" for outcome in outcomes)


def test_a_row_depends_on_nothing_but_itself(photo: np.ndarray) -> None:
    edits = [{"task": "tone", "params": {"tone": name}, "boxes": []} for name in ("faded film", "golden hour")]
    edits.append({"task": "material", "params": {"object": 0, "material": "marble"}})
    together = stage_of()(rows_of(photo, edits))
    again = [stage_of()([row])[0] for row in rows_of(photo, edits)]
    assert together == again
    other_seed = GenerateEdit("generation.edit", GenerateEdit.Settings(), seed=8)
    other_seed.setup()
    assert other_seed(rows_of(photo, edits))[2] != together[2]


def test_the_donor_is_another_photograph_of_the_fragment(photo: np.ndarray) -> None:
    edit = {"task": "replace", "params": {"object": 0, "donor_object": 0}, "donor": "d" * 32}
    row = rows_of(photo, [edit])[0]
    row.refs = {"donor": Row("d" * 32, {"image": images.encode(255 - photo), "objects": [disc()]})}
    outcome = stage_of()([row])[0]
    assert isinstance(outcome, dict), outcome
    assert (images.decode(outcome["edited_image"]) != photo).any()


@pytest.mark.parametrize("settings", [{"format": "png"}, {"format": "webp"}])
def test_lossless_encoding_keeps_the_promise_exactly(photo: np.ndarray, settings: dict[str, Any]) -> None:
    rows = rows_of(photo, [RECOLOR], image=images.encode(photo, "jpeg", 90))
    rows[0].values.update(stage_of(**settings)(rows)[0])
    outside = ~images.decode_mask(rows[0]["edit_mask"])
    np.testing.assert_array_equal(rows[0].source()[outside], rows[0].edited()[outside])


@pytest.mark.parametrize(
    ("settings", "least_psnr"),
    [
        ({"format": "jpeg"}, 38.0),
        ({"format": "jpeg", "quality": 75}, 31.0),
        ({"format": "webp", "quality": 90}, 33.0),
    ],
)
def test_lossy_encoding_keeps_it_within_a_tolerance(
    photo: np.ndarray, settings: dict[str, Any], least_psnr: float
) -> None:
    rows = rows_of(photo, [RECOLOR])
    rows[0].values.update(stage_of(**settings)(rows)[0])
    outside = ~images.decode_mask(rows[0]["edit_mask"])
    difference = rows[0].source()[outside].astype(float) - rows[0].edited()[outside]
    assert np.abs(difference).max() > 0  # so the docs may not promise equality
    assert 10 * np.log10(255**2 / np.mean(difference**2)) > least_psnr


def test_settings_are_checked_before_the_run() -> None:
    with pytest.raises(ValidationError, match="lossless"):
        GenerateEdit.Settings(format="png", quality=90)
    with pytest.raises(Exception, match="templates"):
        GenerateEdit.Settings(editor={"engine": "template"})
    with pytest.raises(Exception, match="largest_fill"):
        GenerateEdit.Settings(editor={"engine": "templates", "largest_fill": 3})
