"""A formula that changes raises its version: the stages' columns on made pictures are those that are committed."""

from __future__ import annotations

from pathlib import Path

import golden
import pytest

from ugaf.measures import change, composition
from ugaf.pipeline import config


@pytest.mark.parametrize("case", golden.CASES)
def test_columns_are_those_of_their_version(case: str, tmp_path: Path) -> None:
    wrong = golden.compare(case, golden.kept(case), golden.measured(case, tmp_path))
    assert wrong is None, wrong.message


@pytest.mark.parametrize(
    ("module", "constant", "value", "case", "stage"),
    [
        (change, "JUST_VISIBLE", 2.45, "pairs", "refinement.change_mask"),
        (composition, "STEP", 11, "photographs", "curation.validity"),
    ],
)
def test_a_changed_formula_is_noticed(
    module: object, constant: str, value: float, case: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, constant, value)
    wrong = golden.compare(case, golden.kept(case), golden.measured(case, tmp_path))
    assert wrong is not None
    assert wrong.unraised
    assert wrong.message.startswith(f"{case}: {stage} writes other values under the same version")


def test_a_raised_version_asks_for_new_values() -> None:
    stored = golden.kept("pairs")
    name = "refinement.score"
    raised = {**stored, name: golden.Stored("another", stored[name].columns)}
    wrong = golden.compare("pairs", stored, raised)
    assert wrong is not None
    assert not wrong.unraised
    assert wrong.message.endswith(f"run {golden.COMMAND}")


def test_every_stage_and_every_engine_without_weights_has_a_case() -> None:
    stored = {name: columns for case in golden.CASES for name, columns in golden.kept(case).items()}
    assert {*stored, *golden.NOT_HERE} == {"ingest", *config.known_stages()}
    edits = golden.kept("edits")
    assert set(edits["generation.edit"].columns["editor"]) - {None} == {"templates/1"}
    tasks = set(edits["annotation.instruct"].columns["task"])
    assert tasks == set(golden.TASKS)


@pytest.mark.parametrize(
    ("before", "now", "other"),
    [
        (1.0, 1.0009, False),
        (1.0, 1.002, True),
        (3, 4, True),
        (None, 0.0, True),
        ("a", "b", True),
        ("SSIM 0.712", "SSIM 0.713", False),
        ("SSIM 0.712", "SSIM 0.715", True),
        ("12 tiles", "13 tiles", True),
        (True, 1, True),
        ([1, 2], [1, 2, 3], True),
        ({"a": 1.0}, {"a": 1.0}, False),
        ({"a": 1.0}, {"b": 1.0}, True),
        ({"bytes": "00ff" * 50}, {"bytes": "00ff" * 49 + "0103"}, False),
        ({"bytes": "00ff" * 50}, {"bytes": "10ff" * 50}, True),
        ({"size": [2, 2], "tiles": [[10, 20]]}, {"size": [2, 2], "tiles": [[11, 19]]}, False),
        ({"size": [2, 2], "tiles": [[10, 20]]}, {"size": [2, 2], "tiles": [[12, 20]]}, True),
    ],
)
def test_what_counts_as_another_value(before: object, now: object, other: bool) -> None:
    assert golden.differ(before, now) == other
