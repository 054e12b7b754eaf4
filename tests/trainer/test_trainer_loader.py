"""The loader: batches exactly as planned, whoever reads them, and what becomes of samples that cannot be read."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from places import ROOT
from shard_tools import BOX, picture, record, records, settings, with_references, write

from ugaf.base.errors import ConfigError
from ugaf.export.rows import Blob
from ugaf.imaging import boxes as box_tools
from ugaf.imaging import images
from ugaf.trainer.data import Batch, CorruptDataError, DataSettings, Loader, Plan, open_index
from ugaf.trainer.data.geometry import Fit

pytestmark = pytest.mark.torch

TOKENS = 2 * 3 * 2 * 3
"""Two samples of 48 x 48 with one condition."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write(folder, records(40))
    return folder


def loader(wanted: DataSettings, seed: int = 0, **options: int) -> Loader:
    return Loader(Plan(open_index(wanted), wanted, seed), **options)


def steps(wanted: DataSettings, count: int, **options: int) -> list[tuple[int, list[Batch]]]:
    made = loader(wanted, **options)
    try:
        return list(islice(made, count))
    finally:
        made.close()


def same(one: Batch, other: Batch) -> bool:
    tensors = ("source", "edited", "references", "roi_mask", "positions", "epochs", "weights")
    values = ("ids", "instructions", "boxes", "bucket", "step", "lane", "planned", "corrupt")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors) and all(
        getattr(one, name) == getattr(other, name) for name in values
    )


def assert_same(ones: list[tuple[int, list[Batch]]], others: list[tuple[int, list[Batch]]]) -> None:
    assert [step for step, _ in ones] == [step for step, _ in others]
    for (_, some), (_, more) in zip(ones, others, strict=True):
        assert len(some) == len(more)
        assert all(same(one, other) for one, other in zip(some, more, strict=True))


def test_a_batch_is_what_its_samples_are(shards: Path) -> None:
    by_id = {one.id: (number, one) for number, one in enumerate(records(40))}
    for step, batches in steps(settings(shards, tokens=TOKENS), 12):
        total = sum(map(len, batches))
        assert torch.cat([batch.positions for batch in batches]).tolist() == list(range(total))
        for lane, batch in enumerate(batches):
            assert (batch.step, batch.lane, batch.planned) == (step, lane, total)
            n, (width, height) = len(batch), (batch.bucket.width, batch.bucket.height)
            assert batch.source.shape == batch.edited.shape == (n, 3, height, width)
            assert batch.references.shape == (n, 0, 3, height, width)
            assert batch.weights.tolist() == [1.0] * n
            assert batch.features is None
            assert torch.equal(batch.background_mask, ~batch.roi_mask)
            for place, id in enumerate(batch.ids):
                number, one = by_id[id]
                full = picture(number, (one.values["width"], one.values["height"]))
                fit = Fit.of(full.shape[1], full.shape[0], batch.bucket, [BOX])
                assert np.array_equal(batch.source[place].permute(1, 2, 0).numpy(), fit.image(full))
                assert batch.boxes[place] == fit.boxes([BOX])
                mask = box_tools.to_mask(batch.boxes[place], height, width)
                assert np.array_equal(batch.roi_mask[place, 0].numpy(), mask)
                changed = (batch.source[place] != batch.edited[place]).any(dim=0).numpy()
                assert changed[mask].mean() > 0.9
                assert not changed[
                    ~box_tools.to_mask([box_tools.grow(batch.boxes[place][0], 0.2, width, height)], height, width)
                ].any()
                assert batch.instructions[place] in (one.values["instruction"], one.values["instruction_cn"])


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(shards: Path, workers: int) -> None:
    wanted = settings(shards, tokens=TOKENS)
    state = torch.random.get_rng_state()
    with_workers = steps(wanted.model_copy(update={"workers": workers}), 15)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same(with_workers, steps(wanted, 15))


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_ranks_share_the_steps(tmp_path: Path, kind: str) -> None:
    wanted = settings(write(tmp_path, records(30), kind), tokens=TOKENS, lanes=4)
    whole = steps(wanted, 20)
    for world in (2, 4):
        parts = [steps(wanted, 20, rank=rank, world=world) for rank in range(world)]
        for (step, batches), *others in zip(whole, *parts, strict=True):
            by_lane = {batch.lane: batch for _, own in others for batch in own}
            assert all(step == other for other, _ in others)
            assert all(same(batch, by_lane[batch.lane]) for batch in batches)
            assert len(by_lane) == len(batches)


@pytest.mark.parametrize("start", [1, 7, 31])
def test_going_on_at_a_step_gives_the_tail(shards: Path, start: int) -> None:
    wanted = settings(shards, tokens=TOKENS * 2, window=2)
    assert_same(steps(wanted, 4, start_step=start), steps(wanted, start + 4)[start:])


def test_the_end_step_is_not_given(shards: Path) -> None:
    made = loader(settings(shards), start_step=3, end_step=6)
    assert [step for step, _ in made] == [3, 4, 5]
    assert [step for step, _ in made] == [3, 4, 5]


def test_lanes_that_ranks_cannot_share_are_refused(shards: Path) -> None:
    with pytest.raises(ConfigError, match="2 lanes cannot be dealt to 3 ranks"):
        loader(settings(shards), world=3)


def test_epochs_draw_other_wordings(shards: Path) -> None:
    seen: dict[str, set[str]] = {}
    wanted = settings(shards, instructions={"languages": {"en": 1, "cn": 1}})
    for _, batches in steps(wanted, 160):
        for batch in batches:
            seen.setdefault(batch.ids[0], set()).add(batch.instructions[0])
    assert sum(len(texts) == 2 for texts in seen.values()) > 25


