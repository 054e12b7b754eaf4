"""JSON that comes with the data, read in one place: no text of it can do more than fail the row that it is of.

Python's own reader gives up on deep nesting where its stack happens to end, and on long numbers with advice for
programmers; whatever is written of such a value later on may end there, too. So both have bounds that a row can be
held to.
"""

from __future__ import annotations

import json
import re
from typing import Any

DEPTH = 100
"""Lists and objects that may stand in each other."""
DIGITS = 4300
"""Digits of a whole number, as many as Python reads."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)


def parse(text: str | bytes) -> Any:
    """The value. Raises ValueError that says in words what is wrong with it."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested more than {DEPTH} deep") from error
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:
        raise ValueError(f"a number of more than {DIGITS} digits") from error
    if _is_deep(value):
        raise ValueError(f"nested more than {DEPTH} deep")
    return value


def parse_list(data: bytes) -> list[Any] | None:
    """The list's items, a ValueError for each that `parse` refuses where the others can be read; None for no list.

    Raises ValueError for a text that is no JSON as a whole.
    """
    try:
        text = data.decode(json.detect_encoding(data), "surrogatepass")
        found = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except (ValueError, RecursionError):  # of one item, that costs none of the others
        return [_tried(item) for item in _items(text)]
    if not isinstance(found, list):
        return None
    return [ValueError(f"nested more than {DEPTH} deep") if _is_deep(item) else item for item in found]


def _tried(text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        return error


def _items(text: str) -> list[str]:
    """The texts of a list's items, cut at the commas between them. Raises ValueError for what is no whole list."""
    items, depth, start, end = [], 0, 0, -1
    if not text.lstrip("\ufeff \t\r\n").startswith("["):
        parse(text)
    for token in _TOKEN.finditer(text):
        if token[0] in "[{":
            depth += 1
            start = start or token.end()
        elif token[0] in "]}":
            depth -= 1
        if depth == 0 or (depth == 1 and token[0] == ","):
            items.append(text[start : token.start()])
            start = token.end()
        if depth == 0:
            end = token.end()
            break
    if end < 0 or text[end:].strip():
        raise ValueError("it is no whole list")
    return items


def _is_deep(value: Any) -> bool:
    """Whether containers stand in each other more than `DEPTH` deep."""
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
