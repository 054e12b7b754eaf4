"""A run that is refused leaves nothing behind, and a folder is a run of one pipeline."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from engine_tools import counts, go, make_photos, pipeline, table, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from places import PATHS

from ugaf import cli
from ugaf.base.errors import ConfigError
from ugaf.cli.main import _parser
from ugaf.columns.fragments import fragment_order
from ugaf.columns.parts import SOURCES, Columns
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.engine.cutting import count_new, cut, listed
from ugaf.pipeline import config
from ugaf.storage import Storage

MEAN, DOUBLE, HALVES = ({f"engine_stages:{name}": None} for name in ("Mean", "Double", "Halves"))


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """ugaf in a process of its own, in this process's engine."""
    return subprocess.run(
        [sys.executable, "-m", "ugaf", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def bad_table(path: Path) -> None:
    """A Parquet file for which a run is refused: two columns could hold the photographs."""
    pq.write_table(pa.table({"one": [b"1"], "two": [b"2"]}), path)


def written(folder: Path) -> list[str]:
    """Files below a folder, those in the making too."""
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]


@settings(max_examples=15)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=7, unique=True), st.data())
def test_what_a_refused_listing_named_is_not_in_the_run(names: list[str], data: st.DataObject) -> None:
    """Wherever the bad file lies, and however many fragments came before it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wrong, photo = folder / "wrong", make_photos(folder / "right", 1)[0]
        for name in names:
            (wrong / name).mkdir(parents=True)
            make_photos(wrong / name, data.draw(st.integers(1, 3)), start=10 * ord(name))
        bad_table(wrong / data.draw(st.sampled_from(names)) / data.draw(st.sampled_from(["0.parquet", "z.parquet"])))
        rows = data.draw(st.integers(1, 4))
        with pytest.raises(ConfigError, match="several could be the image"):
            go(pipeline(wrong, folder / "run", [MEAN], fragment_rows=rows))
        assert written(folder / "run") == []
        view = go(pipeline(folder / "right", folder / "run", [MEAN], fragment_rows=rows))
        assert [row["sources"] for row in table(view, "image", ["sources"]).values()] == [[str(photo)]]


def test_a_second_input_that_is_refused_takes_the_first_back_with_it(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 4)
    view = go(pipeline(tmp_path / "in", tmp_path / "run", [MEAN]))
    before = tree(tmp_path / "run")
    make_photos(tmp_path / "more", 9, start=50)
    bad_table(tmp_path / "bad.parquet")
    wrong = pipeline([str(tmp_path / "more"), str(tmp_path / "bad.parquet")], tmp_path / "run", [MEAN], fragment_rows=2)
    with pytest.raises(ConfigError):
        go(wrong)
    assert tree(tmp_path / "run") == before
    assert counts(view)["ingest"].given == 4


def test_what_the_machine_cannot_do_is_known_before_sources_count(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 3)
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN])
    object.__setattr__(checked.stages[0].needs, "packages", {"a_package_that_is_not_there": "extra"})
    with pytest.raises(ConfigError, match="extra"):
        go(checked)
    assert written(tmp_path / "run") == []


def test_numbers_of_a_run_that_is_not_there_are_missed_before_sources_count(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 3)
    stage = {"engine_stages:Mean": {"keep": {"mean": {"min_quantile": 0.1}}}}
    with pytest.raises(ConfigError, match="nowhere is not a run"):
        go(pipeline(tmp_path / "in", tmp_path / "run", [stage], quantiles={"source": str(tmp_path / "nowhere")}))
    assert written(tmp_path / "run") == []


def test_a_listing_that_is_killed_leaves_nothing_that_counts(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 9)
    code = (
        "import os, sys\n"
        "from engine_tools import pipeline\n"
        "from pathlib import Path\n"
        "from ugaf.engine import cutting\n"
        "from ugaf.columns.parts import Columns\n"
        "from ugaf.storage import Storage\n"
        "checked = pipeline(Path(sys.argv[1]), sys.argv[2], [{'engine_stages:Mean': None}], fragment_rows=2)\n"
        "columns = Columns(Storage(sys.argv[2]), checked)\n"
        "with cutting.listed(columns) as new:\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    paths = os.pathsep.join([PATHS, os.environ.get("PYTHONPATH", ""), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": paths},
        timeout=60,
        check=False,
    )
    assert done.returncode == -9
    assert any(SOURCES in name for name in written(tmp_path / "run"))
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN], fragment_rows=2)
    view = RunView(checked.output, checked)
    assert view.fragments == []
    assert counts(go(checked))["ingest"].given == 9


def test_a_listing_holds_a_fragment_of_sources_and_counts_each_once(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 7)
    twice = [str(tmp_path / "in"), str(tmp_path / "in" / "*.jpg")]
    checked = pipeline(twice, tmp_path / "run", [MEAN], fragment_rows=3)
    columns = RunView(checked.output, checked).columns
    assert count_new(columns) == 7
    with listed(columns) as new:
        assert (new.count, len(new.staged), columns.fragments()) == (7, 3, [])
    assert columns.fragments() == []
    assert cut(columns) == 7
    assert [columns.sources(fragment).num_rows for fragment in columns.fragments()] == [3, 3, 1]
    assert cut(columns) == count_new(columns) == 0


def test_cutting_on_an_object_store(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 5)
    url = f"memory://{tmp_path.name}/run"
    checked = pipeline(tmp_path / "in", url, [MEAN], fragment_rows=2)
    columns = RunView(url, checked).columns
    assert cut(columns) == 5
    assert [fragment_order(name)[0] for name in columns.fragments()] == [0, 1, 2]
    assert [name for name in Storage(url).files() if "tmp" in name] == []


# ---------------------------------------------------------------- of which pipeline a folder is a run


def test_another_pipeline_is_refused_and_told_how(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 4)
    go(pipeline(tmp_path / "in", tmp_path / "run", [MEAN, DOUBLE], name="first"))
    before = tree(tmp_path / "run")
    make_photos(tmp_path / "in", 1, start=20)
    other = pipeline(tmp_path / "in", tmp_path / "run", [MEAN], name="second")
    with pytest.raises(ConfigError) as refused:
        go(other)
    for words in ("'first' (2 stages, 4 rows)", "'second'", "engine_stages:Double", "--output", "--replace"):
        assert words in str(refused.value)
    assert tree(tmp_path / "run") == before
    assert counts(go(other, replace=True))["ingest"].given == 5


def test_a_pipeline_that_has_all_that_is_there_goes_on_and_does_none_of_it_again(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 4)
    (tmp_path / "trace").mkdir()
    mean = {"engine_stages:Mean": {"trace": str(tmp_path / "trace")}}
    go(pipeline(tmp_path / "in", tmp_path / "run", [mean], name="first"))
    lines: list[str] = []
    longer = pipeline(tmp_path / "in", tmp_path / "run", [mean, DOUBLE], name="second")
    runner.run(longer, runner.RunOptions(), lambda _: None, lines.append)
    assert len((tmp_path / "trace" / "mean.log").read_text().split()) == 4
    assert lines == [f"{tmp_path}/run was a run of first; second has all of its stages and goes on"]
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["pipeline"]["name"] == "second"


def test_the_same_stages_with_other_settings_are_another_pipeline_but_its_own_may_change(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 3)
    go(pipeline(tmp_path / "in", tmp_path / "run", [MEAN], name="first"))
    changed: Any = [{"engine_stages:Mean": {"power": 2.0}}]
    with pytest.raises(ConfigError, match="engine_stages:Mean would be computed anew, with other settings"):
        go(pipeline(tmp_path / "in", tmp_path / "run", changed, name="second"))
    go(pipeline(tmp_path / "in", tmp_path / "run", changed, name="first"))


def test_pairs_do_not_go_into_a_run_of_photographs_even_when_told_to(tmp_path: Path) -> None:
    a, b = make_photos(tmp_path / "in", 2)
    go(pipeline(tmp_path / "in", tmp_path / "run", [MEAN]))
    (tmp_path / "pairs.jsonl").write_text(f'{{"source": "{a}", "edited": "{b}", "instruction": "swap"}}')
    pairs = pipeline([{"path": str(tmp_path / "pairs.jsonl"), "kind": "pairs"}], tmp_path / "run", [MEAN])
    with pytest.raises(ConfigError, match=r"a run of photographs .* are edit pairs"):
        go(pairs, replace=True)


def test_the_shipped_pipelines_in_one_folder(tmp_path: Path) -> None:
    """As the README's chapters have them: curation goes on as the demo, and the demo is not undone by curation."""
    make_photos(tmp_path / "in", 2)
    options = [f"inputs=['{tmp_path}/in']", f"output={tmp_path}/run", "engine.executor=inline"]
    curate, demo = (config.load(name, options) for name in ("curate", "demo"))
    runner.run(curate, runner.RunOptions(last="curation.resolution"), lambda _: None, lambda _: None)
    runner.run(demo, runner.RunOptions(last="curation.resolution"), lambda _: None, lambda _: None)
    with pytest.raises(ConfigError, match="curate has no annotation"):
        runner.run(curate, runner.RunOptions(), lambda _: None, lambda _: None)


