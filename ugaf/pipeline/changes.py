"""A pipeline's document as it is written and changed: its list of stages, and `--set key=value`."""

from __future__ import annotations

from typing import Any

from ugaf.base import yaml_files
from ugaf.base.errors import ConfigError, nearest
from ugaf.pipeline.settings import PipelineSettings


def stage_entries(stages: Any) -> dict[str, Any]:
    """The list of names and single-key mappings as an ordered mapping. Raises ConfigError."""
    if not isinstance(stages, list):
        raise ConfigError("stages: expected a list of stage names, each with or without settings")
    entries: dict[str, Any] = {}
    for entry in stages:
        if isinstance(entry, str):
            entry = {entry: None}
        if not (isinstance(entry, dict) and len(entry) == 1):
            raise ConfigError(f"stages: each entry is a name, or `name: {{settings}}` (got {entry!r})")
        ((name, options),) = entry.items()
        if name in entries:
            raise ConfigError(f"stages: {name!r} stands twice")
        if options is not None and not isinstance(options, dict):
            raise ConfigError(f"stages.{name}: expected a mapping of settings (got {options!r})")
        entries[str(name)] = options
    return entries


def apply(document: dict[str, Any], override: str) -> None:
    """Set one `key=value`; the key is a top-level setting's path, or a stage's name and a path in its settings.

    document: a pipeline's, its stages as `stage_entries` gives them; changed in place. Raises ConfigError.
    """
    key, value = yaml_files.change(override, f"--set {override}")
    stages = document["stages"]
    key = key.removeprefix("stages.")
    owner = max((name for name in stages if key.startswith(f"{name}.")), key=len, default=None)
    if owner is not None:
        stages[owner] = dict(stages[owner] or {})
        yaml_files.set_path(stages[owner], key[len(owner) + 1 :].split("."), value, f"--set {override}")
        return
    first = key.split(".")[0]
    if first not in PipelineSettings.model_fields or first == "stages":
        known = [*PipelineSettings.model_fields, *stages]
        close = nearest(key.rsplit(".", 1)[0], stages) if "." in key else nearest(first, known)
        raise ConfigError(f"--set {override}: no such setting or stage in this pipeline{close}")
    yaml_files.set_path(document, key.split("."), value, f"--set {override}")
