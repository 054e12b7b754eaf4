"""A pipeline's document as it is written and changed: its list of stages, and `--set key=value`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

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
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected key=value")
    try:
        value = yaml_files.load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
    stages = document["stages"]
    key = key.strip().removeprefix("stages.")
    owner = max((name for name in stages if key.startswith(f"{name}.")), key=len, default=None)
    if owner is not None:
        stages[owner] = dict(stages[owner] or {})
        set_path(stages[owner], key[len(owner) + 1 :].split("."), value, f"--set {override}")
        return
    first = key.split(".")[0]
    if first not in PipelineSettings.model_fields or first == "stages":
        known = [*PipelineSettings.model_fields, *stages]
        close = nearest(key.rsplit(".", 1)[0], stages) if "." in key else nearest(first, known)
        raise ConfigError(f"--set {override}: no such setting or stage in this pipeline{close}")
    set_path(document, key.split("."), value, f"--set {override}")


def set_path(target: dict[str, Any], path: Sequence[str], value: Any, where: str) -> None:
    """Set a value in nested mappings, making those that are missing. Raises ConfigError, which begins with `where`."""
    for part in path[:-1]:
        inner = target.get(part)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"{where}: {part} is not a mapping")
        target[part] = dict(inner or {})
        target = target[part]
    target[path[-1]] = value
