"""GPUs by cost: servers and workers in proportion to their work, within what there is, near the best that there could
be; what a row costs, and how many rows are to come."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ugaf.engine.allotment import Ask, allot, packs, seconds
from ugaf.engine.costs import CHILDREN, GUESSES, TABLE, Known, cost_of, expected, lane_shares, loads
from ugaf.engine.layout import check, has_models, laid_out, restarted, waves
from ugaf.engine.plan import FitError, Machine, segments, servers_of
from ugaf.models.licences import ENTRIES, licence_of
from ugaf.pipeline import config

SIZES = (0.25, 0.5, 1.0, 2.0, 4.0)
WORK = st.floats(0, 1e6).map(lambda x: round(x, 3))


@st.composite
def asks(draw: st.DrawFn, most: int = 5, given_too: bool = True) -> list[Ask]:
    counts = st.none() | st.integers(1, 3) if given_too else st.none()
    found = draw(st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from([0.1, 1.0]), WORK, counts), max_size=most))
    return [Ask(str(number), *some) for number, some in enumerate(found)]


NODES = st.tuples(st.integers(1, 6), st.sampled_from([1, 2, 4, 8])).map(lambda pair: (float(pair[1]),) * pair[0])


def taken(wanted: Sequence[Ask], counts: Mapping[str, int]) -> tuple[float, float]:
    return sum(a.gpus * counts[a.name] for a in wanted), sum(a.cpus * counts[a.name] for a in wanted)


def bound(wanted: Sequence[Ask], gpus: float) -> float:
    """No way is faster: all GPUs always at work; and what is given is as fast as it is."""
    fixed = max((a.work / a.count for a in wanted if a.count), default=0.0)
    return max(fixed, sum(a.work * a.gpus for a in wanted) / gpus if gpus else 0.0)


@given(asks(), NODES)
def test_there_is_room_for_all_and_one_of_each(wanted: list[Ask], nodes: tuple[float, ...]) -> None:
    counts = allot(wanted, nodes, 100.0)
    least = {a.name: a.count or 1 for a in wanted}
    if counts is None:
        assert taken(wanted, least)[1] > 100 or not fits_somehow(wanted, least, nodes)
        return
    gpus, cpus = taken(wanted, counts)
    assert gpus <= sum(nodes) + 1e-6
    assert cpus <= 100 + 1e-6
    assert all(counts[a.name] == a.count if a.count else counts[a.name] >= 1 for a in wanted)
    assert fits_somehow(wanted, counts, nodes)


def fits_somehow(wanted: Sequence[Ask], counts: Mapping[str, int], nodes: Sequence[float]) -> bool:
    """Sizes that divide each other: by volume, level by level, from the largest down."""
    left = list(nodes)
    for size in sorted({a.gpus for a in wanted}, reverse=True):
        for _ in range(sum(counts[a.name] for a in wanted if a.gpus == size)):
            place = next((n for n, free in enumerate(left) if free >= size - 1e-9), None)
            if place is None:
                return False
            left[place] -= size
    return True


@given(asks(given_too=False), NODES)
def test_it_ends_near_the_soonest_that_there_could_be(wanted: list[Ask], nodes: tuple[float, ...]) -> None:
    counts = allot(wanted, nodes, 1e6)
    assume(counts is not None and any(a.work > 0 for a in wanted))
    assert counts is not None
    found, gpus = seconds(wanted, counts, 1e6, 0), sum(nodes)
    assert found >= bound(wanted, gpus) - 1e-6
    # What rounding may cost: one more of each would have been enough, and GPUs that none fits on.
    spare = sum(max(1.0, a.gpus) for a in wanted) + max(a.gpus for a in wanted) * len(nodes)
    if gpus > spare:
        assert found <= sum(a.work * a.gpus for a in wanted) / (gpus - spare) + 1e-6


@settings(max_examples=60)
@given(asks(most=3, given_too=False), st.sampled_from([(1.0,), (2.0,), (4.0,), (2.0, 2.0), (4.0, 1.0)]))
def test_it_is_the_best_of_all_ways(wanted: list[Ask], nodes: tuple[float, ...]) -> None:
    """Against trying every way, where there are few."""
    counts = allot(wanted, nodes, 1e6)
    most = [int(sum(nodes) / a.gpus + 1e-9) for a in wanted]
    ways = (
        dict(zip([a.name for a in wanted], way, strict=True))
        for way in itertools.product(*(range(1, m + 1) for m in most))
    )
    times = [seconds(wanted, way, 1e6, 0) for way in ways if fits_somehow(wanted, way, nodes)]
    if counts is None:
        assert not times
    elif times:
        assert seconds(wanted, counts, 1e6, 0) == pytest.approx(min(times))


@given(asks(), st.integers(1, 5), st.sampled_from([1, 2, 4, 8]), st.floats(0, 1e4))
def test_more_nodes_never_make_it_later(wanted: list[Ask], count: int, size: int, shared: float) -> None:
    def after(nodes: int) -> float:
        cpus = 20.0 * nodes
        counts = allot(wanted, (float(size),) * nodes, cpus, shared)
        return math.inf if counts is None else seconds(wanted, counts, cpus, shared)

    assert after(count + 1) <= after(count) * (1 + 1e-6) + 1e-6


@given(
    st.lists(st.sampled_from([0.25, 0.3, 0.5, 0.6, 1.0, 2.0, 3.0]), max_size=6), st.integers(1, 3), st.integers(1, 4)
)
def test_what_is_said_to_have_room_has_it(shares: list[float], nodes: int, size: int) -> None:
    if packs({share: shares.count(share) for share in set(shares)}, (float(size),) * nodes):
        wanted = [Ask(str(number), share, 0.0, 0.0, 1) for number, share in enumerate(shares)]
        assert sum(shares) <= nodes * size + 1e-9
        assert fits_somehow(wanted, {ask.name: 1 for ask in wanted}, (float(size),) * nodes)


def test_a_share_of_cpus_is_left_for_those_who_share_them() -> None:
    some = [Ask("gpu", 1.0, 1.0, 1000.0)]
    alone, beside = allot(some, (64.0,), 64.0), allot(some, (64.0,), 64.0, shared=10_000.0)
    assert alone == {"gpu": 64}
    # n workers and 64 - n CPUs: both end together at about n = 6.
    assert beside is not None
    assert beside["gpu"] <= 8


# What a row costs


FINEEDIT = config.load("fineedit", ["inputs=[sample://]"])
SMALL = config.load("fineedit-small", ["inputs=[sample://]"])


def test_published_costs_are_those_of_the_models_and_their_settings() -> None:
    qwen, kontext = (cost_of(FINEEDIT, "generation.edit", lane) for lane in ("qwen-image-edit", "flux-kontext"))
    assert (round(qwen.seconds), round(kontext.seconds), qwen.kind) == (27, 12, "published")
    assert cost_of(SMALL, "generation.edit", "qwen-image-edit").seconds == pytest.approx(4.22)
    quick = config.load("fineedit", ["inputs=[sample://]", "generation.edit.editors.qwen-image-edit.steps=15"])
    assert cost_of(quick, "generation.edit", "qwen-image-edit").seconds == pytest.approx(13.9)
    screen = cost_of(FINEEDIT, "annotation.screen")
    assert screen.tokens == (500, 1200)
    assert screen.seconds == pytest.approx(1700 / 2353)
    assert cost_of(FINEEDIT, "refinement.rgb_entropy").seconds == GUESSES["cpu"]
    served = config.load("fineedit", ["inputs=[sample://]", "models.screener.model=acme/unheard-of"])
    assert (cost_of(served, "annotation.screen").kind, cost_of(served, "annotation.screen").tokens) == (
        "guess",
        (500, 1200),
    )


def test_what_the_run_has_measured_counts_more() -> None:
    rates = {"generation.edit": 21.06, "annotation.screen": 8.0, "refinement.rgb_entropy": 0.3}
    assert cost_of(FINEEDIT, "refinement.rgb_entropy", None, rates).seconds == 0.3
    # Four units at once ask one server.
    assert cost_of(FINEEDIT, "annotation.screen", None, rates).seconds == 2.0
    each = {lane: cost_of(FINEEDIT, "generation.edit", lane, rates) for lane in ("qwen-image-edit", "flux-kontext")}
    shares = lane_shares(FINEEDIT, FINEEDIT.stage("generation.edit"))
    assert shares == {"qwen-image-edit": 0.6, "flux-kontext": 0.4}
    # The mean is the measured one; the proportion is the published one.
    assert sum(shares[lane] * cost.seconds for lane, cost in each.items()) == pytest.approx(21.06)
    assert each["qwen-image-edit"].seconds / each["flux-kontext"].seconds == pytest.approx(27.1 / 12)
    assert {cost.kind for cost in each.values()} == {"measured"}


def test_rows_to_come_are_those_that_wait_and_those_that_are_handed_on() -> None:
    rows = expected(FINEEDIT, Known(), 1000)
    assert rows["ingest"] == 1000
    assert rows["annotation.screen"] == pytest.approx(rows["annotation.instruct"] * CHILDREN * TABLE["kept"]["other"])
    known = Known(given={"curation.resolution": 900, "curation.provenance": 300}, done={"curation.resolution": 600})
    rows = expected(FINEEDIT, Known(known.rates, known.given, known.done, {"curation.resolution": 300}))
    assert rows["ingest"] == 0
    assert rows["curation.provenance"] == 150
    few = Known({}, {"curation.provenance": 1}, {"curation.resolution": 10}, {"curation.resolution": 100})
    assert expected(FINEEDIT, few)["curation.provenance"] == pytest.approx(100 * TABLE["kept"]["curation.resolution"])


# Who gets which GPUs


def cluster(gpus: int, of_node: int = 8) -> Machine:
    return Machine(16.0 * gpus, gpus, 16.0 * min(gpus, of_node), min(gpus, of_node))


def planned(gpus: int, rows: int = 100_000, of_node: int = 8, pipeline: Any = FINEEDIT) -> tuple[float, float]:
    """Hours of work of a plan, and of one that would always have all GPUs at work."""
    parts = waves(pipeline, segments(pipeline), cluster(gpus, of_node), Known(), rows)
    layouts = check(pipeline, parts, cluster(gpus, of_node), Known(), rows)
    names = expected(pipeline, Known(), rows)
    work = 0.0
    for groups in segments(pipeline):
        load = loads(pipeline, groups, Known(), names)
        work += sum(load.servers[name] * pipeline.settings.models[name].gpus for name in servers_of(groups))
        work += sum(load.groups[g.name] * g.spec.gpus(g.lane) for g in groups if g.spec is not None)
    return sum(layout.seconds for layout in layouts) / 3600, work / gpus / 3600


@pytest.mark.parametrize(("gpus", "worth"), [(2, 0.8), (4, 0.8), (8, 0.9), (16, 0.9), (64, 0.9), (256, 0.95)])
def test_fineedit_keeps_its_gpus_at_work(gpus: int, worth: float) -> None:
    hours, least = planned(gpus)
    assert worth * hours <= least <= hours * 1.001


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.sampled_from([2, 4, 8]), st.integers(1, 10_000))
def test_more_gpus_are_never_later(nodes: int, of_node: int, rows: int) -> None:
    """By no more than one cut into waves may cost for the sake of early pairs."""
    fewer, more = planned(nodes * of_node, rows, of_node)[0], planned((nodes + 1) * of_node, rows, of_node)[0]
    starts = 12 * TABLE["start_s"] / 3600
    assert more <= fewer / 0.92 + starts


def test_on_a_large_cluster_every_server_has_its_share() -> None:
    groups = next(part for part in segments(FINEEDIT) if has_models(part))
    load = loads(FINEEDIT, groups, Known(), expected(FINEEDIT, Known(), 100_000))
    found = laid_out(FINEEDIT, groups, servers_of(groups), cluster(256), load)
    workers = {pool.group.name: pool.workers for pool in found.pools}
    assert all(count >= 5 for count in found.replicas.values())
    assert workers["annotation.screen"] == found.replicas["screener"]
    edits = workers["generation.edit[qwen-image-edit]"] + workers["generation.edit[flux-kontext]"]
    assert 0.75 <= edits / 256 <= 0.85
    fixed = config.load(
        "fineedit", ["inputs=[sample://]", "models.screener.replicas=2", "annotation.detect.resources.workers=3"]
    )
    found = laid_out(fixed, segments(fixed)[2], servers_of(groups), cluster(256), load)
    assert found.replicas["screener"] == 2
    assert [pool.workers for pool in found.pools if pool.group.name == "annotation.detect"] == [3]


def test_waves_are_cut_only_where_that_is_the_sooner_end() -> None:
    def cut(gpus: int, *changes: str) -> list[list[str]]:
        checked = config.load("fineedit", ["inputs=[sample://]", *changes])
        parts = waves(checked, segments(checked), cluster(gpus), Known(), 100_000)
        return [[group.name for group in part if group.spec] for part in parts if has_models(part)]

    assert len(cut(64)) == 1
    assert len(cut(8)) > 1
    assert [name for wave in cut(8) for name in wave] == cut(64)[0]
    assert ["generation.edit[qwen-image-edit]", "generation.edit[flux-kontext]"] in cut(8)
    assert len(cut(8, "engine.streaming=true")) == 1
    assert [len(wave) for wave in cut(8, "engine.streaming=false")] == [1] * 7


def test_what_fits_on_no_node_is_said() -> None:
    groups = next(part for part in segments(FINEEDIT) if has_models(part))
    load = loads(FINEEDIT, groups, Known(), {})
    with pytest.raises(FitError, match=r"models.writer: a server needs 1 CPUs and 2 GPUs on one node"):
        laid_out(FINEEDIT, groups, servers_of(groups), cluster(64, 1), load)
    odd = Machine(160, 9, 48, 3, (3.0, 3.0, 3.0))
    two = config.load("fineedit", ["inputs=[sample://]", "models.writer.replicas=4"])
    instruct = next([group] for group in groups if group.name == "annotation.instruct")
    with pytest.raises(FitError, match=r"models.writer: 4 x 2, each on one node, and the nodes have 3, 3, 3"):
        laid_out(two, instruct, ["writer"], odd, load)


def test_servers_that_are_in_the_way_or_too_few_start_anew() -> None:
    groups = next(part for part in segments(FINEEDIT) if has_models(part))
    instruct, edits = ([g for g in groups if name in g.name] for name in ("annotation.instruct", "generation.edit"))
    load = loads(FINEEDIT, [*instruct, *edits], Known(), expected(FINEEDIT, Known(), 100_000))
    assert restarted(FINEEDIT, instruct, ["writer"], cluster(8), load, {"writer": 4}) == ({"writer": 4}, False)
    assert restarted(FINEEDIT, instruct, ["writer"], cluster(8), load, {"writer": 1}) == ({"writer": 4}, True)
    replicas, anew = restarted(FINEEDIT, [*instruct, *edits], ["writer"], cluster(8), load, {"writer": 4})
    assert anew
    assert replicas["writer"] < 4
    little = loads(FINEEDIT, instruct, Known(), {"annotation.instruct": 20})
    assert restarted(FINEEDIT, instruct, ["writer"], cluster(8), little, {"writer": 1}) == ({"writer": 1}, False)


# Tables


def test_the_tables_say_where_they_are_from() -> None:
    for entry in [*TABLE["editors"], *TABLE["chat"], *TABLE["engines"]]:
        assert entry["source"].strip()
    for entry in ENTRIES:
        assert entry["outputs"] in ("free", "named", "limited")
        assert entry["outputs"] == "free" or entry["terms"]


def test_licences_of_the_models_that_ship_are_known() -> None:
    assert licence_of("black-forest-labs/FLUX.1-Kontext-dev").outputs == "limited"
    assert licence_of("Qwen/Qwen-Image-Edit-2509").outputs == "free"
    assert licence_of("/data/weights").outputs == "unknown"
    for checked in (FINEEDIT, SMALL):
        for model in checked.settings.models.values():
            assert licence_of(model.model).outputs != "unknown"
            assert model.lora is None or licence_of(model.lora).outputs != "unknown"
