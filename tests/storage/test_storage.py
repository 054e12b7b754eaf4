"""Storage: atomic on a local disk, on fsspec's memory, and on an S3 server."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from engine_tools import counts, go, make_photos, pipeline, table

from ugaf.base.errors import ConfigError
from ugaf.columns import lease
from ugaf.storage import Storage
from ugaf.storage.store import parquet_bytes, read_parquet


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "run"))
    if request.param == "memory":
        return Storage(f"memory://{tmp_path.name}")
    return Storage(request.getfixturevalue("s3_url") % tmp_path.name)


def test_a_file_is_written_read_listed_and_removed(storage: Storage) -> None:
    assert storage.list("a") == []
    assert storage.files() == []
    storage.write("a/b/one.bin", b"1")
    storage.write("a/two.bin", b"22")
    storage.write("a/two.bin", b"222")
    assert storage.read("a/two.bin") == b"222"
    assert storage.list("a") == ["b", "two.bin"]
    assert storage.files("a") == ["b/one.bin", "two.bin"]
    assert storage.exists("a/b/one.bin")
    assert not storage.exists("a/b/none.bin")
    with pytest.raises(FileNotFoundError):
        storage.read("a/none.bin")
    with storage.open("a/two.bin") as file:
        file.seek(1)
        assert file.read() == b"22"
    assert pickle.loads(pickle.dumps(storage)).read("a/b/one.bin") == b"1"
    storage.remove("a/b")
    storage.remove("a/none")
    assert storage.files("a") == ["two.bin"]


def test_what_fails_while_it_is_written_is_not_there(storage: Storage) -> None:
    def fail() -> None:
        with storage.open_output("a/broken.bin") as stream:
            stream.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert storage.files() == []


def test_only_changes_are_written(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert storage.write_if_changed("x", b"1")
    before = (tmp_path / "x").stat().st_mtime_ns
    assert not storage.write_if_changed("x", b"1")
    assert (tmp_path / "x").stat().st_mtime_ns == before
    assert storage.write_if_changed("x", b"2")


def test_parquet_round_trip_with_image_columns_in_small_groups() -> None:
    import pyarrow.parquet as pq

    images = pa.array([bytes([i]) * 100 for i in range(20)], pa.large_binary())
    made = pa.table({"id": [str(i) for i in range(20)], "image": images})
    data = parquet_bytes(made, ("image",))
    assert read_parquet(data.to_pybytes()).equals(made)
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    assert metadata.num_row_groups == 3
    assert metadata.row_group(0).column(1).compression == "UNCOMPRESSED"


def test_an_unknown_place_is_a_setting_error() -> None:
    with pytest.raises(ConfigError, match="cannot open"):
        _ = Storage("nothere://a/b").filesystem


def test_a_whole_run_on_a_remote_place(storage: Storage, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 7)
    stages = [f"engine_stages:{name}" for name in ("Mean", "Halves", "Flip")]
    columns = ["mean", "side", "edited_image", "draw"]
    there = go(pipeline(tmp_path / "photos", storage.url, stages))
    here = go(pipeline(tmp_path / "photos", tmp_path / "here", stages))
    assert table(there, "edit", columns) == table(here, "edit", columns)
    # The lease says who wrote last, and only that.
    before = [name for name in storage.files() if not name.startswith(f"{lease.FOLDER}/")]
    make_photos(tmp_path / "photos", 1, start=70)
    assert counts(go(pipeline(tmp_path / "photos", storage.url, stages)))["engine_stages:Flip"].kept == 16
    assert set(before) < set(storage.files())
