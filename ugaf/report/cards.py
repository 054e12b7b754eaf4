"""The gallery's cards: sampled rows with all their columns, boxes, and two thumbnails each.

A photograph that is out as a near-duplicate shows the kept one beside it. A pair's images follow the columns'
convention: a null `source_image` (or `edited_image`) means that the photograph itself is the pair's source (or target);
both null means that the edit was not made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ugaf.columns import reasons
from ugaf.pages import thumbnails
from ugaf.pages.cells import IMAGES, clip, plain
from ugaf.pages.thumbnails import Thumbnails

if TYPE_CHECKING:
    from ugaf.columns.view import RunView


@dataclass(frozen=True)
class Source:
    """What to read of one level: the ids to show, its schema, and from how many rows they were drawn."""

    level: str
    ids: list[str]
    schema: pa.Schema
    total: int


@dataclass(frozen=True)
class ColumnGroup:
    """A stage's columns, which of them are measures (numeric), and the level of the rows that have them."""

    stage: str
    level: str
    columns: list[str]
    measures: list[str]
    keep: Mapping[str, Mapping[str, Any]]


@dataclass
class Card:
    """One row of the gallery.

    Attributes:
        kind: "pair" or "photograph".
        rule: the cause of `reason`, as the table of reasons names it.
        width, height: the source image's size in pixels, in which the boxes are given.
        source, edited: names of thumbnails, or None with the reason in `source_note` and `edited_note`.
        values: the row's columns that have a value, as JSON values.
        twin: the id of the row that was kept in this one's place, "" if it is no near-duplicate.
        twin_image, twin_width, twin_height: that photograph's thumbnail, and its size in pixels.
    """

    id: str
    kind: str
    status: str
    stage: str
    reason: str
    rule: str
    width: int = 0
    height: int = 0
    source: str | None = None
    source_note: str = ""
    edited: str | None = None
    edited_note: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    twin: str = ""
    twin_image: str | None = None
    twin_width: int = 0
    twin_height: int = 0


@dataclass(frozen=True)
class Gallery:
    """Cards, their images by name, the columns they can have, and by kind the rows that they were drawn from."""

    cards: list[Card]
    images: Mapping[str, thumbnails.Thumbnail]
    groups: list[ColumnGroup]
    drawn_from: Mapping[str, int]


def read(view: RunView, groups: list[ColumnGroup], sources: Sequence[Source]) -> Gallery:
    """Read the sampled rows and make their thumbnails, fragment by fragment."""
    expected = sum(len(source.ids) * (2 if source.level == "edit" else 1) for source in sources)
    images = Thumbnails(thumbnails.side_for(expected))
    cards: list[Card] = []
    for source in sources:
        light = [name for name in source.schema.names if not _heavy(source.schema.field(name).type)]
        light = [name for name in light if name not in ("id", "parent", "status", "stage", "reason")]
        pixels = [name for name in IMAGES if name in source.schema.names or name == "image"]
        found: dict[str, Card] = {}
        for table in view.rows(source.level, columns=[*light, *pixels], ids=set(source.ids)):
            for row in _with_images(table, pixels, images):
                card = _card(row, source.level, light)
                _attach(card, row, images)
                found[card.id] = card
        _add_twins(view, source.level, found, images)
        cards.extend(found[id] for id in source.ids if id in found)
    images.shrink()
    kinds = {"edit": "pair", "image": "photograph"}
    return Gallery(cards, images.made, groups, {kinds[source.level]: source.total for source in sources})


def _add_twins(view: RunView, level: str, cards: Mapping[str, Card], images: Thumbnails) -> None:
    """Show the photograph of the row that was kept in a near-duplicate's place; pairs have their two images already."""
    wanted = {card.twin for card in cards.values() if card.twin and card.kind == "photograph"}
    kept: dict[str, str] = {}
    for table in view.rows(level, columns=["image"], ids=wanted) if wanted else ():
        for row in _with_images(table, ["image"], images):
            if row["image"]:
                kept[row["id"]] = thumbnails.key(row["image"])
    for card in cards.values():
        name = kept.get(card.twin)
        if name in images.made:
            made = images.made[name]
            card.twin_image, card.twin_width, card.twin_height = name, made.width, made.height


def _with_images(table: pa.Table, pixels: Sequence[str], images: Thumbnails) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    images.add(row[name] for row in rows for name in pixels if row.get(name))
    return rows


def _card(row: Mapping[str, Any], level: str, columns: Sequence[str]) -> Card:
    reason = row["reason"] or {}
    values = {name: plain(row[name]) for name in columns if row.get(name) is not None}
    if row.get("parent"):
        values["parent"] = row["parent"]
    return Card(
        id=row["id"],
        kind="pair" if level == "edit" else "photograph",
        status=row["status"],
        stage=row["stage"] or "",
        reason=clip(reasons.text(row["reason"])),
        rule=reason.get("cause", ""),
        values=values,
        twin=reason.get("winner", ""),
    )


def _attach(card: Card, row: Mapping[str, Any], images: Thumbnails) -> None:
    """Name the card's thumbnails, or say why there is none."""
    photo, made_source, made_edited = (row.get(name) for name in IMAGES)
    card.source, card.source_note = _named(made_source or photo, images)
    if card.kind == "pair":
        if made_source or made_edited:
            card.edited, card.edited_note = _named(made_edited or photo, images)
        else:
            card.edited_note = "not edited: the row did not get that far"
    if card.source is not None:
        card.width, card.height = images.made[card.source].width, images.made[card.source].height
    else:
        card.width, card.height = int(row.get("width") or 0), int(row.get("height") or 0)


def _named(blob: bytes | None, images: Thumbnails) -> tuple[str | None, str]:
    if not blob:
        return None, "no image bytes"
    name = thumbnails.key(blob)
    return (name, "") if name in images.made else (None, clip(images.failed[name]))


def _heavy(kind: pa.DataType) -> bool:
    """Whether a type holds bytes somewhere (images, masks), or is a vector of half floats (an embedding)."""
    if pa.types.is_list(kind) and pa.types.is_float16(kind.value_type):
        return True
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_heavy(kind.field(i).type) for i in range(kind.num_fields))
