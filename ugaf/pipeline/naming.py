"""What a run, its report and its dataset card are called: what the user called them.

`title` if it is given. Else the run's folder, where the user named one. Else the inputs, where they are not those that
the pipeline came with. Else the pipeline's own name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import yaml

from ugaf.base import yaml_files
from ugaf.pipeline.settings import PipelineSettings

_MOST = 3


class Named(Protocol):
    """What of a pipeline its names are made of."""

    @property
    def settings(self) -> PipelineSettings: ...

    @property
    def name(self) -> str: ...

    @property
    def is_pairs(self) -> bool: ...


def title(pipeline: Named) -> str:
    """What a run of this pipeline is called."""
    output, given = pipeline.settings.output, pipeline.settings.title
    if given:
        return given
    return last_part(output) if output is not None and output != f"runs/{pipeline.name}" else pipeline.name


def about(pipeline: Named) -> str:
    """The pipeline's description; where it has none, what is known of its run."""
    if pipeline.settings.description:
        return pipeline.settings.description
    rows = "Pairs" if pipeline.is_pairs else "Photographs"
    return f"{rows} of {of_inputs([entry.path for entry in pipeline.settings.inputs])}, by {pipeline.name}."


def with_other_inputs(document: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A shipped pipeline's document without its own words where `--input` puts others in the place of its inputs."""
    changes = {key.strip(): value for key, _, value in (override.partition("=") for override in overrides)}
    out = dict(document)
    if "inputs" in changes:
        out["description"] = ""
        if "output" not in changes:
            out["title"] = of_inputs(_paths(changes["inputs"])) or None
    return out


def _paths(inputs: str) -> list[str]:
    """The paths in the text of an `inputs` setting; [] where it is not valid, which is said when it is read."""
    try:
        entries = yaml_files.load(inputs)
    except yaml.YAMLError:
        return []
    found = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries or ()]
    return [path for path in found if isinstance(path, str)]


def of_inputs(paths: Sequence[str]) -> str:
    """Inputs by the last parts of their names: "photos", "set-*.tar and more"."""
    names = list(dict.fromkeys(map(last_part, paths)))
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def last_part(place: str) -> str:
    """Of a path or URL the name of its folder or file; `sample` of `sample://`."""
    scheme, separator, path = place.partition("://")
    if separator:
        path = re.sub(r"^[^/]*@", "", path.partition("?")[0])  # no user, password or token is part of a name
    return (path if separator else place).rstrip("/").rpartition("/")[2] or scheme
