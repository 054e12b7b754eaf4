"""Export: the kept pairs of a run as Parquet and WebDataset shards, a dataset card, and trainers' own layouts; of a run
that makes no pairs, its kept photographs.

The same kept rows give the same bytes, wherever and however often they are exported, and an export with nothing new
writes nothing. See `split` for what goes to train and validation, `balanced` for what a balance leaves out, `rows` for
which bytes are written, `folder` for how one export replaces another, `earlier` for what an earlier one keeps,
`columns` for what a row has, `photographs` for those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ugaf.balance.categories import source_kind
from ugaf.columns import lease
from ugaf.pipeline.settings import ExportSettings

if TYPE_CHECKING:
    from ugaf.columns.view import RunView
    from ugaf.export.earlier import Earlier
    from ugaf.export.products import Product

__all__ = ["ExportSettings", "ExportSummary", "export", "export_product", "source_kind"]

Notify = Callable[[str], None]

MOVED = "one of their pictures came in train, too"


@dataclass(frozen=True)
class ExportSummary:
    """What an export did.

    root: the folder of the run that was written. noun: what its rows are. rows: their number by split ("train",
    "validation"), without empty ones. files: paths of the shards, relative to the run, sorted. bytes: their size.
    left_out: kept rows that are not in the shards, by reason. unreadable: the first of those with an image that could
    not be read, as (id, why). written: False if the shards were there already. moved: pairs that came as validation
    and are in train (see `split`). stays: the earlier export that was left in place because no row was kept.
    """

    root: str
    noun: str
    rows: Mapping[str, int]
    files: tuple[str, ...]
    bytes: int
    left_out: Mapping[str, int]
    unreadable: tuple[tuple[str, str], ...]
    written: bool
    moved: int = 0
    stays: Earlier | None = None

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    def __str__(self) -> str:
        from ugaf.base.printing import counted

        if self.stays is not None:
            text = (
                f"no {self.noun.removesuffix('s')} was kept (the funnel shows where they went), so the earlier ones "
                f"stay, with their card: {self.stays}; --replace-shards removes them"
            )
        elif not self.total:
            text = f"no shards: no {self.noun.removesuffix('s')} was kept (the funnel shows where they went)"
        else:
            rows = ", ".join(f"{count} {split}" for split, count in self.rows.items())
            shards = f"{counted(len(self.files), 'shards')}, {self.bytes / 1e6:.1f} MB"
            text = f"{counted(self.total, self.noun)} ({rows}) in {shards}"
            text += "" if self.written else ", up to date"
        for reason, count in self.left_out.items():
            text += f"\nkept, but left out: {count} ({reason})"
        if self.moved:
            text += f"\nin train, though they came as validation: {self.moved} ({MOVED})"
        for row, why in self.unreadable:
            text += f"\n  {row}: {why}"
        return text


def export(
    view: RunView,
    settings: ExportSettings | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    replace: bool = False,
    asked: Collection[str] = (),
    notify: Notify | None = None,
) -> ExportSummary:
    """Bring `shards/` and `README.md` of the run up to date with what it keeps.

    Args:
        view: the run. settings: default: those of its pipeline.
        progress: called with the number of rows written so far, after each.
        replace: remove what these settings do not name of an earlier export, and all of it where no row is kept;
            otherwise formats and adapters of an earlier call are written again, and shards are not replaced by none.
        asked: names of settings that are to hold for later calls (see `earlier.remember`).
        notify: told what will be replaced or removed, before it is.
    """
    from ugaf.export import earlier
    from ugaf.export.products import products

    settings = settings if settings is not None else view.pipeline.settings.export
    *besides, main = products(view, settings)
    with lease.held(view.storage, "ugaf export"):
        for product in (*besides, main):
            card = product == main
            summary = export_product(view, product, settings, progress, replace=replace, notify=notify, with_card=card)
        if asked:
            earlier.remember(view, settings, asked)
    return summary


def export_product(
    view: RunView,
    product: Product,
    settings: ExportSettings,
    progress: Callable[[int], None] | None = None,
    *,
    replace: bool,
    notify: Notify | None,
    with_card: bool,
) -> ExportSummary:
    """The same for one of the folders that a run exports into; the caller holds the run; see `export`."""
    from ugaf.columns import outputs
    from ugaf.export import card, earlier, folder, writing

    storage, root = view.storage, product.root
    folder.finish(storage, root)
    folder.discard(storage, root)
    before = earlier.find(storage, root, product.noun)
    settings = settings if replace else earlier.with_earlier(settings, before)
    manifest = folder.read_manifest(storage, root)
    key = outputs.key_of(view, ("export", root, settings.model_dump(mode="json"), with_card))
    made = [f"{root}/{folder.MANIFEST}", *([card.PATH] if with_card else [])]
    same = manifest is not None and outputs.is_current(view, root, key, *made)
    if manifest is not None and same and folder.is_complete(storage, manifest, root):
        return _summary(product, manifest, written=False)
    plan = product.plan(view, settings)
    current = manifest is not None and manifest.get("fingerprint") == plan.fingerprint
    if manifest is not None and current and folder.is_complete(storage, manifest, root):
        if with_card:
            storage.write_if_changed(card.PATH, card.render(view, product, settings, plan, manifest))
        outputs.remember(view, root, key, *made)
        return _summary(product, manifest, written=False)
    stays = None if replace else before
    if stays is not None and not plan.rows:
        return _summary(product, _NOTHING, written=False, stays=stays)
    if before is not None and notify is not None:
        notify(f"{root}: {earlier.replaces(before, settings, plan.rows)}")
    try:
        staged = writing.stage(view, product, settings, plan, progress)
        if stays is None or staged.rows:
            text = card.render(view, product, settings, plan, staged.manifest) if with_card else None
            folder.commit(storage, staged.folders, staged.manifest, text, root)
            outputs.remember(view, root, key, *made)
            return _summary(product, staged.manifest, written=True)
    except BaseException:
        if not folder.is_unfinished(storage, root):
            folder.discard(storage, root)
        raise
    folder.discard(storage, root)
    return _summary(product, {**_NOTHING, "left_out": staged.manifest["left_out"]}, written=False, stays=stays)


_NOTHING: dict[str, Any] = {"counts": {"split": {}}, "files": {}, "left_out": {}, "unreadable": []}


def _summary(
    product: Product, manifest: Mapping[str, Any], written: bool, stays: Earlier | None = None
) -> ExportSummary:
    return ExportSummary(
        root=product.root,
        noun=product.noun,
        rows=manifest["counts"]["split"],
        files=tuple(sorted(manifest["files"])),
        bytes=sum(manifest["files"].values()),
        left_out=manifest["left_out"],
        unreadable=tuple((row, why) for row, why in manifest["unreadable"]),
        written=written,
        moved=manifest.get("moved", 0),
        stays=stays,
    )
