"""What an encoder is: photographs in, unit vectors out, so that the cosine of two is their dot product.

The stage `curation.embed` and the predictors with a head know encoders only by this interface; the configuration names
the implementation (`encoder: {engine: transformers, model: ...}`, see `ugaf.stage.engines`). An implementation is a
class with a nested `Settings` model, built as `cls(settings)`.

An encoder gets functions that load photographs, not pixels: it holds the decoded pixels of one photograph at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakValueDictionary

import numpy as np

from ugaf.models.judging.pairs import unshared
from ugaf.stage import Failure, Row, engines

Photo = Callable[[], np.ndarray]
"""Gives a photograph, RGB uint8 (height, width, 3). Raises ImageError if it cannot be decoded."""


class Encoder(Protocol):
    """Embeds photographs.

    Attributes:
        name: engine and model as they are written into the rows, without folders of this machine.
        version: raised when a change of code changes the result; part of the stage's fingerprint.
        dim: how many numbers an embedding has.
    """

    name: str
    version: int
    dim: int

    def encode(self, photos: Sequence[Photo]) -> list[np.ndarray | Failure]:
        """For each photograph, in order: its embedding, float32 (dim,) of length 1, or why there is none to be had."""
        ...


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
