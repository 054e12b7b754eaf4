"""Writing one export aside, and counting what goes into it."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ugaf
from ugaf.balance.categories import source_kind
from ugaf.base.versions import package_versions
from ugaf.export import balanced, folder
from ugaf.export.adapters import ADAPTERS
from ugaf.export.folder import Folder
from ugaf.export.parquet import ParquetShards
from ugaf.export.products import Exported, Product, Reading
from ugaf.export.split import SPLITS
from ugaf.export.webdataset import WebDatasetShards
from ugaf.pipeline.settings import ExportSettings

if TYPE_CHECKING:
    from ugaf.columns.view import RunView
    from ugaf.export.rows import Plan

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Staged:
    """An export that is written aside: its folders, its manifest, and how many rows it has."""

    folders: Sequence[Folder]
    manifest: dict[str, Any]
    rows: int


def stage(view: RunView, product: Product, settings: ExportSettings, plan: Plan, progress: Progress | None) -> Staged:
    """Write everything aside."""
    storage, root = view.storage, product.root
    folder.discard(storage, root)
    reader = product.reader(view, settings, plan)
    # A tar without images is of no use to anybody.
    formats = settings.formats if any(column.is_image for column in plan.columns) else ["parquet"]
    shards = {name: Folder(storage, name, root) for name in formats}
    counts = Counts(product)
    if plan.rows:
        _write_shards(reader, settings, plan, shards, counts, progress)
    left_out, unreadable = balanced.folded(reader.left_out), list(reader.unreadable)
    layouts = [Folder(storage, name, root) for name in settings.adapters if counts.rows and product.is_pairs]
    for layout in layouts:
        ADAPTERS[layout.name](reader.records(), layout)
    moves = {final: staged for shard in shards.values() for staged, final in shard.moves.items()}
    manifest = {
        "name": view.name,
        "fingerprint": plan.fingerprint,
        "files": {final: folder.size(storage, staged) for final, staged in moves.items()},
        "adapter_files": {layout.name: len(layout.moves) for layout in layouts},
        "left_out": left_out,
        "moved": plan.groups.moved if plan.groups is not None else 0,
        "unreadable": unreadable,
        "versions": {"ugaf": ugaf.__version__, "python": platform.python_version(), **package_versions()},
        **counts.document(),
    }
    return Staged([*shards.values(), *layouts], manifest, counts.rows)


def _write_shards(
    reader: Reading,
    settings: ExportSettings,
    plan: Plan,
    folders: Mapping[str, Folder],
    counts: Counts,
    progress: Progress | None,
) -> None:
    """All shards of all formats in one reading of the images."""
    limit = settings.shard_mb * 1e6
    with ExitStack() as stack:
        writers: dict[str, list[ParquetShards | WebDatasetShards]] = {split: [] for split in SPLITS}
        for split, own in writers.items():
            if "parquet" in folders:
                own.append(stack.enter_context(ParquetShards(folders["parquet"], split, plan.columns, limit)))
            if "webdataset" in folders:
                own.append(stack.enter_context(WebDatasetShards(folders["webdataset"], split, limit)))
        for record in reader.records():
            for writer in writers[record.split]:
                writer.add(record)
            counts.add(record)
            if progress is not None:
                progress(counts.rows)


class Counts:
    """Rows by split, and by split for each of the card's dimensions."""

    def __init__(self, product: Product) -> None:
        self.rows = 0
        self._product = product
        self._by: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in product.dimensions}
        self._splits: Counter[str] = Counter()
        self._photographs: dict[str, set[bytes]] = {}

    def add(self, record: Exported) -> None:
        values, split = record.values, record.split
        sources = values["sources"] or []
        kinds = {**values, "source": source_kind(sources[0]) if sources else None}
        if self._product.is_pairs:
            kinds["editor"] = values["editor"] or values["engine"]
            self._photographs.setdefault(split, set()).add(values["image_id"].encode()[:16])
        self.rows += 1
        self._splits[split] += 1
        for name, counter in self._by.items():
            counter[kinds[name] or "unknown", split] += 1

    def document(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        counts: dict[str, Any] = {"split": dict(sorted(self._splits.items()))}
        for name, counter in self._by.items():
            counts[name] = {}
            for (value, split), count in sorted(counter.items()):
                counts[name].setdefault(value, {})[split] = count
        if not self._product.is_pairs:
            return {"counts": counts}
        photographs = {split: len(ids) for split, ids in sorted(self._photographs.items())}
        return {"counts": counts, "photographs": photographs}
