"""Layouts that particular trainers want, written beside the shards.

An adapter is one function over the records and the folder `shards/<name>` that it writes into; its module is named
after it. To add one, write the module and list it here, the form of the names of its files in `ugaf.export.layouts`,
and its name in `ugaf.pipeline.settings.ADAPTERS`.
"""

from __future__ import annotations

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
