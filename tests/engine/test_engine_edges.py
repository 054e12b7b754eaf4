"""The engine where things go wrong: damaged files, deaths in awkward places, odd values, changed settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from engine_stages import executions, note
from engine_tools import counts, go, make_photos, pipeline, table, tree
from pydantic import Field

from ugaf import ingest
from ugaf.base.errors import ConfigError, UgafError
from ugaf.columns.view import RunView
from ugaf.engine import loader, runner, worker
from ugaf.engine import ray_engine as engine
from ugaf.engine.costs import Known, loads
from ugaf.engine.layout import laid_out
from ugaf.engine.monitor import Monitor
from ugaf.engine.plan import FitError, Machine, segments
from ugaf.engine.units import Unit
from ugaf.imaging import images
from ugaf.pipeline.config import Pipeline
from ugaf.stage import Outcome, Row, RowError, Settings, Stage

MEAN, DOUBLE, HALVES, FLIP = (f"engine_stages:{name}" for name in ("Mean", "Double", "Halves", "Flip"))
HERE = __name__


class Death(BaseException):
    """Stands for the end of a worker's process: no handler for exceptions sees it."""


class Label(Stage):
    """Reads nothing that another stage measures."""

    reads = ("width",)
    writes = pa.schema([pa.field("label", pa.string())])

    class Settings(Settings):
        label: str = ""

    def process(self, _: Row) -> Outcome:
        return {"label": self.settings.label}


class Narrow(Stage):
    """Values that storing changes: float32, a tuple, a struct with an absent field."""

    reads = ("width",)
    writes = pa.schema(
        [
            pa.field("third", pa.float32()),
            pa.field("pair", pa.list_(pa.int32())),
            pa.field("facts", pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))])),
            pa.field("nothing", pa.null()),
        ]
    )

    def process(self, row: Row) -> Outcome:
        return {"third": row["width"] / 3 + 0.1, "pair": (1, 2), "facts": {"a": 1}, "nothing": None}


class Seen(Stage):
    """What a stage sees of another's values."""

    reads = ("third", "pair", "facts", "nothing")
    writes = pa.schema([pa.field("seen", pa.string())])

    def process(self, row: Row) -> Outcome:
        return {"seen": repr([row[name] for name in self.reads])}


class Fails(Stage):
    """Fails every row in its own way."""

    reads = ("width",)
    writes = pa.schema([pa.field("number", pa.int64())])

    class Settings(Settings):
        how: str = ""

    def process(self, _: Row) -> Outcome:
        if self.settings.how == "exit":
            raise SystemExit(3)
        if self.settings.how == "big":
            return {"number": 2**62 + 1}
        if self.settings.how == "null":
            return {"number": None}
        raise RowError({"long": "x" * 1_000_000, "bytes": "a\udcffb"}.get(self.settings.how, "no"))


class Deadly(Stage):
    """Ends its process on one row, at image or edit level."""

    reads = ("width",)
    writes = pa.schema([pa.field("alive", pa.bool_())])

    class Settings(Settings):
        trace: str = ""
        kills: list[str] = Field([], description="ids of rows")

    def process(self, row: Row) -> Outcome:
        note(self.settings.trace, "deadly", row.id)
        if row.id in self.settings.kills:
            raise Death
        return {"alive": True}


class OtherDonor(Stage):
    """Two columns that name the same row, with different columns of it."""

    reads = ("side",)
    refs: ClassVar[dict[str, tuple[str, ...]]] = {"donor": ("mean",), "again": ("double",)}
    writes = pa.schema([pa.field("ratio", pa.float64())])

    def process(self, row: Row) -> Outcome:
        return {"ratio": row.refs["again"]["double"] / row.refs["donor"]["mean"]}


class Again(Stage):
    """Names its donor once more."""

    reads = ("donor",)
    writes = pa.schema([pa.field("again", pa.string())])

    def process(self, row: Row) -> Outcome:
        return {"again": row["donor"]}


class EditPeers(Stage):
    """Asks for a photograph's column of neighbouring edits."""

    reads = ("side",)
    peers = ("mean",)
    writes = pa.schema([pa.field("x", pa.float64())])


