"""Near-duplicates: what is found, what is not, and that it does not matter how rows came or how they are divided."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from engine_tools import counts, go, make_photos, pipeline, table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from skimage import data
from ugaf.stages.curation.near_duplicates import LINK, NearDuplicates
from ugaf.stages.curation.signature import Signature

from benchmarks import scenes
from benchmarks.dedup import pack, random_signatures
from ugaf.base.errors import ConfigError
from ugaf.base.needs import Needs
from ugaf.cli.foreseen import foreseen
from ugaf.dedup import alignment, embeddings, grid, links, search
from ugaf.engine.runner import RunOptions
from ugaf.imaging import images
from ugaf.measures import signatures
from ugaf.stage import Failure, Row

Edge = tuple[str, str]
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera")


class Rows:
    """A run in memory: fragments of (id, signature, pending, embedding), as `RunRows` shows one."""

    def __init__(self, fragments: dict[str, list[tuple[str, bytes | None, bool, list[float] | None]]]) -> None:
        self.rows = {name: sorted(rows) for name, rows in fragments.items()}
        self.reads: list[str] = []

    @property
    def fragments(self) -> tuple[str, ...]:
        return tuple(self.rows)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        return {name: (len(rows), sum(row[2] for row in rows)) for name, rows in self.rows.items()}

    def has(self, column: str) -> bool:
        return column != "embedding" or any(row[3] for rows in self.rows.values() for row in rows)

    def table(self, fragment: str, columns: Sequence[str]) -> pa.Table:
        self.reads.append(fragment)
        ids, packed, pending, vectors = zip(*self.rows[fragment], strict=True) if self.rows[fragment] else ((),) * 4
        all_columns = {
            "id": pa.array(ids, pa.string()),
            "pending": pa.array(pending, pa.bool_()),
            "signature": pa.array(packed, pa.binary()),
            "embedding": pa.array(vectors, pa.list_(pa.float16())),
        }
        return pa.table({name: all_columns[name] for name in ("id", "pending", *columns)})

    def map(self, function: Callable[[Any, Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return (function(self, item) for item in items)


def measure(run: Rows, **options: Any) -> dict[str, dict[str, Any] | Failure]:
    """What the stage gives for the pending rows, by id; checks that it is in the contract's order."""
    stage = NearDuplicates("curation.near_duplicates", NearDuplicates.Settings(**options))
    found: dict[str, Any] = {}
    for fragment, outcomes in stage.across(run):  # type: ignore[arg-type]
        pending = [key for key, _, new, _ in run.rows[fragment] if new]
        assert len(pending) == len(outcomes)
        found |= dict(zip(pending, outcomes, strict=True))
    assert set(found) == {key for rows in run.rows.values() for key, _, new, _ in rows if new}
    for outcome in found.values():
        if not isinstance(outcome, Failure):
            pa.array([outcome["neighbours"]], pa.list_(LINK))
            assert outcome["neighbour_count"] == len(outcome["neighbours"])
    return found


def edges(found: dict[str, dict[str, Any] | Failure]) -> set[Edge]:
    return {
        (min(key, link["id"]), max(key, link["id"]))
        for key, row in found.items()
        if not isinstance(row, Failure)
        for link in row["neighbours"]
    }


def together(keys: Iterable[str], pairs: Iterable[Edge]) -> set[frozenset[str]]:
    """Clusters of two and more."""
    order = sorted(keys)
    matrix = np.zeros((len(order), len(order)), bool)
    for a, b in pairs:
        matrix[order.index(a), order.index(b)] = True
    labels = connected_components(matrix, directed=False)[1]
    groups = [frozenset(np.array(order)[labels == label].tolist()) for label in np.unique(labels)]
    return {group for group in groups if len(group) > 1}


def packed(picture: np.ndarray) -> bytes:
    outcome = Signature("curation.signature").process(Row("0", {"image": images.encode(picture, "jpeg", 95)}))
    return outcome["signature"]  # type: ignore[no-any-return]