def test_run_and_plan_refuse_with_the_same_words(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 2)
    go(pipeline(tmp_path / "in", tmp_path / "run", [MEAN], name="first"))
    arguments = ("curate", "--input", "in", "--output", "run", "--set", "engine.executor=inline")
    said = [command(name, *arguments, cwd=tmp_path) for name in ("run", "plan")]
    assert [done.returncode for done in said] == [2, 2]
    assert said[0].stderr == said[1].stderr
    assert "is a run of the pipeline 'first'" in said[0].stderr
    planned = command("plan", *arguments, "--replace", cwd=tmp_path)
    assert planned.returncode == 0
    assert "run was a run of first, and becomes one of curate" in planned.stdout


# ---------------------------------------------------------------- who fed the run


def test_every_input_that_fed_the_run_is_on_record_and_those_that_are_not_named_are_said(tmp_path: Path) -> None:
    make_photos(tmp_path / "a", 3)
    make_photos(tmp_path / "b", 2, start=30)
    shutil.copy(tmp_path / "a" / "photo-00000.jpg", tmp_path / "b")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    view = go(pipeline([a], tmp_path / "run", [MEAN]))
    first = RunView(view.path, view.pipeline).record["inputs"]
    assert [(entry["input"], entry["sources"], entry["rows"]) for entry in first] == [(a, 3, 3)]
    lines: list[str] = []
    runner.run(pipeline([b], tmp_path / "run", [MEAN]), runner.RunOptions(), lambda _: None, lines.append)
    assert lines == ["3 new sources", f"3 rows of {a} stay in this run, though this call does not name it"]
    second = RunView(view.path, view.pipeline).record["inputs"]
    assert [(entry["input"], entry["sources"], entry["rows"]) for entry in second] == [(a, 3, 3), (b, 3, 2)]
    assert second[0]["first_seen"] == first[0]["first_seen"]
    before = tree(tmp_path / "run")
    go(pipeline([b], tmp_path / "run", [MEAN]))
    assert tree(tmp_path / "run") == before


