"""Shards of both formats, here and in object stores: what is found and read, and what is named when it cannot be."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from shard_tools import BOX, json_of, picture, record, records, rewrite, settings, with_references, write

from ugaf.base.errors import ConfigError
from ugaf.export.rows import Blob
from ugaf.imaging import images
from ugaf.trainer.data.draws import keys_of
from ugaf.trainer.data.index import Index, open_index
from ugaf.trainer.data.plan import Plan
from ugaf.trainer.data.records import CorruptSampleError, Draw, Example, Record, example, read_chunk
from ugaf.trainer.data.settings import DataSettings
from ugaf.trainer.data.shards import find_shards

KINDS = ("parquet", "webdataset")


def found(index: Index, wanted: DataSettings) -> list[Record | str]:
    """Every sample's record, in the order of the index, or why there is none."""
    out: list[Record | str] = []
    for number, chunk in enumerate(index.chunks):
        stored = read_chunk(index, chunk, wanted)
        first = int(index.chunk_firsts[number])
        for row in range(first, first + int(index.chunk_rows[number])):
            try:
                out.append(stored.record(int(index.local[row]), index.where(row)))
            except CorruptSampleError as error:
                out.append(str(error))
    return out


def shown(index: Index, wanted: DataSettings, epoch: int = 0) -> list[Example | str]:
    """Every sample in its bucket, or why it cannot be shown."""
    plan = Plan(index, wanted, 0)
    rows = np.arange(len(index))
    codes, bits = plan.codes(rows, epoch), plan.kept_references(rows, epoch)
    out: list[Example | str] = []
    for row, one in enumerate(found(index, wanted)):
        draw = Draw(int(index.keys[row]), 0, epoch, int(bits[row]))
        try:
            out.append(one if isinstance(one, str) else example(one, plan.buckets[codes[row]], draw, wanted))
        except CorruptSampleError as error:
            out.append(str(error))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_of_an_export_is_read_as_it_was_written(tmp_path: Path, kind: str) -> None:
    written = records(23)
    wanted = settings(write(tmp_path, written, kind))
    index = open_index(wanted)
    assert len(index.shards) >= 3
    assert index.keys.tolist() == keys_of(one.id for one in written).tolist()
    for row, (one, stored) in enumerate(zip(written, found(index, wanted), strict=True)):
        assert isinstance(stored, Record)
        assert (stored.id, stored.source, stored.edited) == (one.id, one.source.data, one.edited.data)
        assert (stored.width, stored.height) == (index.widths[row], index.heights[row])
        assert stored.texts == {name: json_of(one)[name] for name in ("instruction", "instruction_cn")}
        assert stored.boxes == (BOX,)
        assert stored.register == "concise"


