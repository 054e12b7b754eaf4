"""ai-toolkit (and SimpleTuner): two folders with the same file names, captions beside the targets.

`train/target/ID.png` with `ID.txt`, and `train/control/ID.png`; `validation/` has the same layout. A dataset entry of
ai-toolkit's configuration names them as `folder_path` and `control_path`, with `caption_ext: txt`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ugaf.export.folder import Folder
    from ugaf.export.rows import Record

READABLE = ("jpg", "png", "webp")


def ai_toolkit(records: Iterable[Record], folder: Folder) -> None:
    """Write the pairs. Where the two formats differ, both become PNG (lossless), so that the names are the same."""
    for record in records:
        source, edited = record.source, record.edited
        if source.extension != edited.extension or source.extension not in READABLE:
            source, edited = source.as_png(), edited.as_png()
        name = f"{record.id}.{edited.extension}"
        folder.write(f"{record.split}/control/{name}", source.data)
        folder.write(f"{record.split}/target/{name}", edited.data)
        folder.write(f"{record.split}/target/{record.id}.txt", record.values["instruction"].encode())
