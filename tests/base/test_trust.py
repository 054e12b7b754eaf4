"""Reading somebody else's run imports nothing but ugaf's own stages and engines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from skimage import data

from ugaf.base.errors import UgafError
from ugaf.columns.view import RunView
from ugaf.engine.runner import RunOptions, run
from ugaf.imaging import images
from ugaf.pipeline import config

EVIL = """
from pathlib import Path
Path(__file__).with_name("it-ran").touch()
import pyarrow as pa
from ugaf.stage import Stage

class Mean(Stage):
    reads = ("image",)
    writes = pa.schema([pa.field("own_mean", pa.float64())])

    def process(self, row):
        return {"own_mean": float(row.photo().mean())}
"""
READERS = (["status"], ["status", "--json"], ["report"], ["tune"], ["export"], ["explain", "0", "--run"])


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished run of a package that lies beside it."""
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(images.encode(data.chelsea()[:200, :300]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("UGAF_TRUST", "")
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    document = {
        "name": "theirs",
        "inputs": [{"path": str(tmp_path / "photos")}],
        "output": str(tmp_path / "run"),
        "stages": ["evil:Mean"],
        "engine": {"executor": "inline"},
    }
    run(config.parse(document), RunOptions(), lambda _: None, lambda _: None)
    sys.modules.pop("evil")
    (tmp_path / "it-ran").unlink()
    return tmp_path


def ugaf(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user types it where the package can be imported, so that only trust keeps it out."""
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-m", "ugaf", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": path, "UGAF_TRUST": "", **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("reader", READERS, ids=" ".join)
def test_no_command_that_reads_a_run_imports_what_it_names(foreign: Path, reader: list[str]) -> None:
    done = ugaf(foreign, *reader, "run")
    assert done.returncode == 2, done
    assert "run.yaml: names evil" in done.stderr
    assert "--trust evil" in done.stderr
    assert not (foreign / "it-ran").exists()


def test_a_package_that_is_trusted_is_imported(foreign: Path) -> None:
    for extra, environment in ((["--trust", "evil"], {}), ([], {"UGAF_TRUST": "other, evil"})):
        done = ugaf(foreign, "status", "run", *extra, **environment)
        assert done.returncode == 0, done
        assert "evil:Mean" in done.stdout
        assert (foreign / "it-ran").exists()


def test_python_reads_as_carefully_as_the_command(foreign: Path) -> None:
    with pytest.raises(UgafError, match="names evil"):
        RunView(str(foreign / "run"))
    assert RunView(str(foreign / "run"), trust=["evil"]).funnel()[-1].kept == 1


@pytest.mark.parametrize(
    "stages",
    [
        ["ugaf.__main__:main"],
        ["os.path:join"],
        ["evil.inner:Mean"],
        [{"annotation.detect": {"detector": {"engine": "evil:Mean"}}}],
        [{"curation.embed": {"encoder": {"engine": "evil:Mean"}}}],
    ],
    ids=str,
)
def test_no_way_to_name_a_class_gets_past(foreign: Path, stages: list[Any]) -> None:
    record = yaml.safe_load((foreign / "run" / "run.yaml").read_text())
    record["pipeline"]["stages"] = stages
    (foreign / "run" / "run.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(UgafError, match="reading a run imports no other"):
        RunView(str(foreign / "run"))
    assert not (foreign / "it-ran").exists()


def test_trust_ends_with_the_reading(foreign: Path) -> None:
    with pytest.raises(UgafError):
        RunView(str(foreign / "run"))
    assert config.stage_class("evil:Mean").__name__ == "Mean"
