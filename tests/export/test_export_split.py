"""Splits of pairs that share pictures: one side a picture, whatever the pairs, their order and what came later."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_fakes import FakeView, edits_of, fragment, parquet_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.export import ExportSettings, export, split
from ugaf.imaging import images
from ugaf.pipeline import config
from ugaf.storage import Storage

Pair = tuple[int, int, int | None, str | None]
"""Source, edited, image_id, the split that it came with."""

PICTURES = st.integers(0, 25)
PAIRS = st.lists(
    st.tuples(
        PICTURES, PICTURES, st.none() | PICTURES, st.none() | st.sampled_from(["train", "validation", "dev", "?"])
    ),
    max_size=40,
)
UNTOLD = st.lists(st.tuples(PICTURES, PICTURES, st.none() | PICTURES, st.none()), max_size=30)


def grouped(pairs: list[Pair], share: float = 0.4, batch: int = 7) -> split.Groups:
    grouping = split.Grouping()
    for start in range(0, len(pairs), batch):
        some = pairs[start : start + batch]
        sources, edited, image_ids, sides = (list(column) for column in zip(*some, strict=True))
        named = [None if one is None else str(one) for one in image_ids]
        grouping.add(map(str, sources), map(str, edited), named, sides)
    return grouping.result(share)


def _names(pair: Pair) -> set[str]:
    return {str(one) for one in pair[:3] if one is not None}


def components(pairs: list[Pair]) -> list[set[str]]:
    out: list[set[str]] = []
    for pair in pairs:
        joined = [group for group in out if group & _names(pair)]
        out = [group for group in out if group not in joined] + [_names(pair).union(*joined)]
    return out


@hypothesis_settings(max_examples=80, deadline=None)
@given(PAIRS, st.floats(0, 1), st.randoms(use_true_random=False))
def test_no_picture_is_in_both_splits_and_the_order_does_not_matter(
    pairs: list[Pair], share: float, order: random.Random
) -> None:
    groups = grouped(pairs, share)
    shuffled = list(pairs)
    order.shuffle(shuffled)
    again = grouped(shuffled, share, batch=3)
    moved = 0
    for component in components(pairs):
        (side,) = {groups.of(name) for name in component}
        assert side in split.SPLITS
        assert {again.of(name) for name in component} == {side}
        inside = [pair for pair in pairs if _names(pair) <= component]
        told = {split.named(pair[3]) for pair in inside} - {None}
        if told:
            assert side == ("train" if "train" in told else "validation")
            moved += sum(split.named(pair[3]) == "validation" for pair in inside) if side == "train" else 0
        else:
            anchors = {str(pair[0] if pair[2] is None else pair[2]) for pair in inside}
            assert side in {split.of_photograph(anchor, share) for anchor in anchors}
    assert groups.moved == again.moved == moved
    assert groups.of("a picture of none") is None


@hypothesis_settings(max_examples=50, deadline=None)
@given(UNTOLD, UNTOLD)
def test_only_groups_that_a_new_pair_joins_can_move(pairs: list[Pair], more: list[Pair]) -> None:
    before, after = grouped(pairs), grouped([*pairs, *more])
    touched = set().union(*(_names(pair) for pair in more)) if more else set()
    for component in components(pairs):
        if not component & touched:
            assert {before.of(name) for name in component} == {after.of(name) for name in component}


@given(UNTOLD, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_only_adds_to_validation(pairs: list[Pair], one: float, other: float) -> None:
    low, high = (grouped(pairs, share) for share in sorted((one, other)))
    for name in {name for pair in pairs for name in _names(pair)}:
        assert (low.of(name), high.of(name)) != (split.VALIDATION, split.TRAIN)


def test_pairs_with_one_source_are_split_as_that_photograph() -> None:
    pairs: list[Pair] = [(number // 3, 1000 + number, None, None) for number in range(300)]
    groups = grouped(pairs, 0.3)
    assert {split.VALIDATION, split.TRAIN} == {groups.of(str(number)) for number in range(100)}
    for source, edited, _, _ in pairs:
        assert groups.of(str(source)) == groups.of(str(edited)) == split.of_photograph(str(source), 0.3)


def test_the_share_is_kept_by_groups_of_any_size() -> None:
    pairs: list[Pair] = [(10 * g + k, 10 * g + k + 1, None, None) for g in range(8000) for k in range(1 + g % 6)]
    groups = grouped(pairs, 0.2, batch=5000)
    for size in range(6):
        heads = range(size, 8000, 6)
        found = sum(groups.of(str(10 * g)) == split.VALIDATION for g in heads)
        assert abs(found - 0.2 * len(heads)) < 5 * np.sqrt(len(heads) * 0.16)


@pytest.mark.parametrize(
    ("word", "side"),
    [("train", "train"), ("Train", "train"), ("test", "validation"), ("val", "validation"), ("", None), (None, None)],
)
def test_words_for_splits(word: str | None, side: str | None) -> None:
    assert split.named(word) == side


# --- in an export


def _both(view: FakeView) -> set[bytes]:
    """Pictures, by their pixels, that are in both splits."""
    shown: dict[str, set[bytes]] = {side: set() for side in split.SPLITS}
    for row in parquet_rows(view.storage):
        for name in ("source", "edited"):
            shown[row["split"]].add(np.asarray(Image.open(io.BytesIO(row[name]["bytes"])).convert("RGB")).tobytes())
    return shown["train"] & shown["validation"]


def _external(rows: list[dict[str, Any]]) -> Any:
    return fragment(
        *({**row, "parent": None, "engine": "external", "id": f"{number:032x}"} for number, row in enumerate(rows))
    )


def test_pairs_from_elsewhere_that_share_pictures_are_in_one_split(
    tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    pictures = [
        images.encode(images.decode(images.encode(photo), 96) // step)
        for photo in photos.values()
        for step in (1, 2, 3, 4)
    ]
    chain = [{"image": one, "edited_image": other} for one, other in itertools.pairwise(pictures[:7])]
    star = [{"image": one, "edited_image": pictures[7]} for one in pictures[8:13]]
    view = FakeView(Storage(str(tmp_path)), [_external([*chain[::2], *star]), _external(chain[1::2])], is_pairs=True)
    view.tables[1] = view.tables[1].set_column(0, "id", [[f"f{n:031x}" for n in range(view.tables[1].num_rows)]])
    sides = set()
    for share in (0.05, 0.35, 0.65, 0.95):
        assert export(view, ExportSettings(validation=float(share))).total == 11
        assert not _both(view)
        sides |= {row["split"] for row in parquet_rows(view.storage)}
    assert sides == {"train", "validation"}


def test_what_came_with_a_split_keeps_it_and_a_clash_is_counted(tmp_path: Path, photos: dict[str, np.ndarray]) -> None:
    small = [images.decode(images.encode(photo), 96) for photo in photos.values()]
    rows = [row for number, photo in enumerate(small) for row in edits_of(photo, 2, image_id=f"photo {number}")]
    for number, row in enumerate(rows):
        row["split"] = "validation" if number < 4 else "train"
    rows[1]["split"] = "train"
    view = FakeView(Storage(str(tmp_path)), [_external(rows)], is_pairs=True)
    summary = export(view, ExportSettings(validation=0.9))
    found = {row["image_id"]: row["split"] for row in parquet_rows(view.storage)}
    assert found == {f"photo {n}": "validation" if n == 1 else "train" for n in range(len(small))}
    assert summary.moved == 1
    assert "came as validation: 1" in str(summary)
    assert b"1 pairs that came as validation are in train" in view.storage.read("README.md")


def test_photographs_that_differ_in_a_byte_do_not_bring_one_picture_into_both_splits(
    tmp_path: Path, photos: dict[str, np.ndarray]
) -> None:
    (row,) = edits_of(images.decode(images.encode(photos["coffee"]), 96), 1)
    copies = [{**row, "image": row["image"] + bytes([number])} for number in range(20)]
    view = FakeView(Storage(str(tmp_path)), [fragment(*copies[:9]), fragment(*copies[9:])])
    summary = export(view, ExportSettings(validation=0.5))
    assert not _both(view)
    assert 0 < summary.left_out[split.OTHER_SPLIT] < 20
    assert summary.total + summary.left_out[split.OTHER_SPLIT] == 20


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_our_own_shards_keep_image_ids_and_splits_when_they_are_refined(
    tmp_path: Path, photos: dict[str, np.ndarray], kind: str
) -> None:
    small = [images.decode(images.encode(photo), 128) for photo in photos.values()]
    rows = [row for photo in small for row in edits_of(photo, 2)]
    # An inverted edit: the made image is the source, the photograph the target.
    rows += [{**row, "source_image": row["edited_image"], "edited_image": None} for row in rows[::3]]
    made = FakeView(Storage(str(tmp_path / "made")), [fragment(*rows)])
    export(made, ExportSettings(validation=0.4))
    first = {row["edited"]["bytes"] + row["source"]["bytes"]: row for row in parquet_rows(made.storage)}
    assert {row["split"] for row in first.values()} == {"train", "validation"}
    document = {"name": "again", "inputs": [f"{tmp_path}/made/shards/{kind}"], "output": str(tmp_path / "again")}
    stages = ["refinement.change_mask"]
    pipeline = config.parse({**document, "engine": {"executor": "inline"}, "stages": stages})
    runner.run(pipeline, runner.RunOptions(), lambda _: None, lambda _: None)
    view = RunView(str(tmp_path / "again"), pipeline)
    assert export(view, ExportSettings(validation=0.9)).total > 0
    for row in parquet_rows(Storage(str(tmp_path / "again" / "shards"))):
        before = first[row["edited"]["bytes"] + row["source"]["bytes"]]
        assert (row["image_id"], row["split"]) == (before["image_id"], before["split"])
