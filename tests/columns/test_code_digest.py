"""Parts know which code made them: a formula that changed is told, a remark is not, and nothing is computed again."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from engine_tools import go, make_photos, pipeline, tree

from ugaf.columns import code_digest
from ugaf.columns.survey import survey
from ugaf.columns.view import RunView
from ugaf.pipeline import config

STAGE = '''
"""A stage of one's own, whose formula lies beside it."""
import pyarrow as pa
from ugaf.stage import Stage
from .formulas import brightness

class Bright(Stage):
    """How bright."""
    reads = ("image",)
    writes = pa.schema([pa.field("bright", pa.float64())])

    def process(self, row):
        from ownpackage import late
        return {"bright": late.scaled(brightness(row.photo()))}
'''
FORMULAS = """
def brightness(pixels):
    return float(pixels.mean())
"""
LATE = '''
SCALE = 2.0
"""Levels."""

def scaled(value):
    return value * SCALE
'''
OTHER_CODE = "were made by other code"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that can be imported, with a stage `ownpackage.stage:Bright`; and five photographs beside it."""
    folder = tmp_path / "code" / "ownpackage"
    folder.mkdir(parents=True)
    for name, text in {"__init__": "", "stage": STAGE, "formulas": FORMULAS, "late": LATE}.items():
        (folder / f"{name}.py").write_text(text)
    make_photos(tmp_path / "photos", 5)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownpackage"]:
        del sys.modules[name]
    forget()


def forget() -> None:
    """As in a new process."""
    importlib.invalidate_caches()
    code_digest._digest_of.cache_clear()
    code_digest._module.cache_clear()


def digest_now(package: Path) -> str | None:
    forget()
    checked = pipeline(package.parents[1] / "photos", package.parents[1] / "run", ["ownpackage.stage:Bright"])
    return code_digest.code_digest(checked.stages[0])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def ugaf(package: Path, command: str) -> str:
    """What the command prints, as a user types it."""
    folder = package.parents[1]
    document = {
        "name": "own",
        "inputs": [str(folder / "photos")],
        "output": str(folder / "run"),
        "stages": ["ownpackage.stage:Bright"],
        "engine": {"executor": "inline"},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(document))
    path = os.pathsep.join([str(package.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "ugaf", command, str(folder / "own.yaml")],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}, cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return " ".join(done.stdout.split())


def parts(package: Path) -> dict[str, tuple[int, bytes]]:
    return {name: kept for name, kept in tree(package.parents[1] / "run").items() if name.endswith(".parquet")}


def test_a_changed_formula_warns_in_plan_and_run_and_computes_nothing(package: Path) -> None:
    assert OTHER_CODE not in ugaf(package, "run")
    before = parts(package)
    edit(package / "formulas.py", "def", "# The mean of all channels.\ndef")
    assert OTHER_CODE not in ugaf(package, "plan")
    edit(package / "formulas.py", "mean()", "max()")
    for command in ("plan", "run"):
        said = ugaf(package, command)
        assert re.search(rf"warning: ownpackage.stage:Bright: (\d+) of its \1 part files {OTHER_CODE}", said), said
    assert parts(package) == before


def test_new_photographs_are_of_the_new_code_and_the_old_stay_told(package: Path) -> None:
    folder = package.parents[1]
    checked = pipeline(folder / "photos", folder / "run", ["ownpackage.stage:Bright"])
    go(checked)
    edit(package / "late.py", "2.0", "3.0")
    forget()
    make_photos(folder / "photos", 5, start=5)
    view = go(checked)
    spec = checked.stages[0]
    made = [fact for name in view.fragments for fact in view.columns.light(spec.name, name, ())[1]]
    assert len({fact[code_digest.FACT] for fact in made}) == 2
    (line,) = code_digest.made_by_other_code(checked.stages, made_by(view))
    assert re.search(r"(\d+) of its (?!\1 )\d+ part files", line), line


def made_by(view: RunView) -> dict[str, Counter[str]]:
    return survey(view.columns).made_by


def test_a_part_that_is_written_anew_keeps_the_digest_of_who_made_it(package: Path) -> None:
    folder = package.parents[1]
    (folder / "photos" / "photo-00000.jpg").write_bytes((folder / "photos" / "photo-00001.jpg").read_bytes()[:-1])
    edit(package / "late.py", "return", "if value > 2 * 128 / 2:\n        raise ValueError('too bright')\n    return")
    checked = pipeline(folder / "photos", folder / "run", ["ownpackage.stage:Bright"])
    view = go(checked)
    name, fragment = checked.stages[0].name, view.fragments[0]
    path, *_ = view.columns.parts(name, fragment)
    made = pq.read_schema(folder / "run" / path).metadata[code_digest.FACT]
    edit(package / "late.py", "128", "120")
    forget()
    before = set(view.columns.parts(name, fragment))
    assert view.columns.take_back(name, fragment, lambda error: error.startswith("ValueError")) in range(1, 5)
    (*_, path) = set(view.columns.parts(name, fragment)) - before
    assert pq.read_schema(folder / "run" / path).metadata[code_digest.FACT] == made
    assert code_digest.code_digest(checked.stages[0]) != made.decode()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("stage", "\nclass", "\n\n# A remark.\nclass"),
        ("stage", "How bright.", "How bright it is, in levels."),
        ("stage", '("image",)', '(\n        "image",\n    )'),
        ("late", '"""Levels."""', ""),
        ("late", "value * SCALE", "(value\n        * SCALE)"),
        ("formulas", "\n", "\r\n"),
    ],
)
def test_remarks_and_layout_are_no_code(package: Path, file: str, old: str, new: str) -> None:
    before = digest_now(package)
    edit(package / f"{file}.py", old, new)
    assert before is not None
    assert digest_now(package) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("stage", "late.scaled(", "-late.scaled("),
        ("formulas", "mean", "std"),
        ("late", "2.0", "2"),
        ("late", "value * SCALE", "value + SCALE"),
    ],
)
def test_formulas_are_code_wherever_they_lie(package: Path, file: str, old: str, new: str) -> None:
    before = digest_now(package)
    edit(package / f"{file}.py", old, new)
    assert digest_now(package) not in (None, before)


def test_the_digest_follows_the_chosen_engine() -> None:
    forget()
    chosen = [{"engine": "proposals"}, {"engine": "transformers", "model": "some/detector"}]
    digests = set()
    for detector in chosen:
        spec = {"annotation.detect": {"detector": detector}}
        (stage,) = config.parse({"name": "x", "inputs": ["photos"], "output": "run", "stages": [spec]}).stages
        digests.add(code_digest.code_digest(stage))
    assert len(digests) == 2
    assert None not in digests


def test_every_shipped_stage_has_a_digest_and_what_is_left_out_is_there() -> None:
    forget()
    for name in config.known_stages():
        assert code_digest._digest_of((config.stage_class(name).__module__,)), name
    for name in code_digest.MACHINERY:
        assert code_digest._path(name) is not None, f"{name} is gone: take it out of MACHINERY"


@pytest.mark.parametrize("broken", ["def brightness(:", None])
def test_a_source_that_cannot_be_read_gives_no_digest_and_no_failure(package: Path, broken: str | None) -> None:
    folder = package.parents[1]
    checked = pipeline(folder / "photos", folder / "run", ["ownpackage.stage:Bright"])
    if broken is None:
        importlib.import_module("ownpackage.late")
        (package / "stage.py").unlink()
    else:
        importlib.import_module("ownpackage.formulas")
        (package / "formulas.py").write_text(broken)
    forget()
    view = go(checked)
    assert [stage.kept for stage in view.funnel()] == [5, 5]
    assert not made_by(view)[checked.stages[0].name]
