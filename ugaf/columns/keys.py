"""Ids as numbers: 32 hexadecimal digits are two of 64 bits, which millions of rows are compared by at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

TYPE = pa.binary(16)
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_VALUES = np.full(256, 255, np.uint8)
_VALUES[_DIGITS] = np.arange(16, dtype=np.uint8)
_OF_KEY = 54
"""Bits of an id beside the 10 of its fragment's number, in a key by which rows of a thousand fragments are sorted."""
MOST = 1 << (64 - _OF_KEY)
"""Fragments that are compared at once."""


class OtherIdsError(ValueError):
    """Ids that are not 32 hexadecimal digits, as ugaf's own are."""


@dataclass(frozen=True)
class Keys:
    """Ids (n,): the first and the second half as numbers, sorted as the texts are."""

    high: np.ndarray
    low: np.ndarray

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, chosen: np.ndarray | slice) -> Keys:
        return Keys(self.high[chosen], self.low[chosen])

    def equal(self, other: Keys) -> np.ndarray:
        """bool (n,)."""
        return (self.high == other.high) & (self.low == other.low)

    def hexadecimal(self) -> np.ndarray:
        """As bytes of 32 digits (n,); see `distinct.packed`."""
        raw = _bytes(self)
        digits = np.empty((len(self), 32), np.uint8)
        digits[:, 0::2] = _DIGITS[raw >> 4]
        digits[:, 1::2] = _DIGITS[raw & 15]
        return digits.reshape(-1).view("S32") if len(self) else np.empty(0, "S32")

    def texts(self) -> list[str]:
        return [key.decode() for key in self.hexadecimal().tolist()]

    def text_column(self) -> pa.Array:
        """As a column of texts."""
        offsets = np.arange(0, 32 * len(self) + 1, 32, dtype=np.int64)
        digits = pa.py_buffer(self.hexadecimal())
        return pa.LargeStringArray.from_buffers(len(self), pa.py_buffer(offsets), digits)

    def column(self) -> pa.Array:
        """As they are stored."""
        return pa.FixedSizeBinaryArray.from_buffers(TYPE, len(self), [None, pa.py_buffer(_bytes(self).tobytes())])


def of_column(column: pa.ChunkedArray | pa.Array) -> Keys:
    """Of a column of `TYPE`."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], TYPE)
    buffer = array.buffers()[1]
    if not len(array) or buffer is None:
        return Keys(np.empty(0, np.uint64), np.empty(0, np.uint64))
    raw = np.frombuffer(buffer, ">u8", 2 * len(array), 16 * array.offset).reshape(-1, 2).astype(np.uint64)
    return Keys(np.ascontiguousarray(raw[:, 0]), np.ascontiguousarray(raw[:, 1]))


def of_digits(ids: np.ndarray) -> Keys:
    """Of bytes of 32 digits (n,). Raises OtherIdsError."""
    raw = np.ascontiguousarray(ids).view(np.uint8).reshape(-1, 32)
    values = _VALUES[raw]
    if np.any(values == 255):
        raise OtherIdsError
    whole = np.ascontiguousarray((values[:, 0::2] << 4) | values[:, 1::2]).view(">u8").astype(np.uint64)
    return Keys(np.ascontiguousarray(whole[:, 0]), np.ascontiguousarray(whole[:, 1]))


def of_texts(ids: Collection[str]) -> Keys:
    """Of texts. Raises OtherIdsError."""
    if not ids:
        return Keys(np.empty(0, np.uint64), np.empty(0, np.uint64))
    if any(len(key) != 32 for key in ids):
        raise OtherIdsError
    try:
        return of_digits(np.frombuffer("".join(ids).encode("ascii"), "S32"))
    except UnicodeEncodeError as error:
        raise OtherIdsError from error


def places(keys: Keys, numbers: np.ndarray, wanted: Keys, of: np.ndarray) -> np.ndarray:
    """Where each wanted row stands among others that are sorted by number of fragment and id: int64 (n,), -1: nowhere.

    numbers, of: the fragments' numbers, below `MOST`.
    """
    if len(keys) == len(wanted) and np.array_equal(numbers, of) and bool(keys.equal(wanted).all()):
        return np.arange(len(wanted), dtype=np.int64)
    return _find(_sortable(keys, numbers), keys, numbers, _sortable(wanted, of), wanted, of)


def among(wanted: Keys, given: Keys) -> np.ndarray:
    """Where each wanted id stands among given ones, which are sorted: int64 (n,), -1: nowhere."""
    none = np.zeros(1, np.uint8)
    return _find(given.high, given, none[:0], wanted.high, wanted, none[:0])


def _sortable(keys: Keys, numbers: np.ndarray) -> np.ndarray:
    top = numbers.astype(np.uint64) << np.uint64(_OF_KEY)
    return top | (keys.high >> np.uint64(64 - _OF_KEY))


def _find(
    order: np.ndarray, keys: Keys, numbers: np.ndarray, asked: np.ndarray, wanted: Keys, of: np.ndarray
) -> np.ndarray:
    """By a sorted part of the id, and then by all of it: rows of one part stand side by side."""
    out = np.full(len(wanted), -1, dtype=np.int64)
    if not len(order) or not len(asked):
        return out
    at = np.searchsorted(order, asked)
    open_ = np.flatnonzero(at < len(order))
    at = at[open_]
    while len(open_):
        same = order[at] == asked[open_]
        at, open_ = at[same], open_[same]
        hit = keys[at].equal(wanted[open_])
        if len(numbers):
            hit &= numbers[at] == of[open_]
        out[open_[hit]] = at[hit]
        at, open_ = at[~hit] + 1, open_[~hit]
        inside = at < len(order)
        at, open_ = at[inside], open_[inside]
    return out


def _bytes(keys: Keys) -> np.ndarray:
    raw = np.empty((len(keys), 2), ">u8")
    raw[:, 0], raw[:, 1] = keys.high, keys.low
    return raw.view(np.uint8).reshape(-1, 16)
