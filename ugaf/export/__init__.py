"""Export: the kept pairs of a run as Parquet and WebDataset shards, a dataset card, and trainers' own layouts.

The same kept rows give the same bytes, wherever and however often they are exported, and an export with nothing new
writes nothing. See `split` for what goes to train and validation, `balanced` for what a balance leaves out, `rows` for
which bytes are written, `folder` for how one export replaces another, `columns` for what a row has.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ugaf
from ugaf.balance.categories import source_kind
from ugaf.export.settings import ExportSettings
from ugaf.versions import package_versions

if TYPE_CHECKING:
    from ugaf.export.folder import Folder
    from ugaf.export.rows import Plan, Reader, Record
    from ugaf.view import RunView

__all__ = ["ExportSettings", "ExportSummary", "export"]


@dataclass(frozen=True)
class ExportSummary:
    """What an export did.

    pairs: number of pairs by split ("train", "validation"), without empty ones. files: paths of the shards, relative
    to the run, sorted. bytes: their size. left_out: kept pairs that are not in the shards, by reason. unreadable: the
    first of those with an image that could not be read, as (id, why). written: False if the shards were there already.
    """

    pairs: Mapping[str, int]
    files: tuple[str, ...]
    bytes: int
    left_out: Mapping[str, int]
    unreadable: tuple[tuple[str, str], ...]
    written: bool

    @property
    def total(self) -> int:
        return sum(self.pairs.values())

    def __str__(self) -> str:
        if not self.total:
            text = "no shards: no pair was kept (the funnel shows where they went)"
        else:
            pairs = ", ".join(f"{count} {split}" for split, count in self.pairs.items())
            text = f"{self.total} pairs ({pairs}) in {len(self.files)} shards, {self.bytes / 1e6:.1f} MB"
            text += "" if self.written else ", up to date"
        for reason, count in self.left_out.items():
            text += f"\nkept, but left out: {count} ({reason})"
        for row, why in self.unreadable:
            text += f"\n  {row}: {why}"
        return text


def export(
    view: RunView, settings: ExportSettings | None = None, progress: Callable[[int], None] | None = None
) -> ExportSummary:
    """Bring `shards/` and `README.md` of the run up to date with its kept pairs.

    Args:
        view: the run. settings: default: those of its pipeline.
        progress: called with the number of pairs written so far, after each.
    """
    from ugaf.export import card, folder, rows

    settings = settings if settings is not None else view.pipeline.settings.export
    plan = rows.plan(view, settings) if rows.makes_pairs(view) else rows.nothing(view, settings)
    manifest = folder.read_manifest(view.storage)
    written = (
        manifest is None
        or manifest.get("fingerprint") != plan.fingerprint
        or not folder.is_complete(view.storage, manifest)
    )
    if written:
        manifest = _write(view, settings, plan, progress)
    assert manifest is not None
    view.storage.write_if_changed(card.PATH, card.render(view, settings, plan, manifest))
    return ExportSummary(
        pairs=manifest["counts"]["split"],
        files=tuple(sorted(manifest["files"])),
        bytes=sum(manifest["files"].values()),
        left_out=manifest["left_out"],
        unreadable=tuple((row, why) for row, why in manifest["unreadable"]),
        written=written,
    )


def _write(
    view: RunView, settings: ExportSettings, plan: Plan, progress: Callable[[int], None] | None
) -> dict[str, Any]:
    """Write everything aside, then put it in place. Returns the manifest."""
    from ugaf.export import balanced, folder, rows
    from ugaf.export.adapters import ADAPTERS

    view.storage.remove(folder.STAGING)
    reader = rows.Reader(view, settings, plan)
    shards = {name: folder.Folder(view.storage, name) for name in settings.formats}
    counts = _Counts()
    if plan.rows:
        _write_shards(reader, settings, plan, shards, counts, progress)
    left_out, unreadable = balanced.folded(reader.left_out), list(reader.unreadable)
    layouts = [folder.Folder(view.storage, name) for name in settings.adapters if counts.pairs]
    for layout in layouts:
        ADAPTERS[layout.name](reader.records(), layout)
    moves = {final: staged for shard in shards.values() for staged, final in shard.moves.items()}
    manifest = {
        "fingerprint": plan.fingerprint,
        "files": {final: folder.size(view.storage, staged) for final, staged in moves.items()},
        "adapter_files": {layout.name: len(layout.moves) for layout in layouts},
        "left_out": left_out,
        "unreadable": unreadable,
        "versions": {"ugaf": ugaf.__version__, "python": platform.python_version(), **package_versions()},
        **counts.document(),
    }
    folder.commit(view.storage, [*shards.values(), *layouts], manifest)
    return manifest


def _write_shards(
    reader: Reader,
    settings: ExportSettings,
    plan: Plan,
    folders: Mapping[str, Folder],
    counts: _Counts,
    progress: Callable[[int], None] | None,
) -> None:
    """All shards of all formats in one reading of the images."""
    from ugaf.export.parquet import ParquetShards
    from ugaf.export.split import SPLITS
    from ugaf.export.webdataset import WebDatasetShards

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
                progress(counts.pairs)


class _Counts:
    """Pairs by split, and by split for each of the card's dimensions."""

    def __init__(self) -> None:
        self.pairs = 0
        self._by: dict[str, Counter[tuple[str, str]]] = {"task": Counter(), "editor": Counter(), "source": Counter()}
        self._splits: Counter[str] = Counter()
        self._photographs: dict[str, set[bytes]] = {}

    def add(self, record: Record) -> None:
        values, split = record.values, record.split
        sources = values["sources"] or []
        self.pairs += 1
        self._splits[split] += 1
        self._by["task"][values["task"] or "unknown", split] += 1
        self._by["editor"][values["editor"] or values["engine"] or "unknown", split] += 1
        self._by["source"][source_kind(sources[0]) if sources else "unknown", split] += 1
        self._photographs.setdefault(split, set()).add(values["image_id"].encode()[:16])

    def document(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        counts: dict[str, Any] = {"split": dict(sorted(self._splits.items()))}
        for name, counter in self._by.items():
            counts[name] = {}
            for (value, split), count in sorted(counter.items()):
                counts[name].setdefault(value, {})[split] = count
        photographs = {split: len(ids) for split, ids in sorted(self._photographs.items())}
        return {"counts": counts, "photographs": photographs}
