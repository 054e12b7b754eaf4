"""A store on a bad day: no photograph is failed for it, and what was stopped goes on with the same command."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_tools import counts, go, make_photos, pipeline
from faulty_store import FaultyStore, faulty

from ugaf.base import faults
from ugaf.base.errors import StopRun
from ugaf.cli import main
from ugaf.ingest.places import _filesystem
from ugaf.storage import Storage

MEAN = "engine_stages:Mean"
PHOTOS = 12


@pytest.fixture
def store(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultyStore, str]]:
    """A proxy before an S3 server with photographs in `<test>/photos`, and the URL of `<test>`."""
    monkeypatch.setattr(faults, "_FIRST_WAIT_S", 0.05)
    base = s3_url % tmp_path.name
    photos = Storage(base.replace("?", "/photos?", 1))
    for path in make_photos(tmp_path / "photos", PHOTOS):
        photos.write(path.name, path.read_bytes())
    with faulty(base) as (proxy, url):
        yield proxy, url
    _filesystem.cache_clear()


def _below(url: str, name: str) -> str:
    return url.replace("?", f"/{name}?", 1)


def _run(inputs: str, output: str, **engine: Any) -> Any:
    return go(pipeline([inputs], output, [MEAN], fragment_rows=4, engine={"executor": "inline", **engine}))


def _now_and_then(kind: str, share: float) -> Callable[[str, str], str]:
    chance = random.Random(kind)
    return lambda method, _: kind if method == "GET" and chance.random() < share else ""


@pytest.mark.parametrize("kind", ["503", "cut"])
def test_a_store_with_hiccups_costs_no_row(store: tuple[FaultyStore, str], tmp_path: Path, kind: str) -> None:
    proxy, url = store
    proxy.fault = _now_and_then(kind, 0.3)
    view = _run(_below(url, "photos"), str(tmp_path / "run"), patience_s=60)
    found = counts(view)
    assert proxy.given[kind]
    assert found["ingest"].kept == found[MEAN].kept == PHOTOS


@pytest.mark.parametrize(("kind", "after"), [("503", 0), ("403", 5)])
def test_a_store_that_stays_away_stops_the_run_with_its_rows_pending(
    store: tuple[FaultyStore, str], tmp_path: Path, kind: str, after: int
) -> None:
    proxy, url = store
    good = iter(range(after))
    proxy.fault = lambda method, path: kind if method == "GET" and ".jpg" in path and next(good, None) is None else ""
    with pytest.raises(StopRun) as stopped:
        _run(_below(url, "photos"), str(tmp_path / "run"), patience_s=0.3)
    text = str(stopped.value)
    assert f"s3://runs/{tmp_path.name}/photos" in text
    assert "same command" in text
    assert ("renew" in text) == (kind == "403")
    proxy.fault = lambda *_: ""
    found = counts(_run(_below(url, "photos"), str(tmp_path / "run")))
    assert found["ingest"].kept == found[MEAN].kept == PHOTOS
    assert found["ingest"].failed == 0


def test_a_run_folder_whose_store_is_away_is_not_called_damaged(store: tuple[FaultyStore, str], tmp_path: Path) -> None:
    proxy, url = store
    run = _below(url, "run")
    _run(str(tmp_path / "photos"), run)
    proxy.fault = lambda method, path: "403" if method == "GET" and "ingest" in path and ".parquet" in path else ""
    with pytest.raises(StopRun) as stopped:
        _run(str(tmp_path / "photos"), run, patience_s=0.3)
    assert "delete" not in str(stopped.value)
    proxy.fault = lambda *_: ""
    assert counts(_run(str(tmp_path / "photos"), run, patience_s=60))[MEAN].kept == PHOTOS


@pytest.mark.parametrize("kind", ["503", "403"])
def test_pairs_are_not_taken_for_photographs_where_their_store_is_away(
    store: tuple[FaultyStore, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    proxy, url = store
    monkeypatch.setattr(faults._Process, "patience_s", 0.3)
    Storage(_below(url, "set")).write("pairs.jsonl", b'{"source": "a.png", "edited": "b.png", "instruction": "x"}\n')
    proxy.fault = lambda *_: kind
    with pytest.raises(StopRun, match=r"set.*same command"):
        pipeline([_below(url, "set")], str(tmp_path / "run"), ["refinement.likeness"])
    proxy.fault = lambda *_: ""
    assert pipeline([_below(url, "set")], str(tmp_path / "run"), ["refinement.likeness"]).is_pairs


def test_a_missing_photograph_fails_alone(store: tuple[FaultyStore, str], tmp_path: Path) -> None:
    proxy, url = store
    proxy.fault = lambda method, path: "404" if "0003" in path and method == "GET" and "list-type" not in path else ""
    began = time.monotonic()
    found = counts(_run(_below(url, "photos"), str(tmp_path / "run")))
    assert found["ingest"].failed == 1
    assert found["ingest"].kept == PHOTOS - 1
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "command",
    [
        ["status", "--json"],
        ["rows", "-o", "rows.csv"],
        ["report"],
        ["tune"],
        ["explain", "photo-00003.jpg"],
        ["export"],
    ],
    ids=lambda command: command[0],
)
def test_who_reads_a_run_asks_its_inputs_nothing(
    store: tuple[FaultyStore, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    proxy, url = store
    view = _run(_below(url, "photos"), str(tmp_path / "run"))
    assert counts(view)[MEAN].kept == PHOTOS
    proxy.given.clear()
    proxy.fault = lambda *_: "403"
    monkeypatch.chdir(tmp_path)
    name, *rest = command
    words = [name, *rest, "--run", "run"] if name == "explain" else [name, "run", *rest]
    assert main([*words, "--trust", "engine_stages"]) == 0
    assert not proxy.given
