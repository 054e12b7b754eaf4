"""Texts that no table can hold, no parser ends, or no one closed: each costs its own row, and says why."""

from __future__ import annotations

import base64
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ingest_helpers import failures, good, ingest, picture, write

from ugaf.ingest import IMAGE_SCHEMA, PAIR_SCHEMA, json_text

SMALL = [picture(seed) for seed in range(12)]
LARGE = picture(20, size=(240, 240))
"""As base64 it is longer than the csv module's own limit."""
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("\ud800\udc00\ud83d")), min_size=1, max_size=8)


def as_tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def as_file(form, rows):
    """Records of text, each with its picture, as a list or a tar of photographs."""
    if form == "tar":
        members = {f"{n}.png": SMALL[n] for n in range(len(rows))}
        return as_tar(members | {f"{n}.json": json.dumps(row).encode() for n, row in enumerate(rows)})
    named = [{**row, "image": f"{n}.png"} for n, row in enumerate(rows)]
    return (json.dumps(named) if form == "json" else "\n".join(map(json.dumps, named))).encode()


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.sampled_from(["jsonl", "json", "tar"]))
@hypothesis_settings(max_examples=60, deadline=None)
def test_whatever_a_text_holds_it_can_be_stored(tmp_path_factory, texts, form):
    folder = write(tmp_path_factory.mktemp("x"), {f"{n}.png": SMALL[n] for n in range(len(texts))})
    path = folder / f"x.{form}"
    path.write_bytes(as_file(form, [{"caption": caption, "id": name} for caption, name in texts]))
    rows = ingest(path)
    stored = pa.Table.from_pylist(good(rows), schema=IMAGE_SCHEMA)
    assert stored.num_rows == len(texts)
    pa.array([source for row in rows for source in row.sources]).validate(full=True)
    captions = sorted(text.encode("utf-8", "replace").decode().strip() or None for text, _ in texts)
    assert sorted(stored["caption"].to_pylist()) == captions if None not in captions else True


@pytest.mark.parametrize("form", ["jsonl", "json", "tar"])
def test_the_texts_of_a_pair_can_be_stored(tmp_path, form):
    write(tmp_path, {"a.png": SMALL[0], "b.png": SMALL[1]})
    names = ("instruction", "id", "image_id", "split", "task", "engine")
    fields = dict.fromkeys(names, "cut \ud83d")
    if form == "tar":
        data = as_tar({"k.source.png": SMALL[0], "k.edited.png": SMALL[1], "k.json": json.dumps(fields).encode()})
    else:
        row = json.dumps({**fields, "source": "a.png", "edited": "b.png"})
        data = (f"[{row}]" if form == "json" else row).encode()
    (tmp_path / f"x.{form}").write_bytes(data)
    rows = good(ingest(tmp_path / f"x.{form}", kind="pairs"))
    (stored,) = pa.Table.from_pylist(rows, schema=PAIR_SCHEMA).to_pylist()
    assert {stored[name] for name in ("instruction", "image_id", "split", "given_task", "engine")} == {"cut ?"}


@given(st.integers(60_000, 400_000), st.booleans())
@hypothesis_settings(max_examples=8, deadline=None)
def test_a_field_of_a_csv_file_is_as_long_as_its_line_may_be(tmp_path_factory, length, is_picture):
    folder = write(tmp_path_factory.mktemp("x"), {"a.png": SMALL[0], "b.png": SMALL[1]})
    image = base64.b64encode(LARGE).decode() if is_picture else "a.png"
    (folder / "x.csv").write_text(f"image,caption\n{image},{'x' * length}\nb.png,ok\n")
    rows = good(ingest(folder / "x.csv"))
    assert {len(row["caption"]) for row in rows} == {length, 2}
    assert {row["image"] for row in rows} == {LARGE if is_picture else SMALL[0], SMALL[1]}


def test_a_field_over_the_limit_of_its_line_costs_its_row(tmp_path):
    write(tmp_path, {f"{n}.png": SMALL[n] for n in range(3)})
    long = "line\n" * (1 << 18)
    (tmp_path / "x.csv").write_text(f'image,caption\n0.png,ok\n1.png,"{long}"\n2.png,ok\n')
    rows = ingest(tmp_path / "x.csv", limits={"line_mb": 1})
    assert SMALL[0] in {row["image"] for row in good(rows)}
    assert any("limits.line_mb" in failure.message for failure in failures(rows).values())


DEEP = st.tuples(st.sampled_from("[{"), st.integers(json_text.DEPTH + 1, 60_000)).map(
    lambda kind: "[" * kind[1] + "]" * kind[1] if kind[0] == "[" else '{"a":' * kind[1] + "1" + "}" * kind[1]
)
LONG = st.integers(json_text.DIGITS + 1, 9000).map(lambda digits: "7" * digits)