def test_references_come_as_conditions(tmp_path: Path) -> None:
    write(tmp_path, records(24), limit=1e9)
    with_references(next((tmp_path / "shards/parquet").iterdir()), [n % 3 for n in range(24)])
    wanted = settings(tmp_path, references="references", tokens=4 * TOKENS, alignment={"shuffle": True, "drop": 0.3})
    conditions = set()
    for _, batches in steps(wanted, 20):
        for batch in batches:
            conditions.add(batch.bucket.conditions)
            assert batch.references.shape[1] == batch.bucket.conditions - 1
    assert conditions == {1, 2, 3}


def with_bad(folder: Path, bad: set[int], count: int = 40) -> Path:
    """Samples of which some have a source that is cut short."""
    some = [record(n, source=Blob(record(n).source.data[:60], "png")) if n in bad else record(n) for n in range(count)]
    write(folder, some)
    return folder


def test_a_corrupt_sample_is_skipped_counted_and_named(tmp_path: Path, shards: Path) -> None:
    bad = {3, 17}
    wanted = settings(with_bad(tmp_path, bad), tokens=TOKENS, max_corrupt=1)
    made = loader(wanted)
    named: dict[str, str] = {}
    ids = {record(n).id for n in bad}
    for (_, batches), (_, good) in zip(islice(made, 40), steps(settings(shards, tokens=TOKENS), 40), strict=True):
        for batch, whole in zip(batches, good, strict=True):
            named |= dict(batch.corrupt)
            weights = [float(id not in ids) for id in whole.ids]
            assert batch.weights.tolist() == weights
            assert batch.source.shape == whole.source.shape
            for place, weight in enumerate(weights):
                if weight:
                    # Everything else comes as if nothing had happened.
                    assert batch.ids[place] == whole.ids[place]
                    assert torch.equal(batch.source[place], whole.source[place])
                    assert batch.instructions[place] == whole.instructions[place]
                elif any(weights):
                    donor = weights.index(1.0)
                    assert torch.equal(batch.source[place], whole.source[donor])
                else:
                    assert not batch.source.any()
    made.close()
    assert {name.split("(")[1].rstrip(")") for name in named} == ids
    assert all("row group" in name for name in named)
    assert all("source" in why for why in named.values())
    assert made.corrupt >= 2
    assert made.seen > 100


def test_too_many_corrupt_samples_stop_the_run_with_their_names(tmp_path: Path) -> None:
    wanted = settings(with_bad(tmp_path, set(range(0, 40, 2))), max_corrupt=0.1)
    with pytest.raises(CorruptDataError, match=r"11 of \d+ samples could not be read.*\n.*row group") as error:
        steps(wanted, 100)
    assert str(error.value).count("row group") == 10
    one = settings(with_bad(tmp_path / "one", {6}), on_corrupt="stop")
    with pytest.raises(CorruptDataError, match=r"^1 of \d+ samples could not be read.*\n.*row group"):
        steps(one, 100)


def test_a_shard_that_vanishes_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    wanted = settings(write(tmp_path, records(40)), max_corrupt=1)
    made = loader(wanted)
    gone = Path(made.plan.index.shards[2].path)
    gone.unlink()
    named = {name for _, batches in islice(made, 40) for batch in batches for name, _ in batch.corrupt}
    made.close()
    assert named
    assert all(name.startswith(gone.name) for name in named)
    assert made.corrupt < made.seen / 2


def test_closing_ends_the_reader_and_the_workers(shards: Path) -> None:
    before = {thread.name for thread in threading.enumerate()}
    made = loader(settings(shards).model_copy(update={"workers": 2}))
    next(iter(made))
    made.close()
    gc.collect()
    assert {thread.name for thread in threading.enumerate()} <= before | {"QueueFeederThread"}


SCRIPT = """
    import sys, time
    from itertools import islice
    from ugaf.trainer.data import DataSettings, Loader, Plan, open_index

    if __name__ == "__main__":
        settings = DataSettings.model_validate_json(sys.argv[1])
        for step, _ in Loader(Plan(open_index(settings), settings, 0)):
            print(step, flush=True)
"""


def test_workers_end_with_a_rank_that_is_killed(shards: Path, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent(SCRIPT))
    wanted = settings(shards).model_copy(update={"workers": 2})
    command = [sys.executable, str(script), wanted.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    rank = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert rank.stdout is not None
    rank.stdout.readline()
    children = psutil.Process(rank.pid).children(recursive=True)
    assert len(children) >= 3
    rank.send_signal(signal.SIGKILL)
    rank.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_memory_stays_within_two_windows_of_each_lane(tmp_path: Path) -> None:
    """Encoded images that are held, while three epochs go by."""
    count, side = 120, 96
    some = [
        record(n, size=(side, side), source=Blob(images.encode(picture(n, (side, side))), "png")) for n in range(count)
    ]
    each = sum(one.image_bytes for one in some) / count
    write(tmp_path, some, limit=12 * each)
    wanted = settings(tmp_path, lanes=2, window=1)
    made = loader(wanted)
    import pyarrow as pa

    gc.collect()
    base, most = pa.total_allocated_bytes(), 0
    for _, _batches in islice(made, 3 * count // 2):
        most = max(most, pa.total_allocated_bytes() - base)
    made.close()
    chunk = max(chunk.size for chunk in made.plan.index.chunks)
    # Two lanes, two windows each, of one chunk; and what a reader has in hand while it makes a chunk's columns.
    assert most <= (2 * 2 + 4) * chunk
    assert most < 0.7 * count * each


@pytest.fixture(autouse=True)
def _no_stray_threads() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 20
    while any(thread.name == "reader" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(thread.name == "reader" for thread in threading.enumerate())
