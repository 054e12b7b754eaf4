"""Lists of photographs and of pairs: CSV, TSV, JSON Lines and JSON, with paths, base64 and data URIs in their cells."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ingest_helpers import failures, good, ingest, keys, picture, settings, write

from ugaf.base.errors import ConfigError
from ugaf.ingest import list_sources, produce
from ugaf.ingest.detect import holds_pairs
from ugaf.ingest.inline import image as inline_image
from ugaf.ingest.limits import LimitSettings
from ugaf.ingest.sources import RecordError

SMALL = [picture(seed) for seed in range(6)]
LARGE = [picture(seed, size=(80, 80)) for seed in range(6)]
"""Their base64 is too long to be kept in a list of sources."""
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)


def as_base64(data):
    return base64.b64encode(data).decode()


def as_lines(data):
    text = base64.encodebytes(data).decode()
    return text.replace("\n", "\r\n")


def as_url_safe(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def as_uri(data):
    return f"data:image/png;base64,{as_base64(data)}"


CELLS = (as_base64, as_lines, as_url_safe, as_uri)


def text_of(rows, form):
    """Records as a file's text."""
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    if form == "json":
        return json.dumps(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter="\t" if form == "tsv" else ",", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from(CELLS), TEXTS), min_size=1, max_size=6),
    st.sampled_from(["csv", "tsv", "jsonl", "json", "csv.gz", "jsonl.gz"]),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_pictures_that_stand_in_a_list_are_read_from_it(tmp_path_factory, rows, form):
    folder = tmp_path_factory.mktemp("list")
    expected = [((LARGE if large else SMALL)[number], text) for number, large, _, text in rows]
    cells = [
        {"image": cell(data), "caption": text} for (data, text), (_, _, cell, _) in zip(expected, rows, strict=True)
    ]
    data = ("\ufeff" + text_of(cells, form.removesuffix(".gz"))).encode()
    if form == "json":
        data = data.removeprefix("\ufeff".encode())
    path = folder / f"x.{form}"
    path.write_bytes(gzip.compress(data) if form.endswith(".gz") else data)
    refs = list(list_sources([settings(path)]))
    assert all(len(ref.locator) < 20_000 for ref in refs)
    found = list(produce(refs))
    assert failures(found) == {}
    assert {row["image"] for row in good(found)} == {data for data, _ in expected}
    for row in good(found):
        texts = [text.strip() or None for data, text in expected if data == row["image"]]
        assert row["caption"] in texts


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json"])
@pytest.mark.parametrize("large", [False, True])
def test_pairs_whose_pictures_stand_in_the_list(tmp_path, form, large):
    pictures = LARGE if large else SMALL
    rows = [
        {"source": as_uri(pictures[n]), "edited": as_base64(pictures[n + 3]), "instruction": f"do, {n}"}
        for n in range(3)
    ]
    path = tmp_path / f"x.{form}"
    path.write_text(text_of(rows, form), newline="")
    assert holds_pairs(settings(path))
    assert {(row["image"], row["edited_image"], row["instruction"]) for row in good(ingest(path))} == {
        (pictures[n], pictures[n + 3], f"do, {n}") for n in range(3)
    }


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "json"])
def test_the_turns_of_one_record_whose_pictures_stand_in_the_list(tmp_path, form):
    def turn(before, after):
        return {"source": as_uri(LARGE[before]), "edited": as_uri(LARGE[after]), "instruction": f"{before} to {after}"}

    text = text_of([{"data": [turn(0, 1), turn(1, 2)]}, {"data": [turn(3, 4)]}], form.removesuffix(".gz")).encode()
    path = tmp_path / f"x.{form}"
    path.write_bytes(gzip.compress(text) if form.endswith(".gz") else text)
    found = ingest(path, kind="pairs")
    assert failures(found) == {}
    assert {(row["image"], row["edited_image"]) for row in good(found)} == {
        (LARGE[before], LARGE[after]) for before, after in ((0, 1), (1, 2), (3, 4))
    }


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json"])
def test_paths_of_photographs_start_at_the_list_or_at_root(tmp_path, form):
    write(tmp_path, {"lists/a.png": SMALL[0], "other/a.png": SMALL[1]})
    path = tmp_path / "lists" / f"x.{form}"
    path.write_text(text_of([{"file_name": "a.png", "text": "one"}], form), newline="")
    (row,) = good(ingest(path))
    assert (row["image"], row["caption"]) == (SMALL[0], "one")
    assert good(ingest(path, root=str(tmp_path / "other")))[0]["image"] == SMALL[1]
    renamed = tmp_path / "lists" / f"y.{form}"
    renamed.write_text(text_of([{"where": "a.png", "words": "two"}], form), newline="")
    with pytest.raises(ConfigError, match=r"none is an image.*\{image: NAME\}.*found: where, words"):
        keys(renamed, kind="list")
    (row,) = good(ingest(renamed, kind="list", columns={"image": "where", "caption": "words"}))
    assert row["caption"] == "two"