@given(st.one_of(DEEP, LONG), st.sampled_from(["jsonl", "json", "tar", "boxes", "field"]), st.integers(0, 2))
@hypothesis_settings(max_examples=60, deadline=None)
def test_json_without_end_fails_alone(tmp_path_factory, endless, where, place):
    folder = write(tmp_path_factory.mktemp("x"), {f"{n}.png": SMALL[n] for n in range(6)})
    texts = [f'"image": "{n}.png", "caption": "a, ]}}[{{ \\\\" ' for n in range(3)]
    kind = "images"
    if where in ("jsonl", "json"):
        texts[place] += f', "x": {endless}'
        records, kind = ["{" + text + "}" for text in texts], "list"
        data = ("[" + ",\n".join(records) + "]" if where == "json" else "\n".join(records)).encode()
    elif where == "tar":
        texts[place] += f', "x": {endless}'
        pairs = {f"{n}.source.png": SMALL[n] for n in range(3)} | {f"{n}.edited.png": SMALL[n + 3] for n in range(3)}
        data = as_tar(pairs | {f"{n}.json": ("{" + text + "}").encode() for n, text in enumerate(texts)})
        kind = "pairs"
    else:
        pairs = [{"source": f"{n}.png", "edited": f"{n + 3}.png", "instruction": str(n)} for n in range(3)]
        pairs[place]["boxes"] = [1, 1, 5, 5]
        pairs[place]["boxes" if where == "boxes" else "bbox_reference_dimensions"] = endless
        data, kind, where = "\n".join(map(json.dumps, pairs)).encode(), "pairs", "jsonl"
    path = folder / f"x.{where}"
    path.write_bytes(data)
    rows = ingest(path, kind=kind)
    assert len(good(rows)) == 2
    ((_, failure),) = failures(rows).items()
    assert failure.type == "RecordError"
    assert "set_int_max" not in failure.message
    assert "recursion" not in failure.message


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
@hypothesis_settings(deadline=None)
def test_a_list_with_one_endless_item_has_the_others_as_they_are(value):
    items = [value, json.loads("[" * 50 + "]" * 50), value]
    text = json.dumps(items, ensure_ascii=False)
    assert json_text.parse_list(text.encode("utf-8", "surrogatepass")) == items
    endless = "[" * 5000 + "]" * 5000
    found = json_text.parse_list(f"\n{text[:-1]}, {endless}]\n".encode("utf-8", "surrogatepass"))
    assert found[:-1] == items
    assert isinstance(found[-1], ValueError)
    with pytest.raises(ValueError, match="whole list"):
        json_text.parse_list(f"{text[:-1]}, {endless}] x".encode("utf-8", "surrogatepass"))


@given(st.lists(st.booleans(), min_size=2, max_size=11), st.sampled_from(["caption", "id", "list"]), st.integers(1, 12))
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_text_of_a_table_that_is_not_utf8_fails_alone(tmp_path_factory, bad, column, group):
    path = tmp_path_factory.mktemp("x") / "x.parquet"
    texts = [b"\xff\xfe" if is_bad else str(n).encode() for n, is_bad in enumerate(bad)]
    array = pa.Array.from_buffers(pa.string(), len(bad), pa.array(texts, pa.binary()).buffers())
    if column == "list":
        array = pa.ListArray.from_arrays(list(range(len(bad) + 1)), array)
    table = pa.table({"image": SMALL[: len(bad)], "caption" if column == "list" else column: array})
    pq.write_table(table, path, row_group_size=group)
    rows = ingest(path)
    assert failures(rows).keys() == {f"{path}#{n}" for n, is_bad in enumerate(bad, 1) if is_bad}
    assert all("is not UTF-8 (byte 0xff at 0)" in failure.message for failure in failures(rows).values())
    assert len(good(rows)) == bad.count(False)


@given(st.lists(st.sampled_from(["plain", '"quoted"', '"of two\nlines"', '"say ""a"""']), max_size=8), st.data())
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_quote_that_is_never_closed_is_a_failed_row_at_its_line(tmp_path_factory, captions, data):
    place = data.draw(st.integers(0, len(captions)))
    tail = data.draw(st.lists(st.sampled_from(["plain", "x y", "1"]), max_size=4))
    end = data.draw(st.sampled_from(["", "\n", "\r\n"]))
    folder = write(tmp_path_factory.mktemp("x"), {f"{n}.png": SMALL[n % 12] for n in range(16)})
    before = "".join(f"{n}.png,{caption}\n" for n, caption in enumerate(captions[:place]))
    rest = [f'{place}.png,"never', *(f"{place + 1 + n}.png,{caption}" for n, caption in enumerate(tail))]
    (folder / "x.csv").write_text("image,caption\n" + before + "\n".join(rest) + end, newline="")
    rows = ingest(folder / "x.csv")
    opened = 2 + before.count("\n")
    ((source, failure),) = failures(rows).items()
    assert source == f"{folder}/x.csv#{opened}"
    assert f"line {opened} is never closed" in failure.message
    assert f"to line {opened + len(tail)}," in failure.message
    assert len({row["image"] for row in good(rows)}) == place
