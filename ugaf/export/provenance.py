"""Where a photograph came from, as a published dataset may tell it: without the folders of somebody's disk."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ugaf.columns.view import RunView


def inputs_of(view: RunView) -> list[str]:
    """Every input that ever fed the run, and those of its pipeline."""
    named = [entry.path for entry in view.pipeline.settings.inputs]
    return list(dict.fromkeys([*named, *(entry["input"] for entry in view.inputs if entry["input"])]))


def input_roots(paths: Sequence[str]) -> tuple[str, ...]:
    """The local folders that the inputs name (of a glob, the part before it; of a file, its folder), longest first."""
    roots = []
    for path in paths:
        if "://" in path:
            continue
        plain = re.split(r"[*?\[]", path, maxsplit=1)[0]
        full = os.path.abspath(os.path.expanduser(plain if plain == path else os.path.dirname(plain)))
        roots.append(full if not os.path.splitext(full)[1] else os.path.dirname(full))
    return tuple(sorted(set(roots), key=len, reverse=True))


def published(source: str, roots: Sequence[str]) -> str:
    """A source's name from its input's folder on: `/home/me/photos/cats/1.jpg` in `/home/me/photos` becomes
    `photos/cats/1.jpg`. URLs stay; a local file below no input keeps its name alone."""
    if "://" in source:
        return source
    for root in roots:
        if source.startswith(root.rstrip("/") + "/"):
            return f"{os.path.basename(root)}/{source[len(root.rstrip('/')) + 1 :]}".lstrip("/")
    return os.path.basename(source)
