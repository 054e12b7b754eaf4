"""A group: one pair of the shards, the model's edits of it, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ugaf.fineedit.pipeline import FineEditPipeline
from ugaf.stage import Failure
from ugaf.trainer import flow
from ugaf.trainer.data import Batch
from ugaf.trainer.encode import Encoded, Encoder
from ugaf.trainer.rl.rewards import Case, Part, Rewards, Scorer, Scores, rewards
from ugaf.trainer.rl.sampling import edits, pictures_of
from ugaf.trainer.rl.settings import PostSettings
from ugaf.trainer.seeds import seed_of

SCORERS = 4
"""Groups that are scored at once, while the next one is edited."""


@dataclass(frozen=True, eq=False)
class Group:
    """number: of all groups of the epoch. latents: of the edits, float32 (members, c, h, w), in main memory."""

    number: int
    batch: Batch
    encoded: Encoded
    case: Case
    latents: torch.Tensor
    rewards: Rewards

    @property
    def usable(self) -> bool:
        """Whether the pair could be read."""
        return bool(self.batch.weights[0])


def make_groups(
    settings: PostSettings,
    epoch: int,
    batches: Sequence[Batch],
    pipeline: FineEditPipeline,
    encoder: Encoder,
    scorer: Scorer,
) -> list[Group]:
    """The groups of an epoch (counted from 0) of this process, in order.

    Noise follows from the seed, the epoch, the group's number and the member. A pair that could not be read is edited
    too, so that all processes do the same steps, but gets no rewards. Raises StopRun if the judge's server is gone.
    """
    made: list[tuple[Batch, Encoded, Case, torch.Tensor, Future[Rewards]]] = []
    with ThreadPoolExecutor(SCORERS) as pool:
        for batch in batches:
            encoded = encoder.encode(batch)
            latents = torch.cat(list(_edited(settings, epoch, batch, encoded, pipeline, encoder)))
            case = _case(settings, epoch, batch, pictures_of(pipeline, latents))
            scored = pool.submit(rewards, case, scorer if batch.weights[0] else Unreadable(), settings.reward.kind)
            made.append((batch, encoded, case, latents.cpu(), scored))
        return [
            Group(batch.lane, batch, encoded, case, latents, scored.result())
            for batch, encoded, case, latents, scored in made
        ]


class Unreadable:
    """Scores the edits of a pair that could not be read: not at all."""

    def score(self, case: Case, parts: Sequence[Part]) -> list[Scores | Failure]:  # noqa: ARG002
        return [Failure("CorruptSample", "the pair could not be read")] * len(case.outputs)


def _edited(
    settings: PostSettings, epoch: int, batch: Batch, encoded: Encoded, pipeline: FineEditPipeline, encoder: Encoder
) -> Iterator[torch.Tensor]:
    sampling = settings.sampling
    negative = encoder.encode(batch, [True]).text if sampling.true_cfg_scale > 1 else None
    seed = seed_of(settings.seed, "edits")
    for first in range(0, sampling.members, sampling.batch):
        members = range(first, min(first + sampling.batch, sampling.members))
        places = [batch.lane * sampling.members + member for member in members]
        noise = flow.noise_of(encoded.clean.shape[1:], seed, epoch, places).to(encoded.clean)
        yield edits(pipeline, encoded, negative, noise, sampling.steps, sampling.true_cfg_scale)


def _case(settings: PostSettings, epoch: int, batch: Batch, outputs: list[np.ndarray]) -> Case:
    source, target = (np.ascontiguousarray(one[0].permute(1, 2, 0).numpy()) for one in (batch.source, batch.edited))
    seeds = [seed_of(settings.seed, "judge", epoch, batch.lane, member) for member in range(len(outputs))]
    mask = batch.roi_mask[0, 0].numpy()
    return Case(batch.ids[0], batch.instructions[0], source, target, mask, outputs, seeds)
