"""The training: read top to bottom, from settings to the last checkpoint.

A step's gradient is the sum of its samples' losses over all microbatches and processes, divided by how many samples
that were; samples, noise and timesteps follow from the seed and the step. So the numbers are the same for one process
with eight microbatches and eight processes with one, and for a training that was killed and one that was not, but for
the rounding of sums in another order.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ugaf.base.errors import ConfigError
from ugaf.fineedit.pipeline import FineEditPipeline, predict
from ugaf.trainer import flow
from ugaf.trainer.build import build, dtype_of
from ugaf.trainer.checkpoints import Checkpoints
from ugaf.trainer.data import Batch, Loader, Plan, open_index
from ugaf.trainer.distributed import World, join, split
from ugaf.trainer.ema import Average
from ugaf.trainer.encode import Encoder, check_cache
from ugaf.trainer.learned import Learned
from ugaf.trainer.monitor import Monitor, keep_until, peak_tflops
from ugaf.trainer.seeds import seed_of
from ugaf.trainer.settings import TrainSettings
from ugaf.trainer.validation import Validation

LOG = logging.getLogger(__name__)


class Training:
    """One process's part of a training, from the newest checkpoint or from the start.

    pipeline: with a model that was built already (`ugaf.trainer.build.assemble`), in place of the settings' own.

    Raises ConfigError before the first step for what cannot work: shards, model, device, a checkpoint of other
    settings.
    """

    def __init__(self, settings: TrainSettings, world: World, pipeline: FineEditPipeline | None = None) -> None:
        self.settings = settings
        self.world = world
        self.folder = Path(settings.output).expanduser()
        self.index = open_index(settings.data)
        self._tell_left_out()
        self.plan = Plan(self.index, settings.data, settings.seed)
        if settings.data.cache is not None:
            check_cache(settings)
        encodes = settings.data.cache is None or settings.validation.every > 0
        if pipeline is None:
            pipeline = build(settings.model, settings.seed, world.device, parts=encodes, weights=world.leads)
        self.pipeline = pipeline
        self.model = self.pipeline.transformer.train()
        # From main memory, block by block: whole, the full-size model would not fit on a GPU.
        split(self.model, settings.scale, world, dtype_of(settings.model, world.device))
        self.learned = Learned(self.model, settings.optimizer, world)
        ema = settings.optimizer.ema
        self.average = Average(self.learned.parameters, ema) if ema is not None else None
        self.encoder = Encoder(self.pipeline, world.device)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", settings.checkpoint.keep, world)
        self.step = self._resume()
        peak = peak_tflops(world.device, settings.peak_tflops)
        self.corrupt = self.folder / f"corrupt-{world.rank}.jsonl"
        keep_until(self.corrupt, self.step)
        self.monitor = Monitor(self.folder, self.step, peak and peak * world.size, world.leads)
        self.flops: dict[Any, float] = {}
        # A backward pass has as many operations as the forward pass for the gradients of what goes between layers, and
        # as many again for those of the weights, where they are trained. What checkpointing repeats is not counted.
        weights = sum(value.numel() for value in self.learned.parameters.values())
        self.passes = 2 + weights / sum(value.numel() for value in self.model.parameters())

    def run(self) -> None:
        """To the last step. Interrupted at any point, another call goes on from the newest checkpoint."""
        settings, saved = self.settings, self.step
        validation = Validation(settings, self.pipeline, self.encoder, self.world)
        if self.step == 0:
            validation.run(0, self.monitor)
            self.monitor.restart()
        place = {"rank": self.world.rank, "world": self.world.size, "start_step": self.step}
        loader = Loader(self.plan, **place, end_step=settings.steps)
        with closing(self.monitor), closing(loader):
            for step, batches in loader:
                values = self.one_step(step, batches)
                self.step = step + 1
                self._note_corrupt(batches)
                if self.step % settings.log_every == 0 or self.step == settings.steps:
                    self.monitor.log(self.step, {**values, **self.monitor.rates()})
                if self.step % settings.checkpoint.every == 0:
                    self.save()
                    saved = self.step
                    self.monitor.restart()
                if settings.validation.every and self.step % settings.validation.every == 0:
                    with self.average.used() if self.average else nullcontext():
                        validation.run(self.step, self.monitor)
                    self.monitor.restart()
            if saved < self.step:
                self.save()

    def one_step(self, step: int, batches: Sequence[Batch]) -> dict[str, float]:
        """Loss (mean over the step's samples), gradient norm and learning rate of one optimizer step."""
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        samples = tokens = flops = 0.0
        for batch in batches:
            loss, used = self._loss(step, batch)
            loss.backward()
            total += loss.detach()
            samples += float(batch.weights.sum())
            tokens += used
            flops += self.passes * self.flops[batch.bucket, len(batch.ids)]
        loss_sum, count, all_tokens, all_flops = self.world.summed(float(total), samples, tokens, flops)
        norm = self.learned.update(count, lr_at(step, self.settings), f"step {step + 1}")
        if self.average is not None:
            self.average.update(step)
        self.monitor.done(int(count), int(all_tokens), all_flops)
        return {"loss": loss_sum / max(1.0, count), "grad_norm": norm, "lr": lr_at(step, self.settings)}

    def save(self) -> None:
        """A checkpoint of the steps done so far."""
        began = time.perf_counter()
        self.checkpoints.save(self.step, self._tensors(), self._state())
        LOG.info("step %d  checkpoint in %.1f s", self.step, time.perf_counter() - began)

    def _loss(self, step: int, batch: Batch) -> tuple[torch.Tensor, int]:
        """The sum of the batch's losses, and its image tokens."""
        settings, device = self.settings, self.world.device
        positions = batch.positions.tolist()
        dropped = [
            seed_of(settings.seed, "prompt", step, place) / 2**63 < settings.model.drop_prompt for place in positions
        ]
        encoded = self.encoder.encode(batch, dropped)
        clean = encoded.clean
        noise = flow.noise_of(clean.shape[1:], settings.seed, step, positions).to(device)
        t = flow.timesteps(settings.flow, settings.seed, step, positions, batch.planned).to(device)
        key = (batch.bucket, len(batch.ids))
        counter = nullcontext() if key in self.flops else FlopCounterMode(display=False)
        with counter:
            predicted = predict(self.model, flow.noisy(clean, noise, t), t, encoded.conditions, encoded.text)
        if isinstance(counter, FlopCounterMode):
            self.flops[key] = float(counter.get_total_flops())
        each = flow.losses(predicted, clean, noise, t, settings.flow)
        sequence = clean.shape[-1] * clean.shape[-2] // 4 * (1 + batch.bucket.conditions)
        return (each * batch.weights.to(device)).sum(), sequence * len(batch.ids)

    def _tensors(self) -> dict[str, Any]:
        averages = {} if self.average is None else {"average": dict(self.average.values)}
        return {**self.learned.tensors(), **averages}

    def _state(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "data": self.index.fingerprint,
            "world": self.world.size,
        }

    def _resume(self) -> int:
        self.checkpoints.clear_unfinished()
        steps = self.checkpoints.steps()
        if not steps:
            return 0
        check_same(self.checkpoints.state(steps[-1]), self._state(), self.folder)
        tensors = self._tensors()
        self.checkpoints.load(steps[-1], tensors)
        self.learned.restore(tensors)
        if self.average is not None:
            self.average.values = dict(tensors["average"])
        LOG.info("going on after step %d", steps[-1])
        return steps[-1]

    def _tell_left_out(self) -> None:
        left = self.index.left_out
        if left.count and self.world.leads:
            LOG.warning(
                "%d samples are left out: %s", left.count, "; ".join(f"{where}: {why}" for where, why in left.named)
            )

    def _note_corrupt(self, batches: Sequence[Batch]) -> None:
        found = [entry for batch in batches for entry in batch.corrupt]
        if found:
            with self.corrupt.open("a", encoding="utf-8") as stream:
                for name, reason in found:
                    LOG.warning("skipped %s: %s", name, reason)
                    stream.write(json.dumps({"step": self.step, "sample": name, "reason": reason}) + "\n")


def train(settings: TrainSettings) -> None:
    """This process's part of the training; every process of a group calls it."""
    Training(settings, join(settings.scale)).run()


def lr_at(step: int, settings: TrainSettings) -> float:
    """The learning rate of a step, counted from 0."""
    optimizer = settings.optimizer
    if step < optimizer.warmup_steps:
        return optimizer.lr * (step + 1) / optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return optimizer.lr
    done = (step - optimizer.warmup_steps) / max(1, settings.steps - optimizer.warmup_steps)
    return optimizer.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def check_same(saved: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Raises ConfigError if a training cannot go on as the one that was saved; other changes of settings are logged."""
    if saved["data"] != now["data"]:
        raise ConfigError(
            f"{folder}: its checkpoints were trained on other shards than data.shards has now, and their order of "
            "samples is no more. Restore the shards, or start in a new output (model.base may be this one's editor)"
        )
    for part in ("model", "data", "seed"):
        changed = _changed(saved["settings"][part], now["settings"][part], part)
        changed = [name for name in changed if name.split(".")[-1] not in _HOW]
        if changed:
            raise ConfigError(
                f"{folder}: its checkpoints were trained with other {', '.join(changed)}. Restore those settings, or "
                "start in a new output"
            )
    for part in ("flow", "optimizer", "steps"):
        for name in _changed(saved["settings"][part], now["settings"][part], part):
            LOG.warning("%s differs from the checkpoint's: from here on the new one counts", name)


_HOW = frozenset({"workers", "prefetch", "checkpointing", "compile"})
"""Settings of how the work is done, which may differ at any time."""


def _changed(before: Any, after: Any, name: str) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys([*before, *after])
        return [found for key in keys for found in _changed(before.get(key), after.get(key), f"{name}.{key}")]
    return [] if before == after else [name]
