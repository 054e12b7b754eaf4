"""What of a group is learnt from, in which update and at which noise level: the same for any number of processes.

A lesson is what one loss is about: an edit with its optimality probability (DiffusionNFT), or a winner and a loser
(DPO). Every group has the same number of lessons, of which some weigh 0, so that all processes run the model equally
often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ugaf.fineedit.pipeline import FineEditPipeline, predict
from ugaf.trainer import flow
from ugaf.trainer.rl import dpo, nft
from ugaf.trainer.rl.advantages import optimality
from ugaf.trainer.rl.groups import Group
from ugaf.trainer.rl.policy import Copy
from ugaf.trainer.rl.sampling import repeated
from ugaf.trainer.rl.settings import PostSettings
from ugaf.trainer.seeds import seed_of


@dataclass(frozen=True)
class Lesson:
    """good: the member that is learnt from, or a pair's winner. bad: a pair's loser (DPO). r: see `advantages`.

    weight: 1, or 0 for one that only keeps processes in step.
    """

    good: int
    bad: int
    r: float
    weight: float


@dataclass(frozen=True, eq=False)
class Part:
    """Lessons of one group that go through the model together, at one round of noise levels.

    places: of each lesson among all of the update, over groups and levels: its noise and noise level follow from it.
    """

    group: Group
    lessons: list[Lesson]
    places: list[int]


def lessons_of(settings: PostSettings, advantages: np.ndarray, chosen: bool) -> list[Lesson]:
    """Of a group with these advantages (members,); chosen: whether it is learnt from at all."""
    if settings.method == "nft":
        r = optimality(advantages, settings.nft.clip)
        known = ~np.isnan(r) & chosen
        return [Lesson(n, n, float(r[n]) if known[n] else 0.5, float(known[n])) for n in range(len(r))]
    found = dpo.pairs(advantages, settings.dpo.losers, settings.dpo.gap) if chosen else []
    lessons = [Lesson(winner, loser, 1.0, 1.0) for winner, loser in found]
    return lessons + [Lesson(0, 0, 1.0, 0.0)] * (len(advantages) // 2 - len(lessons))


def parts_of(
    settings: PostSettings, update: int, groups: Sequence[Group], lessons: Sequence[list[Lesson]]
) -> Iterator[Part]:
    """An update's share of every group's lessons, at every level."""
    optimizer = settings.optimizer
    each = -(-len(lessons[0]) // optimizer.updates)
    for group, own in zip(groups, lessons, strict=True):
        share = own[update :: optimizer.updates]
        for level in range(optimizer.levels):
            # Levels of a lesson are far apart: strata of the noise levels follow the places.
            first = (level * settings.sampling.groups + group.number) * each
            for start in range(0, len(share), optimizer.batch):
                taken = share[start : start + optimizer.batch]
                yield Part(group, taken, list(range(first + start, first + start + len(taken))))


def places(settings: PostSettings, slots: int) -> int:
    """How many there are in an update, of groups with so many lessons."""
    return settings.optimizer.levels * settings.sampling.groups * -(-slots // settings.optimizer.updates)


class Learner:
    """Losses of parts. Velocities of the other policies come first: weights must not change between a forward pass and
    its backward pass."""

    def __init__(self, settings: PostSettings, pipeline: FineEditPipeline, old: Copy, start: Copy) -> None:
        self.settings = settings
        self.pipeline = pipeline
        self.old = old
        self.start = start

    def loss(self, part: Part, step: int, count: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The weighted sum over the part's lessons, and sums of what is told about them.

        step: number of the update since the first epoch. count: places of the update.
        """
        settings = self.settings
        clean = part.group.latents[[lesson.good for lesson in part.lessons]].to(part.group.encoded.clean)
        seed = seed_of(settings.seed, "levels")
        noise = flow.noise_of(clean.shape[1:], seed, step, part.places).to(clean)
        t = flow.timesteps(settings.flow, seed, step, part.places, count).to(clean)
        each, told = (self._nft if settings.method == "nft" else self._dpo)(part, clean, noise, t)
        weight = torch.tensor([lesson.weight for lesson in part.lessons]).to(each)
        weight = weight * flow.weights(t, settings.flow).to(each)
        return (each * weight).sum(), {name: float((value * weight).sum()) for name, value in told.items()}

    def _nft(
        self, part: Part, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        options = self.settings.nft
        noisy = flow.noisy(clean, noise, t)
        with torch.no_grad(), self.old.used():
            old = self._said(part, noisy, t)
        start = None
        if options.kl:
            with torch.no_grad(), self.start.used():
                start = self._said(part, noisy, t)
        new = self._said(part, noisy, t)
        r = torch.tensor([lesson.r for lesson in part.lessons])
        each = nft.losses(new, old, clean, noise, t, r, options.beta, options.weighting)
        told = {"loss": each.detach()}
        # As in DiffusionNFT's code: so beta and clip change neither the gradient's size nor what `kl` weighs against.
        each = each * (options.clip / options.beta)
        if start is not None:
            moved = nft.distance(new, start)
            each, told["moved"] = each + options.kl * moved, moved.detach()
        return each, told

    def _dpo(
        self, part: Part, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        options, encoded = self.settings.dpo, part.group.encoded
        if options.winners == "target":
            clean = encoded.clean.expand_as(clean)
        losers = part.group.latents[[lesson.bad for lesson in part.lessons]].to(clean)
        both = torch.cat([clean, losers]), torch.cat([noise, noise]), torch.cat([t, t])
        noisy = flow.noisy(*both)
        with torch.no_grad(), self.start.used():
            start = self._said(part, noisy, both[2])
        new = self._said(part, noisy, both[2])
        target = flow.velocity(both[0], both[1])
        errors = [(said.float() - target).square().flatten(1).mean(1).chunk(2) for said in (new, start)]
        (winner, loser), (winner_start, loser_start) = errors
        each = dpo.losses(winner, loser, winner_start, loser_start, options.beta, options.omega, options.reinforcement)
        told = {"loss": each, "win_diff": winner - winner_start, "lose_diff": loser - loser_start}
        told["moved"] = nft.distance(new, start).view(2, -1).mean(0)
        return each, {name: value.detach() for name, value in told.items()}

    def _said(self, part: Part, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        conditions, text = repeated(part.group.encoded, len(noisy))
        return predict(self.pipeline.transformer, noisy, t, conditions, text)
