"""Stages that compare the rows of the whole run: what they are given, what is stored, and what the rule makes of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from engine_stages import executions
from engine_tools import counts, go, make_photos, pipeline, table

from ugaf.base.errors import ConfigError, UgafError
from ugaf.cli.explain import explain
from ugaf.columns.view import RunView
from ugaf.engine.plan import FitError, Machine, segments, size_pools
from ugaf.pipeline import config

MEAN, TWINS, DOUBLE = "engine_stages:Mean", "engine_stages:Twins", "engine_stages:Double"


def stages(**settings: Any) -> list[Any]:
    return [MEAN, {TWINS: settings}, DOUBLE]


def linked(view: RunView) -> set[tuple[str, str]]:
    rows = table(view, "image", ["twins"])
    return {tuple(sorted((key, link["id"]))) for key, row in rows.items() for link in row["twins"] or ()}  # type: ignore[misc]


def near(view: RunView, within: float = 5.0) -> set[tuple[str, str]]:
    means = {key: row["mean"] for key, row in table(view, "image", ["mean"]).items()}
    return {(a, b) for a in means for b in means if a < b and abs(means[a] - means[b]) <= within}


def test_it_sees_every_row_of_the_run_and_is_a_segment_of_its_own(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 12)
    checked = pipeline(tmp_path / "photos", tmp_path / "run", stages())
    assert [[group.stages for group in part] for part in segments(checked)] == [
        [("ingest", MEAN)],
        [(TWINS,)],
        [(DOUBLE,)],
    ]
    view = go(checked)
    rows = table(view, "image", ["compared"])
    assert {row["compared"] for row in rows.values()} == {11}
    assert linked(view) == near(view) != set()


def test_of_each_cluster_the_best_is_kept_and_goes_on(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 30)
    where = {"twins": {"distinct": {"where": {"apart": {"max": 3.0}}}}}
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", stages(keep=where)))
    means = {key: row["mean"] for key, row in table(view, "image", ["mean"]).items()}
    # Rows in the order of their means: a new cluster begins wherever the gap to the last row is over 3.
    order = sorted(means, key=means.__getitem__)
    clusters = [[order[0]]]
    for last, key in pairwise(order):
        if means[key] - means[last] > 3.0:
            clusters.append([])
        clusters[-1].append(key)
    best = {cluster[-1] for cluster in clusters}
    rows = table(view, "image", ["double"])
    assert {key for key, row in rows.items() if row["status"] == "kept"} == best
    assert {key for key, row in rows.items() if row["double"] is not None} == best
    lost = {key: cluster[-1] for cluster in clusters for key in cluster[:-1]}
    assert {key: row["reason"] for key, row in rows.items() if row["status"] == "rejected"} == {
        key: f"twins: near-duplicate of {winner}" for key, winner in lost.items()
    }
    assert dict(counts(view)[TWINS].rejected) == {"twins: near-duplicate": len(lost)}
    told = "\n".join(explain(view, next(iter(lost))))
    assert told.startswith(f"OUT BY {TWINS}: twins: near-duplicate of ")
    assert "rule: twins: the best of its cluster BROKEN" in told


def test_new_rows_are_compared_with_all_and_old_ones_are_not_measured_again(tmp_path: Path) -> None:
    photos, trace = tmp_path / "photos", str(tmp_path)
    make_photos(photos, 11)
    go(pipeline(photos, tmp_path / "run", stages(trace=trace)))
    first = executions(tmp_path, "twins")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("part-*")}
    make_photos(photos, 9, start=11)
    view = go(pipeline(photos, tmp_path / "run", stages(trace=trace)))
    assert sorted(executions(tmp_path, "twins")) == sorted(table(view, "image", []))
    assert executions(tmp_path, "twins")[: len(first)] == first
    assert all(path.read_bytes() == content for path, content in before.items())
    assert linked(view) == near(view)


def test_a_stop_between_two_fragments_loses_no_link(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 20)
    with pytest.raises(RuntimeError, match="asked to stop"):
        go(pipeline(tmp_path / "photos", tmp_path / "run", stages(stop_after=2)))
    # What was asked to stop is a setting: the columns of the second try are of another folder unless they are copied.
    made = next((tmp_path / "run").glob(f"{TWINS}@*"))
    again = pipeline(tmp_path / "photos", tmp_path / "run", stages())
    made.rename(tmp_path / "run" / again.stage(TWINS).folder)
    view = go(again)
    assert linked(view) == near(view)
    assert {row["compared"] for row in table(view, "image", ["compared"]).values()} == {19}


def test_a_duplicate_comes_back_when_its_winner_is_turned_down_before(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 30)
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", stages()))
    rows = table(view, "image", ["mean"])
    loser, row = next((key, row) for key, row in rows.items() if row["status"] == "rejected")
    winner = row["reason"].split()[-1]
    assert rows[winner]["mean"] > row["mean"]
    between = (rows[winner]["mean"] + row["mean"]) / 2
    tight = pipeline(
        tmp_path / "photos", tmp_path / "run", [{MEAN: {"keep": {"mean": {"max": between}}}}, TWINS, DOUBLE]
    )
    # Double is given rows that it did not have before, and its parts become one.
    every = (tmp_path / "run").rglob("part-*")
    parts = {path: path.stat().st_mtime_ns for path in every if not path.parts[-3].startswith(DOUBLE)}
    after = table(go(tight), "image", [])
    assert after[winner]["stage"] == MEAN
    assert after[loser]["stage"] != TWINS or winner not in after[loser]["reason"]
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def test_a_row_that_fails_is_kept_out_of_the_comparison_and_retried_on_request(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 8)
    key = min(table(go(pipeline(tmp_path / "photos", tmp_path / "first", stages())), "image", []))
    run = tmp_path / "run"
    view = go(pipeline(tmp_path / "photos", run, stages(fail_id=key)))
    assert table(view, "image", [])[key]["reason"] == "RowError: asked to fail"
    assert counts(view)[TWINS].failed == 1
    again = pipeline(tmp_path / "photos", run, stages())
    next(run.glob(f"{TWINS}@*")).rename(run / again.stage(TWINS).folder)
    assert counts(go(again))[TWINS].failed == 1
    view = go(again, retry_failed=True)
    assert counts(view)[TWINS].failed == 0
    assert linked(view) == near(view)


@pytest.mark.ray
def test_on_ray_it_gives_what_it_gives_inline(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 12)
    inline = go(pipeline(tmp_path / "photos", tmp_path / "inline", stages()))
    on_ray = go(pipeline(tmp_path / "photos", tmp_path / "ray", stages(), engine={"executor": "ray", "workers": 1}))
    columns = ["twins", "compared", "double"]
    assert table(on_ray, "image", columns) == table(inline, "image", columns)


def test_model_servers_have_to_leave_a_cpu_for_its_tasks(tmp_path: Path) -> None:
    groups = segments(pipeline(tmp_path, tmp_path / "run", stages()))[1]
    assert size_pools(groups, Machine(2, 0, 2, 0).without(1, 0), None) == []
    with pytest.raises(FitError, match="its tasks need a CPU each, and model servers leave 0"):
        size_pools(groups, Machine(2, 0, 2, 0).without(2, 0), None)


class _Careless:
    """Not a stage: a patch of `across` that leaves the last fragment out."""

    def __init__(self, across: Any) -> None:
        self.across = across

    def __call__(self, stage: Any, run: Any) -> Any:
        return list(self.across(stage, run))[:-1]


def test_a_stage_that_leaves_a_fragment_out_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import engine_stages

    careless = _Careless(engine_stages.Twins.across)
    monkeypatch.setattr(engine_stages.Twins, "across", lambda self, run: iter(careless(self, run)))
    make_photos(tmp_path / "photos", 8)
    with pytest.raises(UgafError, match=r"gave no outcomes for 1 fragments, such as 000000001-\w{16}"):
        go(pipeline(tmp_path / "photos", tmp_path / "run", stages()))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"twins": {"distinct": {"best": ["meen"]}}}, "writes a column 'meen'; did you mean 'mean'"),
        ({"twins": {"distinct": {"best": ["format"]}}}, "format is string, no number"),
        ({"twins": {"distinct": {"where": {"appart": {"max": 1}}}}}, "no number 'appart'; did you mean 'apart'"),
        ({"twins": {"distinct": {"wehre": {}}}}, "distinct.wehre: unknown setting; did you mean 'where'"),
        ({"twins": {"distinct": {"where": {"apart": {"mim": 1}}}}}, "unknown setting; did you mean 'min'"),
        ({"compared": {"distinct": {}}}, "the column is int32; the rule is for lists of links"),
    ],
)
def test_a_wrong_rule_is_refused_before_any_work(tmp_path: Path, keep: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(tmp_path, tmp_path / "run", stages(keep=keep))


def test_a_bound_of_the_default_rule_can_be_changed_or_taken_away_alone(tmp_path: Path) -> None:
    def rule(keep: dict[str, Any]) -> Any:
        return pipeline(tmp_path, tmp_path / "run", stages(keep=keep)).stage(TWINS).rules[0].bound

    changed = rule({"twins": {"distinct": {"where": {"apart": {"max": 2.0}}}}})
    assert (changed.where["apart"].max, changed.best) == (2.0, ["mean"])
    assert rule({"twins": {"distinct": {"where": {"apart": None}}}}).where == {}
    without = pipeline(tmp_path, tmp_path / "run", stages(keep={"twins": {"distinct": {"where": {"apart": None}}}}))
    assert config.parse(without.document).stage(TWINS).rules == without.stage(TWINS).rules
    assert rule({"twins": {"distinct": {"best": ["-mean"]}}}).where["apart"].max == 0.5
