"""Fragments are named by what is in them and ordered by number; nothing new takes the place of what is there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_tools import counts, go, make_photos, pipeline, table
from hypothesis import given
from hypothesis import strategies as st

from ugaf.columns.fragments import fragment_name, fragment_order
from ugaf.columns.parts import INGEST, SOURCES, Columns
from ugaf.columns.view import RunView
from ugaf.engine import cutting
from ugaf.engine.cutting import count_new, cut
from ugaf.pipeline.config import Pipeline
from ugaf.storage import Storage

MEAN = "engine_stages:Mean"


def rename(run: Path, new: dict[str, str]) -> None:
    """Give fragments of a run other names, as earlier versions gave them."""
    for old, name in new.items():
        (run / SOURCES / f"{old}.parquet").rename(run / SOURCES / f"{name}.parquet")
        for folder in run.glob(f"*@*/{old}"):
            folder.rename(folder.with_name(name))


@given(st.lists(st.tuples(st.integers(0, 10**12), st.binary(max_size=4)), max_size=9))
def test_names_are_ordered_by_number_whatever_their_width(parts: list[tuple[int, bytes]]) -> None:
    names = sorted((fragment_name(number, [data]) for number, data in parts), key=fragment_order)
    assert [fragment_order(name)[0] for name in names] == sorted(number for number, _ in parts)


def test_a_name_is_that_of_its_sources_in_their_order() -> None:
    one, two = b"1" * 16, b"2" * 16
    assert fragment_name(3, [one, two]) == fragment_name(3, [one, two])
    hashes = {fragment_name(3, some) for some in ([one], [two], [one, two], [two, one])}
    assert len(hashes) == 4


def test_a_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its fragments are numbered with six digits; one more photograph is all that is done."""
    make_photos(tmp_path / "in", 6)
    (tmp_path / "trace").mkdir()
    checked = pipeline(tmp_path / "in", tmp_path / "run", [{MEAN: {"trace": str(tmp_path / "trace")}}], fragment_rows=2)
    rename(tmp_path / "run", {name: f"{n:06d}" for n, name in enumerate(go(checked).fragments)})
    view = RunView(checked.output, checked)
    assert view.fragments == ["000000", "000001", "000002"]
    assert (counts(view)[MEAN].pending, count_new(view.columns)) == (0, 0)
    make_photos(tmp_path / "in", 1, start=60)
    view = go(checked)
    assert view.fragments[:3] == ["000000", "000001", "000002"]
    assert fragment_order(view.fragments[3])[0] == 3
    assert counts(view)[MEAN].kept == 7
    assert len((tmp_path / "trace" / "mean.log").read_text().split()) == 7


def test_beyond_the_millionth_fragment_nothing_is_replaced(tmp_path: Path) -> None:
    make_photos(tmp_path / "a", 3)
    make_photos(tmp_path / "b", 3, start=30)
    checked = pipeline(tmp_path / "a", tmp_path / "run", [MEAN], fragment_rows=1)
    old = ["999998", "999999", "1000000"]
    rename(tmp_path / "run", dict(zip(go(checked).fragments, old, strict=True)))
    view = go(pipeline([str(tmp_path / name) for name in "ab"], tmp_path / "run", [MEAN], fragment_rows=1))
    assert view.fragments[:3] == old
    assert [fragment_order(name)[0] for name in view.fragments[3:]] == [1000001, 1000002, 1000003]
    assert counts(view)[MEAN].kept == 6
    assert cut(view.columns) == 0


def test_the_first_to_arrive_keeps_a_photograph_and_the_newest_version_speaks_beyond_the_millionth(
    tmp_path: Path,
) -> None:
    first = make_photos(tmp_path / "in", 2)
    (tmp_path / "in" / "z.jpg").write_bytes(b"no photograph")
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN], fragment_rows=1)
    view = go(checked)
    rename(tmp_path / "run", dict(zip(view.fragments, ["999997", "999998", "999999"], strict=True)))
    (tmp_path / "in" / "z.jpg").write_bytes(make_photos(tmp_path / "other", 1, start=9)[0].read_bytes())
    (tmp_path / "in" / "zz.jpg").write_bytes(first[0].read_bytes())
    view = go(checked)
    assert (counts(view)[INGEST].failed, counts(view)[MEAN].kept) == (0, 3)
    kept = {name: set(part.base.ids) for name, part in _ingested(view)}
    assert len(kept["999997"]) == 1
    assert sum(len(ids) for ids in kept.values()) == 3


def _ingested(view: RunView) -> Iterator[tuple[str, Any]]:
    for fragment, part in zip(view.fragments, view.verdicts(), strict=True):
        yield fragment, SimpleNamespace(base=part[INGEST])


@contextmanager
def _unheld(*_: Any) -> Iterator[None]:
    yield


@pytest.mark.parametrize("place", ["local", "s3"])
def test_who_cuts_without_holding_the_run_loses_nothing(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names by content and creating only what is not there are enough; the lease saves work done twice."""
    monkeypatch.setattr(cutting.lease, "held", _unheld)
    url = str(tmp_path / "run") if place == "local" else request.getfixturevalue("s3_url") % tmp_path.name
    for name, start in (("a", 0), ("b", 50)):
        make_photos(tmp_path / name, 3, start=start)

    def columns(name: str) -> Columns:
        checked: Pipeline = pipeline(tmp_path / name, url, [MEAN], fragment_rows=1)
        return Columns(Storage(url), checked)

    with ExitStack() as stack:
        cuts = [stack.enter_context(cutting.listed(columns(name))) for name in "aba"]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda new: new.publish(), cuts))
    found = columns("a")
    names = found.fragments()
    # Who cut the same may have begun to count elsewhere: that is work done twice, and nothing lost.
    assert {fragment_order(name)[0] for name in names} >= {0, 1, 2}
    uris = {uri for name in names for uri in found.sources(name, ["uri"]).column("uri").to_pylist()}
    assert len(uris) == len({name.partition("-")[2] for name in names}) == 6


def test_what_lies_among_the_fragments_and_is_none_is_not_taken_for_one(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 2)
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN])
    view = go(checked)
    (tmp_path / "run" / SOURCES / "copy.parquet").write_bytes(b"")
    assert RunView(checked.output, checked).fragments == view.fragments


def test_the_same_rows_written_twice_stay_as_they_were_first_and_tried_again_they_get_a_further_attempt(
    tmp_path: Path,
) -> None:
    make_photos(tmp_path / "in", 2)
    view = go(pipeline(tmp_path / "in", tmp_path / "run", [MEAN]))
    columns, fragment = view.columns, view.fragments[0]
    ids = list(table(view, "image", ["mean"]))
    (path,) = columns.parts(MEAN, fragment)
    before = columns.storage.read(path)
    rows = [{"id": key, "mean": -1.0} for key in ids]
    assert columns.write(MEAN, fragment, rows, 0.0) == path
    assert columns.storage.read(path) == before
    for attempt, error in ((1, "x: one"), (2, "x: two"), (3, None)):
        again = [{"id": key, "error": error, "mean": None if error else 7.0, "attempt": 1} for key in ids]
        assert f"part-{attempt:03d}-" in columns.write(MEAN, fragment, again, 0.0)
    found = columns.light(MEAN, fragment, ["mean"])[0]
    assert found.column("mean").to_pylist() == [7.0, 7.0]
