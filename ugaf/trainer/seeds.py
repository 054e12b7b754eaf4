"""Random numbers that follow from what they are for, and so not from rank, worker, batch or restart."""

from __future__ import annotations

import hashlib


def seed_of(*parts: int | str) -> int:
    """A seed, 0 .. 2^63 - 1, of what the numbers are for: the run's seed, a purpose, a step, a place.

    >>> seed_of(0, "noise", 3, 1) == seed_of(0, "noise", 3, 1)
    True
    """
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