def photograph(name: str) -> np.ndarray:
    photo = np.asarray(getattr(data, name)())
    return photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def family() -> dict[str, bytes]:
    """Signatures of five photographs and of copies of each, by `photograph/transform`."""
    out = {}
    for number, name in enumerate(PHOTOGRAPHS):
        base = cv2.resize(photograph(name), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        out[f"{name}/base"] = packed(base)
        for kind, change in scenes.TRANSFORMS.items():
            out[f"{name}/{kind}"] = packed(change(base, np.random.default_rng([number, 7])))
    return out


def one_fragment(values: dict[str, bytes], size: int = 7) -> Rows:
    keys = sorted(values)
    parts = [keys[start : start + size] for start in range(0, len(keys), size)]
    return Rows({f"{n:06d}": [(key, values[key], True, None) for key in part] for n, part in enumerate(parts)})


# -- what is found


def test_copies_are_linked_with_their_photograph_and_with_no_other(family: dict[str, bytes]) -> None:
    pairs = edges(measure(one_fragment(family)))
    for name in PHOTOGRAPHS:
        for kind in ("crop", "crop_area", "resize", "jpeg", "colour"):
            assert tuple(sorted((f"{name}/base", f"{name}/{kind}"))) in pairs, (name, kind)
        assert tuple(sorted((f"{name}/base", f"{name}/flip"))) not in pairs
    assert all(a.split("/")[0] == b.split("/")[0] for a, b in pairs)


def test_mirrored_copies_are_found_on_request(family: dict[str, bytes]) -> None:
    found = measure(one_fragment(family), flips=True)
    for name in PHOTOGRAPHS:
        row = found[f"{name}/flip"]
        assert f"{name}/base" in {link["id"] for link in row["neighbours"]}  # type: ignore[index]
        assert row["nearest"] > 0.97  # type: ignore[index]
    assert all(a.split("/")[0] == b.split("/")[0] for a, b in edges(found))


def test_both_ends_know_the_same_of_a_link(family: dict[str, bytes]) -> None:
    found = measure(one_fragment(family))
    links_of = {key: {link["id"]: link for link in row["neighbours"]} for key, row in found.items()}  # type: ignore[index]
    for a, b in edges(found):
        assert {**links_of[a][b], "id": ""} == {**links_of[b][a], "id": ""}
    for row in found.values():
        similarities = [link["similarity"] for link in row["neighbours"]]  # type: ignore[index]
        assert similarities == sorted(similarities, reverse=True)
        assert row["nearest"] == (similarities[0] if similarities else None)  # type: ignore[index]


@pytest.mark.parametrize("kind", ["sky", "night", "gradient", "plain"])
def test_distinct_pictures_with_little_in_them_are_not_linked(kind: str) -> None:
    values = {f"{seed:02d}": packed(scenes.HARD[kind](seed)) for seed in range(12)}
    found = measure(one_fragment(values))
    assert not {pair for pair in edges(found) if found[pair[0]]["nearest"] >= 0.9}  # type: ignore[index]


def test_a_picture_with_nothing_in_it_is_not_even_a_copy_of_itself() -> None:
    plain = signatures.signature(np.full((50, 50), 200, np.uint8))
    ramp = signatures.signature(np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[:, None], 64, axis=1))
    found = measure(one_fragment({"a": plain, "b": plain, "c": ramp, "d": ramp}))
    assert edges(found) == set()


def test_the_less_there_is_to_compare_the_more_alike_two_must_be() -> None:
    details = np.array([0, 1.4, 1.5, 3, 5.9, 6, 60], np.float32)
    needed = alignment.required(details, 0.8)
    assert needed[:2].tolist() == [2, 2]
    assert needed[2] == 1
    assert (np.diff(needed) <= 0).all()
    assert needed[-2:].tolist() == [pytest.approx(0.8)] * 2
    assert alignment.required(details, 0.97)[4] == pytest.approx(0.97)


