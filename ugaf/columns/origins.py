"""Which input each source of a run came from.

A fragment's list of sources says it in its metadata, as runs of neighbours (a listing goes input by input), so that
who fed a run is known from the run's own files, whatever later calls are given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ugaf.base.location import Location

if TYPE_CHECKING:
    from ugaf.ingest import InputSettings

KEY = b"ugaf.inputs"


@dataclass(frozen=True)
class Origin:
    """An input as a person named it, without secrets. place: by which it is compared (a local path in full)."""

    name: str
    place: str

    @classmethod
    def of(cls, settings: InputSettings) -> Origin:
        location = Location(settings.path)
        if location.is_url or "://" in location.public:
            return cls(location.public, location.name.rstrip("/"))
        return cls(location.public, os.path.abspath(os.path.expanduser(location.public)))


UNKNOWN = Origin("", "")
"""The input of sources that were cut before inputs were written down."""

Runs = list[tuple[Origin, int]]
"""Inputs of a fragment's sources in their order, each with the number of sources that follow one another."""


def metadata(origins: Sequence[Origin]) -> dict[bytes, bytes]:
    """What a fragment's list of sources says of the input of each."""
    runs = [(origin.name, origin.place, len(list(group))) for origin, group in groupby(origins)]
    return {KEY: json.dumps(runs).encode()}


def runs_of(metadata: Mapping[bytes, bytes] | None, sources: int) -> Runs:
    """The inputs of a fragment with so many sources, from its metadata."""
    if not metadata or KEY not in metadata:
        return [(UNKNOWN, sources)] if sources else []
    return [(Origin(name, place), count) for name, place, count in json.loads(metadata[KEY])]
