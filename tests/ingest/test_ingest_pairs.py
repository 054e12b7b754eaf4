"""Edit pairs that somebody else made: every schema, box forms, broken records, ids."""

from __future__ import annotations

import csv
import gzip
import json
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
from ugaf.ingest import PAIR_SCHEMA, hold_pairs, image_id, list_sources, pair_id, produce
from ugaf.ingest.detect import holds_pairs
from ugaf.ingest.pair_cells import parse_boxes
from ugaf.ingest.schemas import PAIR_SCHEMAS
from ugaf.ingest.sources import RecordError

SOURCE, EDITED = picture(1, size=(40, 30)), picture(2, size=(40, 30))
S, E = "images/s.png", "images/e.png"
TEXT = "make it red"

RECORDS = {
    "ugaf": {"source": S, "edited": E, "instruction": TEXT, "task": "recolor", "boxes": [[1, 2, 11, 12]]},
    "ugaf columns": {"source_image": S, "edited_image": E, "instruction": TEXT, "engine": "templates"},
    "diffusers InstructPix2Pix": {"input_image": S, "edit_prompt": TEXT, "edited_image": E},
    "HQ-Edit": {"input_image": S, "edit": TEXT, "output_image": E, "inverse_edit": "x"},
    "InstructPix2Pix": {"original_image": S, "edit_prompt": TEXT, "edited_image": E},
    "DiffSynth-Studio": {"image": E, "prompt": TEXT, "edit_image": S},
    "DiffSynth-Studio, list": {"image": E, "prompt": TEXT, "edit_image": [S]},
    "FireRed": {
        "source_image": S,
        "target_image": E,
        "instruction": TEXT,
        "instruction_cn": "",
        "inverse_instruction": "",
    },
    "MagicBrush": {
        "img_id": "7",
        "turn_index": 1,
        "source_img": S,
        "mask_img": S,
        "instruction": TEXT,
        "target_img": E,
    },
    "OmniEdit": {
        "omni_edit_id": "task_1",
        "task": "swap",
        "src_img": S,
        "edited_img": E,
        "edited_prompt_list": [TEXT, "x"],
        "width": 40,
        "sc_score_1": 9,
    },
    "ImgEdit": {"input_images": [S], "output_images": [E], "prompt": TEXT},
    "Inter-Edit": {"original_image_path": S, "edited_image_path": E, "instruction": TEXT, "edit_type": "Add"},
    "Inter-Edit, as released": {"source_file": S, "target_file": E, "instruction": TEXT, "sample_id": 4},
    "AnyEdit": {"image_file": S, "edited_file": E, "edit_instruction": TEXT, "edit_type": "color"},
    "musubi-tuner": {"image_path": E, "control_path": S, "caption": TEXT},
    "diffusers Kontext": {"file_name": S, "output_image": E, "instruction": TEXT},
    "diffusers Kontext, image": {"cond_image": S, "image": E, "caption": TEXT},
    "source and target": {"source": S, "target": E, "prompt": TEXT},
}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, {S: SOURCE, E: EDITED})


def jsonl(folder, records, name="pairs.jsonl"):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def record(**changes):
    return {"source": S, "edited": E, "instruction": TEXT, **changes}


def boxes_of(folder, **changes):
    (row,) = ingest(jsonl(folder, [record(**changes)]))
    return row.values["boxes"] if isinstance(row.values, dict) else row.values.message


def test_every_schema_has_a_record_here():
    assert {name.partition(",")[0] for name in RECORDS} >= {schema.name.partition(",")[0] for schema in PAIR_SCHEMAS}


