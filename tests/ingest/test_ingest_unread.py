"""What is not read is counted and named: by the listing, by a run, in run.yaml and on the card."""

from __future__ import annotations

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ingest_helpers import good, ingest, keys, picture, settings, write

from ugaf.base.errors import ConfigError
from ugaf.base.tasks import TASKS, ours
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.engine.runner import RunOptions
from ugaf.ingest import NotRead, list_sources
from ugaf.ingest import unknown_tasks as unknown
from ugaf.pipeline.config import parse

PHOTO = picture(1, size=(64, 48))


def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def not_read(path, run=None, **options):
    counts = NotRead()
    list(list_sources([settings(path, **options)], run, counts))
    return counts


def table(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def run(tmp_path, path, **document):
    """Run a pipeline of one stage; the lines that it says."""
    said = []
    stages = document.pop("stages", ["curation.resolution"])
    base = {"name": "x", "output": str(tmp_path / "run"), "engine": {"executor": "inline"}, **document}
    pipeline = parse({**base, "inputs": [str(path)], "stages": stages})
    runner.run(pipeline, RunOptions(), None, said.append)
    return said


@given(st.lists(st.sampled_from(["png", "HEIC", "jxl", "xmp", "", "jp2"]), min_size=1, max_size=12))
@hypothesis_settings(max_examples=30, deadline=None)
def test_every_file_of_a_folder_is_a_source_or_counted(tmp_path_factory, suffixes):
    folder = tmp_path_factory.mktemp("photos")
    names = [f"{number}.{suffix}" if suffix else str(number) for number, suffix in enumerate(suffixes)]
    write(folder, {"sub/first.png": PHOTO, **dict.fromkeys(names, PHOTO)})
    counts = not_read(folder)
    assert len(keys(folder)) + sum(counts.counts.values()) == len(suffixes) + 1
    for suffix in set(suffixes) - {"png", ""}:
        assert counts.counts[f".{suffix.lower()} files"] == suffixes.count(suffix)


def test_the_kinds_of_what_is_not_read_are_bounded_whatever_it_is_called(tmp_path):
    write(tmp_path, {"a.png": PHOTO, **{f"x.[bold]{n}": b"" for n in range(5)}, **{f"y.q{n}": b"" for n in range(90)}})
    counts = not_read(tmp_path)
    assert sum(counts.counts.values()) == 95
    assert len(counts.counts) <= 61
    assert counts.counts["odd files"] == 5
    assert "[" not in str(counts)


def test_a_downloaders_folder_is_read_and_its_tables_are_counted(tmp_path):
    members = [("0.png", PHOTO), ("0.txt", b"a cap"), ("0.json", b"{}"), ("0.cls", b"1")]
    write(tmp_path, {"set/00000.tar": tar(members), "set/00000_stats.json": b"{}"})
    table(tmp_path / "set" / "00000.parquet", {"url": ["http://x"], "caption": ["a cap"], "status": ["success"]})
    (row,) = good(ingest(tmp_path / "set"))
    assert row["caption"] == "a cap"
    said = run(tmp_path, tmp_path / "set")
    assert any("not read" in line and "tables and lists without images: 1" in line for line in said)
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    found = {entry["what"]: entry["count"] for entry in record["not_read"]}
    assert found == {
        ".cls members of tars": 1,
        ".json files": 1,
        ".json members of tars": 1,
        "tables and lists without images": 1,
    }
    assert any(entry["example"].endswith("00000.parquet") for entry in record["not_read"])
    # Said again by a run with nothing to do, and kept by one that lists nothing.
    assert any("not read" in line for line in run(tmp_path, tmp_path / "set"))
    assert RunView(str(tmp_path / "run")).record["not_read"] == record["not_read"]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_a_list_beside_its_photographs_is_named_and_can_be_read_itself(tmp_path, name):
    write(tmp_path, {"a.png": PHOTO})
    if name.endswith(".parquet"):
        table(tmp_path / name, {"file_name": ["a.png"], "text": ["words"]})
    else:
        text = {"csv": "file_name,text\na.png,words\n", "jsonl": '{"file_name": "a.png", "text": "words"}\n'}
        (tmp_path / name).write_text(text[name.rpartition(".")[2]])
    assert keys(tmp_path) == [f"{tmp_path}/a.png"]
    assert [what for what in not_read(tmp_path).counts if "lists of photographs" in what]
    assert good(ingest(tmp_path / name))[0]["caption"] == "words"


def test_a_folder_of_lists_alone_is_read(tmp_path):
    write(tmp_path, {"photos/a.png": PHOTO})
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "x.csv").write_text("image\nphotos/a.png\n")
    assert good(ingest(tmp_path / "lists", root=str(tmp_path)))[0]["image"] == PHOTO


