"""The post-training: read top to bottom, from settings to the last checkpoint.

An epoch is a step of the plan of which every microbatch is one pair: the old policy edits each pair many times, the
edits are rewarded and compared within their groups, and the LoRA learns from that. Then the old policy follows.
Pairs, noise and noise levels follow from the seed, the epoch, the group and the member; so a post-training that was
killed goes on after its newest checkpoint as if it had not been, but for answers of a judge that draws.

Processes share out the groups. Started by `torchrun` there are several; weights are split over them as in training.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from PIL import Image

from ugaf.base.errors import ConfigError, UgafError
from ugaf.trainer.build import dtype_of
from ugaf.trainer.checkpoints import Checkpoints
from ugaf.trainer.data import Batch, Loader, Plan, open_index
from ugaf.trainer.distributed import World, device_of, join, split
from ugaf.trainer.encode import Encoder
from ugaf.trainer.learned import Learned
from ugaf.trainer.monitor import Monitor, keep_until
from ugaf.trainer.rl.advantages import advantages, centred, group_scale, semi_hard
from ugaf.trainer.rl.groups import Group, make_groups
from ugaf.trainer.rl.judge import Judge
from ugaf.trainer.rl.learning import Learner, lessons_of, parts_of, places
from ugaf.trainer.rl.measures import Measures
from ugaf.trainer.rl.policy import Copy, build_policy
from ugaf.trainer.rl.rewards import Scorer
from ugaf.trainer.rl.settings import PostSettings
from ugaf.trainer.settings import ScaleSettings
from ugaf.trainer.validation import boxed, sheet

LOG = logging.getLogger(__name__)


class PostTraining:
    """One process's part of a post-training, from the newest checkpoint or from the start.

    encoder_of: makes what turns pairs into latents and embeddings; scorer: what edits are scored by, where it is not
    what the settings say. Raises ConfigError before the first epoch for what cannot work.
    """

    def __init__(
        self,
        settings: PostSettings,
        world: World,
        scorer: Scorer | None = None,
        encoder_of: Callable[..., Encoder] = Encoder,
    ) -> None:
        if settings.sampling.groups % world.size:
            raise ConfigError(
                f"sampling.groups: {settings.sampling.groups} groups cannot be dealt to {world.size} processes"
            )
        self.settings = settings
        self.world = world
        self.folder = Path(settings.output).expanduser()
        self.scorer = scorer or (Judge(settings.reward) if settings.reward.scorer == "judge" else Measures())
        self.index = open_index(settings.pairs())
        self.plan = Plan(self.index, settings.pairs(), settings.seed)
        model = settings.model.as_model()
        self.pipeline = build_policy(settings, world.device, weights=world.leads)
        self.model = self.pipeline.transformer.train()
        split(self.model, ScaleSettings(), world, dtype_of(model, world.device))
        self.learned = Learned(self.model, settings.optimizer, world)
        self.start, self.old = Copy(self.learned.parameters), Copy(self.learned.parameters)
        self.encoder = encoder_of(self.pipeline, world.device)
        self.learner = Learner(settings, self.pipeline, self.old, self.start)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", settings.checkpoint.keep, world)
        self.epoch = self._resume()
        self.monitor = Monitor(self.folder, self.epoch, None, world.leads)
        self._left_out = self.folder / f"left-out-{world.rank}.jsonl"
        keep_until(self._left_out, self.epoch)

    def run(self) -> None:
        """To the last epoch. Interrupted at any point, another call goes on from the newest checkpoint."""
        settings, saved = self.settings, self.epoch
        where = {"rank": self.world.rank, "world": self.world.size, "start_step": self.epoch}
        loader = Loader(self.plan, **where, end_step=settings.epochs)
        with closing(self.monitor), closing(loader):
            for epoch, batches in loader:
                values = self.one_epoch(epoch, batches)
                self.epoch = epoch + 1
                self.monitor.log(self.epoch, values)
                if self.epoch % settings.checkpoint.every == 0:
                    self.save()
                    saved = self.epoch
            if saved < self.epoch:
                self.save()

    def one_epoch(self, epoch: int, batches: Sequence[Batch]) -> dict[str, float]:
        """Edits, rewards and learns; what is told of it: see docs/post-training.md."""
        self.model.eval()
        with self.old.used():
            groups = make_groups(self.settings, epoch, batches, self.pipeline, self.encoder, self.scorer)
        self.model.train()
        self._note(epoch, groups)
        rewards = np.stack([group.rewards.reward for group in groups])
        values, spread = self._summary(epoch, groups, rewards)
        scale = group_scale(rewards) if self.settings.scale == "group" else spread
        mining = self.settings.mining
        chosen = semi_hard(rewards, mining.least_mean, mining.most_worst)
        values |= self._learn(epoch, groups, advantages(rewards, scale), chosen)
        self.old.follow(min(self.settings.old.rate * epoch, self.settings.old.most))
        return values

    def save(self) -> None:
        """A checkpoint of the epochs done so far."""
        self.checkpoints.save(self.epoch, self._tensors(), self._state())

    def _learn(self, epoch: int, groups: Sequence[Group], each: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
        settings, updates = self.settings, self.settings.optimizer.updates
        lessons = [lessons_of(settings, own, bool(some)) for own, some in zip(each, chosen, strict=True)]
        count = places(settings, len(lessons[0]))
        sums: dict[str, float] = {}
        total, norms = 0.0, []
        for update in range(updates):
            weighed = 0.0
            for part in parts_of(settings, update, groups, lessons):
                loss, told = self.learner.loss(part, epoch * updates + update, count)
                loss.backward()
                weighed += sum(lesson.weight for lesson in part.lessons)
                sums = {name: sums.get(name, 0.0) + value for name, value in told.items()}
            (weighed,) = self.world.summed(weighed)
            norms.append(self.learned.update(weighed, settings.optimizer.lr, f"epoch {epoch + 1}"))
            total += weighed
        names = sorted(sums)
        means = [value / max(1.0, total) for value in self.world.summed(*(sums[name] for name in names))]
        lessons_done = total / settings.optimizer.levels
        (groups_done,) = self.world.summed(float(chosen.sum()))
        told = {"grad_norm": float(np.mean(norms)), "lessons": lessons_done, "groups": groups_done}
        return {**dict(zip(names, means, strict=True)), **told}

    def _summary(self, epoch: int, groups: Sequence[Group], rewards: np.ndarray) -> tuple[dict[str, float], float]:
        """Means over all processes, and the standard deviation of all rewards.

        Raises UgafError if there is not a single reward.
        """
        terms: dict[str, list[np.ndarray]] = {"reward": [], "background_psnr": [], "region": [], "background": []}
        terms |= {"psi": [], "whole": []}
        for group in groups:
            own = {"reward": group.rewards.reward, "background_psnr": group.rewards.psnr, **group.rewards.parts}
            for name, values in own.items():
                terms[name].append(values if group.usable else np.full_like(values, np.nan))
        flat = {name: np.concatenate([*values, np.zeros(0)]) for name, values in terms.items()}
        inner = centred(rewards)
        numbers = [float(np.nansum(values)) for values in flat.values()]
        numbers += [float(np.isfinite(values).sum()) for values in flat.values()]
        numbers += [float(np.nansum(rewards**2)), float(np.nansum(inner**2)), float(np.isnan(rewards).sum())]
        summed = self.world.summed(*numbers)
        sums, counts = summed[: len(flat)], summed[len(flat) : 2 * len(flat)]
        squares, inner_squares, left_out = summed[2 * len(flat) :]
        if not counts[0]:
            first = next((f"{found}" for group in groups for _, found in group.rewards.failures), "on another process")
            raise UgafError(f"epoch {epoch + 1}: not one edit got a reward; the first reason: {first}")
        means = {name: total / n for name, total, n in zip(flat, sums, counts, strict=True) if n}
        spread = math.sqrt(max(0.0, squares / counts[0] - means["reward"] ** 2))
        told = {"reward_std": spread, "reward_std_in_group": math.sqrt(inner_squares / counts[0]), "left_out": left_out}
        return {**means, **told}, spread

    def _note(self, epoch: int, groups: Sequence[Group]) -> None:
        """Names what got no reward, and paints a sheet now and then."""
        lines = [
            {"step": epoch + 1, "id": group.case.id, "group": group.number, "member": member, "reason": str(found)}
            for group in groups
            for member, found in group.rewards.failures
        ]
        if lines:
            LOG.warning("epoch %d: %d edits got no reward; see %s", epoch + 1, len(lines), self._left_out)
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._left_out.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        every = self.settings.pictures
        if self.world.leads and every and (epoch % every == 0 or epoch + 1 == self.settings.epochs):
            _paint(self.folder / "samples" / f"epoch-{epoch + 1:06d}.png", groups)

    def _tensors(self) -> dict[str, Any]:
        return {**self.learned.tensors(), "old": dict(self.old.values)}

    def _state(self) -> dict[str, Any]:
        return {"settings": self.settings.model_dump(mode="json"), "data": self.index.fingerprint}

    def _resume(self) -> int:
        self.checkpoints.clear_unfinished()
        epochs = self.checkpoints.steps()
        if not epochs:
            return 0
        check_same(self.checkpoints.state(epochs[-1]), self._state(), self.folder)
        tensors = self._tensors()
        self.checkpoints.load(epochs[-1], tensors)
        self.learned.restore(tensors)
        self.old.values = dict(tensors["old"])
        LOG.info("going on after epoch %d", epochs[-1])
        return epochs[-1]


def train(settings: PostSettings) -> None:
    """This process's part of the post-training."""
    scale = ScaleSettings(device=settings.device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device_of(scale).type == "cuda" else "gloo")
    PostTraining(settings, join(scale)).run()


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raises ConfigError if a post-training cannot go on as the one that was saved; other changes are logged."""
    if saved["data"] != now["data"]:
        raise ConfigError(
            f"{folder}: its checkpoints are of other shards than data.shards has now. Restore the shards, or start "
            "in a new output"
        )
    before, after = saved["settings"], now["settings"]
    changed = [part for part in after if before.get(part) != after[part]]
    fixed = [part for part in changed if part in ("model", "seed")]
    if before["sampling"]["groups"] != after["sampling"]["groups"]:
        fixed.append("sampling.groups")
    if fixed:
        raise ConfigError(
            f"{folder}: its checkpoints are of another {', '.join(fixed)}. Restore those settings, or start in a new "
            "output"
        )
    for part in set(changed) - {"epochs", "output", "checkpoint", "pictures", "device", "name"}:
        LOG.warning("%s differs from the checkpoint's: from here on the new one counts", part)


def _paint(file: Path, groups: Sequence[Group]) -> None:
    """Of some groups: the source with its boxes, the target, the worst and the best edit."""
    rows, captions = [], []
    for group in groups[:8]:
        known = np.flatnonzero(~np.isnan(group.rewards.reward))
        if len(known):
            order = known[np.argsort(group.rewards.reward[known], kind="stable")]
            worst, best = (group.case.outputs[member] for member in (order[0], order[-1]))
            rows.append([boxed(group.batch.source[0], group.batch.boxes[0]), group.case.target, worst, best])
            low, high = group.rewards.reward[order[[0, -1]]]
            captions.append(f"{low:.2f} to {high:.2f}  {group.case.instruction}")
    if rows:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet(rows, captions)).save(file)
