"""What was withdrawn is in no file of the run, stays out, and costs nothing else its place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engine_tools import counts, go, make_photos, pipeline, table, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from places import PATHS

from ugaf import cli
from ugaf.base.errors import UgafError
from ugaf.cli.explain import explain, story
from ugaf.columns import lease
from ugaf.columns.tombstones import Tombstones, is_unfinished
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.engine.cutting import cut
from ugaf.export import export
from ugaf.export.products import products
from ugaf.ingest import image_id
from ugaf.pipeline import config
from ugaf.pipeline.config import Pipeline
from ugaf.report import write_report
from ugaf.storage import Storage
from ugaf.withdrawal import withdraw as withdrawal

MEAN, DOUBLE, HALVES, FLIP, TWINS = (f"engine_stages:{name}" for name in ("Mean", "Double", "Halves", "Flip", "Twins"))
STAGES: list[Any] = [MEAN, {TWINS: {"keep": {"twins": None}}}, HALVES, FLIP]


def needles(view: RunView, key: str, edits: bool = True) -> dict[str, bytes]:
    """Bytes that only this photograph, its edits and those with a part of it have: pictures, ids, names."""
    photo = next(row for row in table(view, "image", ["image", "sources"], ids=[key]).values())
    found = {"id": key.encode(), "picture": photo["image"][-80:]}
    found |= {source: Path(source).name.encode() for source in photo["sources"]}
    for row in table(view, "edit", ["edited_image", "donor"]).values() if edits else ():
        if key in (row["parent"], row["donor"]):
            found |= {row["id"]: row["id"].encode(), f"{row['id']} edited": row["edited_image"][-80:]}
    return found


def where(folder: Path, searched: dict[str, bytes]) -> list[str]:
    """Files of the run in which one of the needles is."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [f"{name} in {path}" for path in files for name, needle in searched.items() if needle in path.read_bytes()]


def withdraw(checked: Pipeline, *texts: str, reason: str = "") -> list[str]:
    lines: list[str] = []
    view = RunView(checked.output, checked)
    withdrawal.withdraw(view, withdrawal.plan(view, texts), reason, lines.append)
    return lines


@pytest.fixture
def run(tmp_path: Path) -> Pipeline:
    """A run with all that is written from it: columns of two settings, shards, report."""
    paths = make_photos(tmp_path / "in", 12)
    shutil.copy(paths[2], tmp_path / "in" / "z-copy-of-2.jpg")
    go(pipeline(tmp_path / "in", tmp_path / "run", [{MEAN: {"power": 2.0}}, *STAGES[1:]]))
    checked = pipeline(tmp_path / "in", tmp_path / "run", STAGES)
    view = go(checked)
    export(view)
    write_report(view, gallery=20)
    (tmp_path / "run" / "log.txt").write_text(f"read {paths[2]}\nlooked at {image_id(paths[2].read_bytes())}\n")
    return checked


