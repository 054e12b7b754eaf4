"""No two places share ten lines of code: what two modules need has one home, in a layer below both.

Lines are compared without their indentation; blank ones, comments, docstrings and imports do not count.
"""

from __future__ import annotations

import ast
import io
import itertools
import subprocess
import tokenize
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest
from places import ROOT

FOLDERS = ("ugaf", "stages", "pipelines", "benchmarks")
LINES = 10
Place = tuple[str, int]
"""A file, and the place of a line among its lines of code."""


def code(text: str) -> list[tuple[int, str]]:
    """(number in the file, line) of the lines of code."""
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        remark = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if remark or isinstance(node, ast.Import | ast.ImportFrom):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def duplicates(files: dict[str, str], least: int = LINES) -> list[str]:
    """`FILE:LINE and FILE:LINE share N lines`, for every two places with at least so many successive lines in common;
    in one file they do not overlap."""
    numbered = {name: code(text) for name, text in files.items()}
    places: dict[tuple[str, ...], list[Place]] = defaultdict(list)
    for name, lines in numbered.items():
        for start in range(len(lines) - least + 1):
            places[tuple(line for _, line in lines[start : start + least])].append((name, start))
    equal = {
        (one, other)
        for same in places.values()
        for one, other in itertools.combinations(same, 2)
        if one[0] != other[0] or other[1] - one[1] >= least
    }
    found = []
    for (a, i), (b, j) in sorted(equal):
        if ((a, i - 1), (b, j - 1)) not in equal:
            more = next(n for n in itertools.count() if ((a, i + n + 1), (b, j + n + 1)) not in equal)
            found.append(f"{a}:{numbered[a][i][0]} and {b}:{numbered[b][j][0]} share {least + more} lines")
    return found


def tracked(root: Path, folders: Iterable[str]) -> dict[str, str]:
    """File -> text, of the Python files in these folders that git knows."""
    command = ["git", "ls-files", "-z", "--", *folders]
    listed = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True).stdout.decode()
    names = [name for name in listed.split("\0") if name.endswith(".py") and (root / name).is_file()]
    return {name: (root / name).read_text("utf-8") for name in names}


def test_no_two_places_share_ten_lines() -> None:
    files = tracked(ROOT, FOLDERS)
    assert {name.split("/")[0] for name in files} == set(FOLDERS)
    assert len(files) > 400
    assert duplicates(files) == []


@pytest.mark.parametrize(("length", "found"), [(9, 0), (10, 1), (14, 1)])
def test_a_planted_copy_is_found(tmp_path: Path, length: int, found: int) -> None:
    body = [f"value_{number} = {number}" for number in range(length)]
    moved = [f'    """About it."""\n    # Why.\n\n    {line}  # as there' for line in body]
    (tmp_path / "ugaf").mkdir()
    (tmp_path / "ugaf" / "one.py").write_text("\n".join(["import os", "", "first = 1", *body, "last = 1", ""]))
    (tmp_path / "ugaf" / "other.py").write_text("\n".join(["import os", "def f():", *moved, ""]))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    named = [f"ugaf/one.py:4 and ugaf/other.py:6 share {length} lines"]
    assert duplicates(tracked(tmp_path, FOLDERS)) == named * found


def test_what_stands_twice_in_one_file_is_found_and_a_long_run_of_one_line_is_no_copy_of_itself() -> None:
    body = "".join(f"    use({number})\n" for number in range(LINES))
    assert duplicates({"a.py": f"def f():\n{body}\ndef g():\n{body}"}) == ["a.py:2 and a.py:14 share 10 lines"]
    assert duplicates({"a.py": "again()\n" * (2 * LINES - 1)}) == []
    assert duplicates({"a.py": "again()\n" * 2 * LINES}) == ["a.py:1 and a.py:11 share 10 lines"]
