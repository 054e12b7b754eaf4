"""Prompts: text files in a folder beside the stage that uses them, named by a pipeline or as they ship.

`stages/annotation/prompts/instruct/add.md` is the prompt `add` of the folder `annotation/instruct`. A pipeline replaces
some of them: `prompts: my_prompts/` (a folder with files of the same names) or `prompts: {add: "..."}`. Either way the
texts themselves become settings, so that they reach every worker, stand in `run.yaml`, and change the fingerprint.
"""

from __future__ import annotations

import functools
import hashlib
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ugaf.errors import ConfigError, nearest


@dataclass(frozen=True)
class PromptsOf:
    """Marks an engine's setting `prompts: Annotated[dict[str, str], PromptsOf("annotation/instruct")]`.

    What is given for it is read and checked by `given`, and a fingerprint takes the `digest` of the texts that count.
    """

    folder: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(lambda value: given(value, self.folder), handler(source))


@functools.cache
def shipped(folder: str) -> dict[str, str]:
    """The prompts that ugaf ships for a stage, by name. folder: "annotation/instruct"."""
    import stages

    part, _, name = folder.partition("/")
    place = Path(next(iter(stages.__path__))) / part / "prompts" / name
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(place.glob("*.md"))}


def given(value: Any, folder: str) -> dict[str, str]:
    """What a pipeline gives for `prompts`, as name -> text. Raises ConfigError for a name that the stage has not."""
    known = shipped(folder)
    if value is None:
        return {}
    if isinstance(value, str):
        path = Path(value).expanduser()
        if not path.is_dir():
            raise ConfigError(f"prompts: {value!r} is no folder")
        value = {file.stem: file.read_text(encoding="utf-8") for file in sorted(path.glob("*.md"))}
        if not value:
            raise ConfigError(f"prompts: no .md file in {path}; the prompts are {', '.join(sorted(known))}")
    if not isinstance(value, Mapping):
        raise ConfigError(f"prompts: expected a folder, or texts by name (got {value!r})")
    for name in value:
        if name not in known:
            raise ConfigError(f"prompts: {name!r} is no prompt of this stage{nearest(str(name), known)}")
    for name, text in value.items():
        unknown = fields(str(text)) - fields(known[name])
        if unknown:
            raise ConfigError(
                f"prompts.{name}: {{{sorted(unknown)[0]}}} cannot be filled in; there are "
                f"{', '.join(sorted(fields(known[name]))) or 'no fields'} (write {{{{ and }}}} for braces)"
            )
    return {str(name): str(text) for name, text in value.items()}


def texts(folder: str, changed: Mapping[str, str]) -> dict[str, str]:
    """All prompts of a stage, with those that the pipeline changed."""
    return {**shipped(folder), **changed}


def digest(folder: str, changed: Mapping[str, str]) -> str:
    """Hash of the prompts that count: an edit of a shipped file makes new columns too."""
    content = "\0".join(f"{name}\0{text}" for name, text in sorted(texts(folder, changed).items()))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def fields(text: str) -> set[str]:
    """Names of the fields in braces. Raises ConfigError if the braces do not match."""
    try:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ConfigError(f"prompts: {error} in {text[:60]!r} (write {{{{ and }}}} for braces)") from error


def fill(text: str, values: Mapping[str, Any]) -> str:
    """The prompt with its fields filled in; every field must have a value."""
    return string.Formatter().vformat(text, (), values).strip()
