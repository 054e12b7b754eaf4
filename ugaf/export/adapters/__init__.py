"""Layouts that particular trainers want, written beside the shards.

An adapter is one function over the records and the folder `shards/<name>` that it writes into; its module is named
after it. To add one, write the module and list it here, with the form of the names of its files, and in
`ugaf.pipeline.settings.ADAPTERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ugaf.export.adapters.ai_toolkit import ai_toolkit
from ugaf.export.adapters.diffsynth import diffsynth
from ugaf.export.adapters.instruct_pix2pix import instruct_pix2pix

if TYPE_CHECKING:
    from ugaf.export.folder import Folder
    from ugaf.export.rows import Record

Adapter = Callable[[Iterable["Record"], "Folder"], None]

ADAPTERS: dict[str, Adapter] = {
    "ai_toolkit": ai_toolkit,
    "diffsynth": diffsynth,
    "instruct_pix2pix": instruct_pix2pix,
}

_ID = "[0-9a-f]{32}"

FILES: dict[str, re.Pattern[str]] = {
    "ai_toolkit": re.compile(rf"(train|validation)/(control|target)/{_ID}\.[a-z]+"),
    "diffsynth": re.compile(rf"metadata(_validation)?\.jsonl|images/../{_ID}\.(source|edited)\.[a-z]+"),
    "instruct_pix2pix": re.compile(r"arguments\.txt"),
}
"""By adapter, the names of the files that it writes, relative to its folder: any other file there is the user's."""
