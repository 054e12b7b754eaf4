"""Export: what goes into the shards, what is left out, and that the files are the same every time."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from export_fakes import FakeView, edits_of, fragment, two_fragments
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from ugaf import images
from ugaf.export import ExportSettings, export, folder, provenance, source_kind, split
from ugaf.export import rows as rows_module
from ugaf.export.card import escape
from ugaf.storage import Storage


@pytest.fixture(scope="module")
def small(photos: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The photographs at 160 pixels."""
    return {name: images.decode(images.encode(photo), 160) for name, photo in photos.items()}


@pytest.fixture(scope="module")
def tables(photos: dict[str, np.ndarray]) -> list[pa.Table]:
    """Five photographs, ten kept edits and a rejected one."""
    return two_fragments(photos)


@pytest.fixture
def view(tmp_path: Path, tables: list[pa.Table]) -> FakeView:
    return FakeView(Storage(str(tmp_path / "run")), tables)


HALF = ExportSettings(validation=0.5)


def contents(storage: Storage) -> dict[str, bytes]:
    return {name: storage.read(name) for name in storage.files()}


def parquet_rows(storage: Storage) -> list[dict[str, Any]]:
    names = [name for name in storage.files() if name.endswith(".parquet")]
    return [row for name in names for row in pq.read_table(io.BytesIO(storage.read(name))).to_pylist()]


