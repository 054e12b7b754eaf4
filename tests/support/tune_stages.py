"""Stages whose columns the tests of tuning write themselves: nothing here measures anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from ugaf.stage import Column, Stage


class First(Stage):
    """Photographs: floats of two sizes, whole numbers, a word."""

    writes: ClassVar = {
        "a": float,
        "b": Column(pa.float32(), "a number", range=(0, None)),
        "n": Column(pa.int32(), "a whole number", range=(0, 12)),
        "word": str,
        "free": float,
    }
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "a": {"min": -0.5, "max": 2.0},
        "word": {"none_of": ["<script>alert(1)</script>"]},
        "n": {"min": 3},
    }


class Second(Stage):
    """Photographs: a column with quantile rules."""

    writes = pa.schema([("d", pa.float64()), ("e", pa.int64())])
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {"d": {"min_quantile": 0.1, "max": 9.0}}


class Fan(Stage):
    """Edits of a photograph."""

    writes = pa.schema([("task", pa.string())])
    identity = ("task",)


class Last(Stage):
    """Edits."""

    writes = pa.schema([("s", pa.float64()), ("t", pa.int8())])
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {"s": {"max": 0.8}, "t": {"min": 1}}


class Alike(Stage):
    """Photographs, with the others that they resemble."""

    writes = pa.schema(
        [
            ("near", pa.list_(pa.struct([("id", pa.string()), ("similarity", pa.float32())]))),
            ("width_seen", pa.int32()),
        ]
    )
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "near": {"distinct": {"where": {"similarity": {"min": 0.5}}, "best": ["a", "-n"]}},
        "width_seen": {"min": 2},
    }