def test_two_skies_are_not_linked_though_most_of_their_light_is_the_same() -> None:
    """Three strong coefficients in common and faint ones that agree half: similar, but on little evidence."""
    rng = np.random.default_rng(1)
    faint = rng.normal(0, 1, (2, 256)).astype(np.float32) / np.maximum(signatures.whitening(), 1)
    pair = 6.5 * np.stack([faint[0], 0.75 * faint[0] + 0.66 * faint[1]])
    pair[:, [16, 32, 17]] = [120, -40, 25]
    low = np.minimum(*alignment.detail(pair[:1]), *alignment.detail(pair[1:]))
    values = {name: one.tobytes() for name, one in zip("ab", pack(pair), strict=True)}
    similarity = alignment.compare(pair[:1], pair[1:])["similarity"]
    assert 0.85 < similarity < alignment.required(np.array([low]), 0.8)[0]
    assert (
        len(next(search.candidates(search.HashIndex(pack(pair), np.arange(2)), pack(pair), np.arange(2))).queries) >= 3
    )  # they do meet
    assert edges(measure(one_fragment(values))) == set()


# -- search: what meets


def values_of(count: int, seed: int) -> np.ndarray:
    return random_signatures(count, seed)[0]


def test_whatever_is_within_the_guaranteed_distance_meets_as_a_brute_force_search_says() -> None:
    rng = np.random.default_rng(5)
    rows = values_of(300, 5)
    coefficients = signatures.unpack_array(rows)
    # Copies with 0 to 12 of the 96 signs turned round, anywhere: in sure bits as well as in unsure ones.
    turned = []
    for number in range(300):
        copy = rows[number].copy()
        places = rng.choice(signatures.order()[:96], rng.integers(0, 13), replace=False)
        copy[places] = (-copy[places].view(np.int8)).view(np.uint8)
        turned.append(copy)
    asked = np.concatenate([rows, np.stack(turned)])
    bits = np.unpackbits(signatures.hashes(signatures.unpack_array(asked), 96), axis=1)
    windows = [(y, x) for y in search.SPANS for x in search.SPANS]
    views = [np.unpackbits(signatures.hashes(signatures.cropped(coefficients, *w), 96), axis=1) for w in windows]
    expected = {
        (query, row)
        for view in views
        for query, row in zip(*np.nonzero((view[:, None] != bits[None]).sum(axis=2) <= search.GUARANTEED), strict=True)
    }
    found = {
        pair
        for part in search.candidates(search.HashIndex(asked, np.arange(600)), rows, np.arange(300))
        for pair in zip(part.queries.tolist(), part.index.tolist(), strict=True)
    }
    assert expected <= found
    assert len(expected) > 300 + 100
    whole = np.stack(views).astype(np.int16)
    for query, row in found:
        assert (whole[:, query] != bits[row]).sum(axis=1).min() <= search.RADIUS


def test_planted_copies_are_found_among_random_signatures() -> None:
    rows, planted = random_signatures(3000)
    wanted = grid.Search("signature", 0.9)
    run = Rows({"f": [(f"{n:05d}", row.tobytes(), True, None) for n, row in enumerate(rows)]})
    found = grid.find(run, wanted)  # type: ignore[arg-type]
    pairs = set(zip(found.a.tolist(), found.b.tolist(), strict=True))
    assert len(pairs & planted) >= 0.99 * len(planted)
    assert len(pairs - planted) == 0


def test_an_empty_index_and_no_queries_give_nothing() -> None:
    rows = values_of(20, 1)
    every, none = np.arange(20), np.arange(0)
    assert list(search.candidates(search.HashIndex(rows, none), rows, every)) == []
    assert list(search.candidates(search.HashIndex(rows, every), rows, none)) == []


