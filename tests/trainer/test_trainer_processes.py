"""Whole trainings of a tiny model that are killed, continued, and split over processes: each does what one does."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_tools import TINY, config, group, losses, make_shards, metrics, run, start, weights

from ugaf.trainer import __main__ as command
from ugaf.trainer.build import build
from ugaf.trainer.settings import ModelSettings, TinySettings

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("no_group")]

TOLERANCE = 2e-5
"""Relative difference of losses: sums of float32 in another order."""


def test_killed_and_started_again_it_is_as_if_it_had_not_been(tmp_path: Path, shards: Path) -> None:
    whole = run(config(tmp_path / "whole", shards, optimizer={"ema": 0.9}))
    path = config(tmp_path / "killed", shards, optimizer={"ema": 0.9})
    process = start(path)
    output = tmp_path / "killed" / "out"
    deadline = time.monotonic() + 120
    while not (output / "checkpoints" / "step-00000002" / "state.json").exists():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # As a kill in the middle of writing leaves it.
    (output / "checkpoints" / "step-00000099").mkdir()
    resumed = run(path)
    assert not (output / "checkpoints" / "step-00000099").exists()
    assert [line["step"] for line in metrics(output)] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(resumed, whole, rtol=TOLERANCE)
    theirs, ours = (weights(folder / "out") for folder in (tmp_path / "whole", tmp_path / "killed"))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", [{"train": "full"}, {"train": "lora", "lora": {"rank": 4, "alpha": 8}}])
def test_two_processes_do_what_one_does_and_one_goes_on_from_two(
    tmp_path: Path, shards: Path, model: dict[str, object]
) -> None:
    whole = run(config(tmp_path / "one", shards, model=model))
    path = config(tmp_path / "two", shards, model=model, steps=4, scale={"workers": 2})
    group(path, 2)
    np.testing.assert_allclose(losses(path), whole[:4], rtol=TOLERANCE)
    alone = run(config(tmp_path / "two", shards, model=model))
    np.testing.assert_allclose(alone, whole, rtol=TOLERANCE)


def test_two_whole_copies_of_the_weights_do_what_one_process_does(tmp_path: Path, shards: Path) -> None:
    base = ModelSettings(base="tiny", tiny=TinySettings(**TINY), adapter_layers=2)
    build(base, 0, torch.device("cpu")).save_pretrained(tmp_path / "base")
    make_shards(shards, 3, seed=5, split="validation")
    same = {"model": {"base": str(tmp_path / "base")}, "validation": {"every": 4, "samples": 3, "steps": 2}, "steps": 4}
    whole = run(config(tmp_path / "one", shards, **same))
    path = config(tmp_path / "two", shards, **same, scale={"workers": 2, "strategy": "hsdp", "shard": 1})
    group(path, 2)
    np.testing.assert_allclose(losses(path), whole, rtol=TOLERANCE)
    logs, pictures = [], []
    for output in (tmp_path / "one" / "out", tmp_path / "two" / "out"):
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        logs.append([value for line in lines for name, value in line.items() if name.startswith("val_")])
        pictures.append(np.array(Image.open(output / "validation" / "step-00000004.png")).astype(int))
    assert len(logs[0]) == 6
    np.testing.assert_allclose(logs[1], logs[0], rtol=1e-3)
    assert np.abs(pictures[1] - pictures[0]).max() <= 1


def test_ray_train_does_what_one_process_does(tmp_path: Path, shards: Path) -> None:
    whole = run(config(tmp_path / "one", shards, steps=2))
    path = config(tmp_path / "ray", shards, steps=2, scale={"workers": 2, "cpus_per_worker": 0.4})
    assert command.main([str(path)]) == 0
    np.testing.assert_allclose(losses(path), whole, rtol=TOLERANCE)
