"""What a run's outputs were made of, so that what would come out the same is not made again.

`snapshots/outputs.json` has for each output (the report, a folder of shards) a digest of all that it depends on: what
is stored, what was withdrawn, the record, the pipeline, the fitted rules, what was asked for, and the code; and one of
the files that came of it. Like packs it may be thrown away.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ugaf
from ugaf.base.errors import StopRun, UgafError
from ugaf.base.versions import package_versions
from ugaf.columns import packs, record, tombstones

if TYPE_CHECKING:
    from ugaf.columns.view import RunView

FILE = f"{packs.FOLDER}/outputs.json"


def key_of(view: RunView, asked: Any) -> str | None:
    """A digest of what an output depends on; None where only reading everything could tell. asked: as `repr` has it."""
    if view.snapshot is None or not view.record:
        return None
    fits = {
        name: [(rule, None if rule.losers is None else rule.losers.ids.tobytes()) for rule in fitted]
        for name, fitted in view.fits.items()
    }
    parts = [
        view.snapshot.key,
        _bytes(view, tombstones.FILE),
        _bytes(view, record.RUN_FILE),
        view.path,
        view.pipeline.document,
        fits,
        asked,
        package_versions(),
        _code(),
        [_stamp(inspect.getsourcefile(spec.cls)) for spec in view.pipeline.stages],
    ]
    return hashlib.sha256("\n".join(map(repr, parts)).encode("utf-8", "surrogatepass")).hexdigest()


def is_current(view: RunView, output: str, key: str | None, *files: str) -> bool:
    """Whether these files came of this key, and are still what they were."""
    with suppress(FileNotFoundError):
        return key is not None and _known(view).get(output) == [key, *(_digest(view, file) for file in files)]
    return False


def remember(view: RunView, output: str, key: str | None, *files: str) -> None:
    """Keep of which key these files came; where that cannot be written, they are made again."""
    if key is None or view.snapshot is None or not view.snapshot.writes:
        return
    with suppress(OSError, UgafError, StopRun):
        known = {**_known(view), output: [key, *(_digest(view, file) for file in files)]}
        view.storage.write_if_changed(FILE, json.dumps(known, indent=1, sort_keys=True).encode() + b"\n")


def _known(view: RunView) -> dict[str, list[str]]:
    with suppress(OSError, ValueError):
        found = json.loads(view.storage.read(FILE))
        return found if isinstance(found, dict) else {}
    return {}


def _digest(view: RunView, file: str) -> str:
    return hashlib.sha256(view.storage.read(file)).hexdigest()


def _bytes(view: RunView, file: str) -> bytes:
    with suppress(FileNotFoundError):
        return view.storage.read(file)
    return b""


@cache
def _code() -> list[Any]:
    """The files of ugaf, by size and time."""
    own = Path(ugaf.__file__).parent
    # A checkout has more beside them than what is ugaf's.
    folders = [own, *(Path(place, name) for place in ugaf.__path__ for name in ("stages", "pipelines"))]
    files = sorted({path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts})
    return [ugaf.__version__, *(_stamp(str(path)) for path in files if path.is_file())]


def _stamp(file: str | None) -> Any:
    with suppress(OSError):
        if file is not None:
            found = Path(file).stat()
            return file, found.st_size, found.st_mtime_ns
    return file