def test_one_folder_under_two_names_is_one_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "a", 2)
    monkeypatch.chdir(tmp_path)
    view = go(pipeline(["a"], tmp_path / "run", [MEAN]))
    make_photos(tmp_path / "a", 1, start=7)
    lines: list[str] = []
    runner.run(pipeline(["./a/"], tmp_path / "run", [MEAN]), runner.RunOptions(), lambda _: None, lines.append)
    assert lines == ["1 new sources"]
    entries = RunView(view.path, view.pipeline).record["inputs"]
    assert [(entry["input"], entry["sources"], entry["rows"]) for entry in entries] == [("a", 3, 3)]


def test_a_source_that_is_gone_stays_and_this_is_said(tmp_path: Path) -> None:
    gone, replaced, _ = make_photos(tmp_path / "in", 3)
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN])
    go(checked)
    gone.unlink()
    replaced.write_bytes(replaced.read_bytes() + b" ")
    lines: list[str] = []
    runner.run(checked, runner.RunOptions(), lambda _: None, lines.append)
    assert lines[0] == "1 new sources"
    assert lines[1].startswith(f"2 sources of {tmp_path}/in are no longer listed")
    assert counts(RunView(checked.output, checked))["ingest"].given == 4


def test_a_run_from_before_inputs_were_recorded_is_read_and_goes_on(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 3)
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN])
    go(checked)
    for path in (tmp_path / "run" / SOURCES).glob("*.parquet"):
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    record = tmp_path / "run" / "run.yaml"
    document = yaml.safe_load(record.read_text())
    del document["inputs"]
    record.write_text(yaml.safe_dump(document))
    make_photos(tmp_path / "in", 1, start=9)
    assert counts(go(checked))["ingest"].given == 4
    entries = yaml.safe_load(record.read_text())["inputs"]
    assert [(entry["input"], entry["sources"]) for entry in entries] == [("", 3), (str(tmp_path / "in"), 1)]


