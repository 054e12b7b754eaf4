"""Printing for programs: one JSON document to standard output. Notes and mistakes go to standard error."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any


def option(parser: argparse.ArgumentParser) -> None:
    """`--json`; every document's shape is in docs/operations.md."""
    parser.add_argument("--json", action="store_true", help="as JSON (its shape: docs/operations.md)")


def print_json(document: Any) -> None:
    """Plain data as JSON. Numbers that JSON has no word for (NaN, infinities) are null."""
    print(json.dumps(_finite(document), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
