"""What a run can export: its pairs, and its photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ugaf.export import folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ugaf.columns.view import RunView
    from ugaf.export.rows import Plan
    from ugaf.pipeline.settings import ExportSettings


class Exported(Protocol):
    """A row to write, a pair or a photograph; see `rows.Record`."""

    @property
    def id(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def values(self) -> dict[str, Any]: ...
    @property
    def image_bytes(self) -> int: ...
    def files(self) -> list[tuple[str, bytes]]: ...
    def cells(self) -> dict[str, Any]: ...
    def json(self) -> bytes: ...


class Reading(Protocol):
    """Gives the rows of an export, and says what was left out; see `rows.Reader`."""

    left_out: Any
    unreadable: list[tuple[str, str]]

    def records(self) -> Iterable[Any]: ...


@dataclass(frozen=True)
class Product:
    """root: the folder of the run that it lies in. noun: what its rows are, in the plural. config: its name for
    Hugging Face `datasets`. dimensions: what the card counts its rows by, column and heading."""

    root: str
    noun: str
    config: str
    dimensions: dict[str, str]

    @property
    def is_pairs(self) -> bool:
        return self.root == folder.SHARDS

    def plan(self, view: RunView, settings: ExportSettings) -> Plan:
        """What would be written."""
        from ugaf.export import photographs, rows

        if self.is_pairs:
            return rows.plan(view, settings) if makes_pairs(view) else rows.nothing(view, settings)
        return photographs.plan(view, settings)

    def reader(self, view: RunView, settings: ExportSettings, plan: Plan) -> Reading:
        """The rows of a plan."""
        from ugaf.export import photographs, rows

        return (rows.Reader if self.is_pairs else photographs.Reader)(view, settings, plan)


PAIRS = Product(
    folder.SHARDS, "pairs", "default", {"task": "Task", "editor": "Edit engine", "source": "Source of the photographs"}
)
PHOTOGRAPHS = Product("photographs", "photographs", "photographs", {"format": "Format", "source": "Source"})


def makes_pairs(view: RunView) -> bool:
    """Whether the pipeline has edited images at all (one that stops after curation has none)."""
    return "edited_image" in view.pipeline.providers


def products(view: RunView, settings: ExportSettings) -> list[Product]:
    """What this run exports, its main product last. Photographs that were exported before are so again."""
    if not makes_pairs(view):
        return [PHOTOGRAPHS]
    asked = settings.photographs != "auto" or folder.read_manifest(view.storage, PHOTOGRAPHS.root) is not None
    return [PHOTOGRAPHS, PAIRS] if asked and not view.pipeline.is_pairs else [PAIRS]
