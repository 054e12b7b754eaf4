"""What commands say: mistakes name what to do, failures their file; "the same command" is said where it helps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from engine_tools import go, make_photos, pipeline
from hypothesis import given
from hypothesis import strategies as st

from ugaf import cli
from ugaf.base.errors import ConfigError, StopRun, UgafError
from ugaf.cli.commands.run import _check_nothing_waits
from ugaf.columns.view import RunView, StageCounts
from ugaf.pipeline import config

STAGES = [{"curation.resolution": {"keep": {"short_side": {"min": 10}}}}]


def said(arguments: list[str], capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
    """What a command that is refused prints to standard error."""
    try:
        ended = cli.main(arguments)
    except SystemExit as error:  # argparse ends the process itself
        ended = int(error.code or 0)
    assert ended == status
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "usage", "hint"),
    [
        (["run", "--inptu", "few"], "usage: ugaf run", "did you mean --input?"),
        (["plan", "--retry-faild"], "usage: ugaf plan", "did you mean --retry-failed?"),
        (["explain", "x", "--jsn"], "usage: ugaf explain", "did you mean --json?"),
        (["status", "--quite-another-thing"], "usage: ugaf status", "unknown argument"),
    ],
)
def test_an_unknown_option_is_told_by_its_command(
    arguments: list[str], usage: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(arguments, capsys)
    assert text.startswith(usage)
    assert hint in text


def test_a_folder_is_no_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["run", str(tmp_path)], capsys)
    assert f"for inputs, write `--input {tmp_path}`" in text


def test_a_column_that_is_missing_is_told_with_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"annotation.instruct: reads column 'objects'.*add annotation.detect before"):
        config.parse({"name": "x", "inputs": ["sample://"], "stages": ["annotation.instruct"]})
    make_photos(tmp_path, 2)
    with pytest.raises(ConfigError, match=r"needs edit pairs, and .* holds photographs"):
        config.load("refine", [f"inputs=[{tmp_path}]"])


numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(numbers, numbers, st.sampled_from(["", "_quantile"]))
def test_a_lower_bound_above_the_upper_one_is_an_error(one: float, two: float, kind: str) -> None:
    if kind:
        one, two = (abs(number) % 1 for number in (one, two))
    stages = [{"curation.photometric": {"keep": {"clarity": {f"min{kind}": one, f"max{kind}": two}}}}]
    document = {"name": "x", "inputs": ["sample://"], "stages": stages}
    if one > two:
        with pytest.raises(ConfigError, match=r"clarity: min.* is above max.*: no row could be kept"):
            config.parse(document)
    else:
        config.parse(document)


def test_the_first_failure_of_each_kind_is_told_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "photos", 2)
    for number in range(3):
        (tmp_path / "photos" / f"broken-{number}.jpg").write_bytes(b"no picture %d" % number)
    go(pipeline(tmp_path / "photos", tmp_path / "run", STAGES))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["status", "run"]) == 0
    text = capsys.readouterr().out
    assert "failed in ingest: 1 of 3, the first: ImageError: " in text
    assert "/photos/broken-" in text
    assert "3 rows failed in ingest: the same command leaves them as they are; --retry-failed does them again" in text
    assert cli.main(["status", "run", "--json"]) == 0
    (example,) = json.loads(capsys.readouterr().out)["stages"][0]["examples"].values()
    assert example["message"].startswith("ImageError: ")
    assert "/photos/broken-" in example["source"]
    assert RunView("run").funnel()[1].examples == {}


def test_the_same_command_is_named_only_where_it_helps() -> None:
    unanswered = [StageCounts("ingest", "image", given=2, pending=2), StageCounts("later", "image")]
    with pytest.raises(StopRun, match="2 sources are still pending: the same command asks for them again"):
        _check_nothing_waits(unanswered, {})
    lost = [StageCounts("ingest", "image", given=2, kept=2), StageCounts("later", "image", given=2, pending=2)]
    with pytest.raises(UgafError, match=r"later: 2 pending, 2 done in this call\): rows that this call wrote are not"):
        _check_nothing_waits(lost, {"later": 2})
    with pytest.raises(UgafError, match="ended without doing this work"):
        _check_nothing_waits(lost, {})
    _check_nothing_waits([StageCounts("ingest", "image", given=2, kept=2)], {})


@pytest.mark.parametrize(
    ("column", "bounds", "effect"),
    [
        ("saturation", {"min": 7}, "0..1, so no row that has a value can be kept"),
        ("saturation", {"max": -0.5}, "0..1, so no row that has a value can be kept"),
        ("brightness", {"max": 300}, "0..255, so every row passes it"),
        ("clarity", {"min": -3}, "0 or more, so every row passes it"),
    ],
)
def test_a_bound_outside_of_its_measure_is_told(column: str, bounds: dict[str, float], effect: str) -> None:
    keep = {column: {"min": None, "max": None, **bounds}}
    stages = [{"curation.photometric": {"keep": keep}}]
    checked = config.parse({"name": "x", "inputs": ["sample://"], "stages": stages})
    (line,) = checked.stages[0].warnings
    ((kind, bound),) = bounds.items()
    assert line == f"curation.photometric.keep.{column}.{kind}={bound:g}: the measure is {effect}"


def test_shipped_pipelines_have_no_bound_outside_of_its_measure() -> None:
    for name in config.shipped_pipelines():
        inputs = ["inputs=[{path: x.jsonl, kind: pairs}]"] if name == "refine" else []
        assert not [line for spec in config.load(name, inputs).stages for line in spec.warnings]


def test_a_stage_of_one_s_own_is_found_from_the_working_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from ugaf.stage import Stage\nimport pyarrow as pa\n\n\nclass Warmth(Stage):\n"
    (tmp_path / "own_words_pkg.py").write_text(
        code + '    """How warm."""\n\n    writes = pa.schema([("warmth", pa.float64())])\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    assert cli.main(["stages", "own_words_pkg:Warmth"]) == 0
    assert "How warm." in capsys.readouterr().out
    text = said(["stages", "not_there_pkg.warm:Warmth"], capsys)
    assert "not_there_pkg.warm cannot be imported (No module named 'not_there_pkg')" in text
    assert "PYTHONPATH" in text
