"""Numbers that look random and follow from what they are for: the same on any machine, in any order, in every run.

A generator's seed, a row's rank in a sample, the split that a photograph falls into: each is a number of a text that
names its purpose and its row, so that one that is added or left out moves no other.
"""

from __future__ import annotations

import hashlib
from typing import Literal


def number(text: str, size: int = 8, order: Literal["big", "little"] = "big") -> int:
    """The first `size` bytes (1..32) of the text's SHA-256 as an integer, 0 .. 256^size - 1, evenly spread."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], order)


def seed(text: str, order: Literal["big", "little"] = "big") -> int:
    """0 .. 2^31 - 1: a seed that any library and any server takes."""
    return number(text, 4, order) >> 1
