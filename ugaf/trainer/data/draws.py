"""Random numbers that belong to a sample: a function of the seed, the epoch, the sample's id and a purpose.

They do not depend on rank, worker, batch or the order in which they are asked for, and are drawn for whole columns of
samples at once. The mixing is splitmix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
2014), applied to each of the parts in turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

WORDING, SHUFFLE, DROP = 1, 100, 200
"""Purposes. SHUFFLE + k and DROP + k are those of reference k."""


def keys_of(ids: Iterable[str]) -> np.ndarray:
    """A 64-bit key for each id: uint64 (n,), the same on every machine."""
    digests = b"".join(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def uniform(keys: np.ndarray, seed: int, epochs: np.ndarray | int, purpose: int) -> np.ndarray:
    """A number of 0 <= u < 1 for each key: float64 (n,). `epochs` is one for all or one for each."""
    base = int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest(), "little")
    with np.errstate(over="ignore"):
        mixed = _mix(np.asarray(keys, dtype=np.uint64) ^ np.uint64(base))
        mixed = _mix(mixed + np.asarray(epochs, dtype=np.uint64))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


def _mix(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