def test_a_list_that_changed_after_it_was_listed_fails_its_rows(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(text_of([{"image": as_base64(LARGE[0])}, {"image": as_base64(LARGE[1])}], "jsonl"))
    refs = list(list_sources([settings(path)]))
    path.write_text(text_of([{"image": as_base64(LARGE[2])}, {"image": as_base64(LARGE[1])}], "jsonl"))
    rows = list(produce(refs))
    assert LARGE[2] not in [row["image"] for row in good(rows)]
    assert all("has changed" in failure.message for failure in failures(rows).values())


def test_a_line_without_end_costs_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(LimitSettings, "line_bytes", 2000)
    write(tmp_path, {"a.png": SMALL[0], "b.png": SMALL[1]})
    lines = ['{"image": "a.png"}', '{"image": "' + "x" * 9000 + '"}', '{"image": "b.png"}']
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    (tmp_path / "x.csv").write_text("image,caption\na.png,\n" + "y" * 9000 + ",\nb.png,\n")
    (tmp_path / "x.json").write_text(f"[{','.join(lines)}]")
    for name, line in (("x.jsonl", 2), ("x.csv", 3), ("x.json", 2)):
        rows = ingest(tmp_path / name)
        assert {row["image"] for row in good(rows)} == {SMALL[0], SMALL[1]}
        ((source, failure),) = failures(rows).items()
        assert source.endswith(f"#{line}")
        assert "a line or record of more than 2000 bytes" in failure.message


LISTS = [
    pa.list_(pa.binary()),
    pa.large_list(pa.binary()),
    pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
]


@pytest.mark.parametrize("type", LISTS)
@pytest.mark.parametrize("feature", ["List", "Sequence", "LargeList", "old", None])
def test_lists_of_images_are_image_columns(tmp_path, type, feature):
    def cell(data):
        return {"bytes": data, "path": None} if pa.types.is_struct(type.value_type) else data

    image = {"_type": "Image"}
    mark = [image] if feature == "old" else {"_type": feature, "feature": image}
    features = {"info": {"features": {"pics": mark, "n": {"_type": "Value", "dtype": "int64"}}}}
    metadata = {"huggingface": json.dumps(features)} if feature else {}
    schema = pa.schema([("n", pa.int64()), ("pics", type)], metadata)
    rows = {"n": [1, 2, 3], "pics": [[cell(SMALL[0])], [cell(SMALL[1]), cell(SMALL[2])], []]}
    pq.write_table(pa.table(rows, schema=schema), tmp_path / "x.parquet")
    found = ingest(tmp_path / "x.parquet")
    assert [row["image"] for row in good(found)] == [SMALL[0]]
    reasons = sorted(failure.message for failure in failures(found).values())
    assert "2 images in one cell; a row is one photograph" in reasons[0]
    assert "the image: missing" in reasons[1]


@given(st.one_of(st.text(max_size=60), st.binary(max_size=40).map(as_base64)), st.integers(1, 9000))
@hypothesis_settings(max_examples=150, deadline=None)
def test_a_reason_never_holds_the_picture(text, times):
    for cell in (text * times, f"data:image/png;base64,{text * times}", f"data:{text * times}"):
        found, reason = inlined(cell)
        assert len(reason) < 200
        assert "\n" not in reason
        assert found is not None or reason or len(cell) <= 4096


def inlined(cell):
    """(the picture, "") or (None, the reason)."""
    try:
        return inline_image("the image", cell), ""
    except RecordError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        (r"im\a.png", "Windows"),
        ("a.png ", "blank"),
        ("a%20b.png", "percent-encoded"),
        ("a.png,b.png", "several names"),
        ("A" * 6000, "neither a path nor a picture in base64"),
        ("data:image/png;base64,%%%", "base64 is damaged"),
    ],
)
def test_a_reason_says_what_may_be_wrong_with_the_cell(tmp_path, cell, word):
    (tmp_path / "x.jsonl").write_text(json.dumps({"image": cell}))
    (failure,) = failures(ingest(tmp_path / "x.jsonl")).values()
    assert word in failure.message
    assert len(str(failure)) < 500


def test_an_instruction_that_is_no_text_is_named(tmp_path):
    write(tmp_path, {"a.png": SMALL[0], "b.png": SMALL[1]})
    rows = [{"source": "a.png", "edited": "b.png", "instruction": value} for value in (7, "", None, {"en": "x"})]
    (tmp_path / "x.jsonl").write_text(text_of(rows, "jsonl"))
    reasons = [failure.message for failure in failures(ingest(tmp_path / "x.jsonl", kind="pairs")).values()]
    assert sum("is no text but int: 7" in reason for reason in reasons) == 1
    assert sum("is no text but dict" in reason for reason in reasons) == 1
    assert sum(reason.endswith("no instruction") for reason in reasons) == 2
