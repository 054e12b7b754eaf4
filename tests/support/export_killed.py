"""Exports that are killed (SIGKILL) before and after each step on the disk; run as a script, so that it may fork.

`python export_killed.py ROOT` makes ROOT/N for N = 0, 1, ...: a run's folder with an export of one pair and the user's
own files, in which a second export, of two pairs, was killed at its Nth step. It ends with the first that was not.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from export_fakes import FakeView, edits_of, fragment

from ugaf.export import ExportSettings, export, folder
from ugaf.storage import Storage

MINE = {"shards/parquet/notes.md": b"mine", "shards/webdataset/sub/x.txt": b"mine, too", "shards/own.parquet": b"own"}
MOST = 200


def view_of(root: Path, pairs: int) -> FakeView:
    """A run with so many kept pairs."""
    photo = np.arange(96 * 96 * 3, dtype=np.uint32).reshape(96, 96, 3).astype(np.uint8)
    rows = [row for number in range(pairs) for row in edits_of(np.roll(photo, number, 1), 1)]
    return FakeView(Storage(str(root)), [fragment(*rows)])


def settings(*adapters: str) -> ExportSettings:
    return ExportSettings(validation=0, adapters=list(adapters))


def _deadly(function: Callable[..., Any], steps: list[int], at: int) -> Callable[..., Any]:
    def step(*arguments: Any, **options: Any) -> Any:
        for after in (False, True):
            if steps[0] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            steps[0] += 1
            if not after:
                result = function(*arguments, **options)
        return result

    return step


def _killed(root: Path, at: int) -> bool:
    """Export in a process of its own that dies at its step `at`; False if it came to its end before."""
    child = os.fork()
    if child == 0:
        steps = [0]
        for owner, names in ((os, ("rename", "link", "replace", "rmdir")), (folder, ("exchange",))):
            for name in names:
                setattr(owner, name, _deadly(getattr(owner, name), steps, at))
        Storage.remove = _deadly(Storage.remove, steps, at)  # type: ignore[method-assign]
        export(view_of(root, 2), settings("diffsynth"))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def main(root: Path) -> None:
    for number in range(MOST):
        run = root / str(number)
        if number == 0:
            export(view_of(run, 1), settings("diffsynth"))
            for name, data in MINE.items():
                Storage(str(run)).write(name, data)
            shutil.copytree(run, root / "first")
        else:
            shutil.copytree(root / "first", run)
        if not _killed(run, number):
            print(number)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