def test_ones_are_counted_as_the_old_numpy_would(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).integers(0, 2**63, (50, 2), np.uint64)
    expected = [sum(int(word).bit_count() for word in row) for row in words]
    assert search.ones(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert search.ones(words).tolist() == expected


# -- comparison


def test_a_window_is_found_to_a_hundredth_of_a_side() -> None:
    whole = signatures.unpack([packed(photograph(name)) for name in PHOTOGRAPHS])
    for y, x in (((0.03, 0.97), (0.0, 0.9)), ((0.1, 1.0), (0.06, 0.99))):
        copies = signatures.cropped(whole, y, x)
        result = alignment.compare(whole, copies)
        assert (result["similarity"] > 0.99).all()
        assert (result["distance"] <= 6).all()
        assert (result["psnr"] > 28).all()


def test_comparison_does_not_depend_on_the_order_or_the_company() -> None:
    coefficients = signatures.unpack_array(values_of(60, 3))
    first, second = coefficients[:30], signatures.cropped(coefficients[:30], (0, 0.95), (0.05, 1))
    result, turned = alignment.compare(first, second), alignment.compare(second, first)
    alone = alignment.compare(first[4:5], second[4:5])
    for name, values in result.items():
        np.testing.assert_allclose(values, turned[name], rtol=1e-3)
        np.testing.assert_allclose(values[4:5], alone[name], rtol=1e-3)


def test_equal_signatures_compare_as_equal() -> None:
    coefficients = signatures.unpack_array(values_of(4, 9))
    result = alignment.compare(coefficients, coefficients)
    assert result["distance"].tolist() == [0] * 4
    assert result["similarity"] == pytest.approx(1, abs=1e-5)
    assert result["psnr"] == pytest.approx(alignment.BEST_PSNR)
    assert result["ssim"] == pytest.approx(1, abs=1e-5)
    assert {name: len(values) for name, values in alignment.compare(coefficients[:0], coefficients[:0]).items()} == {
        "distance": 0,
        "similarity": 0,
        "psnr": 0,
        "ssim": 0,
    }


# -- incremental and sharded


@pytest.fixture(scope="module")
def everything(family: dict[str, bytes]) -> set[Edge]:
    return edges(measure(one_fragment(family)))


@given(order=st.permutations(range(40)), cuts=st.lists(st.integers(1, 39), max_size=3, unique=True))
@settings(max_examples=5, deadline=None)
def test_in_whatever_batches_rows_come_the_links_are_the_same(
    family: dict[str, bytes], everything: set[Edge], order: list[int], cuts: list[int]
) -> None:
    keys = [sorted(family)[place] for place in order]
    bounds = [0, *sorted(cuts), len(keys)]
    fragments: dict[str, list[tuple[str, bytes | None, bool, list[float] | None]]] = {}
    pairs: set[Edge] = set()
    for number, (start, end) in enumerate(pairwise(bounds)):
        fragments = {name: [(key, value, False, None) for key, value, _, _ in rows] for name, rows in fragments.items()}
        fragments[f"{number:06d}"] = [(key, family[key], True, None) for key in keys[start:end]]
        pairs |= edges(measure(Rows(fragments)))
    assert pairs == everything


def test_rows_left_behind_by_a_crash_find_those_that_were_committed(
    family: dict[str, bytes], everything: set[Edge]
) -> None:
    whole = one_fragment(family)
    first = measure(whole)
    done = sorted(whole.rows)[::2]
    committed = {key: first[key] for name in done for key, *_ in whole.rows[name]}
    again = Rows({name: [(k, v, name not in done, e) for k, v, _, e in rows] for name, rows in whole.rows.items()})
    assert edges(committed) | edges(measure(again)) == everything


def test_a_run_in_many_blocks_gives_the_same_links(
    family: dict[str, bytes], everything: set[Edge], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "rows_in", lambda *_: 9)
    run = one_fragment(family, size=4)
    assert len(grid.blocks_of(run, 9)) == 5  # type: ignore[arg-type]
    assert edges(measure(run)) == everything


def test_old_blocks_are_not_compared_with_each_other() -> None:
    rows = values_of(40, 2)
    fragments = {
        f"{part}": [(f"{n:03d}", rows[n].tobytes(), part == 3, None) for n in range(10 * part, 10 * part + 10)]
        for part in range(4)
    }
    run = Rows(fragments)
    pairs: list[tuple[str, ...]] = []

    def mapped(function: Callable[[Any, Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            pairs.append(tuple(block.fragments[0] for block in item))
            yield function(run, item)

    run.map = mapped  # type: ignore[method-assign]
    wanted = grid.Search("signature", 0.9, memory_mb=512)
    blocks = grid.blocks_of(run, 10)  # type: ignore[arg-type]
    assert [(block.start, block.rows, block.pending) for block in blocks] == [
        (0, 10, 0),
        (10, 10, 0),
        (20, 10, 0),
        (30, 10, 10),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "rows_in", lambda *_: 10)
        grid.find(run, wanted)  # type: ignore[arg-type]
    assert pairs == [("0", "3"), ("1", "3"), ("2", "3"), ("3", "3")]


def test_the_budget_bounds_a_block_and_a_fragment_is_never_divided() -> None:
    wanted = grid.Search("signature", 0.9, memory_mb=1024)
    assert 700_000 < grid.rows_in(wanted, 0) < 1_200_000
    assert grid.rows_in(wanted, 512) < grid.rows_in(wanted, 0) / 3  # 1,024 bytes of embedding beside 424
    run = Rows({"a": [(f"{n}", b"", True, None) for n in range(9)], "b": [("x", b"", True, None)]})
    assert [block.rows for block in grid.blocks_of(run, 4)] == [9, 1]  # type: ignore[arg-type]


# -- many copies, and other edges


@pytest.mark.parametrize("count", [3, 1000])
def test_equal_rows_are_one_star(count: int, family: dict[str, bytes]) -> None:
    values = {f"{n:05d}": family["coffee/base"] for n in range(count)} | {"other": family["coffee/crop"]}
    found = measure(one_fragment(values, size=300), max_links=8)
    stored = sum(len(row["neighbours"]) for row in found.values())  # type: ignore[arg-type,index]
    assert stored <= 3 * len(values)
    assert together(values, edges(found)) == {frozenset(values)}


def test_many_near_copies_have_few_links_and_are_one_cluster_at_every_bound() -> None:
    picture = photograph("astronaut")
    rng = np.random.default_rng(0)
    picture = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
    noisy = [np.clip(picture + rng.normal(0, 2 + n / 4, picture.shape), 0, 255).astype(np.uint8) for n in range(20)]
    values = {f"{n:03d}": packed(one) for n, one in enumerate(noisy)}
    everyone = measure(one_fragment(values), max_links=1000)
    few = measure(one_fragment(values), max_links=3)
    assert sum(len(row["neighbours"]) for row in few.values()) <= 20 * 3 + 19  # type: ignore[arg-type,index]
    for bound in (0.8, 0.99, 0.999, 0.9995):
        clusters = []
        for found in (everyone, few):
            kept = {
                (key, link["id"])
                for key, row in found.items()
                for link in row["neighbours"]  # type: ignore[index]
                if link["similarity"] >= bound
            }
            clusters.append(together(values, kept))
        assert clusters[0] == clusters[1]


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(0, 9)), max_size=60), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_stored_links_join_what_all_links_join_at_every_bound(raw: list[tuple[int, int, int]], most: int) -> None:
    pairs = {(min(a, b), max(a, b)): similarity / 10 for a, b, similarity in raw if a != b}
    a, b = (np.array([pair[end] for pair in pairs], np.int64) for end in (0, 1))
    all_links = links.Links(a, b, {"similarity": np.array(list(pairs.values()), np.float32)})
    stored = links.reduced(all_links, most)
    keys = [f"{n:02d}" for n in range(16)]
    for bound in np.arange(0, 1, 0.1):
        clusters = [
            together(
                keys,
                [
                    (keys[x], keys[y])
                    for x, y, s in zip(part.a, part.b, part.measures["similarity"], strict=True)
                    if s >= bound - 1e-6
                ],
            )
            for part in (all_links, stored)
        ]
        assert clusters[0] == clusters[1]


def test_an_empty_run_and_a_single_row() -> None:
    assert measure(Rows({})) == {}
    assert measure(Rows({"f": []})) == {}
    single = measure(Rows({"f": [("a", values_of(1, 0)[0].tobytes(), True, None)]}))
    assert single == {"a": {"neighbours": [], "neighbour_count": 0, "nearest": None}}


def test_real_photographs_are_not_linked(shared_images: Path) -> None:
    files = sorted((shared_images / "photos").iterdir())
    values = {file.name: packed(images.decode(file.read_bytes(), 512)) for file in files}
    assert len(values) >= 8
    assert edges(measure(one_fragment(values), flips=True)) == set()


def test_nothing_pending_is_no_work(family: dict[str, bytes]) -> None:
    run = one_fragment(family)
    run.rows = {name: [(k, v, False, e) for k, v, _, e in rows] for name, rows in run.rows.items()}
    assert measure(run) == {}
    assert run.reads == []


@pytest.mark.parametrize("bad", [None, b"", b"\x01" * 263, b"\x09" + bytes(263)])
def test_a_damaged_signature_fails_its_row_and_no_other(bad: bytes | None, family: dict[str, bytes]) -> None:
    values = {"a": family["coffee/base"], "b": family["coffee/jpeg"]}
    rows = [(key, value, True, None) for key, value in values.items()]
    found = measure(Rows({"f": [*rows, ("bad", bad, True, None)], "g": [("old", bad, False, None)]}))
    assert isinstance(found["bad"], Failure)
    assert "signature is null or damaged" in found["bad"].message
    assert edges(found) == {("a", "b")}


def test_the_same_run_gives_the_same_outcomes(family: dict[str, bytes]) -> None:
    assert measure(one_fragment(family)) == measure(one_fragment(family))


# -- embeddings


def vectors(count: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 1, (count, dimension))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_with_embeddings_each_link_has_their_cosine(family: dict[str, bytes]) -> None:
    made = vectors(2)
    rows = [("a", family["coffee/base"], True, made[0].tolist()), ("b", family["coffee/jpeg"], True, made[1].tolist())]
    found = measure(Rows({"f": [*rows, ("c", family["coffee/crop"], True, None)]}))
    by_id = {link["id"]: link["embedding"] for link in found["a"]["neighbours"]}  # type: ignore[index]
    assert by_id["b"] == pytest.approx(made[0] @ made[1], abs=2e-3)
    assert by_id["c"] is None


def test_embeddings_find_what_signatures_do_not() -> None:
    rows = values_of(6, 4)
    made = vectors(6)
    made[1] = made[0] + 0.1 * made[1]
    fragments = {f"{n}": [(f"{n}", rows[n].tobytes(), True, (made[n] * 5).tolist())] for n in range(6)}
    assert edges(measure(Rows(fragments))) == set()
    for by in (["embedding"], ["embedding", "signature"]):
        found = measure(Rows(fragments), by=by)
        assert edges(found) == {("0", "1")}
        (link,) = found["0"]["neighbours"]  # type: ignore[index]
        assert link["embedding"] > 0.98
        assert link["similarity"] < 0.6
    assert edges(measure(Rows(fragments), by=["embedding"], min_embedding=0.999)) == set()


def test_large_blocks_of_embeddings_are_searched_by_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    made = vectors(3000, 24)
    copies = made[:200] + 0.03 * vectors(200, 24, seed=1)
    copies /= np.linalg.norm(copies, axis=1, keepdims=True)
    exact = {(query, int(row)) for query, row in zip(*np.nonzero(copies @ made.T >= 0.9), strict=True)}
    for flat, share in ((10_000, 1.0), (500, 0.98)):
        monkeypatch.setattr(embeddings, "FLAT", flat)
        query, row = embeddings.candidates(made.astype(np.float16), copies.astype(np.float16), 0.9, 40)
        found = set(zip(query.tolist(), row.tolist(), strict=True))
        assert len(found & exact) >= share * len(exact)
        assert not found - exact


def test_damaged_embeddings_are_no_embeddings() -> None:
    column = pa.array([[3.0, 4.0], None, [1.0], [0.0, 0.0], [float("nan"), 1.0]], pa.list_(pa.float16()))
    found, there = embeddings.unpack(column)
    assert there.tolist() == [True, False, False, False, False]
    np.testing.assert_allclose(found[0].astype(float), [0.6, 0.8], atol=1e-3)
    assert not found[1:].any()
    assert np.isnan(embeddings.cosine(found[:1], found[1:2])).all()


def test_looking_by_embeddings_needs_their_column(tmp_path: Path) -> None:
    stages = ["curation.signature", {"curation.near_duplicates": {"by": ["embedding"]}}]
    with pytest.raises(ConfigError, match="embedding"):
        pipeline(tmp_path, tmp_path / "run", stages)


def test_only_embeddings_need_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(*by: str) -> Needs:
        return NearDuplicates.needs(NearDuplicates.Settings(by=by))

    assert needs("signature") == Needs()
    for by in (("embedding",), ("embedding", "signature")):
        assert needs(*by) == Needs(reads=("embedding",), packages={"faiss": "faiss"})
    monkeypatch.setitem(sys.modules, "faiss", None)
    make_photos(tmp_path / "photos", 2)
    stages = [
        "curation.signature",
        {"curation.embed": {"encoder": {"engine": "test_predict:MeanColour"}}},
        {"curation.near_duplicates": {"by": ["embedding"]}},
    ]
    hint = r"faiss is not installed: pip install '\.\[faiss\]'"
    checked = pipeline(tmp_path / "photos", tmp_path / "run", stages)
    (told,) = foreseen(checked, RunOptions())["missing_here"]
    assert re.match(hint, told["problem"])
    assert told["for"] == ["curation.near_duplicates"]
    with pytest.raises(ConfigError, match=f"curation.near_duplicates: {hint}"):
        go(checked)
    assert not list((tmp_path / "run").glob("curation*"))
    made = vectors(2).astype(np.float16)
    with pytest.raises(ConfigError, match=hint):  # on a cluster's node, which nobody looked at before
        embeddings.candidates(made, made, 0.9, 4)


# -- in a run


def test_a_run_keeps_one_of_each_and_takes_more_photographs(tmp_path: Path) -> None:
    stages = ["curation.signature", "curation.near_duplicates"]
    photos = tmp_path / "photos"
    photos.mkdir()

    def add(name: str, kinds: Sequence[str]) -> None:
        base = photograph(name)
        for kind in kinds:
            picture = base if kind == "base" else scenes.TRANSFORMS[kind](base, np.random.default_rng(3))
            (photos / f"{name}-{kind}.jpg").write_bytes(images.encode(picture, "jpeg", 92))

    add("coffee", ["crop", "jpeg", "crop_area"])
    add("astronaut", ["base", "crop"])
    checked = pipeline(photos, tmp_path / "run", stages, fragment_rows=2)
    view = go(checked)
    assert counts(view)["curation.near_duplicates"].kept == 2
    before = {key: row["neighbours"] for key, row in table(view, "image", ["neighbours"]).items()}
    add("coffee", ["base", "resize"])
    add("rocket", ["base"])
    view = go(checked)
    after = table(view, "image", ["neighbours", "width", "height"])
    assert counts(view)["curation.near_duplicates"].kept == 3
    assert {key: after[key]["neighbours"] for key in before} == before
    kept = [row for row in after.values() if row["status"] == "kept"]
    assert {(600, 400), (512, 512)} <= {(row["width"], row["height"]) for row in kept}
    every = {tuple(sorted((key, link["id"]))) for key, row in after.items() for link in row["neighbours"]}
    assert len(every) == sum(1 for _ in combinations(range(5), 2)) + 1