def test_tables_without_images_and_nothing_else_are_still_an_error(tmp_path):
    table(tmp_path / "x.parquet", {"a": [1]})
    (tmp_path / "y.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="no image column"):
        keys(tmp_path)


def test_an_output_below_its_input_is_left_out_and_said(tmp_path):
    write(tmp_path, {"a.png": PHOTO})
    said = [run(tmp_path, tmp_path) for _ in range(2)][1]
    assert any("folders: the run's own: 1" in line for line in said)
    assert RunView(str(tmp_path / "run")).funnel()[0].given == 1
    # Another run's folder is not taken for photographs either, however the input is written.
    other = {"output": str(tmp_path / "deep" / "other")}
    for path in (tmp_path, f"{tmp_path}/sub/../"):
        write(tmp_path, {"sub/b.png": picture(2)})
        said = run(tmp_path, path, **other)
        assert any("folders: of other runs: 1" in line for line in said)
        assert any("folders: the run's own: 1" in line for line in said)
    assert RunView(other["output"]).funnel()[0].given == 2
    with pytest.raises(ConfigError, match="is the run's own folder"):
        run(tmp_path, tmp_path / "run")


def test_a_loop_of_links_is_counted(tmp_path):
    write(tmp_path, {"a/x.png": PHOTO})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert not_read(tmp_path).counts == {"folders: links back to a folder above them": 1}


@pytest.mark.parametrize("path", ["s3://", "s3:///", "gs://", "https://"])
def test_a_store_without_a_bucket_is_refused_at_once(path):
    with pytest.raises(ConfigError, match=r"inputs.*nothing after .*a variable that is not set"):
        parse({"name": "x", "inputs": [path], "stages": ["curation.resolution"]})


def test_a_scheme_without_slashes_is_pointed_out():
    with pytest.raises(ConfigError, match="did you mean s3://bucket/photos"):
        list(list_sources([settings("s3:bucket/photos")]))


def test_a_pattern_that_matches_what_is_not_read_says_how_to_have_it_read(tmp_path):
    write(tmp_path, {"a.ppm": PHOTO, "b.ppm": picture(2)})
    with pytest.raises(ConfigError, match=r"found: \.ppm files: 2; a pattern that ends in a suffix"):
        keys(f"{tmp_path}/[a-z]*")
    assert len(keys(f"{tmp_path}/*.[pP][pP][mM]")) == 2


NAMES = [
    ("subject-add", "add"), ("Object Removal", "remove"), ("swap", "replace"), ("color_alter", "recolor"),
    ("material_alter", "material"), ("style_transfer", "style"), ("text_change", "text"), ("bg", "background"),
    ("motion_change", "motion"), ("tone_transfer", "tone"), ("low-level", "restore"), ("compose", "hybrid"),
    ("ps_human", None), ("viewpoint_transformation", None), ("", None), (None, None),
]  # fmt: skip


@pytest.mark.parametrize(("given_task", "task"), NAMES)
def test_published_names_of_tasks_are_ours(given_task, task):
    assert ours(given_task) == task


@given(st.sampled_from(tuple(TASKS)), st.sampled_from([str.upper, str.title, lambda t: f" {t}-", str]))
def test_our_own_names_stay_however_they_are_written(task, written):
    assert ours(written(task)) == task


def test_tasks_that_have_no_name_here_are_kept_counted_and_named(tmp_path):
    photos = {f"{n}.png": picture(n, size=(64, 48)) for n in range(8)}
    write(tmp_path, photos)
    lines = ["source,edited,instruction,task"]
    for number, task in enumerate(["swap", "count_change", "count_change", "[odd]"]):
        lines.append(f"{2 * number}.png,{2 * number + 1}.png,do {number},{task}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    said = run(tmp_path, tmp_path / "pairs.csv", stages=["refinement.likeness"])
    assert any("no name for" in line and "count_change: 2, ?odd?: 1" in line for line in said)
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert record["unknown_tasks"] == {"count_change": 2, "?odd?": 1}
    tables = RunView(str(tmp_path / "run")).rows("edit", ["task", "given_task"])
    pairs = {(row["task"], row["given_task"]) for t in tables for row in t.to_pylist()}
    assert pairs == {("replace", "swap"), ("count_change", "count_change"), ("[odd]", "[odd]")}
    assert unknown(["add", None, "x"]) == {"x": 1}
