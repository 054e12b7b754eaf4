"""Stages and engines of other packages by short names: entry points of the groups `ugaf.stages`, `ugaf.detectors` …

A package that is installed says in its pyproject.toml

    [project.entry-points."ugaf.stages"]
    "mine.letterbox" = "my_stages:letterbox"

and a pipeline may then name the stage `mine.letterbox`. A name of ugaf's own is never taken from it.
"""

from __future__ import annotations

import functools
from importlib.metadata import entry_points

from ugaf.base.errors import ConfigError


@functools.cache
def named(group: str) -> dict[str, str]:
    """What installed packages offer: name -> `package.module:attribute`. group: "ugaf.stages", "ugaf.detectors".

    Raises ConfigError for a name that two of them give to different things.
    """
    found: dict[str, str] = {}
    for point in entry_points(group=group):
        if found.setdefault(point.name, point.value) != point.value:
            raise ConfigError(
                f"{group}: two installed packages offer {point.name!r}: {found[point.name]} and {point.value}; name "
                "the one that you mean by its module"
            )
    return found
