"""Shards: their sizes, that they are the same every time, and what a crash or damage leaves of them."""

from __future__ import annotations

import contextlib
import io
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from export_fakes import FakeView, contents, parquet_rows

from ugaf.export import ExportSettings, export, folder
from ugaf.storage import Storage

HALF = ExportSettings(validation=0.5)
MANIFEST = f"{folder.SHARDS}/{folder.MANIFEST}"


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
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if "lease" not in path.parts}


def test_an_export_with_nothing_new_writes_nothing(view: FakeView, tmp_path: Path) -> None:
    settings = ExportSettings(adapters=["diffsynth"])
    first = export(view, settings)
    before = _stamps(tmp_path)
    second = export(view, settings)
    assert _stamps(tmp_path) == before
    assert (first.written, second.written) == (True, False)
    assert (second.rows, second.files, second.bytes) == (first.rows, first.files, first.bytes)
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
        view.storage.remove(MANIFEST)
    elif damage == "unreadable manifest":
        view.storage.write(MANIFEST, b"{")
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


@pytest.mark.parametrize("at", [0, 1])
def test_a_crash_while_putting_in_place_is_seen_and_repaired(
    view: FakeView, tables: list[pa.Table], at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ExportSettings(validation=0.5, shard_mb=0.3)
    view.tables = tables[:1]
    export(view, settings)
    view.tables = tables
    moves = iter(range(100))
    swap = folder._swap

    def crashing(*arguments: Any) -> None:
        if next(moves) == at:
            raise KeyboardInterrupt
        swap(*arguments)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(folder, "_swap", crashing)
        export(view, settings)
    assert not view.storage.exists(MANIFEST)
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
    assert export(view, ExportSettings(formats=["parquet"]), replace=True).written
    assert view.storage.list("shards") == ["manifest.json", "mine", "notes.txt", "parquet"]


def test_no_kept_pair_gives_a_card_and_no_shards(view: FakeView) -> None:
    view.tables = [table.slice(0, 0) for table in view.tables]
    summary = export(view)
    assert (summary.total, summary.files) == (0, ())
    assert "no pair was kept" in str(summary)
    assert view.storage.files("shards") == ["manifest.json"]
    card = view.storage.read("README.md").decode()
    assert "No pair was kept" in card
    assert "configs" not in yaml.safe_load(card.split("---\n")[1])
    assert not export(view).written
