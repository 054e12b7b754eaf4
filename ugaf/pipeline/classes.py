"""Stages by the names that a pipeline gives."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil

from ugaf.base import trust
from ugaf.base.errors import ConfigError, nearest
from ugaf.stage import Stage, extensions


def stage_class(name: str) -> type[Stage]:
    """The Stage of `ugaf.stages.<name>`, of a name that an installed package offers, or of `package.module:Class`.

    Raises ConfigError.
    """
    path = name
    if ":" not in name and name not in known_stages():
        path = extensions.named("ugaf.stages").get(name, name)
    module_name, _, attribute = path.partition(":")
    if not attribute:
        module_name = f"ugaf.stages.{name}"
    else:
        trust.check(module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(f"{name}: needs the package {error.name!r}, which is not installed") from error
        if attribute:
            raise ConfigError(
                f"{name}: {module_name} cannot be imported ({error}): run from the folder that holds it, or name that "
                "folder in PYTHONPATH"
            ) from error
        raise ConfigError(
            f"unknown stage {name!r}{nearest(name, [*known_stages(), *extensions.named('ugaf.stages')])}"
        ) from error
    if attribute:
        cls = getattr(module, attribute, None)
        if not (inspect.isclass(cls) and issubclass(cls, Stage)):
            raise ConfigError(f"{name}: {module_name} has no Stage named {attribute!r}")
        return cls
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Stage) and c is not Stage]
    found = [c for c in found if c.__module__ == module_name]
    if len(found) != 1:
        raise ConfigError(f"{name}: {module_name} must define exactly one Stage (it defines {len(found)})")
    return found[0]


@functools.cache
def known_stages() -> tuple[str, ...]:
    """Names of the stages that come with ugaf."""
    stages = importlib.import_module("ugaf.stages")
    found = pkgutil.walk_packages(stages.__path__, f"{stages.__name__}.")
    return tuple(sorted(module.name.removeprefix(f"{stages.__name__}.") for module in found if not module.ispkg))
