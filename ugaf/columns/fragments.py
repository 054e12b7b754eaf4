"""What fragments are called, and their order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_NAME = re.compile(r"\d+(?:-[0-9a-f]{16})?")


def fragment_name(number: int, sources: Iterable[bytes]) -> str:
    """The name of a fragment that is cut as this one in turn: `000000012-3f2a9c…`.

    The number is its place in the order of arrival; two cuts at once may give one number to two fragments, which are
    then in the order of their hashes. The hash is of the digests of its sources, so that equal names are equal lists.
    Fragments of earlier versions have a number of six digits and no hash.
    """
    return f"{number:09d}-{hashlib.blake2b(b''.join(sources), digest_size=8).hexdigest()}"


def fragment_order(name: str) -> tuple[int, str]:
    """What fragments are sorted by: by number, never as text alone, for a number may outgrow its digits."""
    return int(name.partition("-")[0]), name


def is_fragment(name: str) -> bool:
    """Whether a fragment may be called so; copies and what else lies there is none."""
    return _NAME.fullmatch(name) is not None
