"""WebDataset tars and Parquet files of images."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import uuid

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ingest_helpers import failures, good, ingest, keys, picture, settings, write

from ugaf.base.errors import ConfigError
from ugaf.ingest import SourceRef, list_sources, produce
from ugaf.ingest.places import Place

IMAGE_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def tar(members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def parquet(path, columns, group=3, schema=None):
    pq.write_table(pa.table(columns, schema=schema), path, row_group_size=group, use_dictionary=False)
    return path


def test_a_sample_is_its_image_and_its_caption(tmp_path):
    members = [
        ("a.jpg", picture(1, "JPEG")),
        ("a.txt", b" a cat \n"),
        ("dir/b.png", picture(2)),
        ("dir/b.json", json.dumps({"caption": "ein Hündchen", "width": 3}).encode()),
        ("c.webp", picture(3, "WEBP")),
        ("c.json", b"{broken"),
        ("c.cls", b"7"),
        ("notes.txt", b"no image here"),
    ]
    write(tmp_path, {"x.tar": tar(members)})
    assert keys(tmp_path) == [f"{tmp_path}/x.tar#{name}" for name in ("a.jpg", "dir/b.png", "c.webp")]
    rows = good(ingest(tmp_path / "x.tar"))
    assert [row["caption"] for row in rows] == ["a cat", "ein Hündchen", None]
    assert [row["image"] for row in rows] == [members[0][1], members[2][1], members[4][1]]


def test_longer_suffixes_are_parts_of_a_sample_only_beside_a_plain_one(tmp_path):
    parts = [("a.jpg", picture(1)), ("a.seg.png", picture(2)), ("b.1.jpg", picture(3)), ("b.2.jpg", picture(4))]
    write(tmp_path, {"x.tar": tar(parts)})
    assert [key.partition("#")[2] for key in keys(tmp_path)] == ["a.jpg", "b.1.jpg", "b.2.jpg"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_hidden_long_and_repeated_names(tmp_path, format):
    long = "d" * 60 + "/" + "n" * 90 + ".png"
    members = [("._x.png", b""), ("./x.png", picture(1)), (long, picture(2)), ("y.png", b""), ("y.png", picture(3))]
    write(tmp_path, {"x.tar": tar(members, format)})
    rows = ingest(tmp_path)
    assert {row["image"] for row in good(rows)} == {picture(1), picture(2), picture(3)}
    assert failures(rows).keys() == {f"{tmp_path}/x.tar#y.png"}
    assert len(set(keys(tmp_path))) == 4


def test_members_of_one_tar_are_read_through_one_handle(tmp_path, monkeypatch):
    write(tmp_path, {"x.tar": tar([(f"{i}.png", picture(i)) for i in range(30)])})
    refs = list(list_sources([settings(tmp_path)]))
    opened = []
    original = Place.open
    monkeypatch.setattr(Place, "open", lambda self: opened.append(self.path) or original(self))
    assert len(good(list(produce(refs)))) == 30
    assert opened == [str(tmp_path / "x.tar")]


def test_a_truncated_tar_loses_only_its_end(tmp_path):
    data = tar([(f"{i}.png", picture(i, size=(30, 30))) for i in range(10)])
    write(tmp_path, {"a.tar": data[: len(data) // 2], "b.tar": tar([("x.png", picture(99))])})
    rows = ingest(tmp_path)
    assert 3 <= len(good(rows)) - 1 <= 5
    (failure,) = failures(rows).values()
    assert failure.type == "TarError"
    assert "truncated" in failure.message


def test_damage_inside_a_tar_costs_the_member_it_hits(tmp_path):
    members = [(f"{i}.png", picture(i, size=(30, 30))) for i in range(10)]
    data = bytearray(tar(members, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        offset = archive.getmember("4.png").offset
    data[offset : offset + 512] = b"\xff" * 512
    write(tmp_path, {"a.tar": bytes(data)})
    rows = ingest(tmp_path)
    assert {row["image"] for row in good(rows)} == {data for name, data in members if name != "4.png"}
    assert failures(rows).keys() == {f"{tmp_path}/a.tar#byte {offset}"}


@pytest.mark.parametrize("data", [b"", b"this is no archive" * 100, gzip.compress(tar([("a.png", picture(1))]))])
def test_what_is_no_tar_is_one_failed_row_that_names_it(tmp_path, data):
    write(tmp_path, {"bad.tar": data, "good.tar": tar([("a.png", picture(1))])})
    rows = ingest(tmp_path)
    (source,) = failures(rows)
    assert source.startswith(f"{tmp_path}/bad.tar")
    assert len(good(rows)) == 1


@given(st.integers(0, 2**31), st.integers(1, 3000))
@hypothesis_settings(max_examples=60, deadline=None)
def test_no_damage_to_a_tar_raises_or_costs_another_archive(tmp_path_factory, place, length):
    folder = tmp_path_factory.mktemp("damage")
    data = bytearray(tar([(f"{i}.png", picture(i)) for i in range(6)]))
    place %= len(data)
    data[place : place + length] = bytes((byte * 7 + 3) % 256 for byte in data[place : place + length])
    write(folder, {"a.tar": bytes(data), "b.tar": tar([("x.png", picture(99))])})
    rows = ingest(folder)
    assert len({row.id for row in rows}) == len(rows)
    assert picture(99) in [row["image"] for row in good(rows)]


def test_remote_tars_and_tables():
    base = f"memory://{uuid.uuid4().hex}"
    store = fsspec.filesystem("memory")
    store.pipe(f"{base}/x.tar", tar([("a.png", picture(1)), ("a.txt", b"one")]))
    out = io.BytesIO()
    pq.write_table(pa.table({"image": [picture(2)], "text": ["two"]}), out)
    store.pipe(f"{base}/y.parquet", out.getvalue())
    assert keys(base) == [f"{base}/x.tar#a.png", f"{base}/y.parquet#1"]
    assert {row["caption"] for row in good(ingest(base))} == {"one", "two"}


@pytest.mark.parametrize("type", [pa.binary(), pa.large_binary(), IMAGE_STRUCT])
def test_image_columns_of_each_type(tmp_path, type):
    datas = [picture(i) for i in range(7)]
    cells = [{"bytes": data, "path": None} for data in datas] if type == IMAGE_STRUCT else datas
    columns = {"n": list(range(7)), "photo": pa.array(cells, type), "caption": [f"c{i}" for i in range(7)]}
    parquet(tmp_path / "x.parquet", columns)
    rows = good(ingest(tmp_path))
    assert [row["image"] for row in rows] == datas
    assert [row["caption"] for row in rows] == [f"c{i}" for i in range(7)]
    assert keys(tmp_path) == [f"{tmp_path}/x.parquet#{i}" for i in range(1, 8)]


def test_hugging_face_features_say_which_column_is_the_image(tmp_path):
    features = {"info": {"features": {"view": {"_type": "Image"}, "blob": {"dtype": "binary", "_type": "Value"}}}}
    schema = pa.schema([("blob", pa.binary()), ("view", IMAGE_STRUCT)], {"huggingface": json.dumps(features)})
    columns = {"blob": [b"junk"], "view": [{"bytes": picture(1), "path": "a.png"}]}
    parquet(tmp_path / "x.parquet", columns, schema=schema)
    assert good(ingest(tmp_path))[0]["image"] == picture(1)


def test_datasets_writes_what_ingest_reads(tmp_path):
    datasets = pytest.importorskip("datasets")
    write(tmp_path, {"a.png": picture(1)})
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = {"image": [str(tmp_path / "a.png")], "text": ["noise"]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "x.parquet"))
    (row,) = good(ingest(tmp_path / "x.parquet"))
    assert (row["image"], row["caption"]) == (picture(1), "noise")


def test_paths_in_a_table_start_at_its_folder_or_at_root(tmp_path):
    write(tmp_path, {"tables/a.png": picture(1), "elsewhere/a.png": picture(2)})
    columns = {"image": pa.array([{"bytes": None, "path": "a.png"}], IMAGE_STRUCT)}
    parquet(tmp_path / "tables" / "x.parquet", columns)
    assert good(ingest(tmp_path / "tables/x.parquet"))[0]["image"] == picture(1)
    elsewhere = ingest(tmp_path / "tables/x.parquet", root=str(tmp_path / "elsewhere"))
    assert good(elsewhere)[0]["image"] == picture(2)


def test_columns_setting_names_image_caption_and_id(tmp_path):
    columns = {"front": [picture(1)], "back": [picture(2)], "words": ["w"], "key": ["k-17"]}
    parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(ConfigError, match=r"front, back.*columns: \{image: NAME\}"):
        keys(tmp_path)
    (row,) = ingest(tmp_path, columns={"image": "back", "caption": "words", "id": "key"})
    assert (row.values["image"], row.values["caption"]) == (picture(2), "w")
    assert row.sources == [f"{tmp_path}/x.parquet#1 (k-17)"]
    with pytest.raises(ConfigError, match="no column 'bak'; did you mean 'back'"):
        keys(tmp_path, columns={"image": "bak"})


def test_a_table_without_images_is_a_config_error(tmp_path):
    parquet(tmp_path / "x.parquet", {"a": [1], "b": ["x"]})
    with pytest.raises(ConfigError, match=r"no image column.*found: a, b"):
        keys(tmp_path)


def test_bad_rows_of_a_table_fail_alone(tmp_path):
    parquet(tmp_path / "x.parquet", {"image": [picture(1), b"", None, b"junk", picture(5)], "id": list("abcde")})
    rows = ingest(tmp_path)
    assert [row["image"] for row in good(rows)] == [picture(1), picture(5)]
    assert failures(rows).keys() == {f"{tmp_path}/x.parquet#{i}" for i in (2, 3, 4)}


def test_a_row_group_is_read_once_and_only_for_the_wanted_rows(tmp_path, monkeypatch):
    parquet(tmp_path / "x.parquet", {"image": [picture(i) for i in range(40)]}, group=20)
    refs = list(list_sources([settings(tmp_path)]))
    opened = []
    original = Place.open_native
    monkeypatch.setattr(Place, "open_native", lambda self: opened.append(self.path) or original(self))
    rows = list(produce([refs[33], refs[4], refs[25], refs[30]]))
    assert {row["image"] for row in good(rows)} == {picture(i) for i in (33, 4, 25, 30)}
    assert len(opened) == 3


def test_a_damaged_table_beside_sound_ones_is_one_failed_row(tmp_path):
    parquet(tmp_path / "a.parquet", {"image": [picture(1)]})
    write(tmp_path, {"b.parquet": b"PAR1 cut short"})
    rows = ingest(tmp_path)
    assert len(good(rows)) == 1
    assert "not a readable Parquet file" in failures(rows)[f"{tmp_path}/b.parquet"].message
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        keys(tmp_path / "b.parquet")


def test_a_damaged_page_fails_its_rows_and_no_other_group(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"image": [picture(i, size=(40, 40)) for i in range(6)]})
    refs = list(list_sources([settings(tmp_path)]))
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    rows = list(produce(refs))
    assert len(failures(rows)) == 3
    assert [row["image"] for row in good(rows)] == [picture(i, size=(40, 40)) for i in (3, 4, 5)]


def test_duplicates_across_files_tars_and_tables_are_one_row(tmp_path):
    write(tmp_path, {"a.png": picture(1), "b.tar": tar([("a.png", picture(1)), ("a.txt", b"caption")])})
    parquet(tmp_path / "c.parquet", {"image": [picture(1), picture(2)]})
    rows = ingest(tmp_path)
    assert sorted(len(row.sources) for row in rows) == [1, 3]
    assert {row["caption"] for row in good(rows)} == {"caption", None}


def test_kind_restricts_a_mixed_folder(tmp_path):
    write(tmp_path, {"a.png": picture(1), "b.tar": tar([("x.png", picture(2))])})
    parquet(tmp_path / "c.parquet", {"image": [picture(3)]})
    for kind, expected in [("images", ["a.png"]), ("webdataset", ["b.tar#x.png"]), ("parquet", ["c.parquet#1"])]:
        assert keys(tmp_path, kind=kind) == [f"{tmp_path}/{name}" for name in expected]


def test_a_table_is_listed_from_its_footer(tmp_path, monkeypatch):
    parquet(tmp_path / "x.parquet", {"image": [picture(1)]})
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    assert isinstance(next(list_sources([settings(tmp_path)])), SourceRef)
