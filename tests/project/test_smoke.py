"""The smoke test's own parts: which lines of a page it takes, and what an environment lacks."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import smoke
import smoke_tools


def test_every_line_of_the_readme_is_covered() -> None:
    readme = (smoke_tools.ROOT / "README.md").read_text()
    lines = [line for block in smoke_tools.blocks(readme, "sh") for line in smoke_tools.lines(block)]
    assert len(lines) > 20
    for line in lines:
        if line.startswith("pip install"):
            smoke.check_extras(line)
        else:
            assert not {"ray", "fineedit", "s3:"} & set(smoke.stand_in(line).replace("/", " ").split()[:2])


def test_lines_that_share_a_folder_are_done_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work: set[str] = set()
    done: list[tuple[str, str]] = []

    def do(language: str, part: str, *_: object) -> set[str]:
        assert not at_work & smoke.folders(language, part)
        at_work.update(smoke.folders(language, part))
        time.sleep(0.002 * (len(part) % 3))
        at_work.difference_update(smoke.folders(language, part))
        done.append((language, part))
        return {part}

    monkeypatch.setattr(smoke, "do", do)
    assert smoke.readme(tmp_path) == {part for _, part in done}
    for folder in ("runs/demo", "runs/mine", "runs/curated", "s3://bucket/runs/mine"):
        here = [given for given in done if folder in smoke.folders(*given)]
        assert here
        assert here == [given for given in smoke.parts() if folder in smoke.folders(*given)]
    refined = smoke.folders("sh", "ugaf run refine --input pairs.jsonl --output runs/refined")
    assert refined == {"runs/demo", "runs/refined"}


@pytest.mark.parametrize(
    "line", ["curl https://example.org", "docker run ugaf", "python -m ugaf.trainer x.yaml", "cd x", "make clean"]
)
def test_a_line_that_no_rule_covers_is_an_error(line: str) -> None:
    with pytest.raises(smoke_tools.SmokeError, match=r"no rule of tests/smoke\.py covers"):
        smoke.stand_in(line)


def test_a_command_that_fails_is_shown_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(smoke_tools.SmokeError, match=r"(?s)exit status 3.*told so"):
        smoke_tools.run("python -c 'print(\"told so\"); raise SystemExit(3)'", tmp_path, {})


def test_an_environment_lacks_what_its_extras_do_not_bring(tmp_path: Path) -> None:
    def imports(module: str, *extras: str) -> bool:
        env = smoke_tools.environment(tmp_path, *extras)
        return subprocess.run([sys.executable, "-c", f"import {module}"], env=env, capture_output=True).returncode == 0

    assert imports("numpy")
    assert imports("yaml")
    assert not imports("pytest")
    assert not imports("psutil")
    assert not imports("faiss")
    assert imports("faiss", "faiss")
    assert imports("psutil", "benchmarks")
    assert imports("pytest", "test")
