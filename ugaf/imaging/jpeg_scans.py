"""Do the scans of a JPEG send all of its picture?

A progressive file that was cut off between two scans and ended there is a blurred or grey picture that no decoder
warns of: each scan sends some bits of some coefficients, and any number of scans is a file. So is one of several
sequential scans, a component each. What is sent is told by the scans' headers alone.
"""

from __future__ import annotations

import re

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_ALL = range(64)


def unsent(data: bytes) -> int | None:
    """After how many scans a JPEG ends whose scans do not send every bit of every coefficient; None for a whole one.

    The standard lets an encoder leave bits out; none that is known does unless it is given such scans by hand.
    """
    left: dict[int, list[int | None]] = {}
    progressive, scans, position = False, 0, 2
    while found := _MARKER.search(data, position):
        marker, start = data[found.start() + 1], found.end() + 2
        end = found.end() + int.from_bytes(data[found.end() : start], "big")
        body = data[start:end]
        if marker in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
            progressive = marker in (0xC2, 0xCA)
            left = {body[at]: [None] * len(_ALL) for at in range(6, len(body), 3)}
        elif marker == 0xD9 or (not left and marker == 0xDA):  # of a kind that sends otherwise
            break
        elif marker == 0xDA:
            scans += 1
            _send(left, body, progressive)
            if not progressive and not any(None in bits for bits in left.values()):
                return None
        position = end
    return scans if any(bit != 0 for bits in left.values() for bit in bits) else None


def _send(left: dict[int, list[int | None]], header: bytes, progressive: bool) -> None:
    """Note the bits that a scan leaves for later ones, of each coefficient of its components."""
    count = header[0] if header else 0
    if len(header) < 4 + 2 * count:
        return
    first, last, low = header[1 + 2 * count : 4 + 2 * count] if progressive else (0, 63, 0)
    for component in header[1 : 1 + 2 * count : 2]:
        if component in left:
            for place in range(first, min(last, 63) + 1):
                left[component][place] = low & 15
