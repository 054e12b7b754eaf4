"""The data side of the trainer: from shards to batches, the same ones for any number of ranks, workers and restarts.

`open_index` reads the light columns of the shards once. `Plan` is a pure function of that index, the settings and a
seed: it says which samples make up which microbatch of which step. `Loader` reads and decodes what the plan says for
one rank, and gives it as `Batch`es of torch tensors. `write_cache` computes
features beforehand. What is imported from here lazily needs torch; the rest does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ugaf.trainer.data.geometry import Bucket, Fit, UnsuitableError, buckets_for
from ugaf.trainer.data.index import Index, open_index
from ugaf.trainer.data.plan import Microbatch, Plan
from ugaf.trainer.data.settings import DataSettings

if TYPE_CHECKING:
    from ugaf.trainer.data.batch import Batch
    from ugaf.trainer.data.cache_writer import write_cache
    from ugaf.trainer.data.loader import CorruptDataError, Loader

__all__ = [
    "Batch",
    "Bucket",
    "CorruptDataError",
    "DataSettings",
    "Fit",
    "Index",
    "Loader",
    "Microbatch",
    "Plan",
    "UnsuitableError",
    "buckets_for",
    "open_index",
    "write_cache",
]

_WITH_TORCH = {"Batch": "batch", "CorruptDataError": "loader", "Loader": "loader", "write_cache": "cache_writer"}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
