"""Layouts that particular trainers want, written beside the shards.

An adapter is one function over the records and the folder `shards/<name>` that it writes into; its module is named
after it. To add one, write the module and list it here.
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

NEEDS_PARQUET = frozenset({"instruct_pix2pix"})
"""Adapters that name columns of the Parquet shards instead of copying images."""