def test_both_formats_of_a_run_give_the_same_plan_key_by_key(tmp_path: Path) -> None:
    for kind in KINDS:
        write(tmp_path / kind, records(12), kind)
    one, other = (open_index(settings(tmp_path / kind)) for kind in KINDS)
    for name in ("keys", "widths", "heights", "references"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty folder in an object store."""
    return (
        f"memory://{tmp_path.name}" if request.param == "memory" else request.getfixturevalue("s3_url") % tmp_path.name
    )


@pytest.mark.parametrize("kind", KINDS)
def test_object_stores_give_what_a_disk_gives(store: str, kind: str, tmp_path: Path) -> None:
    here, there = write(tmp_path, records(7), kind), write(store, records(7), kind)
    assert found(open_index(settings(there)), settings(there)) == found(open_index(settings(here)), settings(here))
    assert open_index(settings(there)).fingerprint == open_index(settings(here)).fingerprint


def test_places_may_be_runs_folders_files_and_globs(tmp_path: Path) -> None:
    for kind in KINDS:
        write(tmp_path / "run", records(8), kind)
    files = sorted((tmp_path / "run/shards/parquet").glob("*"))
    tars = sorted((tmp_path / "run/shards/webdataset").glob("*"))
    # A run has its samples in both formats: one of them counts.
    assert [shard.path for shard in find_shards([str(tmp_path / "run")])] == list(map(str, files))
    for place in (tmp_path / "run/shards", tmp_path / "run/shards/parquet", tmp_path / "run/shards/parquet/train-*"):
        assert [shard.path for shard in find_shards([str(place)])] == list(map(str, files))
    assert [shard.path for shard in find_shards([str(tmp_path / "run/**.tar")])] == list(map(str, tars))
    assert [shard.path for shard in find_shards([str(files[1]), str(files[0]), str(files[1])])] == [
        str(files[1]),
        str(files[0]),
    ]
    with pytest.raises(ConfigError, match=r"no \*.parquet or \*.tar in .*nowhere"):
        find_shards([str(tmp_path / "nowhere")])


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_is_read_by_file_name_and_by_column(tmp_path: Path, kind: str) -> None:
    mixed = [record(n, split="validation" if n % 3 == 0 else "train") for n in range(12)]
    write(tmp_path, mixed, kind)
    for split, count in (("train", 8), ("validation", 4), (None, 12)):
        index = open_index(settings(tmp_path, split=split, lanes=1))
        assert len(index) == count
    wanted = {one.id for one in mixed if one.split == "validation"}
    index = open_index(settings(tmp_path, split="validation", lanes=1))
    assert set(index.keys.tolist()) == set(keys_of(wanted).tolist())
    # Where no file name says it, the column does.
    for path in sorted((tmp_path / "shards" / kind).iterdir()):
        path.rename(path.with_name(path.name.replace("train-", "a").replace("validation-", "b")))
    assert len(open_index(settings(tmp_path, split="validation", lanes=1))) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_choose_rows(tmp_path: Path, kind: str) -> None:
    write(
        tmp_path,
        [record(n, task="remove" if n < 5 else "add", width=64 if n % 2 else 63) for n in range(10)],
        kind,
        1e9,
    )
    index = open_index(settings(tmp_path, where={"task": {"one_of": ["remove"]}, "width": {"min": 64}}))
    assert (len(index), index.rows) == (2, 10)
    assert index.local.tolist() == [1, 3]
    with pytest.raises(ConfigError, match=r"data.where.tusk: .*; did you mean 'task'"):
        open_index(settings(tmp_path, where={"tusk": {"min": 1}}))
    with pytest.raises(ConfigError, match=r"data.where.width.mim: unknown bound; did you mean 'min'"):
        open_index(settings(tmp_path, where={"width": {"mim": 1}}))
    with pytest.raises(ConfigError, match=r"data.where.task.min: the column is string"):
        open_index(settings(tmp_path, where={"task": {"min": 1}}))
    with pytest.raises(ConfigError, match="no sample of 10 is left"):
        open_index(settings(tmp_path, where={"task": {"one_of": ["zoom"]}}))


@pytest.mark.parametrize("kind", KINDS)
def test_shards_that_were_cut_short_are_all_named(tmp_path: Path, kind: str) -> None:
    write(tmp_path, records(20), kind)
    files = sorted((tmp_path / "shards" / kind).iterdir())
    for path in files[1:3]:
        path.write_bytes(path.read_bytes()[:-4000] if kind == "parquet" else path.read_bytes()[:15_000])
    with pytest.raises(ConfigError) as error:
        open_index(settings(tmp_path))
    assert f"2 of {len(files)} shards cannot be read" in str(error.value)
    assert all((path.name in str(error.value)) == (path in files[1:3]) for path in files)
    assert open_index(settings(*(path for path in files if path not in files[1:3]))).rows < 20


def broken_records() -> list[Any]:
    """Good and bad samples in turn."""
    half = record(1).source.data
    truncated = images.encode(picture(3, (64, 64)), "jpeg")[:-200]
    return [
        record(0),
        record(1, source=Blob(half[: len(half) // 2], "png")),
        record(2),
        record(3, edited=Blob(truncated, "jpg"), size=(64, 64)),
        record(4, instruction=None, instruction_cn=None),
        record(5, edited=record(6, size=(20, 20)).edited),
        record(7, boxes=[[10, 10, 500, 20]]),
        record(8, boxes=[[10, 10, 10, 20]]),
        record(9, boxes=[[1, 2, 3]]),
        record(10),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_with_a_sample_is_said_and_costs_no_other(tmp_path: Path, kind: str) -> None:
    wanted = settings(write(tmp_path, broken_records(), kind, limit=1e9))
    index = open_index(wanted)
    out = shown(index, wanted)
    assert [isinstance(one, Example) for one in out] == [n in (0, 2, 9) for n in range(10)]
    for place, words in {
        1: "source: cannot decode PNG",
        3: "edited: cannot decode JPEG",
        4: "no instruction",
        5: "edited is an image of 20 x 20 pixels, where 48 x 64 is due",
        6: "box [10, 10, 500, 20] is empty or outside its image",
        7: "is empty or outside its image",
        8: "its values cannot be read",
    }.items():
        assert words in str(out[place])
    assert index.where(3).endswith(f"{'row group' if kind == 'parquet' else 'run'} 0, sample 3")


def test_a_missing_tar_member_and_json_are_named(tmp_path: Path) -> None:
    write(tmp_path, records(4), "webdataset", limit=1e9)
    path = next((tmp_path / "shards/webdataset").iterdir())
    ids = [one.id for one in records(4)]
    drop = {f"{ids[1]}.edited.png", f"{ids[2]}.json"}
    kept = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=kept, mode="w") as new:
        for member in old:
            if member.name not in drop:
                new.addfile(member, old.extractfile(member))
    path.write_bytes(kept.getvalue())
    index = open_index(settings(tmp_path))
    # Without its json a sample has no size, and so no place in the plan.
    assert index.left_out.count == 1
    assert index.left_out.named == [
        (f"{path.name}, run 0, sample 2", f"id {ids[2]}, size None x None: an index needs both")
    ]
    out = shown(index, settings(tmp_path))
    assert [isinstance(one, Example) for one in out] == [True, False, True]
    assert out[1] == "edited is missing"


def test_a_chunk_that_goes_bad_after_indexing_fails_only_its_samples(tmp_path: Path) -> None:
    write(tmp_path, records(12))
    index = open_index(settings(tmp_path))
    second = int(index.chunk_firsts[1])
    Path(index.shards[1].path).write_bytes(b"PAR1 gone")
    out = found(index, settings(tmp_path))
    bad = range(second, second + int(index.chunk_rows[1]))
    assert [isinstance(one, str) for one in out] == [row in bad for row in range(12)]
    assert "its chunk cannot be read" in str(out[second])


def test_missing_columns_are_named(tmp_path: Path) -> None:
    write(tmp_path, records(4), limit=1e9)
    path = next((tmp_path / "shards/parquet").iterdir())
    rewrite(path, lambda table: table.drop_columns(["width"]))
    with pytest.raises(ConfigError, match=r"no column width; it has id, source, edited"):
        open_index(settings(tmp_path))


@pytest.mark.parametrize("drop", [[], ["boxes"], ["boxes", "bbox"]])
def test_boxes_come_from_the_column_that_there_is(tmp_path: Path, drop: list[str]) -> None:
    write(tmp_path, records(4), limit=1e9)
    path = next((tmp_path / "shards/parquet").iterdir())
    rewrite(path, lambda table: table.drop_columns(drop))
    out = found(open_index(settings(tmp_path)), settings(tmp_path))
    assert all(isinstance(one, Record) and one.boxes == (() if len(drop) == 2 else (BOX,)) for one in out)


def test_plain_columns_of_bytes_are_images_too(tmp_path: Path) -> None:
    write(tmp_path, records(4), limit=1e9)
    path = next((tmp_path / "shards/parquet").iterdir())

    def plain(table: pa.Table) -> pa.Table:
        for name in ("source", "edited"):
            data = [image["bytes"] for image in table.column(name).to_pylist()]
            table = table.set_column(table.column_names.index(name), name, pa.array(data, pa.large_binary()))
        return table.replace_schema_metadata(None)

    before = found(open_index(settings(tmp_path)), settings(tmp_path))
    rewrite(path, plain)
    assert found(open_index(settings(tmp_path)), settings(tmp_path)) == before


def test_references_are_counted_shown_in_their_order_and_renumbered(tmp_path: Path) -> None:
    write(tmp_path, records(24), limit=1e9)
    path = next((tmp_path / "shards/parquet").iterdir())
    counts = [n % 4 for n in range(24)]
    with_references(path, counts)
    wanted = settings(
        tmp_path, references="references", alignment={"shuffle": True}, instructions={"languages": {"en": 1}}
    )
    index = open_index(wanted)
    assert index.references.tolist() == counts
    orders = set()
    for count, one in zip(counts, shown(index, wanted), strict=True):
        assert isinstance(one, Example)
        assert len(one.references) == count
        # The text says "Picture 2" of the reference of grey 40, "Picture 3" of that of 80, wherever they are now.
        named = [
            int(word) - 2
            for word in one.instruction.replace("Picture 1", "").split("Picture ")[1:]
            for word in [word.split()[0]]
        ]
        assert [int(one.references[place, 5, 5, 0]) for place in named] == [40 * k + 40 for k in range(count)]
        orders.add(tuple(named))
    assert len(orders) > 6
    assert max(open_index(wanted.model_copy(update={"max_references": 2})).references) == 2


def test_references_of_a_tar_come_by_their_numbers(tmp_path: Path) -> None:
    one = record(0)
    members = {"source.png": one.source.data, "edited.png": one.edited.data, "json": one.json()}
    for number in (1, 0):
        members[f"reference{number}.png"] = images.encode(np.full((20, 30, 3), 100 + number, np.uint8))
    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        for suffix, data in members.items():
            info = tarfile.TarInfo(f"a/b.c/key.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    wanted = settings(tmp_path, references="reference", lanes=1)
    index = open_index(wanted)
    (only,) = shown(index, wanted)
    assert isinstance(only, Example)
    assert only.references[:, 0, 0, 0].tolist() == [100, 101]


@given(st.integers(1, 4))
def test_the_pair_and_its_box_stay_aligned(number: int) -> None:
    """Source and edited differ inside the fitted boxes only, and everywhere there."""
    one = record(number, size=(96, 64))
    stored = Record("x", "w", 96, 64, one.source.data, one.edited.data, (), (BOX,), {"instruction": "a"}, None)
    wanted = DataSettings(shards=["x"], area=48 * 32, multiple=16, token_side=16)
    from ugaf.trainer.data.geometry import Bucket

    fitted = example(stored, Bucket(48, 32), Draw(1, 0, 0), wanted)
    changed = (fitted.source != fitted.edited).any(axis=2)
    (x1, y1, x2, y2) = fitted.boxes[0]
    assert (x1, y1, x2, y2) == tuple(edge // 2 for edge in BOX)
    assert changed[y1:y2, x1:x2].mean() > 0.95
    changed[y1:y2, x1:x2] = False
    assert not changed.any()


def test_the_fingerprint_changes_with_what_the_plan_depends_on(tmp_path: Path) -> None:
    write(tmp_path / "a", records(8))
    write(tmp_path / "b", records(8))
    write(tmp_path / "c", records(7))
    prints = [open_index(settings(tmp_path / name)).fingerprint for name in "abc"]
    assert prints[0] == prints[1] != prints[2]
    assert open_index(settings(tmp_path / "a", area=64 * 64)).fingerprint != prints[0]


def test_many_samples_are_indexed_without_their_images(tmp_path: Path) -> None:
    """Image columns could not be read: their pages are overwritten."""
    write(tmp_path, records(10), limit=1e9)
    path = next((tmp_path / "shards/parquet").iterdir())
    data = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(0)
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema in ("source.bytes", "edited.bytes"):
            start = column.data_page_offset
            data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    index = open_index(settings(tmp_path))
    assert len(index) == 10
    assert all("its chunk cannot be read" in str(one) for one in found(index, settings(tmp_path)))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"multiple": 40}, "no multiple of token_side"),
        ({"area": 300, "multiple": 32}, "less than one square"),
        ({"ratios": (2, 4)}, "narrowest ratio"),
        ({"cache": "c", "alignment": {"shuffle": True}}, "cannot be used with a cache"),
        ({"lane": 3}, "Extra inputs"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DataSettings.model_validate({"shards": ["x"], **wrong})


def test_settings_survive_a_round_trip_as_json() -> None:
    one = settings("x", references="r", where={"quality": {"min": 7}})
    assert DataSettings.model_validate(json.loads(one.model_dump_json())) == one
