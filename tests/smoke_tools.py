"""What the smoke test is made of: blocks of a page, environments that lack packages, commands to their end."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEP_S = 900
"""A command of the README that takes longer, on a busy machine too, hangs."""

BLOCKER = """
import site, sys
from importlib.machinery import PathFinder

class _Blocked:
    def find_spec(self, name, path=None, target=None):
        if path is not None or name not in {names!r}:
            return None
        # Some packages carry others within them, in a folder of their own on the path.
        carried = PathFinder.find_spec(name, [place for place in sys.path if place not in site.getsitepackages()])
        if carried is None:
            raise ModuleNotFoundError(f"No module named {{name!r}}: this command's environment lacks it", name=name)
        return carried

sys.meta_path.insert(0, _Blocked())
"""


class SmokeError(Exception):
    """Something that the README or a page says does not hold."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines(block: str) -> list[str]:
    """The commands of a shell block, without comments and continued lines joined."""
    found = (shlex.join(shlex.split(line, comments=True)) for line in block.replace("\\\n", " ").splitlines())
    return [line for line in found if line]


def requirements(extras: tuple[str, ...]) -> set[str]:
    """Names of the distributions that ugaf with these extras brings, and theirs."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [
        *project["dependencies"],
        *(text for extra in extras for text in project["optional-dependencies"][extra]),
    ]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = Requirement(waiting.pop())
        for extra in ("", *wanted.extras):
            key = (canonicalize_name(wanted.name), extra)
            if key in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
                continue
            seen.add(key)
            try:
                told = importlib.metadata.requires(wanted.name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            for text in told:
                marker = Requirement(text).marker
                if marker is None or marker.evaluate({"extra": extra}):
                    waiting.append(text.partition(";")[0])
    return {name for name, _ in seen}


def environment(folder: Path, *extras: str) -> dict[str, str]:
    """This environment, less what `pip install '.[extras]'` would not have brought."""
    from packaging.utils import canonicalize_name

    own = requirements(extras) | {"ugaf", "pip", "setuptools"}
    tops = importlib.metadata.packages_distributions()
    lacking = {top for top, names in tops.items() if not own & {canonicalize_name(name) for name in names}}
    place = folder / f"only-{'-'.join(extras) or 'base'}"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(BLOCKER.format(names=sorted(lacking)))
    path = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def run(line: str, work: Path, env: dict[str, str]) -> str:
    """One command to its end. Raises SmokeError with all that it said"""
    words = shlex.split(line)
    program = {"ugaf": [sys.executable, "-m", "ugaf"], "python": [sys.executable]}.get(words[0], [words[0]])
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*program, *words[1:]], cwd=work, env=env, text=True, timeout=STEP_S,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SmokeError(f"{line}: not done after {STEP_S} s\n{error.output}") from error
    print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)
    if done.returncode:
        raise SmokeError(f"{line}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout
