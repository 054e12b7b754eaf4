"""What a second export does to the first: nothing is lost that was not asked for, wherever it is killed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_fakes import FakeView, contents, parquet_rows, tar_members
from export_killed import MINE, MOST, settings, view_of
from places import PATHS, SUPPORT

from ugaf.export import ExportSettings, earlier, exchange, export, folder
from ugaf.storage import Storage


def _without(tables: list[pa.Table], kept: int) -> list[pa.Table]:
    """The tables with so many kept rows left."""
    out = []
    for table in tables:
        flags, status = [], table.column("status").to_pylist()
        for one in status:
            flags.append(kept > 0 if one == "kept" else True)
            kept -= one == "kept"
        out.append(table.filter(pa.array(flags)))
    return out


# --- nothing is replaced by nothing


@pytest.mark.parametrize("how", ["no pair is kept", "no pair can be read"])
def test_shards_are_not_replaced_by_none(view: FakeView, tables: list[pa.Table], how: str) -> None:
    export(view)
    old = contents(view.storage)
    if how == "no pair is kept":
        view.tables = _without(tables, 0)
    else:
        empty = pa.array([b""] * tables[0].num_rows, pa.large_binary())
        column = tables[0].schema.get_field_index("edited_image")
        view.tables = [tables[0].set_column(column, "edited_image", empty)]
    summary = export(view)
    assert contents(view.storage) == old
    assert (summary.total, summary.written) == (0, False)
    assert "the earlier ones stay" in str(summary)
    assert "10 pairs (were: demo" in str(summary)
    assert "--replace-shards" in str(summary)


def test_shards_are_replaced_by_none_on_request_and_it_is_said_before(view: FakeView, tables: list[pa.Table]) -> None:
    summary = export(view)
    view.storage.write("shards/parquet/mine.txt", b"mine")
    view.tables = _without(tables, 0)
    there: list[bool] = []

    def notify(line: str) -> None:
        said.append(line)
        there.append(all(view.storage.exists(path) for path in summary.files))

    said: list[str] = []
    assert export(view, replace=True, notify=notify).total == 0
    (line,) = said
    assert line.startswith(f"shards: removes {len(summary.files)} files, {summary.bytes / 1e6:.1f} MB, 10 pairs (were:")
    assert there == [True]
    assert view.storage.files("shards") == ["manifest.json", "parquet/mine.txt"]
    assert b"No pair was kept" in view.storage.read("README.md")


@pytest.mark.parametrize(("kept", "shrunk"), [(1, True), (4, True), (6, False)])
def test_what_is_replaced_is_said_and_a_drastic_loss_by_name(
    view: FakeView, tables: list[pa.Table], kept: int, shrunk: bool
) -> None:
    said: list[str] = []
    export(view, notify=said.append)
    assert said == []
    view.tables = _without(tables, kept)
    assert export(view, notify=said.append).total == kept
    assert said[0].startswith("shards: replaces ")
    assert "10 pairs (were: demo, 20" in said[0]
    assert (f"{1 - kept / 10:.0%} fewer" in said[0]) == shrunk
    assert export(view, notify=said.append).written is False
    assert len(said) == 1


# --- settings of an earlier call


def _export_set(view: FakeView, **changes: Any) -> ExportSettings:
    """As `ugaf export --set` does it."""
    now = ExportSettings.model_validate({**earlier.remembered(view).model_dump(mode="json"), **changes})
    export(view, now, asked=list(changes))
    return now


def test_an_export_keeps_the_settings_of_earlier_ones(view: FakeView) -> None:
    _export_set(view, adapters=["diffsynth"], validation=0.5)
    _export_set(view, balance={"by": "task"})
    assert "diffsynth" in view.storage.list("shards")
    assert {row["split"] for row in parquet_rows(view.storage)} == {"train", "validation"}
    now = earlier.remembered(view)
    assert (now.adapters, now.validation) == (["diffsynth"], 0.5)
    assert now.balance is not None
    assert "validation=0.5" in earlier.described(view, now)
    _export_set(view, validation=0.05)  # the pipeline's own value: nothing to remember
    assert earlier.remembered(view).validation == 0.05
    _export_set(view, balance=None, adapters=[])
    assert not view.storage.exists(earlier.CHANGES)
    assert "diffsynth" in view.storage.list("shards")  # what is there stays until --replace-shards


def test_a_pipeline_that_says_something_new_of_a_setting_is_heard(
    view: FakeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    _export_set(view, validation=0.5, shard_mb=3.0)
    pipeline = view.pipeline
    pipeline.settings.export = ExportSettings(validation=0.2)
    monkeypatch.setattr(FakeView, "pipeline", pipeline)
    now = earlier.remembered(view)
    assert (now.validation, now.shard_mb) == (0.2, 3.0)
    assert earlier.remembered(view, asked=["shard_mb"]).shard_mb == 512


# --- killed


def _state(run: Path) -> tuple[int, ...]:
    """Pairs in each folder of the shards, as readers of the files find them."""
    frames = [pq.read_table(io.BytesIO(path.read_bytes())) for path in run.glob("shards/parquet/train-*.parquet")]
    names = list(tar_members(Storage(str(run))))
    lines = (run / "shards/diffsynth/metadata.jsonl").read_text().splitlines()
    found = (len(list(run.glob("shards/diffsynth/images/*/*"))), 2 * len(lines))
    assert found[0] == found[1]
    keys = {name.split(".")[0] for name in names}
    assert len(names) == 4 * len(keys)
    return sum(map(len, frames)), len(keys), len(lines)


def test_killed_anywhere_an_export_leaves_the_old_shards_or_the_new(tmp_path: Path) -> None:
    script = SUPPORT / "export_killed.py"
    paths = os.pathsep.join([PATHS, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert 20 < steps < MOST
    whole = FakeView(Storage(str(tmp_path / str(steps))), view_of(tmp_path, 2).tables)
    new = {name: data for name, data in contents(whole.storage).items() if not name.endswith("manifest.json")}
    seen = set()
    for number in range(steps):
        run = tmp_path / str(number)
        state = _state(run)
        assert set(state) <= {1, 2}, f"killed at step {number}: {state}"
        seen.add(state)
        for name, data in MINE.items():
            assert (run / name).read_bytes() == data, f"killed at step {number}"
        view = view_of(run, 2)
        if folder.is_unfinished(view.storage):
            # From the journal on the new export counts, whatever the run keeps by now.
            assert export(view_of(run, 0 if number % 2 else 2), settings("diffsynth")).total == (0 if number % 2 else 2)
        else:
            export(view, settings("diffsynth"))
        after = {name: data for name, data in contents(view.storage).items() if not name.endswith("manifest.json")}
        assert after == new, f"killed at step {number}"
    assert {(1, 1, 1), (2, 2, 2)} <= seen


@pytest.mark.parametrize("one_step", [True, False])
def test_folders_change_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_step: bool) -> None:
    if not one_step:
        monkeypatch.setattr(exchange, "_in_one_step", lambda *_: False)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    exchange.exchange(str(tmp_path / "one"), str(tmp_path / "other"))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "one",
        "one/other",
        "other",
        "other/one",
    ]
    exchange.exchange(str(tmp_path / "one"), str(tmp_path / "third"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "third"]