@pytest.mark.parametrize("name", RECORDS)
def test_schemas_as_json_lines(folder, name):
    path = jsonl(folder, [RECORDS[name]])
    assert holds_pairs(settings(path))
    (row,) = ingest(path)
    fields = RECORDS[name]
    given = fields.get("task", fields.get("edit_type"))
    assert row.values == {
        "image": SOURCE,
        "edited_image": EDITED,
        "instruction": TEXT,
        "task": {"swap": "replace", "Add": "add", "color": "recolor"}.get(given, given),
        "given_task": given,
        "image_id": None,
        "split": None,
        "boxes": fields.get("boxes", []),
        "engine": fields.get("engine", "external"),
        "source_id": image_id(SOURCE),
        "edited_id": image_id(EDITED),
        "sources": row.sources,
        "width": 40,
        "height": 30,
        "format": "PNG",
        "plain": True,
    }
    pa.table({column: [row.values[column]] for column in PAIR_SCHEMA.names}, schema=PAIR_SCHEMA)


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("cell", ["struct", "binary", "path"])
def test_schemas_as_parquet(folder, name, cell):
    images = {S: SOURCE, E: EDITED}

    def convert(value):
        if isinstance(value, list) and value and value[0] in (S, E):
            return [convert(value[0])]
        if not isinstance(value, str) or value not in images:
            return value
        return {"struct": {"bytes": images[value], "path": None}, "binary": images[value], "path": value}[cell]

    columns = {column: [convert(value)] for column, value in RECORDS[name].items()}
    pq.write_table(pa.table(columns), folder / "pairs.parquet")
    assert holds_pairs(settings(folder / "pairs.parquet"))
    (row,) = ingest(folder / "pairs.parquet")
    assert (row.values["image"], row.values["edited_image"], row.values["instruction"]) == (SOURCE, EDITED, TEXT)


def test_the_same_pair_has_the_same_id_in_any_form(folder):
    jsonl(folder, [record(boxes=[[1, 2, 11, 12]])])
    cells = {"bytes": SOURCE, "path": "x"}, {"bytes": EDITED, "path": "y"}
    table = {
        "input_image": [cells[0]],
        "edited_image": [cells[1]],
        "edit_prompt": [TEXT],
        "bbox": [[1.0, 2.0, 11.0, 12.0]],
    }
    pq.write_table(pa.table(table), folder / "pairs.parquet")
    expected = pair_id(SOURCE, EDITED, TEXT, [[1, 2, 11, 12]])
    assert [row.id for name in ("pairs.jsonl", "pairs.parquet") for row in ingest(folder / name)] == [expected] * 2
    assert pair_id(SOURCE, EDITED, TEXT, []) != expected != pair_id(SOURCE, EDITED, TEXT + ".", [[1, 2, 11, 12]])


def test_csv_tsv_json_and_compressed_lines(folder):
    rows = [["image", "edit_image", "prompt", "bbox"], [E, S, 'say "hi",\nplease', "[1, 2, 11, 12]"], [E, S, TEXT, ""]]
    for name, delimiter in (("m.csv", ","), ("m.tsv", "\t")):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
        found = good(ingest(folder / name))
        assert [row["instruction"] for row in found] == ['say "hi",\nplease', TEXT]
        assert [row["boxes"] for row in found] == [[[1, 2, 11, 12]], []]
    (folder / "m.json").write_text(json.dumps([record(), record(instruction="other")]))
    assert len(good(ingest(folder / "m.json"))) == 2
    (folder / "m.jsonl.gz").write_bytes(gzip.compress(json.dumps(record()).encode()))
    assert len(good(ingest(folder / "m.jsonl.gz"))) == 1


def test_turns_of_a_multi_turn_record_are_pairs_of_their_own(folder):
    turn = {"input_images": [S], "output_images": [E]}
    path = jsonl(folder, [{"data": [{**turn, "prompt": "one"}, {**turn, "prompt": "two"}]}])
    assert keys(path) == [f"{path}#1.1", f"{path}#1.2"]
    assert [row["instruction"] for row in good(ingest(path))] == ["one", "two"]


BROKEN = {
    2: ("{not json", "RecordError", "not JSON"),
    3: ("[1, 2]", "RecordError", "not a JSON object"),
    4: (record(source="images/gone.png"), "FileNotFoundError", "images/gone.png"),
    5: (record(edited=None), "RecordError", "edited image: missing"),
    6: (record(instruction="  "), "RecordError", "no instruction"),
    7: (record(source="images/text.png"), "ImageError", "source image: not an image"),
    8: (record(boxes=[[5, 5, 5, 9]]), "RecordError", "empty"),
    9: (record(boxes=[[0.1, 0.2, 0.5, 0.9]]), "RecordError", "fractions"),
    10: (record(boxes="left"), "RecordError", "boxes"),
    11: (record(boxes=[[300, 300, 400, 400]]), "RecordError", "outside"),
    12: (record(source=[S, S]), "RecordError", "2 images"),
    13: (record(edited="images/empty.png"), "ImageError", "edited image: empty"),
    14: (record(source=17), "RecordError", "int"),
    15: (record(source="nosuchscheme://x/y.png"), "", "nosuchscheme"),
    16: ('{"source": "x", "edited": "\\ud800", "instruction": "y"}', "", ""),
    17: ("[" * 100_000, "RecordError", "not JSON"),
    18: (record(source="images"), "", "images"),
    19: (record(source="a\0b.png"), "", ""),
}


