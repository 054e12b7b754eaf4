"""The embedded scorer: quality from measurements, no model.

It measures flaws that arithmetic can see (seams, block grids, clipping, noise, lost sharpness) and knows nothing of
plausibility, anatomy or meaning. Its `quality` is comparable within a run, not with a vision-language model's score.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from ugaf.base import tasks
from ugaf.base.failure import Failure, each
from ugaf.measures import quality
from ugaf.models.scorers.interface import Pair, Scores


class MeasureScorer:
    """Engine "measures": quality = 10 (1 - artifacts)(1 - seams) 2^-sharpness_loss.

    See `ugaf.measures.quality` for each term. A change of the whole image has no border, and strokes of lettering are
    hard steps by nature: seams are 0 for tasks without them and where over 90 % changed. For restore, lost sharpness is
    measured but not counted in the quality, since noise that goes is measured as fine detail that goes.
    """

    name: ClassVar[str] = "measures"
    version: ClassVar[int] = 1

    class Settings(BaseModel):
        """The embedded scorer has no settings."""

        model_config = ConfigDict(extra="forbid", frozen=True)

    def __init__(self, settings: MeasureScorer.Settings | None = None) -> None:
        self.settings = settings or MeasureScorer.Settings()

    def score(self, pairs: Iterable[Pair]) -> list[Scores | Failure]:
        return each(self._one, pairs)

    def _one(self, pair: Pair) -> Scores:
        before, after = quality.lightness(pair.source), quality.lightness(pair.edited)
        flaws = quality.artifacts(pair.source, pair.edited, (before, after), pair.mask)
        task = tasks.of(pair.task)
        seamless = task.seamless or pair.mask.mean() > 0.9
        seams = 0.0 if seamless else quality.seams(before, after, pair.mask)
        loss = quality.sharpness_loss(before, after, pair.mask, not task.smooth)
        total = 10 * (1 - flaws) * (1 - seams) * (1.0 if task.denoises else 2.0**-loss)
        return {"quality": total, "artifacts": flaws, "seams": seams, "sharpness_loss": loss}
