"""Export: what goes into the shards, what is left out, and that the files are the same every time."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from export_fakes import FakeView, edits_of, fragment, parquet_rows, plain_decode, tar_members
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from ugaf.export import ExportSettings, export, provenance, source_kind, split
from ugaf.export import rows as rows_module
from ugaf.export.card import escape
from ugaf.imaging import images


@pytest.fixture(scope="module")
def small(photos: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The photographs at 160 pixels."""
    return {name: images.decode(images.encode(photo), 160) for name, photo in photos.items()}


HALF = ExportSettings(validation=0.5)


# --- settings and split


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapters": ["difsynth"]}, "did you mean 'diffsynth'"),
        ({"formats": ["parqet"]}, "did you mean 'parquet'"),
        ({"formats": ["webdataset"], "adapters": ["instruct_pix2pix"]}, "add parquet"),
        ({"validation": 1.0}, "less than 1"),
        ({"shard_mb": 0}, "greater than 0"),
        ({"shards": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExportSettings(**options)


@given(st.text(alphabet="0123456789abcdef", min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_only_adds_to_validation(image_id: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if split.of_photograph(image_id, low) == split.VALIDATION:
        assert split.of_photograph(image_id, high) == split.VALIDATION
    assert split.of_photograph(image_id, 0) == split.TRAIN
    assert split.of_photograph(image_id, 1) == split.VALIDATION


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_the_share_of_photographs_is_near_the_setting(share: float) -> None:
    n = 20_000
    ids = (hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(n))
    found = sum(split.of_photograph(image_id, share) == split.VALIDATION for image_id in ids)
    assert abs(found - n * share) < 4 * np.sqrt(n * share * (1 - share))


@hypothesis_settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.none() | st.integers(0, 30)), min_size=1, max_size=80), st.floats(0, 1)
)
def test_no_photograph_is_in_both_splits_in_any_role(edits: list[tuple[int, int | None]], share: float) -> None:
    shown: dict[str, set[str]] = {split.TRAIN: set(), split.VALIDATION: set()}
    for photo, donor in edits:
        ids = [str(number) for number in (photo, donor) if number is not None]
        side = split.of_edit(ids[0], ids[1] if len(ids) > 1 else None, share)
        if side is None:
            assert {split.of_photograph(name, share) for name in ids} == {split.TRAIN, split.VALIDATION}
        else:
            shown[side].update(ids)
    assert not shown[split.TRAIN] & shown[split.VALIDATION]


def test_an_edit_whose_donor_is_in_the_other_split_is_left_out_and_counted(view: FakeView) -> None:
    parents = sorted({row["parent"] for table in view.tables for row in table.select(["parent"]).to_pylist()})
    sides = {parent: split.of_photograph(parent, 0.5) for parent in parents}
    assert set(sides.values()) == {"train", "validation"}
    row = view.tables[0].to_pylist()[0]
    row.pop("id")
    view.tables = [fragment(*({**row, "status": "kept", "donor": donor} for donor in parents))]
    summary = export(view, HALF)
    same = {donor for donor in parents if sides[donor] == sides[row["parent"]]}
    assert {row["donor"] for row in parquet_rows(view.storage)} == same
    assert summary.left_out == {"donor in the other split": len(parents) - len(same)}
    assert "left out" in str(summary)
    assert b"donor in the other split" in view.storage.read("README.md")


# --- what is written


def test_every_kept_row_is_in_both_formats_once_in_order(view: FakeView) -> None:
    summary = export(view, HALF)
    kept = [row for table in view.tables for row in table.to_pylist() if row["status"] == "kept"]
    rows = parquet_rows(view.storage)
    for side in ("train", "validation"):
        expected = [row["id"] for row in kept if split.of_photograph(row["parent"], 0.5) == side]
        assert [row["id"] for row in rows if row["split"] == side] == expected
        assert summary.rows[side] == len(expected)
    assert summary.total == len(kept) == len(rows)
    assert summary.files == tuple(sorted(f"shards/{name}" for name in view.storage.files("shards") if "/" in name))
    by_id = {row["id"]: row for row in kept}
    members = tar_members(view.storage)
    for row in rows:
        given_row = by_id[row["id"]]
        assert row["source"] == {"bytes": given_row["image"], "path": f"{row['id']}.source.jpg"}
        assert row["edited"] == {"bytes": given_row["edited_image"], "path": f"{row['id']}.edited.png"}
        assert members[f"{row['id']}.source.jpg"] == given_row["image"]
        assert members[f"{row['id']}.edited.png"] == given_row["edited_image"]
        assert members[f"{row['id']}.edit_mask.png"] == given_row["edit_mask"] == row["edit_mask"]["bytes"]
        described = json.loads(members[f"{row['id']}.json"])
        assert described == {
            key: value for key, value in row.items() if not isinstance(value, dict) and key in described
        }
        assert set(row) - set(described) == {"source", "edited", "edit_mask", "change_mask"}
        for name in ("instruction", "task", "boxes", "bbox_edit", "params", "rgb_entropy", "n_objects", "quality"):
            assert row[name] == given_row[name]
        assert (row["image_id"], row["bbox"]) == (given_row["parent"], given_row["boxes"][0])
        assert Image.open(io.BytesIO(row["source"]["bytes"])).size == (row["width"], row["height"])
    assert len(members) == 4 * len(kept)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10**6)), unique=True), st.integers(1, 20))