def test_a_bad_line_costs_only_itself_and_is_named(folder):
    write(folder, {"images/text.png": b"text", "images/empty.png": b""})
    lines = [record(), *(line for line, _, _ in BROKEN.values()), record(instruction="last")]
    path = jsonl(folder, lines)
    rows = ingest(path)
    assert {row["instruction"] for row in good(rows)} == {TEXT, "last"}
    found = failures(rows)
    assert found.keys() == {f"{path}#{line}" for line in BROKEN}
    for line, (_, type, word) in BROKEN.items():
        failure = found[f"{path}#{line}"]
        assert failure.type == type or not type, failure
        assert word in failure.message
        assert failure.message.startswith(f"{path}#{line}: ")


def test_bytes_that_are_not_utf8_cost_one_line(folder):
    path = folder / "pairs.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(record()).encode() + b"\r\n{\xff\xfe}\n\n" + json.dumps(record()).encode()
    )
    rows = ingest(path)
    assert failures(rows).keys() == {f"{path}#2"}
    assert [row.sources for row in rows if len(row.sources) == 2] == [[f"{path}#1", f"{path}#4"]]


def test_csv_rows_of_the_wrong_length_fail_alone(folder):
    (folder / "m.csv").write_text(f"image,edit_image,prompt\n{E},{S}\n{E},{S},ok\n")
    rows = ingest(folder / "m.csv")
    assert "2 values for 3 columns" in failures(rows)[f"{folder}/m.csv#2"].message
    assert len(good(rows)) == 1


def test_optional_fields_may_first_appear_late(folder):
    path = jsonl(folder, [record(instruction=str(i)) for i in range(1200)] + [record(bbox=[1, 2, 3, 4])])
    refs = list(list_sources([settings(path)]))
    (row,) = produce(refs[-1:])
    assert row.values["boxes"] == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        (None, []),
        ([], []),
        ("", []),
        ([1, 2, 11, 12], [[1, 2, 11, 12]]),
        ([[1, 2, 11, 12], [0, 0, 40, 30]], [[1, 2, 11, 12], [0, 0, 40, 30]]),
        ([1.4, 2.6, 11.4, 11.6], [[1, 2, 12, 12]]),
        ("[[1, 2, 11, 12]]", [[1, 2, 11, 12]]),
        ("1,2,11,12", [[1, 2, 11, 12]]),
        ({"x1": 1, "y1": 2, "x2": 11, "y2": 12}, [[1, 2, 11, 12]]),
        ([{"x1": 1, "y1": 2, "x2": 11, "y2": 12}], [[1, 2, 11, 12]]),
        ([-2, -2, 42, 31], [[0, 0, 40, 30]]),
    ],
)
def test_box_forms(folder, boxes, expected):
    assert boxes_of(folder, boxes=boxes) == expected


@pytest.mark.parametrize("reference", [{"width": 80, "height": 90}, [80, 90], '{"width": 80, "height": 90}'])
def test_inter_edit_boxes_are_scaled_from_their_reference_frame(folder, reference):
    found = boxes_of(folder, bounding_box=[20, 30, 60, 90], bbox_reference_dimensions=reference)
    assert found == [[10, 10, 30, 30]]


@given(st.data())
@hypothesis_settings(max_examples=200, deadline=None)
def test_whole_pixel_boxes_come_back_as_they_are(data):
    """Property: also through another frame and back, for any sizes."""
    width, height = data.draw(st.integers(2, 4000)), data.draw(st.integers(2, 4000))
    x1, y1 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    box = [x1, y1, data.draw(st.integers(x1 + 2, width)), data.draw(st.integers(y1 + 2, height))]
    assert parse_boxes(box, width, height) == [tuple(box)]
    frame = [data.draw(st.integers(100, 2000)), data.draw(st.integers(100, 2000))]
    scaled = [value * frame[i % 2] / (width, height)[i % 2] for i, value in enumerate(box)]
    if max(scaled) > 1:
        assert parse_boxes(scaled, width, height, frame) == [tuple(box)]


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5), st.lists, max_leaves=6)
)
@hypothesis_settings(max_examples=200, deadline=None)
def test_any_boxes_cell_gives_boxes_inside_or_a_record_error(cell):
    try:
        found = parse_boxes(cell, 40, 30)
    except RecordError:
        return
    assert all(0 <= x1 < x2 <= 40 and 0 <= y1 < y2 <= 30 for x1, y1, x2, y2 in found)


