"""`--json` of the commands: strict JSON and nothing else on standard output, and the numbers are those of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_tools import go, make_photos, pipeline
from report_parse import Parsed
from tune_tools import FIRST, varied_run

from ugaf import cli
from ugaf.base.errors import ConfigError
from ugaf.pipeline import config

KEEP = {"short_side": {"min": 50}}
STAGES = [{"curation.resolution": {"keep": KEEP}}]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What the command prints, which is one document that any reader of JSON takes (no NaN, no Infinity)."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=refuse)


@pytest.fixture
def sides(tmp_path: Path) -> str:
    """A run of photographs of 24, 40, 60 and 80 pixels, of which the last two are kept."""
    for number, side in enumerate((24, 40, 60, 80)):
        make_photos(tmp_path / "photos", 1, start=number, side=side)
    go(pipeline(tmp_path / "photos", tmp_path / "run", STAGES))
    return str(tmp_path / "run")


def test_stages_as_json_are_what_the_classes_say(capsys: pytest.CaptureFixture[str]) -> None:
    listed = told(capsys, "stages")["stages"]
    assert tuple(entry["name"] for entry in listed) == config.known_stages()
    assert all(entry["summary"] for entry in listed)
    for name in ("curation.photometric", "annotation.instruct", "curation.near_duplicates"):
        cls, said = config.stage_class(name), told(capsys, "stages", name)
        assert said["version"] == cls.version
        assert [(column["name"], column["type"]) for column in said["writes"]] == [
            (field.name, str(field.type)) for field in cls.schema
        ]
        assert [setting["name"] for setting in said["settings"]] == list(cls.Settings.model_fields)
        assert said["keep"] == json.loads(json.dumps(dict(cls.keep)))
        told_of = {column["name"]: (column["about"], column["range"]) for column in said["writes"]}
        ranges = {name: column.range and list(column.range) for name, column in cls.columns.items()}
        assert told_of == {name: (column.about, ranges[name]) for name, column in cls.columns.items()}
        defaults = {setting["name"]: setting["default"] for setting in said["settings"]}
        rebuilt = cls.Settings.model_validate({k: v for k, v in defaults.items() if v is not None})
        assert rebuilt == cls.Settings()


def test_tune_as_json_has_the_table_s_numbers(sides: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "tune", sides)
    assert Path(sides, said["page"]).is_file()
    assert (said["path"], said["end"]) == (sides, "photographs")
    (rule,) = (rule for rule in said["rules"] if rule["column"] == "short_side" and rule["kind"] == "min")
    assert (rule["stage"], rule["level"], rule["given"]) == ("curation.resolution", "image", 4)
    by_note = {line["note"]: line for line in rule["lines"]}
    now, loose = by_note["now"], by_note["no limit"]
    assert (now["bound"], now["breaking"], now["kept"], now["end"], now["more"], now["work"]) == (50, 2, 2, 2, 0, 0)
    assert (loose["bound"], loose["breaking"], loose["kept"], loose["more"]) == (None, 0, 4, 2)
    stricter = told(capsys, "tune", sides, "--set", "curation.resolution.keep.short_side.min=70")["rules"][0]
    assert next(line for line in stricter["lines"] if line["note"] == "now")["kept"] == 1


def test_values_that_json_has_no_word_for_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = varied_run(tmp_path / "run", seed=3, **{FIRST: {"a": {"min": float("-inf"), "max": float("inf")}}}).view()
    trust = ("--trust", "tune_stages")
    said = told(capsys, "tune", run.path, "--stage", FIRST, *trust)
    of_a = [rule for rule in said["rules"] if rule["column"] == "a"]
    assert {line["bound"] for rule in of_a for line in rule["lines"] if line["note"] == "now"} == {None}
    assert told(capsys, "status", run.path, *trust)["stages"][0]["given"] == 63
    values: list[Any] = []
    ids = [key for part in run.rows("image", ["id"]) for key in part.column("id").to_pylist()]
    for key in ids[:25]:
        story = told(capsys, "explain", key, "--run", run.path, *trust)
        values += [stage["columns"].get("a") for stage in story["stages"] if stage["name"] == FIRST]
    assert None in values
    assert any(isinstance(value, float) for value in values)


def test_a_report_takes_a_gallery_and_a_seed_of_its_own(sides: str, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*changes: str) -> int:
        assert cli.main(["report", sides, *changes]) == 0
        capsys.readouterr()
        return len(Parsed(Path(sides, "report/index.html").read_text()).data["cards"])

    record = Path(sides, "run.yaml").read_bytes()
    assert shown() == 4
    assert shown("--set", "gallery=2") == shown("--set", "report.gallery=2", "--set", "seed=5") == 2
    assert Path(sides, "run.yaml").read_bytes() == record
    assert cli.main(["report", sides, "--set", "galery=2"]) == ConfigError.status
    assert "did you mean 'gallery'?" in capsys.readouterr().err
    assert cli.main(["report", sides, "--set", "gallery=-2"]) == ConfigError.status
    assert "report.gallery" in capsys.readouterr().err


def test_seconds_have_no_noise(sides: str, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in told(capsys, "status", sides)["stages"]:
        assert len(f"{stage['seconds']!r}".partition(".")[2]) <= 3