def test_no_secret_of_an_input_is_on_record() -> None:
    from ugaf.columns.origins import Origin, metadata
    from ugaf.ingest import InputSettings

    url = "https://someone:hunter2@example.org/set/a.parquet?X-Amz-Signature=abcdef&v=1"
    text = metadata([Origin.of(InputSettings(path=url))]).popitem()[1].decode()
    assert "example.org/set/a.parquet" in text
    assert "hunter2" not in text and "abcdef" not in text  # noqa: PT018


def test_the_card_names_every_input(tmp_path: Path) -> None:
    from ugaf.export import export

    make_photos(tmp_path / "a", 3)
    make_photos(tmp_path / "b", 2, start=30)
    for name in ("a", "b"):
        view = go(pipeline([str(tmp_path / name)], tmp_path / "run", [MEAN]))
    export(RunView(view.path))
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"- input: {tmp_path}/a\n  sources: 3\n  rows: 3\n- input: {tmp_path}/b\n  sources: 2\n  rows: 2\n" in card


@pytest.mark.parametrize(("count", "rows"), [(1, 4), (13, 4), (33, 5), (59, 8), (2047, 256), (2048, 256), (4100, 256)])
def test_a_fragment_fits_the_number_of_sources(count: int, rows: int, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(count):
        (tmp_path / "in" / f"{number:05d}.jpg").touch()
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN], fragment_rows=None)
    columns = Columns(Storage(checked.output), checked)
    assert cut(columns) == count
    sizes = [columns.sources(name, ["uri"]).num_rows for name in columns.fragments()]
    assert sizes[:-1] == [rows] * (len(sizes) - 1)
    assert sum(sizes) == count
    assert 0 < sizes[-1] <= rows


def blanks() -> list[list[str]]:
    """Calls of every command with one argument that is blank, whatever arguments it has."""
    calls = []
    parser = _parser()
    (commands,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for name, command in commands.choices.items():
        needed = ["x" for a in command._actions if not a.option_strings and a.nargs is None]
        for action in command._actions:
            if action.nargs == 0 or action.choices or action.dest in ("reason", "columns"):
                continue
            if action.option_strings:
                calls.append([name, *needed, action.option_strings[-1], ""])
            else:
                calls.append([name, *([] if action.nargs is None else needed), ""])
    return calls


@pytest.mark.parametrize("blank", ["", " ", "\t\u2003"])
@pytest.mark.parametrize("call", blanks(), ids=" ".join)
def test_a_blank_argument_is_refused_before_anything_is_done(
    call: list[str], blank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main([blank if argument == "" else argument for argument in call])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "is empty (a shell variable that is not set?)" in said
    assert written(tmp_path) == []


@pytest.mark.parametrize(("first", "then", "told"), [(20, 400, False), (400, 400, True), (20, 20, True)])
def test_the_card_is_named_where_it_is_of_this_call(first: int, then: int, told: bool, tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 2, side=300)
    document = {"name": "p", "inputs": ["in"], "output": "run", "engine": {"executor": "inline"}}
    for bound in (first, then):
        stages = [{"curation.resolution": {"keep": {"short_side": {"min": bound}}}}]
        (tmp_path / "p.yaml").write_text(yaml.safe_dump({**document, "stages": stages}))
        done = command("run", "p.yaml", cwd=tmp_path)
    assert done.returncode == (4 if then == 400 else 0), done.stderr
    assert ("card    run/README.md" in done.stdout) == told
    assert ("the earlier ones stay, with their card" in done.stdout) != told
