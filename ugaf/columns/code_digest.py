"""Which code made a stage's columns: a digest that stands in every part, and what to say where it is not that of today.

A stage's fingerprint covers its `version`, and no code. So a formula that changed under the same `version` puts two
measures into one column, and nothing is computed again. It is told: a part keeps a digest of the code of its stage and
of the chosen engines, with the modules that they import from ugaf and from their own packages. What
takes rows, columns and files to a stage is left out, since it computes nothing.

The digest is one of syntax trees without docstrings, so that a comment or another line break does not move it. Sources
are read and nothing is imported; without a source there is no digest, and nothing is said.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ugaf.stage import engines

if TYPE_CHECKING:
    from ugaf.pipeline.spec import StageSpec
    from ugaf.stage import Settings

FACT = b"ugaf.code"
"""The key in a part's metadata."""
OWN = frozenset({"ugaf"})
DECODING = "ugaf.imaging.images"
"""What every stage's pixels come from (`Row.photo`)."""
MACHINERY = (
    "ugaf", "ugaf.base", "ugaf.cli", "ugaf.columns", "ugaf.engine", "ugaf.export", "ugaf.ingest",
    "ugaf.models.servers", "ugaf.pipeline", "ugaf.report", "ugaf.stage.engines", "ugaf.stage.stage",
    "ugaf.stage.whole", "ugaf.storage", "ugaf.tune", "ugaf.withdrawal",
)  # fmt: skip
"""Modules, and packages with all in them, that carry values and compute none."""


def code_digest(spec: StageSpec) -> str | None:
    """The digest of the code that computes a stage's columns here and now; None where a source cannot be read."""
    return _digest_of(tuple(dict.fromkeys([spec.cls.__module__, *_engine_modules(spec.settings)])))


def made_by_other_code(specs: Iterable[StageSpec], made_by: Mapping[str, Counter[str]]) -> list[str]:
    """A line for each stage that has columns of other code. made_by: stage -> digest -> part files that it made."""
    lines = []
    for spec in specs:
        parts = made_by.get(spec.name)
        now = code_digest(spec) if parts else None
        other = sum(count for digest, count in parts.items() if digest != now) if parts and now else 0
        if parts and other:
            lines.append(
                f"warning: {spec.name}: {other} of its {parts.total()} part files were made by other code; nothing of "
                "them is computed again unless you raise `version` or name another --output"
            )
    return lines


def _engine_modules(settings: Settings) -> Iterator[str]:
    """Those of the engines that settings name, and of the engines that these name in turn."""
    for interface, _, chosen in engines.engines_in(settings):
        yield engines.engine_class(interface, chosen).__module__
        yield from _engine_modules(engines.settings_of(interface, chosen))


@cache
def _digest_of(roots: tuple[str, ...]) -> str | None:
    own = OWN | {root.partition(".")[0] for root in roots}
    found: dict[str, str] = {}
    todo = [DECODING, *roots]
    try:
        while todo:
            name = todo.pop()
            module = None if name in found or _is_machinery(name) else _module(name)
            if module is not None:
                found[name] = module.digest
                todo += [other for other in module.imports if other.partition(".")[0] in own]
    except (OSError, SyntaxError, ValueError, ImportError, RecursionError):
        return None
    if not found.keys() >= {DECODING, *roots}:
        return None
    return hashlib.sha256("\n".join(f"{name} {found[name]}" for name in sorted(found)).encode()).hexdigest()[:12]


def _is_machinery(name: str) -> bool:
    return name in MACHINERY or any(name.startswith(f"{package}.") for package in MACHINERY[1:])


@dataclass(frozen=True)
class _Module:
    """digest: of the module's own code. imports: full names of what it imports, modules and names in them alike."""

    digest: str
    imports: tuple[str, ...]


@cache
def _module(name: str) -> _Module | None:
    """The module of that name, or None where there is no source of one (a name in a module, a compiled library)."""
    path = _path(name)
    if path is None:
        return None
    tree = ast.parse(path.read_bytes())
    words: list[str] = []
    _spell(tree, words)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return _Module(hashlib.sha256("\n".join(words).encode()).hexdigest(), tuple(_imports(tree, package)))


def _path(name: str) -> Path | None:
    """Where a module's source is. Only the top of its package is looked for by Python, since that imports nothing."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        path = Path(spec.origin or "")
        return path if path.suffix == ".py" and path.is_file() else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *rest)
        for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Imports within functions too, but none that are for the type checker alone."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        elif not isinstance(node, ast.expr):
            todo += ast.iter_child_nodes(node)


def _spell(node: ast.AST, words: list[str]) -> None:
    """A tree as words. Fields that are empty are left out: later versions of Python have more of them."""
    words.append(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or value == [] or name == "ctx":
            continue
        words.append(name)
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, ast.AST):
                words.append(repr(one))
            elif not _is_remark(one):
                _spell(one, words)
    words.append(".")


def _is_remark(node: ast.AST) -> bool:
    """Whether it is a string that stands alone: a docstring, of whatever."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
