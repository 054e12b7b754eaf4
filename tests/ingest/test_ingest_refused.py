"""Inputs that are refused as a whole: before any work, and in words that say what is wrong with them."""

from __future__ import annotations

import gzip
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ingest_helpers import failures, good, ingest, keys, picture, settings, write

from ugaf.base.errors import ConfigError
from ugaf.ingest import hold_pairs, list_sources
from ugaf.pipeline.config import parse

ONE = picture(1)
PAIRS = ["refinement.change_mask"]
PHOTOS = ["curation.resolution"]


def refused(path, stages, **options):
    """What a pipeline with this input says before it does anything."""
    pipeline = {"name": "x", "inputs": [{"path": str(path), **options}], "output": "/nowhere", "stages": stages}
    try:
        hold_pairs(parse(pipeline).settings.inputs)
        keys(path, **options)
    except ConfigError as error:
        return str(error)
    return "nothing"


@given(
    st.sampled_from(["no/*.jpg", "no/**", "no/such/train-*.parquet", "no/*/*.tar", "no/x-[0-9].jsonl"]),
    st.sampled_from([PAIRS, PHOTOS]),
)
@hypothesis_settings(deadline=None)
def test_a_pattern_in_a_folder_that_is_not_there_is_refused_before_any_work(tmp_path_factory, pattern, stages):
    said = refused(tmp_path_factory.getbasetemp() / pattern, stages)
    assert "no file matches it" in said
    assert "no such folder" in said
    assert "photographs" not in said


@pytest.mark.parametrize("stages", [PAIRS, PHOTOS])
def test_a_pattern_that_matches_nothing_says_so_and_not_what_it_holds(tmp_path, stages):
    write(tmp_path, {"a.jpg": ONE})
    said = refused(tmp_path / "train-*.parquet", stages)
    assert "match" in said
    assert "a.jpg" in said or "found: no files" in said
    assert "holds photographs" not in said
    assert "is no folder" in refused(tmp_path / "a.jpg" / "*.jpg", stages)


ROWS = "image,caption\na.png,x\nb.png,y\n"
WRONG = {
    "semi.csv": (ROWS.replace(",", ";").encode(), "separated by semicolons (';')"),
    "tabs.csv": (ROWS.replace(",", "\t").encode(), "separated by tabs"),
    "bars.csv": (ROWS.replace(",", "|").encode(), "separated by bars ('|')"),
    "commas.tsv": (ROWS.encode(), "separated by commas (',')"),
    "wide.csv": (ROWS.encode("utf-16"), "UTF-16"),
    "wider.csv": (ROWS.encode("utf-16-be"), "UTF-16"),
    "header.csv": (b"\xef\xbb\xbfimage,caption\n", "a header (image, caption) and no rows"),
    "header2.csv": (b"image,caption", "a header (image, caption) and no rows"),
    "empty.csv": (b"", "the file is empty"),
    "blank.jsonl": (b"\n \r\n", "the file is empty"),
    "empty.json": (b"[]\n", "the list is empty"),
    "cut.csv.gz": (gzip.compress(ROWS.encode())[:-12], "cannot be read as gzip"),
    "no.csv.gz": (ROWS.encode(), "cannot be read as gzip"),
    "crc.jsonl.gz": (gzip.compress(b'{"image": "a.png"}\n')[:-8] + bytes(8), "cannot be read as gzip"),
    "other.csv": (b"name,size\na,1\n", "found: name, size"),
}


@pytest.mark.parametrize("stages", [PAIRS, PHOTOS])
@pytest.mark.parametrize("name", WRONG)
def test_a_list_that_is_none_says_what_is_wrong_with_it(tmp_path, name, stages):
    data, words = WRONG[name]
    write(tmp_path, {name: data})
    said = refused(tmp_path / name, stages)
    assert words in said
    assert str(tmp_path / name) in said
    assert "holds edit pairs" not in said


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("part", [0.7, 0.95])
def test_a_long_list_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path, part, form):
    rng = random.Random(part)
    captions = [rng.randbytes(24).hex() for _ in range(60_000)]
    lines = [f"a.png,{c}" if form == "csv" else f'{{"image": "a.png", "caption": "{c}"}}' for c in captions]
    text = ("image,caption\n" if form == "csv" else "") + "\n".join(lines)
    data = gzip.compress(text.encode(), 1)
    path = tmp_path / f"x.{form}.gz"
    path.write_bytes(data[: int(len(data) * part)])
    *read, last = list_sources(settings(path))
    assert 1000 < len(read) < len(lines)
    assert last.member == str(len(read) + (2 if form == "csv" else 1))
    assert "cut off" in last.where()["error"]["message"]


def test_a_damaged_list_in_a_folder_of_lists_is_one_failed_row(tmp_path):
    write(tmp_path, {"p/a.png": ONE, "x.jsonl": b'{"image": "p/a.png"}\n', "y.csv.gz": b"image\np/a.png\n"})
    rows = ingest(tmp_path, kind="list")
    assert len(good(rows)) == 1
    assert failures(rows).keys() == {f"{tmp_path}/y.csv.gz"}


NAMES = st.sampled_from(["image", "caption", "id", "a", "b"])


@given(st.lists(NAMES, min_size=1, max_size=5), st.sampled_from(["csv", "parquet"]), st.booleans())
@hypothesis_settings(max_examples=60, deadline=None)
def test_columns_of_one_name_are_refused_where_they_are_read(tmp_path_factory, names, form, binary):
    folder = write(tmp_path_factory.mktemp("x"), {"a.png": ONE})
    names = ["image", *names]
    path = folder / f"x.{form}"
    values = ["a.png" if name == "image" else "text" for name in names]
    if form == "csv":
        path.write_text(",".join(names) + "\n" + ",".join(values) + "\n")
    else:
        arrays = [pa.array([ONE if value == "a.png" and binary else value]) for value in values]
        pq.write_table(pa.Table.from_arrays(arrays, names=names), path)
    twice = [name for name in ("image", "caption", "id") if names.count(name) > 1]
    if twice:
        with pytest.raises(ConfigError, match=rf"{path}.*columns are called '({'|'.join(twice)})'"):
            keys(path)
    else:
        (row,) = good(ingest(path))
        assert row["image"] == ONE
        assert row["caption"] == ("text" if "caption" in names else None)


def test_columns_of_one_name_of_pairs_are_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("source,edited,edited,instruction\na,b,c,d\n")
    with pytest.raises(ConfigError, match="2 columns are called 'edited', and which is the edited"):
        list(hold_pairs([settings(path, kind="pairs")]) and keys(path, kind="pairs"))
