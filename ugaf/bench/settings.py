"""What a benchmark run is told: the command line's options, with editor, judge and servers checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ugaf.base import yaml_files
from ugaf.base.errors import ConfigError, explain_validation, nearest
from ugaf.models.servers import ModelServer, ServerLink


@dataclass(frozen=True)
class BenchSettings:
    """Options of `python -m ugaf.bench` (see its `--help`).

    Exactly one of editor and outputs is set. models: name -> entry. judge: who judges, None for nobody.
    """

    protocol: str
    data: str
    out: str
    outputs: str | None = None
    prompts: str | None = None
    max_tokens: int = 2048
    limit: int | None = None
    seed: int = 0
    batch: int = 8
    retry_failed: bool = False
    boxes: str = "difference"
    clip: str = "openai/clip-vit-large-patch14"
    device: str = "cpu"
    images: str | None = None
    language: str = "en"
    editor: Mapping[str, Any] | None = None
    models: Mapping[str, ModelServer] = field(default_factory=dict)
    judge: ServerLink | None = None
    reader: Mapping[str, Any] | None = None

    @classmethod
    def plain(cls) -> tuple[str, ...]:
        """The options that the command line gives as they are."""
        return tuple(f.name for f in fields(cls) if f.name not in ("editor", "models", "judge", "reader"))


def yaml_of(text: str, option: str) -> Any:
    """The YAML of a command-line value: a file's, if one has that name. Raises ConfigError."""
    try:
        # Only what can be a file's name: a long mapping is none, and asking for it is an error on some systems.
        is_file = not text.lstrip().startswith("{") and Path(text).is_file()
        return yaml_files.load(Path(text).read_bytes() if is_file else text)
    except (yaml.YAMLError, OSError) as error:
        raise ConfigError(f"{option}: {text[:80]!r} is not readable YAML: {error}") from error


def models_of(path: str | None) -> dict[str, ModelServer]:
    """The served models of a file: `models: {NAME: {...}}`, or the names at the top. Raises ConfigError."""
    if path is None:
        return {}
    if not Path(path).is_file():
        raise ConfigError(f"--models: no such file: {path}")
    found = yaml_of(path, "--models")
    entries = found.get("models", found) if isinstance(found, Mapping) else None
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        raise ConfigError(f"--models: {path}: expected entries by name, {{NAME: {{model: ..., endpoints: [...]}}}}")
    return {str(name): server_of(entry, f"models.{name}") for name, entry in entries.items()}


def server_of(entry: Mapping[str, Any], where: str) -> ModelServer:
    """A checked entry. Raises ConfigError naming the setting."""
    try:
        return ModelServer(**entry)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, where, ModelServer)) from error


def link_to(name: str, server: ModelServer) -> ServerLink:
    """A link to a server that runs already. Raises ConfigError for one that a pipeline would have to start."""
    if server.is_started:
        raise ConfigError(f"models.{name}: a benchmark starts no servers: start it, and give `endpoints: [URL]`")
    return ServerLink(name, server, tuple(server.endpoints))


def judge_of(given: str | None, models: Mapping[str, ModelServer]) -> ServerLink | None:
    """The judge that `--judge` names. Raises ConfigError."""
    if given is None:
        return None
    if given.lstrip().startswith("{") or (given not in models and Path(given).is_file()):
        entry = yaml_of(given, "--judge")
        if not isinstance(entry, Mapping):
            raise ConfigError(f"--judge: expected {{model: ..., endpoints: [...]}} (got {entry!r})")
        return link_to("judge", server_of(entry, "judge"))
    if given not in models:
        hint = nearest(given, models) if models else ": give --models FILE, or the entry itself in braces"
        raise ConfigError(f"--judge: no entry {given!r} in --models{hint}")
    return link_to(given, models[given])
