"""`ugaf plan` says first what decides: what is new, what is pending, what computes again and why, what lacks inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine_tools import go, make_photos
from hypothesis import given
from hypothesis import strategies as st

from ugaf import cli
from ugaf.engine.recomputed import changes
from ugaf.pipeline import config
from ugaf.pipeline.config import INGEST

MEAN, DOUBLE, FLIP, HALVES = (f"engine_stages:{name}" for name in ("Mean", "Double", "Flip", "Halves"))


def document(folder: Path, **settings: Any) -> dict[str, Any]:
    return {
        "name": "words",
        "inputs": [str(folder / "photos")],
        "output": str(folder / "run"),
        "engine": {"executor": "inline"},
        "stages": [{MEAN: settings}, DOUBLE],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of four photographs, and one that came after."""
    make_photos(tmp_path / "photos", 4)
    go(config.parse(document(tmp_path)))
    make_photos(tmp_path / "photos", 1, start=4)
    return tmp_path


def command(name: str, folder: Path, *arguments: str, **settings: Any) -> int:
    path = folder / "words.yaml"
    path.write_text(yaml.safe_dump(document(folder, **settings)))
    return cli.main([name, str(path), *arguments])


def test_plan_as_json_says_what_is_new_pending_and_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def plan(*arguments: str, **settings: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        assert command("plan", folder, *arguments, "--json", **settings) == 0
        said = json.loads(capsys.readouterr().out)
        return said, {stage["name"]: stage for stage in said["stages"]}

    said, stages = plan()
    assert (said["new_sources"], said["taken_in"], said["inputs_missing"]) == (1, 4, None)
    assert [(s["stored"], s["pending"], s["changed"]) for s in stages.values()] == [(4, 0, [])] * 3
    said, stages = plan(power=0.1 + 0.2)
    assert (stages[MEAN]["stored"], stages[MEAN]["pending"]) == (0, 4)
    assert stages[MEAN]["changed"] == ["power 1 -> 0.3"]
    assert (stages[DOUBLE]["pending"], stages[DOUBLE]["changed"]) == (0, [f"reads columns of {MEAN}"])
    said, stages = plan("--stage", DOUBLE, power=2.0)
    assert said["inputs_missing"].startswith(
        f"{DOUBLE}: its inputs are not computed yet (4 rows are pending in {MEAN})"
    )
    assert (stages[MEAN]["pending"], stages[DOUBLE]["pending"]) == (None, 0)


def test_plan_begins_with_what_decides(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("plan", folder, power=2.0) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:5] == [
        "1 new source; 4 rows taken in",
        f"pending: {MEAN} 4",
        f"{MEAN}: computes again (power 1 -> 2)",
        f"{DOUBLE}: computes again (reads columns of {MEAN})",
    ]
    (folder / "photos" / "photo-00004.jpg").unlink()
    assert command("plan", folder) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "no new sources; 4 rows taken in",
        "pending: nothing that was taken in",
    ]


SETTINGS = {"power": st.floats(0.5, 3), "fail_id": st.text(max_size=5), "sleep": st.floats(0, 1)}


@given(st.fixed_dictionaries({}, optional=SETTINGS), st.fixed_dictionaries({}, optional=SETTINGS), st.booleans())
def test_any_changed_settings_are_named_and_no_others(then: Any, now: Any, code: bool) -> None:
    old, new = (config.parse(document(Path("x"), **settings)) for settings in (then, now))
    held = {INGEST: old.ingest_fingerprint, **{spec.name: spec.fingerprint for spec in old.stages}}
    record = {"fingerprints": {**held, **({DOUBLE: "of other code"} if code else {})}, "pipeline": old.document}
    found = changes(new, record)
    before, after = (dict(checked.stages[0].settings) for checked in (old, new))
    different = [name for name in before if before[name] != after[name]]
    assert [reason.split(" ")[0] for reason in found.get(MEAN, [])] == different
    if different:
        assert found[DOUBLE] == [f"reads columns of {MEAN}"]
    elif code:
        assert found == {DOUBLE: ["its code or the texts that it uses changed (version 1 now)"]}
    else:
        assert found == {}


def test_a_new_stage_and_a_seed_are_told() -> None:
    old, new = document(Path("x")), document(Path("x"))
    old["stages"], new["stages"] = [MEAN, HALVES, FLIP], [MEAN, DOUBLE, HALVES, FLIP]
    held, now = config.parse(old), config.parse({**new, "seed": 7})
    fingerprints = {INGEST: held.ingest_fingerprint, **{spec.name: spec.fingerprint for spec in held.stages}}
    found = changes(now, {"fingerprints": fingerprints, "pipeline": held.document})
    assert found == {DOUBLE: ["new in the pipeline"], FLIP: ["seed 0 -> 7"]}


def test_a_stage_whose_inputs_are_not_there_is_refused_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_photos(tmp_path / "photos", 2)
    for first in (("--stage", DOUBLE), ("--from", DOUBLE)):
        assert command("run", tmp_path, *first) == 2
        told = capsys.readouterr().err
        assert f"{DOUBLE}: its inputs are not computed yet (nothing was taken in yet)" in told
        assert f"--until {DOUBLE}" in told
        assert not (tmp_path / "run").exists()
    assert command("run", tmp_path, "--until", MEAN, "--no-export", "--progress", "none") == 0
    text = capsys.readouterr().out
    assert f"not asked for: {DOUBLE}" in text
    assert not [line for line in text.splitlines() if line.startswith(DOUBLE)]
    assert command("run", tmp_path, "--stage", DOUBLE, "--no-export", "--progress", "none") == 0
    assert f"{DOUBLE} " in capsys.readouterr().out