def test_nothing_of_a_withdrawn_photograph_is_in_any_file_and_no_later_run_brings_it_back(
    run: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "in" / "photo-00002.jpg"
    view, key = RunView(run.output, run), image_id(photo.read_bytes())
    searched = needles(view, key)
    others = {row["id"] for row in table(view, "edit", ["donor"]).values() if key not in (row["parent"], row["donor"])}
    assert len({name.split(" in ")[0] for name in where(tmp_path / "run", searched)}) == len(searched)
    withdraw(run, "photo-00002.jpg", reason="asked by its owner")
    assert where(tmp_path / "run", searched) == []

    (tmp_path / "in" / "elsewhere.jpg").write_bytes(photo.read_bytes())
    photo.touch()
    view = go(run)
    export(view)
    assert where(tmp_path / "run", {name: b for name, b in searched.items() if name != str(photo)}) == []
    ingest = counts(view)["ingest"]
    assert (ingest.given, ingest.kept, ingest.rejected) == (12, 11, {"withdrawn": 1})
    assert counts(view)[MEAN].given == 11
    assert set(table(view, "edit", [])) == others
    (row,) = [row for row in table(view, "image", ["sources"]).values() if row["status"] != "kept"]
    assert (row["stage"], row["reason"], row["sources"]) == ("ingest", "withdrawn: asked by its owner", [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "another-photo-00002.jpg").write_bytes(
        make_photos(tmp_path / "other", 1, start=90)[0].read_bytes()
    )
    for again in (view, go(run)):
        for text in ("photo-00002.jpg", key, str(photo), "in/photo-00002.jpg", "./in/../in/photo-00002.jpg"):
            told = story(again, text)
            assert told["verdict"]["status"] == "withdrawn", text
            assert next(iter(explain(again, text))) == "WITHDRAWN: asked by its owner"


def test_edits_of_others_that_show_a_part_of_it_go_too(run: Pipeline) -> None:
    view = RunView(run.output, run)
    rows = table(view, "edit", ["donor"])
    donor = next(row["donor"] for row in rows.values() if row["donor"])
    planned = withdrawal.plan(view, [donor])
    assert planned.others == sum(row["donor"] == donor and row["parent"] != donor for row in rows.values()) > 0
    withdraw(run, donor)
    after = RunView(run.output, run)
    left = table(after, "edit", ["donor"])
    assert left and all(donor not in (row["donor"], row["parent"]) for row in left.values())  # noqa: PT018
    assert counts(after)[FLIP].pending == 0


@settings(max_examples=4)
@given(st.integers(0, 25), st.sampled_from(["photo-00002.jpg", "photo-00004.jpg", "in/"]))
def test_a_withdrawal_that_is_killed_is_finished_by_the_next_run(writes: int, what: str) -> None:
    """Killed after any number of writes: the verdicts know it at once, and the next run erases what is left."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_photos(folder / "in", 5)
        checked = pipeline(folder / "in", folder / "run", STAGES, fragment_rows=3)
        view = go(checked)
        export(view)
        keys = [view.find(what)[0]] if what != "in/" else sorted(table(view, "image", []))
        searched = {k: v for key in keys for k, v in needles(view, key).items()}
        code = (
            "import os, sys\n"
            "from pathlib import Path\n"
            "from engine_tools import pipeline\n"
            "from ugaf.withdrawal import withdraw as withdrawal\n"
            "from ugaf.storage import Storage\n"
            "from ugaf.columns.view import RunView\n"
            "from test_withdraw import STAGES\n"
            "folder, left = Path(sys.argv[1]), int(sys.argv[2])\n"
            "whole = Storage.write\n"
            "def write(self, path, data):\n"
            "    global left\n"
            "    if left == 0:\n"
            "        os.kill(os.getpid(), 9)\n"
            "    left -= 1\n"
            "    whole(self, path, data)\n"
            "checked = pipeline(folder / 'in', folder / 'run', STAGES, fragment_rows=3)\n"
            "view = RunView(checked.output, checked)\n"
            "planned = withdrawal.plan(view, [sys.argv[3]])\n"
            "Storage.write = write\n"
            "withdrawal.withdraw(view, planned, '', lambda line: None)\n"
        )
        paths = os.pathsep.join([PATHS, *sys.path])
        text = what if what != "in/" else str(folder / "in")
        arguments = [sys.executable, "-c", code, str(folder), str(writes), text]
        done = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": paths}, timeout=120, check=False)
        assert done.returncode in (0, -9)
        if writes == 0:
            assert counts(RunView(checked.output, checked))["ingest"].rejected == {}
            withdraw(checked, text)
        else:
            assert counts(RunView(checked.output, checked))["ingest"].rejected == {"withdrawn": len(keys)}
        after = go(checked)
        export(after)
        assert where(folder / "run", searched) == []
        assert counts(after)["ingest"].rejected == {"withdrawn": len(keys)}
        assert not is_unfinished(after.storage)


def test_the_copy_that_lost_to_a_withdrawn_one_is_judged_again(tmp_path: Path) -> None:
    a, b = make_photos(tmp_path / "in", 2)
    b.write_bytes(a.read_bytes() + b"another file of the same picture")
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN, TWINS, DOUBLE])
    view = go(checked)
    rows = table(view, "image", [])
    (winner,) = [key for key, row in rows.items() if row["status"] == "kept"]
    withdraw(checked, winner)
    again = go(checked)
    (other,) = [row for row in table(again, "image", ["double", "twins"]).values() if row["reason"] != "withdrawn"]
    assert (other["status"], other["twins"]) == ("kept", [])
    assert other["double"] is not None


def test_when_the_last_one_goes_the_shards_go(run: Pipeline, tmp_path: Path) -> None:
    withdraw(run, str(tmp_path / "in"))
    assert list((tmp_path / "run" / "shards").rglob("*.parquet")) == []
    assert counts(RunView(run.output, run))["ingest"].kept == 0
    entries = RunView(run.output, run).inputs
    assert [(entry["sources"], entry["rows"]) for entry in entries] == [(13, 0)]


def export_ids(view: RunView, edits: bool) -> list[str]:
    """Of the photographs that an export of the run shows."""
    product = products(view, view.pipeline.settings.export)[-1]
    plan = product.plan(view, view.pipeline.settings.export)
    records = product.reader(view, view.pipeline.settings.export, plan).records()
    return sorted({record.values["image_id"] if edits else record.id for record in records})


@pytest.mark.parametrize("formats", [["parquet"], ["webdataset"], ["parquet", "webdataset"]], ids="+".join)
@pytest.mark.parametrize("edits", [False, True])
@pytest.mark.parametrize("tighter", [False, True])
def test_shards_are_touched_only_where_something_of_the_withdrawn_is_in_them(
    formats: list[str], edits: bool, tighter: bool, tmp_path: Path
) -> None:
    """Whatever the run keeps now: shards that stayed from other thresholds, or are of the rows of now."""
    make_photos(tmp_path / "in", 6)
    make_photos(tmp_path / "in", 3, start=50, side=40)
    made = [MEAN, HALVES, FLIP] if edits else []

    def stages(**keep: Any) -> list[Any]:
        return [{"curation.resolution": {"keep": {"short_side": {"min": None, **keep}}}}, *made]

    exported = {"formats": formats, "photographs": "auto", "validation": 0.3}
    first = go(pipeline(tmp_path / "in", tmp_path / "run", stages(max=30), export=exported))
    assert export(first).total > 1
    row = export_ids(first, edits)[0]
    (name,) = [path for path in (tmp_path / "in").iterdir() if image_id(path.read_bytes()) == row]
    later = stages(max=5) if tighter else stages(max=30)
    checked = pipeline(tmp_path / "in", tmp_path / "run", later, export=exported)
    go(checked)
    folder = tmp_path / "run" / ("shards" if edits else "photographs")
    before, card = tree(folder), (tmp_path / "run" / "README.md").read_bytes()

    def told(text: str) -> str:
        view = RunView(checked.output, checked)
        (line,) = withdrawal.of_shards(view, withdrawal.plan(view, [text]))
        return line

    assert "nothing of what is withdrawn is in them" in told("photo-00051.jpg")
    assert any("nothing of what is withdrawn" in line for line in withdraw(checked, "photo-00051.jpg"))
    assert (tree(folder), (tmp_path / "run" / "README.md").read_bytes()) == (before, card)
    said = told(name.name)
    assert ("removes" in said, "of their other rows the run keeps none now" in said) == (tighter, tighter), said
    assert tree(folder) == before
    searched = needles(RunView(checked.output, checked), row, edits)
    assert any(said.partition(" (were")[0] in line for line in withdraw(checked, name.name))
    assert where(tmp_path / "run", searched) == []
    assert (list(folder.rglob("*-0*")) == []) == tighter


def test_an_edit_means_its_photograph_and_a_second_time_is_no_error(run: Pipeline) -> None:
    view = RunView(run.output, run)
    edit, row = next(iter(table(view, "edit", []).items()))
    assert set(withdrawal.plan(view, [edit]).names) == {row["parent"]}
    withdraw(run, edit)
    assert withdrawal.plan(RunView(run.output, run), [row["parent"]]).known == [row["parent"]]


def test_what_means_several_or_nothing_is_refused_and_nothing_is_touched(run: Pipeline, tmp_path: Path) -> None:
    before = tree(tmp_path / "run")
    for texts in (["photo-0000"], ["photo-00001.jpg", "no such thing"]):
        with pytest.raises(UgafError):
            withdrawal.plan(RunView(run.output, run), texts)
    with pytest.raises(UgafError, match="no row"):
        withdrawal.plan(RunView(run.output, run), [], listed=["00001"])
    assert tree(tmp_path / "run") == before


def test_a_source_that_was_not_read_yet_is_never_read(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 3)
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN])
    go(checked)
    make_photos(tmp_path / "in", 2, start=50)
    cut(RunView(checked.output, checked).columns)
    withdraw(checked, "photo-00050.jpg")
    ingest = counts(go(checked))["ingest"]
    assert (ingest.given, ingest.kept, ingest.rejected) == (5, 4, {"withdrawn": 1})
    assert where(tmp_path / "run", {"name": b"photo-00050.jpg"}) == []


def test_columns_that_are_made_anew_know_what_was_withdrawn(run: Pipeline, tmp_path: Path) -> None:
    """As after an upgrade that reads all sources again."""
    withdraw(run, "photo-00004.jpg")
    for folder in (tmp_path / "run").glob("ingest@*"):
        shutil.rmtree(folder)
    ingest = counts(go(run))["ingest"]
    assert (ingest.kept, ingest.rejected, ingest.failed) == (11, {"withdrawn": 1}, 0)


def test_the_command_says_what_goes_and_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 4, side=520)
    ugaf = [sys.executable, "-m", "ugaf"]
    options = ["--input", "in", "--output", "run", "--set", "engine.executor=inline", "--until", "curation.resolution"]

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ugaf, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )

    assert call("run", "curate", *options).returncode == 0
    before = tree(tmp_path / "run")
    dry = call("withdraw", "run", "photo-00001.jpg", "--dry-run")
    assert (dry.returncode, dry.stdout.splitlines()[0]) == (0, "would withdraw 1 photograph and 0 edits")
    assert str(tmp_path / "in" / "photo-00001.jpg") in dry.stdout.replace("\n", "")
    assert tree(tmp_path / "run") == before
    (tmp_path / "list.txt").write_text("# two of them\nin/photo-00001.jpg\n\nphoto-00002.jpg\n")
    done = call("withdraw", "run", "--list", "list.txt", "--reason", "wrong folder")
    assert done.returncode == 0, done.stderr
    assert "withdraws 2 photographs and 0 edits" in done.stdout
    told = call("run", "curate", *options)
    assert "withdrawn" in told.stdout
    assert call("withdraw", "run").returncode == call("withdraw", "run", "nothing").returncode == 2


def test_while_a_call_works_in_the_folder_nothing_is_withdrawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_photos(tmp_path / "in", 2, side=300)
    checked = pipeline(tmp_path / "in", tmp_path / "run", ["curation.resolution"])
    view, before = go(checked), tree(tmp_path / "run")
    asked = ["withdraw", checked.output, "photo-00001.jpg"]
    with ThreadPoolExecutor() as pool, lease.held(view.storage, "ugaf run"):
        assert pool.submit(cli.main, asked).result() == 75
        assert f"process {os.getpid()} on" in capsys.readouterr().err
        assert tree(tmp_path / "run") == before
        assert pool.submit(cli.main, [*asked, "--dry-run"]).result() == 0
        waits = pool.submit(cli.main, [*asked, "--wait"])
        time.sleep(1)
        assert not waits.done()
        assert tree(tmp_path / "run") == before
    assert waits.result() == 0


DAMAGED = ("", "{", "[]", "{}", '{"withdrawn": [{"id": 1}]}', '{"withdrawn": [], "erasing": [{"x": 1}]}')


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_list_of_the_withdrawn_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "withdrawn.json").write_text(text)
    with pytest.raises(UgafError, match=r"withdrawn\.json is damaged: .* taken in again"):
        Tombstones.read(Storage(str(tmp_path)))


def test_the_command_ends_an_interrupted_withdrawal_and_the_runner_alone_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "in", 4)
    document = {
        "name": "test",
        "inputs": [str(tmp_path / "in")],
        "output": str(tmp_path / "run"),
        "engine": {"executor": "inline"},
        "stages": STAGES,
    }
    (tmp_path / "p.yaml").write_text(json.dumps(document))
    command = ["run", str(tmp_path / "p.yaml"), "--no-export"]
    assert cli.main(command) == 0
    checked = config.parse(document)
    with monkeypatch.context() as patch:
        patch.setattr(withdrawal, "finish", lambda *_: None)
        view = RunView(checked.output, checked)
        withdrawal.withdraw(view, withdrawal.plan(view, ["photo-00001.jpg"]), "", lambda _: None)
    assert is_unfinished(view.storage)
    with pytest.raises(UgafError, match="a withdrawal was interrupted"):
        runner.run(checked, runner.RunOptions(), lambda _: None, lambda _: None)
    assert cli.main(command) == 0
    assert not is_unfinished(view.storage)
    assert counts(RunView(checked.output, checked))["ingest"].rejected == {"withdrawn": 1}
