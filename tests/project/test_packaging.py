"""What is installed is what the repository has, under names that a user's own folders do not take."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from places import ROOT

GUIDE = (ROOT / "docs" / "write-a-stage.md").read_text()
FOLDERS = {"ugaf": "ugaf", "stages": "ugaf.stages", "pipelines": "ugaf.pipelines"}


def test_every_folder_is_installed() -> None:
    """Those without code too: setuptools warns at length of data in folders that are not listed."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert told["package-dir"] == {name: folder for folder, name in FOLDERS.items()}
    found = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for folder, name in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sorted(told["packages"]) == sorted(found)


def test_in_a_checkout_too_they_have_ugaf_s_own_names() -> None:
    from ugaf.stages.curation import resolution

    from ugaf import pipelines, stages

    assert [Path(package.__file__ or "").parent for package in (stages, pipelines)] == [
        ROOT / "stages",
        ROOT / "pipelines",
    ]
    assert resolution.__name__ == "ugaf.stages.curation.resolution"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, unpacked as an installer does: a folder to put on the path."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        ".",
    ]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(folder: Path, *arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "ugaf", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=200
    )


def test_a_wheel_has_every_file_that_is_not_code(installed: Path) -> None:
    wanted = {
        f"{name.replace('.', '/')}/{path.relative_to(ROOT / folder)}"
        for folder, name in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".py") and "__pycache__" not in path.parts
    }
    assert len(wanted) > 30
    assert not [name for name in sorted(wanted) if not (installed / name).is_file()]
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"ugaf"}


def test_the_guide_s_stage_runs_on_a_wheel_beside_folders_of_the_same_names(installed: Path, tmp_path: Path) -> None:
    """As its reader does: files in a folder of one's own. That other packages there are called `stages` and `pipelines`
    changes nothing."""
    for name in ("stages", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ugaf')\n")
    code = GUIDE.partition("```python\n")[2].partition("```")[0]
    document = yaml.safe_load(GUIDE.partition("```yaml\n")[2].partition("```")[0])
    (tmp_path / "my_stages.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**document, "engine": {"executor": "inline"}}))
    path = os.pathsep.join([str(installed), str(tmp_path)])
    done = run(tmp_path, "run", "mine.yaml", path=path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "my_stages:letterbox" in done.stdout
    assert run(tmp_path, "stages", "curation.resolution", path=path).returncode == 0


def test_an_installed_package_gives_its_stage_and_its_engine_short_names(installed: Path, tmp_path: Path) -> None:
    code = GUIDE.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "my_stages.py").write_text(code)
    (tmp_path / "my_engine.py").write_text(
        "from ugaf.models.detectors.proposals.detector import ProposalDetector\n\n\n"
        "class Mine(ProposalDetector):\n    name = 'mine'\n"
    )
    facts = tmp_path / "mine-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(
        "[ugaf.stages]\nmine.letterbox = my_stages:letterbox\n\n[ugaf.detectors]\nmine = my_engine:Mine\n"
    )
    path = os.pathsep.join([str(installed), str(tmp_path)])
    stages = [
        {"mine.letterbox": {"keep": {"letterbox": None}}},
        {"annotation.detect": {"detector": {"engine": "mine"}}},
    ]
    document = {"name": "mine", "inputs": ["sample://coffee"], "engine": {"executor": "inline"}, "stages": stages}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    done = run(tmp_path, "run", "mine.yaml", path=path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "mine.letterbox" in run(tmp_path, "stages", path=path).stdout
    foreign = run(tmp_path, "status", "runs/mine", path=path)
    assert foreign.returncode == 2
    assert "--trust my_stages" in foreign.stderr
    trusted = run(tmp_path, "status", "runs/mine", "--trust", "my_stages", "--trust", "my_engine", path=path)
    assert trusted.returncode == 0, trusted.stderr
