"""Rows that fail alike stop the run and stay pending; rows that fail for themselves are recorded, and the run ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_tools import make_photos
from hypothesis import given
from hypothesis import strategies as st

from ugaf import cli
from ugaf.base.failure import Failure, RowError, at_once, each, through
from ugaf.engine.alike import FEWEST, FIRST_ROWS, NEARLY_ALL, FailedRow, Window, shape

FAILING = "failing_stages:Failing"


def pipeline_file(tmp_path: Path, photos: int, stage: dict[str, Any], **engine: Any) -> list[str]:
    """Arguments of a pipeline of one stage over so many photographs, four or five to a fragment."""
    make_photos(tmp_path / "photos", photos)
    document = {
        "name": "failing",
        "inputs": [str(tmp_path / "photos")],
        "output": str(tmp_path / "run"),
        "fragment_rows": 5,
        "engine": {"executor": "inline", **engine},
        "stages": [{FAILING: stage}],
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(document))
    return [str(tmp_path / "pipeline.yaml")]


def status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["status", str(tmp_path / "run"), "--json", "--trust", "failing_stages"]) == 0
    found = json.loads(capsys.readouterr().out)
    stages = found["stages"] if isinstance(found, dict) else found
    return {stage["stage"] if "stage" in stage else stage["name"]: stage for stage in stages}


@pytest.mark.parametrize("how", ["slip", "service"])
@pytest.mark.parametrize("photos", [9, 40])
def test_a_stage_that_does_no_row_well_stops_the_run_and_goes_on_after_the_mend(
    how: str, photos: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mended = tmp_path / "mended"
    command = ["run", *pipeline_file(tmp_path, photos, {"how": how, "mended": str(mended)}), "--no-export"]
    assert cli.main(command) == 75
    said = capsys.readouterr().err
    assert f"{FAILING}: {min(photos, FIRST_ROWS)} of its first {min(photos, FIRST_ROWS)} rows failed" in said
    assert "failing_stages.py" in said
    assert "Traceback" in said
    assert "photo-0" in said
    assert "the same command does them" in said
    stage = status(tmp_path, capsys)[FAILING]
    assert (stage["failed"], stage["kept"]) == (0, 0)
    assert stage["pending"] == stage["given"] > 0
    mended.touch()
    assert cli.main(command) == 0
    stage = status(tmp_path, capsys)[FAILING]
    assert (stage["failed"], stage["kept"], stage["pending"]) == (0, photos, 0)


def test_a_stage_that_begins_to_fail_is_stopped_and_what_it_did_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", *pipeline_file(tmp_path, 60, {"how": "row", "good": 22}, stop_after_alike=20), "--no-export"]
    assert cli.main(command) == 75
    assert "20 of its last 20 rows failed in one way" in capsys.readouterr().err
    stage = status(tmp_path, capsys)[FAILING]
    assert (stage["failed"], stage["kept"]) == (0, 22)


def test_rows_that_fail_for_themselves_are_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = pipeline_file(tmp_path, 40, {"how": "row", "only": "0123"}, stop_after_alike=20)
    cli.main(["run", *command, "--no-export"])
    stage = status(tmp_path, capsys)[FAILING]
    assert stage["failed"] > 0
    assert stage["failed"] + stage["kept"] == stage["given"] == 40


def test_inputs_that_are_mostly_broken_can_be_taken_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*pipeline_file(tmp_path, 30, {"how": "slip"}), "--no-export", "--set", "engine.stop_after_alike=0"]
    cli.main(["run", *command])
    assert status(tmp_path, capsys)[FAILING]["failed"] == 30
    # Who asks for failed rows again may have rows that are to blame: they are not taken for a fault of the stage.
    capsys.readouterr()
    cli.main(["run", *command[:2], "--retry-failed"])
    assert status(tmp_path, capsys)[FAILING]["failed"] == 30


@pytest.mark.ray
def test_on_ray_too_rows_that_fail_alike_are_pending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = pipeline_file(tmp_path, 45, {"how": "slip", "good": 2}, executor="ray", stop_after_alike=20, workers=2)
    assert cli.main(["run", *arguments, "--no-export"]) == 75
    assert "AttributeError: 'bytes' object has no attribute 'shape'" in capsys.readouterr().err
    stage = status(tmp_path, capsys)[FAILING]
    assert stage["failed"] == 0
    assert stage["pending"] > 0


def row(error: str, foreseen: bool = True) -> FailedRow:
    return FailedRow("000000", "id", error, "a.jpg", foreseen)


@given(st.lists(st.sampled_from(["", "TypeError: no", "OSError: gone"]), max_size=120), st.integers(1, 30))
def test_a_window_stops_exactly_when_nearly_all_of_its_rows_are_one_failure(errors: list[str], size: int) -> None:
    window, stopped = Window("s", size), False
    for number, error in enumerate(errors, 1):
        stopped = bool(window.add(0 if error else 1, [row(error)] if error else []))
        last = errors[max(0, number - size) : number]
        most = max(last.count(kind) for kind in ("TypeError: no", "OSError: gone"))
        assert stopped == (len(last) == size and most >= NEARLY_ALL * size)


@given(st.integers(0, FIRST_ROWS - 1), st.booleans())
def test_a_few_rows_count_only_where_nobody_foresaw_their_error(count: int, foreseen: bool) -> None:
    window = Window("s", 100)
    for _ in range(count):
        assert window.add(0, [row("TypeError: no", foreseen)]) is None
    assert (window.at_end() is not None) == (count >= FEWEST and not foreseen)
    window.add(1, [])
    assert window.at_end() is None


@given(st.text(max_size=300), st.integers(), st.sampled_from(["/data/a b/x.jpg", "s3://b/k.png", "photo.jpeg"]))
def test_errors_that_differ_by_names_and_numbers_are_alike(quoted: str, number: int, place: str) -> None:
    said = json.dumps(quoted)
    assert shape(f"E: {place}: HTTP {number}: {said}") == shape('E: other.jpg: HTTP 7: "text"')
    assert shape("E: no mouth") != shape("E: no nose") != shape("F: no nose")


@given(st.lists(st.integers(0, 30), max_size=30), st.sets(st.integers(0, 30)), st.integers(1, 30), st.booleans())
def test_only_bad_items_fail_whatever_a_batch_holds(items: list[int], bad: set[int], room: int, halves: bool) -> None:
    def work(batch: Sequence[int]) -> list[int]:
        if len(batch) > room:
            raise MemoryError
        if bad.intersection(batch):
            raise RowError(f"bad: {bad.intersection(batch)}")
        return [2 * item for item in batch]

    def alone(item: int) -> int:
        return work([item])[0]

    expected = [Failure("RowError", f"bad: { ({item}) }") if item in bad else 2 * item for item in items]
    assert at_once(work, items, "halves" if halves else "ones") == expected
    assert each(alone, items) == expected
    assert through(alone, items, list) == expected


def test_all_rows_of_the_failure_that_stops_a_run_are_found_again() -> None:
    window = Window("s", 20)
    window.add(40, [])
    stopped = window.add(0, [FailedRow(f"{number // 5}", "id", "OSError: gone") for number in range(70)])
    assert stopped is not None
    assert stopped.fragments == {str(number) for number in range(14)}


def test_a_stage_whose_rows_all_fail_differently_is_remembered_in_bounds() -> None:
    window = Window("s", 5)
    letters = "abcdefghijklmnopqrstuvwxyz"
    for first in letters:
        for second in letters:
            assert window.add(0, [row(f"TypeError: no {first}{second}", foreseen=False)]) is None
    doubtful = window.doubtful()
    assert 5 <= len(doubtful) <= 25
    assert {alike.stage for alike in doubtful} == {"s"}
