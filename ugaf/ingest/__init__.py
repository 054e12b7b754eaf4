"""Ingest: from files, tars, tables and pair sets to the first columns of a run.

`list_sources` names every source in a fixed order; the engine cuts the list into fragments; `produce` reads one
fragment's sources and gives its rows.
"""

from ugaf.ingest.detect import format_of
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.listing import hold_pairs, list_sources
from ugaf.ingest.produce import (
    FREE_TEXT,
    IMAGE_SCHEMA,
    PAIR_SCHEMA,
    VERSION,
    IngestedRow,
    failed_id,
    image_id,
    pair_id,
    produce,
)
from ugaf.ingest.sources import SOURCE_SCHEMA, SourceRef
from ugaf.ingest.tasks import unknown as unknown_tasks
from ugaf.ingest.unread import NotRead
from ugaf.ingest.unread import save as save_listing

__all__ = [
    "FREE_TEXT",
    "IMAGE_SCHEMA",
    "PAIR_SCHEMA",
    "SOURCE_SCHEMA",
    "VERSION",
    "IngestedRow",
    "InputSettings",
    "NotRead",
    "SourceRef",
    "failed_id",
    "format_of",
    "hold_pairs",
    "image_id",
    "list_sources",
    "pair_id",
    "produce",
    "save_listing",
    "unknown_tasks",
]
