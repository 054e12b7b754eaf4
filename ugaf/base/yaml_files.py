"""YAML, of files and of `key=value`, that may come from somebody else: read as plain data, within bounds.

An alias lets a few hundred bytes stand for billions of values: nothing grows while they are read, but whatever walks
through them afterwards never ends. So what a document stands for is counted before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ugaf.base.errors import ConfigError

MOST_VALUES = 2_000_000
"""Keys, values and list items that a document may stand for, aliases written out."""
MOST_BYTES = 64 << 20


class _Loader(yaml.SafeLoader):
    """The safe loader, without documents that are endless or say two things under one key."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, set())
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} twice", key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load(text: str | bytes) -> Any:
    """The document as plain data; bytes are UTF-8, or UTF-16 where they begin with its mark.

    Raises yaml.YAMLError, also for bytes that are neither, and for one that stands for too much, or for itself.
    """
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"more than {MOST_BYTES} bytes")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except Exception as error:  # a number, a date or a tag's value that Python does not have
        raise yaml.YAMLError(str(error) or repr(error)) from error


def mapping(path: Path, where: str, what: str) -> dict[str, Any]:
    """A file's document, which is a mapping. where, what: for the errors, how the user named it and what it is.

    Raises ConfigError.
    """
    try:
        document = load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: expected {what}")
    return document


def change(override: str, where: str) -> tuple[str, Any]:
    """What `key=value` says: the key, and the value as YAML. Raises ConfigError, which begins with `where`."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{where}: expected key=value")
    try:
        return key.strip(), load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: the value is not valid YAML: {error}") from error


def set_path(target: dict[str, Any], path: Sequence[str], value: Any, where: str) -> None:
    """Set a value in nested mappings, making those that are missing. Raises ConfigError, which begins with `where`."""
    for part in path[:-1]:
        inner = target.get(part)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"{where}: {part} is not a mapping")
        target[part] = dict(inner or {})
        target = target[part]
    target[path[-1]] = value


def _count(node: Any, known: dict[int, int], above: set[int]) -> int:
    """How many values a node stands for; each node is looked at once."""
    key = id(node)
    if key in known:
        return known[key]
    if key in above:
        raise yaml.YAMLError("an alias stands for what it is a part of")
    above.add(key)
    children: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    total = 1 + sum(_count(child, known, above) for child in children)
    if total > MOST_VALUES:
        raise yaml.YAMLError(f"aliases that stand for more than {MOST_VALUES:,} values")
    above.discard(key)
    known[key] = total
    return total