class BadSetup(Stage):
    """Cannot be set up: raises, or ends its process."""

    reads = ("width",)
    writes = pa.schema([pa.field("one", pa.int64())])

    class Settings(Settings):
        trace: str = ""
        how: str = "raise"

    def setup(self) -> None:
        note(self.settings.trace, "setup", "once")
        if self.settings.how == "abort":
            os.abort()
        raise FileNotFoundError("no weights at /models/x")


LABEL, NARROW, SEEN, FAILS, DEADLY = (f"{HERE}:{name}" for name in ("Label", "Narrow", "Seen", "Fails", "Deadly"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_photos(tmp_path / "photos", 12)
    return tmp_path / "photos"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    (tmp_path / "trace").mkdir()
    return tmp_path / "trace"


def go_restarting(checked: Pipeline, most: int = 30, **options: Any) -> tuple[RunView, int]:
    """Run inline as Ray would: a fragment whose worker dies goes to a new worker; the journal lives on."""
    deaths = 0

    def run_groups(groups: Any, make_task: Callable[..., Any], work: Any, *_: Any) -> None:
        nonlocal deaths
        monitor = Monitor()
        for group in groups:
            for fragment, pending in work.items():
                while True:
                    try:
                        worker.StageWorker(make_task(group, None), monitor).run(Unit(fragment), pending.skip)
                        break
                    except Death:
                        deaths += 1
                        assert deaths <= most, "it dies for ever"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_inline", run_groups)
        return go(checked, **options), deaths


def test_columns_that_do_not_depend_on_what_changed_stay(photos: Path, tmp_path: Path, trace: Path) -> None:
    def run(label: str, mean: dict | None = None) -> RunView:
        stages = [{LABEL: {"label": label}}, {MEAN: {"trace": str(trace), **(mean or {})}}, DOUBLE, HALVES, FLIP]
        return go(pipeline(photos, tmp_path / "run", stages))

    run("a")
    parts = {name: facts for name, facts in tree(tmp_path / "run").items() if "/part-" in name}
    view = run("b")
    after = tree(tmp_path / "run")
    assert {name: after[name] for name in parts} == parts
    assert len(executions(trace, "mean")) == 12
    assert (counts(view)[LABEL].kept, counts(view)[FLIP].kept) == (12, 24)
    assert {row["label"] for row in table(view, "image", ["label"]).values()} == {"b"}
    run("a")
    assert {name: facts for name, facts in tree(tmp_path / "run").items() if name in after} == {
        **after,
        "run.yaml": tree(tmp_path / "run")["run.yaml"],
    }


def test_rows_newly_admitted_flow_through_stages_that_know_some_of_them(photos: Path, tmp_path: Path) -> None:
    def run(limit: float, label: str, **options: Any) -> RunView:
        stages = [{LABEL: {"label": label}}, {MEAN: {"keep": {"mean": {"min": limit}}}}, DOUBLE, HALVES, FLIP]
        return go(pipeline(photos, tmp_path / "run", stages), **options)

    run(150, "a")
    run(0, "a", last=DOUBLE)
    view = run(0, "b")
    result = counts(view)
    assert (result[DOUBLE].kept, result[FLIP].kept, result[FLIP].pending) == (12, 24, 0)


def test_a_bad_file_replaced_by_another_bad_file_is_one_failed_row(photos: Path, tmp_path: Path) -> None:
    late = photos / "late.jpg"
    late.write_bytes(b"")
    checked = pipeline(photos, tmp_path / "run", [MEAN])
    assert counts(go(checked))["ingest"].failed == 1
    for content in (b"still no photograph", b"and never will be"):
        late.write_bytes(content)
        result = counts(go(checked))["ingest"]
        assert (result.given, result.failed) == (13, 1)


@pytest.mark.parametrize("stage", ["sources", "ingest", MEAN])
@pytest.mark.parametrize("kept", [0, 100, -4])
def test_a_damaged_file_is_named(stage: str, kept: int, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    checked = pipeline(tmp_path / "photos", tmp_path / "run", [MEAN, DOUBLE])
    view = go(checked)
    (fragment,) = view.fragments
    name = f"sources/{fragment}.parquet" if stage == "sources" else view.columns.parts(stage, fragment)[0]
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UgafError, match=r"000000000-\w+.*cannot be read") as caught:
        go(checked)
    assert str(path) in str(caught.value)
    if stage == MEAN:
        path.unlink()
        assert counts(go(checked))[DOUBLE].kept == 2


def test_a_stage_sees_the_same_values_after_a_break(photos: Path, tmp_path: Path) -> None:
    through = go(pipeline(photos, tmp_path / "one", [NARROW, SEEN]))
    broken = pipeline(photos, tmp_path / "two", [NARROW, SEEN])
    go(broken, last=NARROW)
    seen = table(through, "image", ["seen"])
    assert seen == table(go(broken), "image", ["seen"])
    assert "'b': None" in next(iter(seen.values()))["seen"]


def test_a_second_run_with_quantiles_changes_no_byte(photos: Path, tmp_path: Path) -> None:
    checked = pipeline(photos, tmp_path / "run", [{MEAN: {"keep": {"mean": {"min_quantile": 0.2}}}}, DOUBLE])
    go(checked)
    before = tree(tmp_path / "run")
    go(checked)
    assert tree(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("how", "kept"), [("no", 0), ("null", 12), ("exit", 0), ("long", 0), ("bytes", 0), ("big", 12)]
)
def test_rows_that_fail_or_are_null_pass_a_quantile_barrier(how: str, kept: int, photos: Path, tmp_path: Path) -> None:
    keep = {"number": {"min_quantile": 0.1, "max_quantile": 0.9}}
    stages = [{FAILS: {"how": how, "keep": keep}}, MEAN, HALVES, FLIP]
    engine_settings = {"executor": "inline", "stop_after_alike": 0}
    view = go(pipeline(photos, tmp_path / "run", stages, engine=engine_settings))
    result = counts(view)
    assert (result[FAILS].kept, result[FAILS].failed) == (kept, 12 - kept)
    assert (result[FLIP].given, result[FLIP].pending) == (2 * kept, 0)
    assert all(len(row["reason"]) < 2_100 for row in table(view, "image", []).values())


def test_two_references_to_one_row_each_have_their_columns(photos: Path, tmp_path: Path) -> None:
    stages = [MEAN, DOUBLE, HALVES, f"{HERE}:Again", f"{HERE}:OtherDonor"]
    ratios = table(go(pipeline(photos, tmp_path / "run", stages)), "edit", ["ratio"])
    assert {row["ratio"] for row in ratios.values()} == {2.0}


def test_neighbours_of_another_level_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="peers: 'mean' is a column of images"):
        pipeline(photos, tmp_path / "run", [MEAN, HALVES, f"{HERE}:EditPeers"])


def test_later_stages_do_not_need_the_inputs(photos: Path, tmp_path: Path) -> None:
    checked = pipeline(photos, tmp_path / "run", [MEAN, DOUBLE])
    go(checked, last=MEAN)
    shutil.rmtree(photos)
    assert counts(go(checked, first=DOUBLE))[DOUBLE].kept == 12
    with pytest.raises(ConfigError, match="no such file or folder"):
        go(checked)


def test_odd_names_of_folders(tmp_path: Path) -> None:
    make_photos(tmp_path / "ph ö#%20 x", 3)
    for output in (tmp_path / "r#n ü %41?b", (tmp_path / "a run").as_uri()):
        assert counts(go(pipeline(tmp_path / "ph ö#%20 x", output, [MEAN, HALVES, FLIP])))[FLIP].kept == 6


@pytest.mark.parametrize("number", [1, 5])
def test_a_row_that_kills_is_the_only_one_that_fails(number: int, photos: Path, tmp_path: Path, trace: Path) -> None:
    ids = sorted(ingest.image_id(path.read_bytes()) for path in photos.iterdir())
    stages = [{DEADLY: {"kills": ids[:number], "trace": str(trace)}}, MEAN]
    view, deaths = go_restarting(pipeline(photos, tmp_path / "run", stages))
    rows = table(view, "image", [])
    assert {key for key, row in rows.items() if row["status"] == "failed"} == set(ids[:number])
    assert counts(view)[MEAN].kept == 12 - number
    assert deaths <= 3 + 2 * number
    # On request it is tried once more, with the same end.
    view, _ = go_restarting(pipeline(photos, tmp_path / "run", stages), retry_failed=True)
    assert (counts(view)[DEADLY].failed, counts(view)[MEAN].kept) == (number, 12 - number)


def test_an_edit_that_kills_does_not_cost_its_sibling(photos: Path, tmp_path: Path) -> None:
    whole = go(pipeline(photos, tmp_path / "whole", [MEAN, HALVES, FLIP]))
    killer = sorted(table(whole, "edit", []))[5]
    stages = [MEAN, HALVES, {DEADLY: {"kills": [killer]}}, FLIP]
    view, _ = go_restarting(pipeline(photos, tmp_path / "run", stages))
    result = counts(view)
    assert (result[DEADLY].kept, result[DEADLY].failed, result[FLIP].kept) == (23, 1, 23)
    assert table(view, "edit", [])[killer]["reason"].startswith("WorkerDied: ")


@pytest.mark.parametrize("fragment_rows", [1, 5])
def test_a_source_that_kills_in_ingest_is_one_failed_row(
    fragment_rows: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce = ingest.produce

    def deadly(refs: Any, *settings: Any) -> Any:
        for row in produce(refs, *settings):
            if any("00003" in ref.uri for ref in row.refs):
                raise Death
            yield row

    monkeypatch.setattr(ingest, "produce", deadly)
    # Read one by one after the death, these two are still one row of two sources.
    shutil.copy(photos / "photo-00001.jpg", photos / "photo-00001b.jpg")
    view, _ = go_restarting(pipeline(photos, tmp_path / "run", [MEAN], fragment_rows=fragment_rows))
    result = counts(view)
    assert (result["ingest"].given, result["ingest"].failed, result["ingest"].pending) == (12, 1, 0)
    assert result[MEAN].kept == 11
    sources = [row["sources"] for row in table(view, "image", ["sources"]).values()]
    assert sorted(len(names) for names in sources) == [1] * 11 + [2]


def test_a_photograph_whose_columns_cannot_be_read_without_dying_is_given_up(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = ingest.image_id((photos / "photo-00003.jpg").read_bytes())
    load = loader.Loader.load

    def deadly(self: Any, entries: Any) -> None:
        if killer in {entry.base for entry in entries}:
            raise Death
        load(self, entries)

    monkeypatch.setattr(loader.Loader, "load", deadly)
    view, _ = go_restarting(pipeline(photos, tmp_path / "run", [MEAN, DOUBLE]))
    result = counts(view)
    assert (result[MEAN].kept, result[MEAN].failed, result[DOUBLE].kept) == (11, 1, 11)


def test_deaths_outside_of_any_row_stop_the_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deadly(*_: Any, **__: Any) -> None:
        raise Death

    monkeypatch.setattr(worker, "ChainRun", deadly)
    with pytest.raises(UgafError, match=r"fragment 000000000-\w{16}: 6 processes died in it outside of a row's work"):
        go_restarting(pipeline(photos, tmp_path / "run", [MEAN]))


def test_a_crash_between_the_commits_of_two_stages_loses_nothing(
    photos: Path, tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ugaf.columns.parts import Columns

    checked = pipeline(
        photos, tmp_path / "run", [{MEAN: {"trace": str(trace)}}, {DOUBLE: {"trace": str(trace)}}, FAILS]
    )
    write, calls = Columns.write, 0

    def crash(self: Columns, stage: str, *rest: Any) -> str:
        nonlocal calls
        calls += stage == DOUBLE
        if stage == DOUBLE and calls % 2:
            raise Death
        return write(self, stage, *rest)

    monkeypatch.setattr(Columns, "write", crash)
    view, deaths = go_restarting(checked)
    assert deaths > 0
    result = counts(view)
    assert (result[MEAN].kept, result[DOUBLE].kept, result[FAILS].failed) == (12, 12, 12)
    # The first stage's rows were committed before each crash, the second's were not.
    assert (len(executions(trace, "mean")), len(set(executions(trace, "double")))) == (12, 12)


def test_gpu_workers_fill_what_others_leave(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)

    def workers(one: dict, two: dict, gpus: float) -> list[int]:
        stages = [{MEAN: {"resources": {"cpus": 0.1, **one}}}, {DOUBLE: {"resources": {"cpus": 0.1, **two}}}]
        checked = pipeline(tmp_path / "photos", tmp_path / "run", stages)
        groups = segments(checked)[0]
        found = laid_out(checked, groups, [], Machine(64, gpus, 64, gpus), loads(checked, groups, Known(), {}))
        return [pool.workers for pool in found.pools if pool.gpus]

    assert workers({"gpus": 1, "workers": 6}, {"gpus": 1}, 8) == [6, 2]
    assert workers({"gpus": 1}, {"gpus": 1}, 8) == [4, 4]
    assert workers({"gpus": 0.6}, {"gpus": 0.25}, 4) == [4, 4]
    assert workers({"gpus": 0.5}, {"gpus": 0.25}, 1) == [1, 2]
    with pytest.raises(FitError, match="need 2 GPUs, and there are 1"):
        workers({"gpus": 1}, {"gpus": 1}, 1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", r"(?s)setting up ingest, .*BadSetup: Traceback .*FileNotFoundError: no weights at /models/x"),
        ("abort", r"the worker of ingest, .*BadSetup died 3 times while it was being set up"),
    ],
)
@pytest.mark.timeout(120)
@pytest.mark.ray
def test_a_stage_that_cannot_be_set_up_stops_the_run(how: str, message: str, tmp_path: Path, trace: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    stages = [{f"{HERE}:BadSetup": {"how": how, "trace": str(trace)}}]
    checked = pipeline(tmp_path / "photos", tmp_path / "run", stages, engine={"executor": "ray", "workers": 1})
    with pytest.raises(engine.RunError, match=message):
        go(checked)
    assert len(executions(trace, "setup")) <= 4


def test_light_columns_of_a_part_with_images_come_from_its_footer(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    from ugaf.storage.store import light_columns, parquet_bytes

    ids, places = [f"{number:032x}" for number in range(20)], [[number, number + 1] for number in range(20)]
    errors = [None if number % 3 else "RowError: no" for number in range(20)]
    images = pa.array([bytes(100)] * 20, pa.large_binary())
    made = pa.table({"id": ids, "refs": pa.array(places, pa.list_(pa.int32())), "image": images, "error": errors})
    file = pq.ParquetFile(pa.BufferReader(parquet_bytes(made, ("image",))))
    assert file.num_row_groups == 3
    assert file.read().equals(made)
    assert light_columns(file, ["id", "image"]).equals(made.select(["id", "image"]))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("row groups were read")

    monkeypatch.setattr(pq.ParquetFile, "read", never)
    assert light_columns(file, ["error", "refs", "id"]).equals(made.select(["error", "refs", "id"]))


def test_a_donor_that_another_fragment_speaks_for_is_still_found_after_a_stop(tmp_path: Path) -> None:
    """Fresh, a fragment does not know of its duplicates in earlier ones; resumed, it does. The edits are the same."""
    paths = make_photos(tmp_path / "photos", 8)
    brightest = max(paths, key=lambda path: images.decode(path.read_bytes()).mean())
    shutil.copy(brightest, tmp_path / "photos" / "zz-copy.jpg")
    stages = [f"engine_stages:{name}" for name in ("Mean", "Halves", "Flip")]

    def checked(name: str) -> Pipeline:
        return pipeline(tmp_path / "photos", tmp_path / name, stages, fragment_rows=4)

    whole = go(checked("whole"))
    go(checked("stopped"), last="engine_stages:Halves")
    resumed = go(checked("stopped"))
    columns = ["donor", "donor_mean", "draw"]
    assert table(resumed, "edit", columns) == table(whole, "edit", columns)
    assert counts(resumed)["engine_stages:Flip"].failed == 0
