"""Licences of models that pipelines name, and what they say of training on the models' outputs (`licences.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ugaf.base import yaml_files


@dataclass(frozen=True)
class Licence:
    """outputs: whether they may train other models: "free", "named" (if it is said whose they are), "limited" (not
    for everything) or "unknown"."""

    model: str
    licence: str
    outputs: str
    terms: str = ""


def _entries() -> list[dict[str, Any]]:
    path = Path(__file__).with_name("licences.yaml")
    entries: list[dict[str, Any]] = yaml_files.mapping(path, path.name, "licences by model")["models"]
    return entries


ENTRIES = _entries()


def licence_of(model: str) -> Licence:
    """By the model's name on the hub; unknown for a path, or a model that the table does not have."""
    for entry in ENTRIES:
        if fnmatch(model.lower(), entry["model"].lower()):
            return Licence(model, entry["licence"], entry["outputs"], entry.get("terms", ""))
    return Licence(model, "unknown", "unknown")
