"""The layers of docs/architecture.md hold: a package imports only what stands below it, and no module imports itself by
way of others; imports in functions and for the type checker count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from places import ROOT

LAYERS = (
    ("base",),
    ("imaging", "storage"),
    ("pages", "measures", "provenance", "balance", "stage", "fineedit"),
    ("ingest", "dedup", "wording"),
    ("models",),
    ("stages", "bench"),
    ("pipeline",),
    ("columns",),
    ("engine", "export", "report"),
    ("tune", "trainer"),
    ("withdrawal",),
    ("cli",),
)
"""Packages of ugaf, and `stages`, from the ground up."""
RAY = {
    "ugaf/engine/ray_engine.py", "ugaf/engine/monitor.py", "ugaf/engine/metrics.py",
    "ugaf/engine/plan_watch.py", "ugaf/engine/session.py",
    "ugaf/models/servers/supervisor.py", "ugaf/trainer/data/cache_writer.py", "ugaf/trainer/launch.py",
}  # fmt: skip
"""Where Ray may be imported."""
TORCH = {"torch", "diffusers", "transformers", "torchvision"}
TOP = {"ugaf/__init__.py", "ugaf/__main__.py", "ugaf/run.py"}
LINES = 400


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("ugaf/**/*.py"), *ROOT.glob("stages/**/*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    assert len(names) > 250
    return {f"ugaf.{name}" if name.startswith("stages") else name: path for name, path in names.items()}


MODULES = modules()


def imported(tree: ast.AST, known: Mapping[str, object]) -> Iterator[tuple[ast.AST, str]]:
    """(statement, full name) of all that is imported; of `from package import module` the module's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative imports hide where they lead"
            assert not node.level, "relative imports hide where they lead"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node, full if full in known else node.module


def package(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def upward(module: str, text: str) -> list[str]:
    """The imports in a module's text that do not lead down."""
    rank = {name: number for number, names in enumerate(LAYERS) for name in names}
    mine = package(module)
    found = []
    for _, name in imported(ast.parse(text), MODULES):
        other = package(name)
        inside = name.split(".")[0] == "ugaf" and other not in ("", mine)
        if inside and rank[other] >= rank[mine]:
            found.append(name)
    return found


def test_a_module_imports_what_stands_below_it() -> None:
    below = {name: path for name, path in MODULES.items() if path.relative_to(ROOT).as_posix() not in TOP}
    found = {name: upward(name, path.read_text("utf-8")) for name, path in below.items()}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from ugaf.engine import runner",
        "import ugaf.export.rows",
        "def f():\n    from ugaf.cli import main",
        "if TYPE_CHECKING:\n    from ugaf.columns.view import RunView",
    ],
)
def test_an_import_that_leads_up_is_found(line: str) -> None:
    assert upward("ugaf.models.chat.types", line)
    assert upward("ugaf.stages.curation.text", line)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import themselves by way of others: what remains when those that import none of the rest are gone,
    and those that none of the rest imports."""
    left = {name: set(targets) for name, targets in graph.items()}
    while True:
        imported_ones = set().union(*left.values()) if left else set()
        gone = {name for name, targets in left.items() if not targets or name not in imported_ones}
        if not gone:
            return [sorted(left)] if left else []
        left = {name: targets - gone for name, targets in left.items() if name not in gone}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        name: {other for _, other in imported(ast.parse(path.read_text("utf-8")), MODULES) if other in MODULES} - {name}
        for name, path in MODULES.items()
    }
    assert circles(graph) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_ray_and_torch_are_imported_where_they_may_be() -> None:
    for path in MODULES.values():
        where, tree = path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))
        tops = {name.split(".")[0] for node, name in imported(tree, {}) if node in tree.body}
        every = {name.split(".")[0] for _, name in imported(tree, {})}
        assert "ray" not in every or where in RAY, f"{where} imports Ray"
        heavy = where.startswith(("ugaf/fineedit/", "ugaf/trainer/"))
        assert heavy or not TORCH & tops, f"{where} imports {TORCH & tops} before it is asked to do anything"


def test_no_module_is_flat_or_long() -> None:
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "ugaf").glob("*.py")} == TOP
    assert [str(path) for path in MODULES.values() if path.read_text("utf-8").count("\n") > LINES] == []


def test_the_names_of_slow_tests_are_those_of_tests() -> None:
    names = (ROOT / "tests" / "slow.txt").read_text().split()
    assert len(names) == len(set(names)) > 50
    for name in names:
        file, _, test = name.partition("::")
        assert f"def {test.rpartition('::')[2]}(" in (ROOT / "tests" / file).read_text("utf-8"), name


def test_every_layout_of_a_trainer_is_named_written_and_told_from_other_files() -> None:
    from ugaf.export import adapters, layouts
    from ugaf.pipeline import settings

    assert set(settings.ADAPTERS) == set(adapters.ADAPTERS) == set(layouts.FILES)
    assert set(settings.ADAPTERS) >= settings.NEEDS_PARQUET
