"""A balanced export: which pairs it takes, what it says of the others, and when its shards are written again."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from export_fakes import FakeView, contents, edits_of, fragment, parquet_rows

from ugaf.balance import BalanceSettings
from ugaf.base.errors import ConfigError, UgafError
from ugaf.cli.commands import export as export_command
from ugaf.export import ExportSettings, balanced, export, split
from ugaf.imaging import images
from ugaf.pipeline import config
from ugaf.storage import Storage

TASKS = {"recolor": 12, "tone": 8, "add": 4}


@pytest.fixture(scope="module")
def tables(photos: dict[str, np.ndarray]) -> list[pa.Table]:
    """24 kept edits of three tasks, of five photographs, and a rejected one of a fourth task, in three fragments."""
    small = [images.decode(images.encode(photo), 48) for photo in photos.values()]
    edits = [edits_of(photo, 5) for photo in small]
    rows = [edits[n % 5][n // 5] for n in range(24)]
    names = [name for name, count in TASKS.items() for _ in range(count)]
    rows = [
        {**row, "task": name, "instruction": f"Edit {n}."}
        for n, (row, name) in enumerate(zip(rows, names, strict=True))
    ]
    rows.append({**rows[0], "task": "remove", "status": "rejected"})
    return [fragment(*rows[start::3]) for start in range(3)]


def options(**balance: Any) -> ExportSettings:
    return ExportSettings(validation=0.4, formats=["parquet"], balance=BalanceSettings(**{"by": "task", **balance}))


def tasks(view: FakeView) -> Counter[str]:
    return Counter(row["task"] for row in parquet_rows(view.storage))


def section(view: FakeView) -> str:
    return view.storage.read("README.md").decode().partition("## Balance\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ({}, TASKS),
        ({"mode": "downsample"}, {"recolor": 4, "tone": 4, "add": 4}),
        ({"mode": "downsample", "min_rows": 5}, {"recolor": 8, "tone": 8, "add": 4}),
        ({"mode": "downsample", "target": {"recolor": 0.5, "other": 0.5}}, {"recolor": 12, "tone": 8, "add": 4}),
        ({"mode": "downsample", "target": {"recolor": 1, "tone": 1}}, {"recolor": 8, "tone": 8}),
        ({"mode": "downsample", "temperature": 2}, {"recolor": 7, "tone": 5, "add": 4}),
        ({"max_per_category": 5}, {"recolor": 5, "tone": 5, "add": 4}),
    ],
)
def test_an_export_takes_the_quota_of_each_category(
    view: FakeView, balance: dict[str, Any], expected: dict[str, int]
) -> None:
    summary = export(view, options(**balance))
    assert tasks(view) == expected
    left = {f"balance: task {name}": count - expected.get(name, 0) for name, count in TASKS.items()}
    assert summary.left_out == {reason: count for reason, count in left.items() if count}
    for reason, count in summary.left_out.items():
        assert f"kept, but left out: {count} ({reason})" in str(summary)
    assert not export(view, options(**balance)).written


def test_splits_and_bytes_of_what_is_taken_stay(view: FakeView) -> None:
    export(view, ExportSettings(validation=0.4, formats=["parquet"]))
    before = {row["id"]: row for row in parquet_rows(view.storage)}
    export(view, options(mode="downsample"))
    after = parquet_rows(view.storage)
    assert all(before[row["id"]] == row for row in after)
    assert {row["split"] for row in after} == {"train", "validation"}


def test_the_first_of_each_category_by_hash_are_taken_wherever_they_lie(view: FakeView, tables: list[pa.Table]) -> None:
    export(view, options(mode="downsample", seed=3))
    kept = [row for table in tables for row in table.to_pylist() if row["status"] == "kept"]
    expected = set()
    for task in TASKS:
        own = [row["id"] for row in kept if row["task"] == task]
        expected |= set(sorted(own, key=lambda key: hashlib.sha256(f"ugaf balance/3/{key}".encode()).hexdigest())[:4])
    assert {row["id"] for row in parquet_rows(view.storage)} == expected
    view.tables = [fragment(*(row for table in reversed(tables) for row in table.to_pylist()))]
    export(view, options(mode="downsample", seed=3))
    assert {row["id"] for row in parquet_rows(view.storage)} == expected


def test_added_rows_change_few_choices(view: FakeView, tables: list[pa.Table]) -> None:
    view.tables = tables[:2]
    quota = {"target": {"recolor": 1, "tone": 1}, "mode": "downsample", "max_per_category": 4}
    export(view, options(**quota))
    first = {row["id"] for row in parquet_rows(view.storage)}
    view.tables = tables
    export(view, options(**quota))
    second = {row["id"] for row in parquet_rows(view.storage)}
    new = {row["id"] for row in tables[2].to_pylist()}
    assert len(first) == len(second) == 8
    assert second - first <= new
    assert len(first - second) == len(second & new)


def test_only_a_balance_that_takes_other_rows_writes_the_shards_again(view: FakeView) -> None:
    export(view, ExportSettings(validation=0.4, formats=["parquet"]))
    shards = {name: data for name, data in contents(view.storage).items() if name.startswith("shards")}
    for balance in ({}, {"by": "engine"}, {"target": "natural", "mode": "downsample"}, {"min_rows": 9}):
        assert not export(view, options(**balance)).written
        assert section(view)
    assert {name: contents(view.storage)[name] for name in shards} == shards
    assert export(view, options(mode="downsample")).written
    assert not export(view, options(target="uniform", mode="downsample")).written
    assert export(view, options(mode="downsample", seed=1)).written
    assert export(view, ExportSettings(validation=0.4, formats=["parquet"])).written
    assert {name: contents(view.storage)[name] for name in shards} == shards


def test_the_card_states_the_balance(view: FakeView) -> None:
    export(view, options(mode="downsample", min_rows=5))
    text = section(view)
    assert "| task | Kept | Exported | Share | Target | Gap |" in text
    assert "| recolor | 12 | 8 | 40.0% | 33.3% | +4 |" in text
    assert "| tone | 8 | 8 | 40.0% | 33.3% | 0 |" in text
    assert "| add | 4 | 4 | 20.0% | 33.3% | -4 |" in text
    assert "add lacks 4" in text
    assert "Without more pairs, 16 can meet the target" in text
    assert "1 have fewer than 5 pairs" in text
    assert not view.storage.exists("shards/webdataset")
    export(view, ExportSettings(formats=["parquet"]))
    assert "## Balance" not in view.storage.read("README.md").decode()


def test_pairs_that_have_no_split_take_no_place(view: FakeView, tables: list[pa.Table]) -> None:
    rows = [row for table in tables for row in table.to_pylist() if row["task"] in ("tone", "add")]
    parents = {split.of_photograph(row["parent"], 0.4): row["parent"] for row in rows}
    for row in rows:
        other = "train" if split.of_photograph(row["parent"], 0.4) == "validation" else "validation"
        row["donor"] = parents[other] if row["task"] == "tone" and row["id"] < "8" else None
    bad = sum(row["donor"] is not None for row in rows)
    view.tables = [fragment(*rows)]
    summary = export(view, options(mode="downsample"))
    size = min(8 - bad, 4)
    assert 0 < bad < 8
    assert tasks(view) == {"tone": size, "add": size}
    expected = {"donor in the other split": bad, "balance: task tone": 8 - bad - size, "balance: task add": 4 - size}
    assert summary.left_out == {reason: count for reason, count in expected.items() if count}


def test_any_column_of_labels_balances_though_it_is_not_exported(view: FakeView, tables: list[pa.Table]) -> None:
    labels = [["person"], ["person", "cup"], ["person"], None]
    rows = [row for table in tables for row in table.to_pylist() if row["status"] == "kept"]
    for number, row in enumerate(rows):
        row["objects"] = None if labels[number % 4] is None else [{"label": name} for name in labels[number % 4]]
        row["indoor"] = number % 3 == 0
    view.tables = [fragment(*rows)]
    summary = export(view, options(by="objects.label", mode="downsample", target={"person": 1, "cup": 1}))
    assert summary.left_out == {"balance: objects.label person": 6, "balance: objects.label (none)": 6}
    assert "objects" not in parquet_rows(view.storage)[0]
    assert export(view, options(by="indoor", mode="downsample", target={True: 3, False: 1})).total == 10
    assert export(view, options(by="source", mode="downsample")).total == 24


@pytest.mark.parametrize(
    ("balance", "message"),
    [
        ({"by": "taks"}, "did you mean 'task'"),
        ({"by": "rgb_entropy"}, "holds no categories"),
        ({"target": {"recolour": 1, "other": 1}}, "'recolour'; did you mean 'recolor'"),
        ({"target": {"zebra": 1, "other": 1}}, "it has recolor, tone, add, remove"),
        ({"target": {"remove": 1, "other": 1}, "mode": "downsample"}, "no kept pair is of task remove"),
    ],
)
def test_a_balance_that_does_not_fit_the_run_is_refused(view: FakeView, balance: dict[str, Any], message: str) -> None:
    with pytest.raises((UgafError, ConfigError), match=message):
        export(view, options(**balance))
    assert not view.storage.exists("shards/manifest.json")


def test_a_category_of_rejected_rows_alone_is_known_and_lacks_all(view: FakeView) -> None:
    export(view, options(target={"remove": 1, "other": 1}))
    assert "| remove | 0 | 0 | 0.0% | 50.0% | -12 |" in section(view)


def test_pairs_left_out_by_very_many_categories_are_summed_up() -> None:
    left_out = {f"balance: target {n}": 100 - n for n in range(40)} | {"unreadable image": 2}
    found = balanced.folded(left_out)
    assert found["unreadable image"] == 2
    assert sum(found.values()) == sum(left_out.values())
    assert len(found) == balanced.MAX_REASONS + 1
    assert found["balance: 29 other categories"] == sum(100 - n for n in range(11, 40))


def test_the_command_line_sets_a_balance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`ugaf export RUN --set balance.by=task` reaches the export."""
    asked: list[ExportSettings] = []
    stages = ["annotation.detect", "annotation.instruct", "generation.edit"]
    stored = config.parse({"name": "small", "inputs": ["sample://"], "stages": stages})
    view = Namespace(path="runs/x", pipeline=stored, storage=Storage(str(tmp_path)))
    monkeypatch.setattr("ugaf.cli.commands.asked.view", lambda _options: view)

    def export(_view: Any, settings: ExportSettings, *_: Any, **_options: Any) -> Any:
        asked.append(settings)
        return Namespace(root="shards")

    monkeypatch.setattr("ugaf.cli.commands.exported.export", export)
    monkeypatch.setattr("ugaf.cli.commands.exported.earlier.described", lambda *_: "")
    changes = ["balance.by=task", "balance.mode=downsample", "balance.target={recolor: 0.2, other: 0.8}"]
    assert export_command.run(Namespace(run="runs/x", set=changes, replace_shards=False, trust=[], wait=False)) == 0
    expected = BalanceSettings(by="task", mode="downsample", target={"recolor": 0.2, "other": 0.8})
    assert asked[0].balance == expected
    assert asked[0].formats == stored.settings.export.formats
