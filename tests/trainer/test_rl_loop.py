"""Whole post-trainings of a tiny model: learning, killed, continued, split over processes, and exported."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from training_tools import ROOT, TINY, make_shards

from ugaf.base.errors import ConfigError, UgafError
from ugaf.fineedit.pipeline import FineEditPipeline
from ugaf.stage import Failure
from ugaf.trainer.build import build
from ugaf.trainer.data import Loader
from ugaf.trainer.distributed import join, leave
from ugaf.trainer.rl import __main__ as command
from ugaf.trainer.rl.export import export
from ugaf.trainer.rl.loop import PostTraining, train
from ugaf.trainer.rl.rewards import Case, Scorer
from ugaf.trainer.rl.settings import load
from ugaf.trainer.settings import ModelSettings, ScaleSettings, TinySettings

pytestmark = pytest.mark.torch

TOLERANCE = 2e-4
"""Relative difference of what is told of an epoch: sums of float32 in another order, and rewards of rounded pixels."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), 12, side=48)


@pytest.fixture(autouse=True)
def _no_group() -> Iterator[None]:
    yield
    leave()


def config(folder: Path, shards: Path, **changes: Any) -> Path:
    document: dict[str, Any] = {
        "output": str(folder / "out"),
        "epochs": 2,
        "data": {"shards": [str(shards)], "area": 2304, "multiple": 16, "token_side": 8, "workers": 0},
        "model": {"base": "tiny", "tiny": TINY, "lora": {"rank": 4, "alpha": 8}, "checkpointing": False},
        "sampling": {"groups": 2, "members": 4, "steps": 2, "batch": 3},
        "optimizer": {"lr": 1e-2, "levels": 1, "updates": 2},
        "device": "cpu",
        "checkpoint": {"every": 1},
        "pictures": 0,
    }
    for name, value in changes.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) and name in document else value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "post.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def told(path: Path) -> list[dict[str, float]]:
    text = (Path(load(str(path)).output) / "metrics.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def run(path: Path) -> list[dict[str, float]]:
    train(load(str(path)))
    leave()
    return told(path)


def same(found: Sequence[dict[str, float]], wanted: Sequence[dict[str, float]]) -> None:
    assert [line.keys() for line in found] == [line.keys() for line in wanted]
    for line, other in zip(found, wanted, strict=True):
        for name, value in line.items():
            assert value == pytest.approx(other[name], rel=TOLERANCE, abs=1e-6), name


class Whiteness:
    """A reward that the model can follow: how bright the edit is."""

    def score(self, case: Case, parts: Sequence[Any]) -> list[Any]:
        return [dict.fromkeys(parts, float(output.mean()) / 255) for output in case.outputs]


class Darkness(Whiteness):
    def score(self, case: Case, parts: Sequence[Any]) -> list[Any]:
        return [{part: 1 - value for part, value in one.items()} for one in super().score(case, parts)]


def again(folder: Path, shards: Path, scorer: Scorer, **changes: Any) -> list[dict[str, float]]:
    """The first epoch, done over and over with the same pairs and noise."""
    path = config(folder, shards, reward={"kind": "global"}, optimizer={"updates": 1}, **changes)
    training = PostTraining(load(str(path)), join(ScaleSettings(device="cpu")), scorer=scorer)
    _, batches = next(iter(Loader(training.plan, end_step=1)))
    return [training.one_epoch(0, batches) for _ in range(3)]


@pytest.mark.parametrize("scorer", [Whiteness(), Darkness()])
def test_the_reward_of_the_same_noise_rises(tmp_path: Path, shards: Path, scorer: Scorer) -> None:
    rewards = [line["reward"] for line in again(tmp_path, shards, scorer)]
    assert (np.diff(rewards) > 0).all(), rewards


def test_dpo_makes_winners_likelier_and_losers_less_likely(tmp_path: Path, shards: Path) -> None:
    first, second, third = again(tmp_path, shards, Whiteness(), method="dpo", dpo={"gap": 0.1})
    assert first["win_diff"] == pytest.approx(0, abs=1e-6)
    assert 0 > second["win_diff"] > third["win_diff"]
    assert 0 < second["lose_diff"] < third["lose_diff"]
    assert third["loss"] < first["loss"]


def test_killed_and_started_again_it_is_as_if_it_had_not_been(tmp_path: Path, shards: Path) -> None:
    changes: dict[str, Any] = {"epochs": 3, "old": {"rate": 0.2}}
    whole = run(config(tmp_path / "whole", shards, **changes))
    path = config(tmp_path / "killed", shards, **changes)
    process = subprocess.Popen(
        [sys.executable, "-m", "ugaf.trainer.rl", str(path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    checkpoints = tmp_path / "killed" / "out" / "checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoints / "step-00000001" / "state.json").exists():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (checkpoints / "step-00000099").mkdir()
    resumed = run(path)
    assert [line["step"] for line in resumed] == [1, 2, 3]
    same(resumed, whole)


def test_two_processes_do_what_one_does(tmp_path: Path, shards: Path) -> None:
    whole = run(config(tmp_path / "one", shards))
    path = config(tmp_path / "two", shards)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(2):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {**os.environ, **place, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        processes.append(subprocess.Popen([sys.executable, "-m", "ugaf.trainer.rl", str(path)], cwd=ROOT, env=env))
    try:
        assert [process.wait(timeout=200) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    same(told(path), whole)


def test_edits_without_a_reward_are_left_out_counted_and_named(tmp_path: Path, shards: Path) -> None:
    class Moody(Whiteness):
        def score(self, case: Case, parts: Sequence[Any]) -> list[Any]:
            found: list[Any] = super().score(case, parts)
            found[1] = Failure("AnswerError", "no JSON")
            return found

    path = config(tmp_path, shards, epochs=1)
    PostTraining(load(str(path)), join(ScaleSettings(device="cpu")), scorer=Moody()).run()
    (line,) = told(path)
    assert line["left_out"] == 2
    assert line["lessons"] == 6
    named = [json.loads(text) for text in (tmp_path / "out" / "left-out-0.jsonl").read_text().splitlines()]
    assert [(one["member"], one["reason"]) for one in named] == [(1, "AnswerError: no JSON")] * 2
    assert {one["id"] for one in named} <= {f"train{number:04d}" for number in range(12)}


def test_a_judge_that_scores_nothing_ends_the_run(tmp_path: Path, shards: Path) -> None:
    class Mute:
        def score(self, case: Case, _: Sequence[Any]) -> list[Any]:
            return [Failure("AnswerError", "no JSON")] * len(case.outputs)

    path = config(tmp_path, shards)
    with pytest.raises(UgafError, match=r"not one edit got a reward.*no JSON"):
        PostTraining(load(str(path)), join(ScaleSettings(device="cpu")), scorer=Mute()).run()


def test_without_a_preference_nothing_is_learnt(tmp_path: Path, shards: Path) -> None:
    class Indifferent:
        def score(self, case: Case, parts: Sequence[Any]) -> list[Any]:
            return [dict.fromkeys(parts, 0.5) for _ in case.outputs]

    path = config(tmp_path, shards, epochs=1, reward={"kind": "global"}, optimizer={"updates": 1})
    training = PostTraining(load(str(path)), join(ScaleSettings(device="cpu")), scorer=Indifferent())
    training.run()
    (line,) = told(path)
    assert line["grad_norm"] < 1e-5


def test_only_the_lora_learns_and_the_exported_editor_has_it(tmp_path: Path, shards: Path) -> None:
    base = build(
        ModelSettings(base="tiny", tiny=TinySettings(**TINY), adapter_layers=2), 0, torch.device("cpu"), parts=False
    )
    base.save_pretrained(tmp_path / "base")
    path = config(
        tmp_path, shards, model={"base": str(tmp_path / "base")}, sampling={"true_cfg_scale": 2.0}, pictures=1
    )
    assert command.main([str(path)]) == 0
    after = FineEditPipeline.from_pretrained(tmp_path / "out" / "editor")
    assert after.transformer.config.adapter_layers == 2
    now = dict(after.transformer.named_parameters())
    changed = {name for name, value in base.transformer.named_parameters() if not torch.equal(now[name], value)}
    ends = tuple(f".{end}.weight" for end in load(str(path)).model.lora.targets)
    assert all(name.startswith("transformer_blocks.") and name.endswith(ends) for name in changed)
    assert {f"transformer_blocks.{n}.attn.{end}.weight" for n in range(2) for end in ("to_q", "to_out.0")} <= changed
    assert (tmp_path / "out" / "samples" / "epoch-000002.png").exists()


def test_what_cannot_go_on_is_told(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, shards, epochs=1)
    assert command.main([str(path), "sampling.group=4"]) == 2
    assert "groups" in capsys.readouterr().err
    assert command.main([str(path), "--check"]) == 0
    assert "12 pairs; an epoch edits 2 of them 4 times" in capsys.readouterr().out
    assert command.main([str(path), "sampling.groups=100"]) == 2
    assert "100" in capsys.readouterr().err
    run(path)
    with pytest.raises(ConfigError, match=r"sampling\.groups"):
        train(load(str(path), ["sampling.groups=4", "epochs=3"]))
    leave()
    with pytest.raises(ConfigError, match="no checkpoint of epoch 7"):
        export(load(str(path)), epoch=7)
