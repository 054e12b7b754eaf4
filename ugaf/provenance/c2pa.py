"""What a C2PA manifest store says of who made an image, and from what.

The store is a tree of JUMBF boxes (ISO/IEC 19566-5); claims and assertions in it are CBOR (RFC 8949) or JSON. Read are
the tools that claims and actions name, and the digital source types of actions (C2PA 2.1, sections 10 and 18). Neither
signatures nor hashes are checked: this is what the file declares, not what is proven.

Every step is bounded; a damaged box is left out.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ugaf.provenance.metadata import boxes

DEPTH = 24
ITEMS = 20_000
"""Values of one CBOR or JSON document that are read."""
DOCUMENTS = 500
"""Claims and assertions of one store that are read."""


@dataclass(frozen=True)
class Statement:
    """One thing that the store says.

    source: the assertion's or claim's label, e.g. `c2pa.actions.v2`.
    tool: the software that is named, or None. source_type: the digital source type as it is written, or None.
    """

    source: str
    tool: str | None = None
    source_type: str | None = None


def statements(store: bytes) -> list[Statement]:
    """The statements of all manifests of a store (the image's own and those of what it was made from), in order."""
    found: list[Statement] = []
    for number, (label, kind, payload) in enumerate(_documents(store, 0)):
        if number >= DOCUMENTS:
            break
        document = decoded(kind, payload)
        if label.startswith("c2pa.claim") and isinstance(document, Mapping):
            found += [Statement(label, tool=tool) for tool in _claim_tools(document)]
        else:
            found += _sourced(label, document)
    return found


def _documents(data: bytes, depth: int) -> Iterator[tuple[str, bytes, bytes]]:
    """(label of the box around it, `cbor` or `json`, payload) of the documents in JUMBF boxes, depth first."""
    label = ""
    for kind, body in boxes(data):
        if kind == b"jumd":
            # 16 bytes of type, then a byte of switches: the second bit says that a label follows.
            label = body[17:].partition(b"\0")[0][:200].decode("utf-8", "replace") if body[16:17] >= b"\2" else ""
        elif kind == b"jumb" and depth < DEPTH:
            yield from _documents(body, depth + 1)
        elif kind in (b"cbor", b"json"):
            yield label, kind, body


def decoded(kind: bytes, payload: bytes) -> Any:
    """A CBOR or JSON document as plain data; None if it is damaged or too large."""
    try:
        return _Cbor(payload).value(0) if kind == b"cbor" else json.loads(payload[: 1 << 20])
    except (ValueError, RecursionError, struct.error):
        return None


def _claim_tools(claim: Mapping[Any, Any]) -> list[str]:
    told = claim.get("claim_generator_info")
    names = [_name(entry) for entry in (told if isinstance(told, list) else [told])]
    names.append(_name(claim.get("claim_generator")))
    return list(dict.fromkeys(name for name in names if name))


def _name(value: Any) -> str | None:
    """A tool's name: a text, or a mapping with `name`."""
    if isinstance(value, Mapping):
        value = value.get("name")
    return value[:200] if isinstance(value, str) and value.strip() else None


def _sourced(label: str, document: Any) -> list[Statement]:
    """Statements in an assertion: each mapping that names a source type, or a software agent, or both."""
    found: list[Statement] = []
    pending = [document]
    for value in pending:
        if len(pending) > ITEMS:
            break
        if isinstance(value, list):
            pending += value
        elif isinstance(value, Mapping):
            types = [
                text
                for key, text in value.items()
                if isinstance(key, str) and key.casefold().endswith("digitalsourcetype") and isinstance(text, str)
            ]
            tool = _name(value.get("softwareAgent"))
            if types or tool:
                found.append(Statement(label, tool, types[0][:200] if types else None))
            pending += value.values()
    return found


class _Cbor:
    """Decodes one CBOR item. Raises ValueError for what is truncated, too deep or too long."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.left = data, 0, ITEMS

    def value(self, depth: int) -> Any:
        self.left -= 1
        if depth > DEPTH or self.left < 0:
            raise ValueError("too deep or too long")
        first = self._bytes(1)[0]
        major, info = first >> 5, first & 31
        if major == 7:
            return self._simple(info)
        if info == 31:
            return self._endless(major, depth)
        length = self._argument(info)
        if major in (0, 1):
            return length if major == 0 else -1 - length
        if major in (2, 3):
            body = self._bytes(length)
            return body if major == 2 else body.decode("utf-8", "replace")
        if major == 4:
            return [self.value(depth + 1) for _ in range(self._count(length))]
        if major == 5:
            return dict(self._pair(depth) for _ in range(self._count(length)))
        return self.value(depth + 1)  # a tag: what it tags

    def _argument(self, info: int) -> int:
        if info < 24:
            return info
        if info > 27:
            raise ValueError("reserved")
        return int.from_bytes(self._bytes(1 << (info - 24)), "big")

    def _count(self, length: int) -> int:
        if length > self.left:
            raise ValueError("too long")
        return length

    def _pair(self, depth: int) -> tuple[Any, Any]:
        key = self.value(depth + 1)
        return key if isinstance(key, str | int | bytes) else repr(type(key)), self.value(depth + 1)

    def _simple(self, info: int) -> Any:
        if info in (25, 26, 27):
            return struct.unpack({25: ">e", 26: ">f", 27: ">d"}[info], self._bytes(1 << (info - 24)))[0]
        if info == 31:
            raise ValueError("a break where a value should be")
        number = self._argument(info)
        return {20: False, 21: True}.get(number)

    def _endless(self, major: int, depth: int) -> Any:
        """An item of indefinite length: up to the break."""
        parts: list[Any] = []
        while self.data[self.at : self.at + 1] != b"\xff":
            parts.append(self._pair(depth) if major == 5 else self.value(depth + 1))
        self.at += 1
        if major == 2:
            return b"".join(part for part in parts if isinstance(part, bytes))
        if major == 3:
            return "".join(part for part in parts if isinstance(part, str))
        return dict(parts) if major == 5 else parts

    def _bytes(self, length: int) -> bytes:
        body = self.data[self.at : self.at + length]
        if len(body) < length:
            raise ValueError("truncated")
        self.at += length
        return body
