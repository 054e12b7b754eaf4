"""Where a kept pair or photograph is in the exported shards, or why it is in none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ugaf.export import earlier, folder, split
from ugaf.export.products import Product
from ugaf.storage import ahead

if TYPE_CHECKING:
    from ugaf.columns.view import RunView


@dataclass(frozen=True)
class Whereabouts:
    """place: `shards/train`; None for a row that is not there. why: it is not. current: whether the shards are of the
    rows that are kept now, so that it was left out of them."""

    place: str | None = None
    why: str = ""
    current: bool = False


def where_is(view: RunView, product: Product, key: str, photograph: str, donor: str | None = None) -> Whereabouts:
    """Parquet shards are asked for the id: what stands in them counts, not what would be written now.

    key: of a row of the product that every stage kept. photograph: the id of its photograph. donor: that of the one
    whose object it shows, too.
    """
    manifest = folder.read_manifest(view.storage, product.root)
    if manifest is None:
        return Whereabouts(why="nothing has been exported yet: `ugaf export` writes the shards")
    shards = sorted(path for path in manifest["files"] if path.endswith(".parquet"))
    if not shards and manifest["files"]:
        return Whereabouts(why="the shards are not in Parquet, where it could be looked up")
    found = ahead(lambda path: _holds(view, path, key), shards, view.storage.readers)
    for path, holds in zip(shards, found, strict=True):
        if holds:
            return Whereabouts(f"{product.root}/{path.rpartition('/')[2].partition('-')[0]}")
    exported = sum(manifest["left_out"].values()) + sum(manifest["counts"]["split"].values())
    level = "edit" if product.is_pairs else "image"
    if exported != [stage.kept for stage in view.funnel() if stage.level == level][-1]:
        return Whereabouts(why="the shards are of other rows than are kept now: `ugaf export` brings them up to date")
    return Whereabouts(why=_why(view, manifest, key, photograph, donor), current=True)


def _why(view: RunView, manifest: dict[str, Any], key: str, photograph: str, donor: str | None) -> str:
    """The reason for which the last export left the row out; where it cannot be told apart, those that there were."""
    unreadable = dict(map(tuple, manifest["unreadable"]))
    if key in unreadable:
        return f"unreadable image: {unreadable[key]}"
    share = earlier.remembered(view).validation
    if donor is not None and not view.pipeline.is_pairs and split.of_edit(photograph, donor, share) is None:
        own, other = split.of_photograph(photograph, share), split.of_photograph(donor, share)
        return f"donor in the other split (its photograph is in {own}, the donor {donor} in {other})"
    return " or ".join(manifest["left_out"])


def _holds(view: RunView, path: str, key: str) -> bool:
    with view.storage.open(path) as source, pq.ParquetFile(source) as file:
        ids = file.read(columns=["id"], use_threads=False).column("id")
    return bool(pc.any(pc.equal(ids, key)).as_py())