def test_chunks_hold_whole_photographs_and_every_row_once(edits: list[tuple[int, int]], size: int) -> None:
    rows = [{"parent": str(parent), "id": f"{parent}/{number}"} for parent, number in edits]
    found = list(rows_module.chunks(rows, size))
    assert sorted(row["id"] for chunk in found for row in chunk) == sorted(row["id"] for row in rows)
    parents = [{row["parent"] for row in chunk} for chunk in found]
    assert sum(map(len, parents)) == len({row["parent"] for row in rows})
    assert all(len(chunk) >= size for chunk in found[:-1])
    assert all(chunk == sorted(chunk, key=lambda row: row["id"]) for chunk in found)


def test_nulls_stay_nulls_and_infinities_do_not_break_the_json(view: FakeView) -> None:
    row = view.tables[0].to_pylist()[0]
    empty = dict.fromkeys(
        [*("edit_mask", "bbox_edit", "donor", "caption", "iou", "register", "task", "sources", "editor")]
    )
    view.tables = [fragment({**row, **empty, "boxes": [], "quality": float("nan"), "status": "kept"})]
    export(view, ExportSettings(validation=0))
    (out,) = parquet_rows(view.storage)
    nulls = ("edit_mask", "change_mask", "bbox", "bbox_edit", "donor", "iou", "task", "sources", "detector")
    assert all(out[name] is None for name in nulls)
    assert out["boxes"] == []
    assert np.isnan(out["quality"])
    members = tar_members(view.storage)
    assert sorted(name.split(".", 1)[1] for name in members) == ["edited.png", "json", "source.jpg"]
    assert json.loads(members[f"{row['id']}.json"])["quality"] is None


def test_every_column_of_the_run_that_is_documented_is_exported(view: FakeView) -> None:
    values = {
        name: f"of {name}" for name in ("instruction_cn", "edit_way", "screener", "caption", "engine", "register")
    }
    view.tables = [fragment({**view.tables[0].to_pylist()[0], "status": "kept", **values})]
    export(view, ExportSettings(validation=0))
    (out,) = parquet_rows(view.storage)
    assert {name: out[name] for name in values} == values


def test_an_inverted_edit_has_the_photograph_as_its_target(view: FakeView) -> None:
    row = view.tables[0].to_pylist()[0]
    made = row["edited_image"]
    view.tables = [fragment({**row, "source_image": made, "edited_image": None, "status": "kept", "task": "add"})]
    export(view, ExportSettings(validation=0))
    (out,) = parquet_rows(view.storage)
    assert (out["source"]["bytes"], out["edited"]["bytes"]) == (made, row["image"])
    assert out["edited"]["path"].endswith(".edited.jpg")


def _rotated(photo: np.ndarray) -> bytes:
    out, exif = io.BytesIO(), Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    Image.fromarray(photo).save(out, "JPEG", exif=exif)
    return out.getvalue()


def _saved(image: Image.Image, format: str) -> bytes:
    out = io.BytesIO()
    image.save(out, format)
    return out.getvalue()


def _unusual(photo: np.ndarray) -> dict[str, bytes]:
    alpha = np.dstack([photo, np.linspace(0, 255, photo.shape[1], dtype=np.uint8)[None].repeat(len(photo), 0)])
    grey16 = photo[..., 0].astype(np.uint16) * 257
    return {
        "exif": _rotated(photo),
        "cmyk": _saved(Image.fromarray(photo).convert("CMYK"), "JPEG"),
        "alpha": _saved(Image.fromarray(alpha), "PNG"),
        "16 bit": _saved(Image.fromarray(grey16), "PNG"),
    }