def tar_members(storage: Storage) -> dict[str, bytes]:
    out: dict[str, bytes] = {}
    for name in storage.files("shards/webdataset"):
        with tarfile.open(fileobj=io.BytesIO(storage.read(f"shards/webdataset/{name}"))) as tar:
            for member in tar:
                out[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return out


def plain_decode(data: bytes) -> np.ndarray:
    """What a reader that knows nothing of EXIF or colour spaces sees."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


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
        assert summary.pairs[side] == len(expected)
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


# --- shards


def test_shards_keep_to_their_size_and_are_numbered_out_of_all(view: FakeView) -> None:
    limit = 0.2
    export(view, ExportSettings(validation=0, shard_mb=limit))
    for kind, pattern in (("parquet", "train-{:05d}-of-{n:05d}.parquet"), ("webdataset", "train-{:06d}.tar")):
        names = view.storage.files(f"shards/{kind}")
        assert len(names) >= 3
        assert names == [pattern.format(number, n=len(names)) for number in range(len(names))]
        sizes = [len(view.storage.read(f"shards/{kind}/{name}")) for name in names]
        assert max(sizes) <= limit * 1e6
        assert min(sizes[:-1]) > limit * 1e6 / 2
    ids = [row["id"] for row in parquet_rows(view.storage)]
    assert ids == [row["id"] for t in view.tables for row in t.to_pylist() if row["status"] == "kept"]


def test_a_pair_larger_than_a_shard_gets_one_of_its_own(view: FakeView) -> None:
    summary = export(view, ExportSettings(validation=0, shard_mb=0.01))
    assert len(summary.files) == 2 * summary.total == 20


def test_row_groups_are_small_and_images_are_stored_as_they_are(
    view: FakeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ugaf.export.parquet.GROUP_ROWS", 4)
    export(view, ExportSettings(validation=0))
    (name,) = view.storage.files("shards/parquet")
    with view.storage.open(f"shards/parquet/{name}") as source, pq.ParquetFile(source) as file:
        group = file.metadata.row_group(0)
        chunks = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
        assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [4, 4, 2]
    assert chunks["source.bytes"].compression == chunks["edit_mask.bytes"].compression == "UNCOMPRESSED"
    assert chunks["instruction"].compression == "SNAPPY"
    assert chunks["quality"].statistics.max == 8.25
    assert chunks["source.bytes"].statistics is None


def test_two_exports_are_the_same_bytes(tmp_path: Path, tables: list[pa.Table]) -> None:
    settings = ExportSettings(validation=0.4, shard_mb=0.2, adapters=["ai_toolkit", "diffsynth", "instruct_pix2pix"])
    found = []
    for name in ("one", "other"):
        storage = Storage(str(tmp_path / name))
        export(FakeView(storage, tables), settings)
        found.append(contents(storage))
    assert found[0] == found[1]
    assert len(found[0]) > 40


def test_tars_hold_nothing_of_the_machine(view: FakeView) -> None:
    export(view, HALF)
    for name in view.storage.files("shards/webdataset"):
        with tarfile.open(fileobj=io.BytesIO(view.storage.read(f"shards/webdataset/{name}"))) as tar:
            for member in tar:
                facts = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
                assert facts == (0, 0, 0, "", "", 0o644)


@pytest.fixture(params=["memory", "s3"])
def object_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a run's folder on an object store: fsspec's in memory, and a local S3 server through pyarrow."""
    if request.param == "memory":
        yield "memory://export-test/run"
        return
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
    yield f"s3://bucket/run?endpoint_override=http://{host}:{port}"
    server.stop()


def test_shards_can_be_written_to_an_object_store(tables: list[pa.Table], object_store: str) -> None:
    view = FakeView(Storage(object_store), list(tables))
    assert export(view, HALF).total == 10
    assert not export(view, HALF).written
    view.tables = tables[:1]
    assert export(view, HALF).total == 4
    assert len(parquet_rows(view.storage)) == 4
    assert not [name for name in view.storage.files() if "staging" in name]


# --- again, and after a crash


def _stamps(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*")}


def test_an_export_with_nothing_new_writes_nothing(view: FakeView, tmp_path: Path) -> None:
    settings = ExportSettings(adapters=["diffsynth"])
    first = export(view, settings)
    before = _stamps(tmp_path)
    second = export(view, settings)
    assert _stamps(tmp_path) == before
    assert (first.written, second.written) == (True, False)
    assert (second.pairs, second.files, second.bytes) == (first.pairs, first.files, first.bytes)
    assert "up to date" in str(second)


def test_the_licence_changes_only_the_card(view: FakeView) -> None:
    export(view)
    assert not export(view, ExportSettings(license="cc-by-4.0")).written
    assert b"license: cc-by-4.0" in view.storage.read("README.md")


@pytest.mark.parametrize("change", ["rows", "values", "columns", "settings"])
def test_what_changes_a_shard_is_exported_again(view: FakeView, change: str) -> None:
    export(view, HALF)
    settings = HALF
    if change == "rows":
        view.tables = view.tables[:1]
    elif change == "values":
        table = view.tables[0]
        index = table.schema.get_field_index("instruction")
        view.tables[0] = table.set_column(index, "instruction", pa.array(["Other."] * table.num_rows))
    elif change == "columns":
        view.fingerprint = "beef"
    else:
        settings = ExportSettings(validation=0.2)
    assert export(view, settings).written
    assert not export(view, settings).written


@pytest.mark.parametrize("damage", ["missing", "truncated", "extra", "manifest", "unreadable manifest", "adapter"])
def test_a_damaged_export_is_repaired(view: FakeView, damage: str) -> None:
    settings = ExportSettings(validation=0.5, adapters=["ai_toolkit"])
    first = export(view, settings)
    good = contents(view.storage)
    victim = first.files[0]
    if damage == "missing":
        view.storage.remove(victim)
    elif damage == "truncated":
        view.storage.write(victim, good[victim][:-1])
    elif damage == "extra":
        view.storage.write("shards/parquet/train-00000-of-00009.parquet", b"old")
    elif damage == "manifest":
        view.storage.remove(folder.MANIFEST)
    elif damage == "unreadable manifest":
        view.storage.write(folder.MANIFEST, b"{")
    else:
        view.storage.remove(next(name for name in good if "ai_toolkit" in name))
    assert export(view, settings).written
    assert contents(view.storage) == good


def test_a_crash_while_writing_leaves_the_old_shards_whole(view: FakeView, tables: list[pa.Table]) -> None:
    view.tables = tables[:1]
    export(view, HALF)
    old = contents(view.storage)
    view.tables = tables

    reads = iter(range(100))

    def crash() -> None:
        if next(reads) == 2:  # the second fragment
            raise KeyboardInterrupt

    view.after_values = crash
    with pytest.raises(KeyboardInterrupt):
        export(view, HALF)
    present = contents(view.storage)
    assert {name: present[name] for name in old} == old
    assert all(name.startswith(folder.STAGING) for name in set(present) - set(old))
    view.after_values = lambda: None
    assert export(view, HALF).total == 10
    assert len(parquet_rows(view.storage)) == 10


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_crash_while_putting_in_place_is_seen_and_repaired(
    view: FakeView, tables: list[pa.Table], at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ExportSettings(validation=0.5, shard_mb=0.3)
    view.tables = tables[:1]
    export(view, settings)
    view.tables = tables
    moves = iter(range(100))
    move = folder._move

    def crashing(*arguments: Any) -> None:
        if next(moves) == at:
            raise KeyboardInterrupt
        move(*arguments)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(folder, "_move", crashing)
        export(view, settings)
    assert not view.storage.exists(folder.MANIFEST)
    export(view, settings)
    repaired = contents(view.storage)
    fresh = FakeView(Storage(str(Path(view.storage.url) / "fresh")), tables)
    export(fresh, settings)
    assert contents(fresh.storage) == repaired


def test_files_of_others_in_the_shards_folder_are_left_alone(view: FakeView) -> None:
    export(view)
    view.storage.write("shards/notes.txt", b"mine")
    view.storage.write("shards/mine/notes.txt", b"mine")
    assert not export(view).written
    assert export(view, ExportSettings(formats=["parquet"])).written
    assert view.storage.list("shards") == ["manifest.json", "mine", "notes.txt", "parquet"]


def test_no_kept_pair_gives_a_card_and_no_shards(view: FakeView) -> None:
    export(view)
    view.tables = [table.slice(0, 0) for table in view.tables]
    summary = export(view)
    assert (summary.total, summary.files) == (0, ())
    assert "no pair was kept" in str(summary)
    assert view.storage.files("shards") == ["manifest.json"]
    card = view.storage.read("README.md").decode()
    assert "No pair was kept" in card
    assert "configs" not in yaml.safe_load(card.split("---\n")[1])
    assert not export(view).written


def test_a_pipeline_without_edits_exports_nothing(view: FakeView) -> None:
    view.providers = {"image": "ingest", "rgb_entropy": "curation.photometric"}
    assert export(view).total == 0
    assert view.storage.exists("README.md")


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


def test_an_adapter_no_longer_asked_for_is_removed(view: FakeView) -> None:
    export(view, ExportSettings(adapters=["diffsynth"]))
    export(view, ExportSettings())
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
