"""The rule `distinct`: clusters against networkx-free brute force, the best of each, bounds on links."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from ugaf.pipeline import distinct
from ugaf.pipeline.distinct import Distinct

LINKS = pa.list_(pa.struct([("id", pa.string()), ("similarity", pa.float32()), ("bits", pa.int32())]))
EDGES = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 24)), max_size=30)


def name(number: int) -> str:
    return f"{number:032x}"


def losers(edges: list[tuple[int, int]], rows: int, quality: list[float]) -> dict[str, str]:
    """Row -> the row kept in its place, through the module."""
    links = [distinct.Links(distinct.packed([name(a) for a, _ in edges]), distinct.packed([name(b) for _, b in edges]))]
    members, labels = distinct.clusters(links, np.sort(distinct.packed([name(i) for i in range(rows)])))
    values = np.array([quality[int(key.decode(), 16)] for key in members.tolist()], dtype=np.float64)
    found = distinct.losers_of(members, labels, [values])
    return {key.decode(): found.winner(key.decode()) for key in found.ids.tolist()}


@given(EDGES, st.lists(st.sampled_from([0.0, 1.0, 2.0, float("nan")]), min_size=20, max_size=20))
def test_each_cluster_keeps_its_best_and_only_that(edges: list[tuple[int, int]], quality: list[float]) -> None:
    # Rows 20..24 are linked to, but not given to the stage.
    cluster = {row: {row} for row in range(20)}
    for a, b in edges:
        if b < 20 and cluster[a] is not cluster[b]:
            cluster[a] |= cluster[b]
            for row in cluster[a]:
                cluster[row] = cluster[a]
    expected = {}
    for row in range(20):
        rank = {other: (-np.inf if np.isnan(quality[other]) else quality[other], -other) for other in cluster[row]}
        best = max(cluster[row], key=rank.__getitem__)
        if best != row:
            expected[name(row)] = name(best)
    assert losers(edges, 20, quality) == expected


def test_later_columns_of_best_decide_where_the_first_are_equal() -> None:
    members = distinct.packed([name(i) for i in range(4)])
    rows = {name(i): {"size": 5, "noise": noise} for i, noise in enumerate([3.0, 1.0, None, 1.0])}
    keys = [name(i) for i in range(4)]
    best = [distinct.values_of(rows, keys, column) for column in ("size", "-noise")]
    found = distinct.losers_of(members, np.zeros(4, dtype=np.int32), best)
    assert {found.winner(key.decode()) for key in found.ids.tolist()} == {name(1)}
    assert found.mask(keys).tolist() == [True, False, True, True]


def test_a_link_counts_within_all_bounds_and_a_null_breaks_none() -> None:
    rule = Distinct.model_validate({"where": {"similarity": {"min": 0.5}, "bits": {"min": 2, "max": 4}}, "best": ["x"]})
    row = [
        {"id": name(1), "similarity": 0.5, "bits": 4},
        {"id": name(2), "similarity": 0.4, "bits": 3},
        {"id": name(3), "similarity": None, "bits": 2},
        {"id": name(4), "similarity": 0.9, "bits": 5},
        {"id": name(5), "similarity": 0.9, "bits": None},
    ]
    column = pa.chunked_array([pa.array([None, [], row], LINKS)])
    ids = pa.chunked_array([pa.array([name(8), name(9), name(0)])])
    found = distinct.links_of(rule, ids, column)
    assert [int(key.decode(), 16) for key in found.b.tolist()] == [1, 3, 5]
    assert {int(key.decode(), 16) for key in found.a.tolist()} == {0}


def test_no_rows_and_no_links_have_no_losers() -> None:
    members, labels = distinct.clusters([], distinct.packed([]))
    found = distinct.losers_of(members, labels, [np.empty(0)])
    assert (len(found.ids), found.mask([name(1)]).tolist()) == (0, [False])
