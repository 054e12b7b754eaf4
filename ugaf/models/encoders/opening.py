"""What encoders share with who asks them: one of each in a process, photographs to load, vectors of length 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ugaf.models.encoders.interface import Encoder, Photo
from ugaf.models.judging.pairs import unshared
from ugaf.stage import Row, engines


def photo_of(row: Row, side: int | None = None) -> Photo:
    """Decodes a row's photograph when it is asked for (see `Row.photo`); the pixels are not kept with the row."""
    return lambda: unshared(row).photo(side)


_OPEN: WeakValueDictionary[str, Any] = WeakValueDictionary()


def open_encoder(spec: Mapping[str, Any]) -> Encoder:
    """The encoder of these settings; the same object wherever this process names the same, so that it is loaded once.

    Raises ConfigError naming the option.
    """
    checked = engines.check("encoder", spec)
    return shared("encoder", checked, lambda: engines.build("encoder", checked))


def shared(kind: str, settings: Mapping[str, Any], build: Callable[[], Any]) -> Any:
    """What `build` gives, or what it gave before for the same kind and settings, as long as that is in use."""
    key = json.dumps([kind, settings], sort_keys=True, default=str)
    found = _OPEN.get(key)
    if found is None:
        found = _OPEN[key] = build()
    return found


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, d) scaled to length 1, float32. Raises ValueError for those that are no direction.

    Such are vectors with values that are not finite (half precision may overflow) and vectors of zeros.
    """
    vectors = np.asarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("the encoder gave values that are not finite numbers; dtype: float32 may help")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    if not lengths.all():
        raise ValueError("the encoder gave a vector of zeros, which has no direction")
    return (vectors / lengths).astype(np.float32)
