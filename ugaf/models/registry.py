"""Find an implementation by the name that a pipeline gives: `detector: {engine: proposals, max_boxes: 12}`.

The classes are named here and imported only when used, so that a pipeline pays for no library that it does not run.
Each class has a `Settings` model for its options, and is built as `cls(settings)`. A name with a colon
(`my_package.module:MyDetector`) takes a class of the user's own.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ugaf.errors import ConfigError, explain_validation, nearest

ENGINES: dict[str, dict[str, str]] = {
    "detector": {"proposals": "ugaf.models.proposals:ProposalDetector"},
    "editor": {"templates": "ugaf.models.templates:TemplateEditor"},
    "writer": {"templates": "ugaf.wording.writer:TemplateWriter"},
    "scorer": {"measures": "ugaf.models.measures:MeasureScorer"},
}


def engine_class(interface: str, spec: Mapping[str, Any]) -> Any:
    """The class that `spec["engine"]` names. Raises ConfigError with the nearest name if there is none."""
    known = ENGINES[interface]
    name = spec.get("engine")
    if not isinstance(name, str):
        raise ConfigError(f"{interface}: name an engine, one of {', '.join(sorted(known))}")
    path = known.get(name, name)
    if ":" not in path:
        raise ConfigError(f"{interface}: unknown engine {name!r}{nearest(name, known)}")
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{interface}: engine {name!r} cannot be loaded from {path}: {error}") from error


def check(interface: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with defaults filled in and the engine's `version` added, as it enters a fingerprint.

    The engine is not built, so that no model is loaded before the run starts. Raises ConfigError naming the option.
    """
    cls = engine_class(interface, spec)
    return {
        "engine": spec["engine"],
        **_settings(interface, spec, cls).model_dump(mode="json"),
        "version": getattr(cls, "version", 1),
    }


def build(interface: str, spec: Mapping[str, Any]) -> Any:
    """The implementation itself, ready to use. Raises ConfigError naming the option."""
    cls = engine_class(interface, spec)
    return cls(_settings(interface, spec, cls))


def _settings(interface: str, spec: Mapping[str, Any], cls: Any) -> Any:
    options = {key: value for key, value in spec.items() if key not in ("engine", "version")}
    try:
        return cls.Settings(**options)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, f"{interface} engine {spec['engine']!r}", cls.Settings)) from error
