"""What an edit is worth: FineEdit's decoupled reward (arXiv 2604.10954, section 3.3), and the global one beside it.

Decoupled: R = R_roi + R_bg. R_roi scores the region alone, R_bg = score of the background alone + Psi, where Psi is
the edit's PSNR outside the boxes, min-max normalised within its group. A scorer sees only the part that it scores: the
rest of both pictures is painted over. The paper calls the mask M in both senses; here `roi_mask` is True inside the
boxes and `background_mask` outside of them.

Global, the ablation: one score of the whole picture.

Every score is 0..1, so R is 0..3 (decoupled) or 0..1 (global); that region and background weigh the same is our choice,
for the paper gives no scale. An edit that a scorer cannot score gets no reward: it is left out of its group and named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ugaf.measures import quality
from ugaf.stage import Failure

Part = Literal["region", "background", "whole"]
Kind = Literal["decoupled", "global"]

HIDDEN = 127
"""Grey value of what a scorer is not to see: mid-grey, as the model is shown what it is to fill."""

LEVEL = 0.5
"""Psi of every edit of a group whose backgrounds are equally well kept: none is better or worse."""


@dataclass(frozen=True, eq=False)
class Case:
    """A group's edits of one pair.

    source, target, and each of outputs: RGB uint8 (height, width, 3); target is the shards' own edit. roi_mask: bool
    (height, width), True inside the boxes, everywhere for a global edit. seeds: of each output, for a scorer that
    draws.
    """

    id: str
    instruction: str
    source: np.ndarray
    target: np.ndarray
    roi_mask: np.ndarray
    outputs: Sequence[np.ndarray]
    seeds: Sequence[int]

    @property
    def background_mask(self) -> np.ndarray:
        """bool (height, width): what is not `roi_mask`."""
        return ~self.roi_mask


Scores = Mapping[Part, float]


class Scorer(Protocol):
    """Gives each output of a case its score, 0..1, of each part asked for; or the Failure that says why not."""

    def score(self, case: Case, parts: Sequence[Part]) -> list[Scores | Failure]: ...


@dataclass(frozen=True, eq=False)
class Rewards:
    """Of a group. reward, psnr and each of parts: float64 (members,), NaN where there is none.

    reward: NaN for an edit that was left out. parts: the terms of the sum by name ("region", "background", "psi",
    "whole"). psnr: outside the boxes against the source, dB; NaN for a global edit. failures: (member, why) left out.
    """

    reward: np.ndarray
    parts: Mapping[str, np.ndarray]
    psnr: np.ndarray
    failures: Sequence[tuple[int, Failure]]


def rewards(case: Case, scorer: Scorer, kind: Kind) -> Rewards:
    """A global edit has no background: its decoupled reward is R_roi, the score of the whole canvas as region."""
    psnr = np.array([_psnr(case, output) for output in case.outputs], dtype=np.float64)
    local = bool(case.background_mask.any())
    parts: tuple[Part, ...] = ("whole",)
    if kind == "decoupled":
        parts = ("region", "background") if local else ("region",)
    scores = scorer.score(case, parts)
    failures = [(member, found) for member, found in enumerate(scores) if isinstance(found, Failure)]
    terms: dict[str, np.ndarray] = {
        part: np.array([np.nan if isinstance(found, Failure) else found[part] for found in scores]) for part in parts
    }
    if kind == "decoupled" and local:
        kept = np.array([not isinstance(found, Failure) for found in scores])
        terms["psi"] = normalised(np.where(kept, psnr, np.nan))
    return Rewards(np.sum(list(terms.values()), axis=0), terms, psnr, failures)


def normalised(values: np.ndarray) -> np.ndarray:
    """Psi: (value - min) / (max - min) over the values that are numbers, 0..1; LEVEL where all are equal; NaN stays."""
    found = values[~np.isnan(values)]
    if not len(found):
        return values.copy()
    low, high = found.min(), found.max()
    return np.where(np.isnan(values), np.nan, (values - low) / (high - low) if high > low else LEVEL)


def only(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image where the mask is True, HIDDEN elsewhere: RGB uint8."""
    return np.where(mask[..., None], image, np.uint8(HIDDEN))


def _psnr(case: Case, output: np.ndarray) -> float:
    found = quality.psnr(case.source, output, case.background_mask)
    return np.nan if found is None else found