def test_columns_setting_overrides_and_unknown_schemas_are_explained(folder):
    path = jsonl(folder, [{"before": S, "after": E, "say": TEXT, "where": [1, 2, 11, 12], "name": "n1"}])
    with pytest.raises(ConfigError, match=r"columns: \{source: NAME.*found: before, after, say, where, name"):
        keys(path)
    columns = {"source": "before", "edited": "after", "instruction": "say", "boxes": "where", "id": "name"}
    (row,) = ingest(path, columns=columns)
    assert row.values["boxes"] == [[1, 2, 11, 12]]
    assert row.sources == [f"{path}#1 (n1)"]
    with pytest.raises(ConfigError, match="no column 'befor'; did you mean 'before'"):
        keys(path, columns={**columns, "source": "befor"})


def test_a_pair_set_without_instructions_is_a_config_error(folder):
    with pytest.raises(ConfigError, match=r"no column for the instruction.*found: source, edited"):
        keys(jsonl(folder, [{"source": S, "edited": E}]))


def test_a_folder_with_a_pair_list_is_a_pair_set_and_its_images_are_not_photographs(folder):
    path = jsonl(folder, [record()], "metadata.jsonl")
    assert holds_pairs(settings(folder))
    assert keys(folder) == [f"{path}#1"]
    assert not holds_pairs(settings(folder, kind="images"))
    assert len(keys(folder, kind="images")) == 2


def test_pairs_and_photographs_do_not_mix(folder, tmp_path_factory):
    path = jsonl(folder, [record()])
    photos = write(tmp_path_factory.mktemp("photos"), {"a.png": picture(1)})
    with pytest.raises(ConfigError, match="cannot be mixed"):
        list(list_sources([settings(path), settings(photos)]))
    assert hold_pairs([settings(path)])
    assert not hold_pairs([settings(photos), settings("sample://coffee")])
    pair_table = {"source": [SOURCE], "edited": [EDITED], "instruction": [TEXT]}
    (photos / "deep").mkdir()
    pq.write_table(pa.table(pair_table), photos / "deep" / "p.parquet")
    with pytest.raises(ConfigError, match=r"deep/p\.parquet holds edit pairs"):
        keys(photos)


def test_what_is_gone_keeps_the_kind_that_its_name_tells(tmp_path):
    assert holds_pairs(settings(tmp_path / "gone.jsonl"))
    assert not holds_pairs(settings(tmp_path / "gone"))
    assert holds_pairs(settings(tmp_path / "gone", kind="pairs"))


def test_root_moves_relative_paths_and_absolute_ones_stay(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    path = jsonl(elsewhere, [record(), record(source=str(folder / S), instruction="absolute")])
    assert len(failures(ingest(path))) == 2
    assert len(good(ingest(path, root=str(folder)))) == 2


def test_appending_to_a_list_leaves_its_first_sources_as_they_were(folder):
    before = list(list_sources([settings(jsonl(folder, [record()]))]))
    after = list(list_sources([settings(jsonl(folder, [record(), record(instruction="new")]))]))
    assert after[:1] == before


def test_exact_duplicate_pairs_are_one_row(folder):
    path = jsonl(folder, [record(), record(), record(boxes=[[1, 2, 3, 4]])])
    assert sorted(len(row.sources) for row in ingest(path)) == [1, 2]


def test_pairs_of_a_remote_list():
    base = f"memory://{uuid.uuid4().hex}"
    store = fsspec.filesystem("memory")
    store.pipe(f"{base}/{S}", SOURCE)
    store.pipe(f"{base}/{E}", EDITED)
    lines = [record(instruction=str(i)) for i in range(20)] + [record(source=f"../{base[9:]}/{S}")]
    store.pipe(f"{base}/lists.jsonl", "\n".join(map(json.dumps, lines)).encode())
    assert holds_pairs(settings(base))
    rows = ingest(f"{base}/lists.jsonl")
    assert not failures(rows)
    assert len(rows) == 21


def test_local_pairs_of_a_real_editor(shared_images, tmp_path):
    pairs = json.loads((shared_images / "index.json").read_text())["pairs"]
    path = jsonl(tmp_path, pairs)
    rows = ingest(path, root=str(shared_images))
    assert [row["instruction"] for row in good(rows)] == [pair["instruction"] for pair in pairs]