@pytest.mark.parametrize("kind", ["exif", "cmyk", "alpha", "16 bit"])
def test_bytes_that_plain_readers_misread_become_the_same_pixels_as_png(
    view: FakeView, small: dict[str, np.ndarray], kind: str
) -> None:
    data = _unusual(small["chelsea"])[kind]
    truth = images.decode(data)
    rows = [{"image": data, "edited_image": images.encode(truth // step)} for step in (2, 3)]
    view.tables = [fragment(*rows, {"image": images.encode(truth), "edited_image": data})]
    export(view, ExportSettings(validation=0))
    assert not images.probe(data).plain
    out = parquet_rows(view.storage)
    assert sorted((row["source_reencoded"], row["edited_reencoded"]) for row in out) == [(False, True)] + 2 * [
        (True, False)
    ]
    for row in out:
        column = "source" if row["source_reencoded"] else "edited"
        np.testing.assert_array_equal(plain_decode(row[column]["bytes"]), truth)
        assert row[column]["path"].endswith(".png")
        assert (row["height"], row["width"]) == truth.shape[:2]


@pytest.mark.parametrize(("format", "extension"), [("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tif"), ("GIF", "gif")])
def test_plain_bytes_pass_through_with_the_extension_of_their_format(
    view: FakeView, small: dict[str, np.ndarray], format: str, extension: str
) -> None:
    data = _saved(Image.fromarray(small["coffee"]), format)
    view.tables = [fragment({"image": data, "edited_image": images.encode(small["coffee"])})]
    export(view, ExportSettings(validation=0))
    (row,) = parquet_rows(view.storage)
    assert row["source"] == {"bytes": data, "path": f"{row['id']}.source.{extension}"}
    assert not row["source_reencoded"]


def test_pairs_from_elsewhere_are_split_by_their_source_image(view: FakeView, small: dict[str, np.ndarray]) -> None:
    rows = [row for photo in small.values() for row in edits_of(photo, 2, engine="external", editor=None)]
    tables = [fragment(*({**row, "parent": None, "id": f"{n:032x}"} for n, row in enumerate(rows)))]
    view.tables, view.is_pairs = tables, True
    export(view, HALF)
    sides: dict[bytes, set[str]] = {}
    for row in parquet_rows(view.storage):
        sides.setdefault(row["source"]["bytes"], set()).add(row["split"])
    assert len(sides) == len(small)
    assert all(len(found) == 1 for found in sides.values())
    assert set.union(*sides.values()) == {"train", "validation"}


def test_a_row_with_an_unreadable_image_costs_only_itself(view: FakeView) -> None:
    rows = view.tables[1].to_pylist()
    rows[2]["edited_image"] = rows[2]["edited_image"][:4]
    rows[3]["edited_image"] = None
    view.tables = [fragment(*rows)]
    summary = export(view, HALF)
    assert summary.total == len(rows) - 2
    assert summary.left_out == {"unreadable image": 2}
    assert {row for row, _ in summary.unreadable} == {rows[2]["id"], rows[3]["id"]}
    assert "neither" in str(summary)


# --- card


def _card(view: FakeView, settings: ExportSettings = HALF) -> tuple[dict[str, Any], str]:
    export(view, settings)
    _, front, body = view.storage.read("README.md").decode().split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_counts_what_was_written(view: FakeView) -> None:
    front, body = _card(view)
    assert front["size_categories"] == ["n<1K"]
    assert front["task_categories"] == ["image-to-image"]
    paths = {entry["split"]: entry["path"] for entry in front["configs"][0]["data_files"]}
    assert paths == {name: f"shards/parquet/{name}-*.parquet" for name in ("train", "validation")}
    rows = parquet_rows(view.storage)
    train = sum(row["split"] == "train" for row in rows)
    photographs = len({row["image_id"] for row in rows if row["split"] == "train"})
    assert f"| train | {train} | {photographs} |" in body
    assert f"| recolor | {train} | {10 - train} | 10 |" in body
    assert f"| templates/1 | {train} | {10 - train} | 10 |" in body
    assert f"| sample | {train} | {10 - train} | 10 |" in body
    assert (
        "| curation.photometric | photographs | 10 | 7 | 2 | 1 | 0 | rgb\\_entropy &lt; 5.5: 2; ImageError: 1 |" in body
    )
    assert "| refinement.score | quality | min 6.12346, min\\_quantile 0.05 |" in body
    for column in pq.read_schema(io.BytesIO(view.storage.read(export(view, HALF).files[0]))).names:
        assert f"| `{column}` |" in body
    assert "/x" not in body


def test_the_card_escapes_what_came_from_data(view: FakeView) -> None:
    evil = "a|b\n<script>alert(1)</script> `x` [l](http://e)"
    row = {**view.tables[0].to_pylist()[0], "task": evil, "status": "kept"}
    view.tables = [fragment(row)]
    view.document = {"inputs": [{"path": "s3://key:secret@bucket/```x"}]}
    front, body = _card(view, ExportSettings(validation=0, name='x: "y" # z\n---', license="My own, see LICENSE"))
    assert front["pretty_name"] == 'x: "y" # z\n---'
    assert (front["license"], front["license_name"]) == ("other", "my-own-see-license")
    assert "<script>" not in body
    assert "secret" not in body
    assert "````yaml\n" in body
    (line,) = [line for line in body.splitlines() if "alert" in line]
    assert line == f"| {escape(evil)} | 1 | 1 |"
    assert escape(evil) == "a\\|b &lt;script&gt;alert(1)&lt;/script&gt; \\`x\\` \\[l\\](http://e)"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("sample://coffee", "sample"),
        ("/data/a b.jpg", "file"),
        ("s3://b/x.tar.gz#a/1.jpg", "s3 tar"),
        ("/data/x.parquet#12", "file parquet"),
        ("C#.jpg", "file"),
    ],
)
def test_a_source_is_named_by_its_kind(source: str, kind: str) -> None:
    assert source_kind(source) == kind


# --- adapters


def test_paired_folders_have_the_same_names_and_a_caption_beside_each_target(view: FakeView) -> None:
    export(view, ExportSettings(validation=0.5, adapters=["ai_toolkit"]))
    rows = parquet_rows(view.storage)
    for side in ("train", "validation"):
        base = f"shards/ai_toolkit/{side}"
        controls, targets = view.storage.list(f"{base}/control"), view.storage.list(f"{base}/target")
        assert controls == [name for name in targets if not name.endswith(".txt")]
        assert controls == sorted(f"{row['id']}.png" for row in rows if row["split"] == side)
    for row in rows:
        base = f"shards/ai_toolkit/{row['split']}"
        control = plain_decode(view.storage.read(f"{base}/control/{row['id']}.png"))
        np.testing.assert_array_equal(control, plain_decode(row["source"]["bytes"]))
        assert view.storage.read(f"{base}/target/{row['id']}.png") == row["edited"]["bytes"]
        assert view.storage.read(f"{base}/target/{row['id']}.txt").decode() == row["instruction"]


def test_diffsynth_metadata_names_files_that_are_there(view: FakeView) -> None:
    export(view, ExportSettings(validation=0.5, adapters=["diffsynth"]))
    for name, side in (("metadata.jsonl", "train"), ("metadata_validation.jsonl", "validation")):
        lines = view.storage.read(f"shards/diffsynth/{name}").decode().splitlines()
        rows = [row for row in parquet_rows(view.storage) if row["split"] == side]
        assert len(lines) == len(rows) > 0
        for line, row in zip(map(json.loads, lines), rows, strict=True):
            assert line["prompt"] == row["instruction"]
            assert view.storage.read(f"shards/diffsynth/{line['image']}") == row["edited"]["bytes"]
            assert view.storage.read(f"shards/diffsynth/{line['edit_image']}") == row["source"]["bytes"]


def test_an_adapter_of_an_earlier_call_is_brought_up_to_date_and_removed_on_request(view: FakeView) -> None:
    export(view, ExportSettings(adapters=["diffsynth"]))
    view.tables = view.tables[:1]
    said: list[str] = []
    export(view, ExportSettings(adapters=["instruct_pix2pix"]), notify=said.append)
    assert view.storage.list("shards") == [
        "diffsynth",
        "instruct_pix2pix",
        "manifest.json",
        "parquet",
        "webdataset",
    ]
    lines = b"".join(view.storage.read(f"shards/{n}") for n in view.storage.files("shards") if n.endswith(".jsonl"))
    assert lines.count(b"\n") == len(parquet_rows(view.storage)) == 4
    export(view, ExportSettings(), replace=True, notify=said.append)
    assert "removes diffsynth, instruct_pix2pix" in said[-1]
    assert view.storage.list("shards") == ["manifest.json", "parquet", "webdataset"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/home/me/photos/cats/1.jpg", "photos/cats/1.jpg"),
        ("/home/me/tars/a.tar#x/1.jpg", "tars/a.tar#x/1.jpg"),
        ("/home/me/sets/pairs.jsonl#3", "sets/pairs.jsonl#3"),
        ("/elsewhere/2.jpg", "2.jpg"),
        ("s3://bucket/photos/1.jpg", "s3://bucket/photos/1.jpg"),
        ("sample://coffee", "sample://coffee"),
    ],
)
def test_a_published_source_tells_no_folders_above_its_input(source: str, expected: str) -> None:
    inputs = ["/home/me/photos", "/home/me/tars/*.tar", "/home/me/sets/pairs.jsonl", "s3://bucket/photos"]
    assert provenance.published(source, provenance.input_roots(inputs)) == expected
