"""What a verifier is: a finished pair in, FineEdit's two scales out (arXiv 2604.10954, section 4.1, refinement (c)):
global, was the instruction carried out in a coherent image, and local, the same question about the target box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ugaf.measures.verification import Verdict
from ugaf.models.judging.pairs import Pair
from ugaf.stage import Failure


@dataclass(frozen=True, eq=False)
class Case:
    """A pair to be verified, and what is known of it.

    Attributes:
        pair: on one grid, its longer side at most 1024 pixels.
        detail: the same pair at up to 2048 pixels, for who looks at small things; costs time where it is asked for.
        change_area: changed share of the image, 0..1.
        params: the edit's parameters as JSON, None or "" where there are none.
        object_mask: mask (bool, the pair's shape) of the photograph's object with this index, None if unknown.
        background_psnr, background_ssim: fidelity outside the targets, None where there is no outside.
    """

    pair: Pair
    detail: Callable[[], Pair]
    change_area: float
    params: str | None
    object_mask: Callable[[int], np.ndarray | None]
    background_psnr: float | None
    background_ssim: float | None


Ratings = Literal["expected", "integer", "mixed"]


@dataclass(frozen=True)
class Verification:
    """What a verifier says of a pair.

    Attributes:
        whole, local: score 1..5 and reason on the two scales; score None for what was not judged.
        scores: the named scores behind them, as JSON; None for a verifier without any.
        ratings: whether named scores are expectations over the rating's tokens or the integers that were said.
        tokens_in, tokens_out, thinking: what a model used and thought; None where none was asked (or none thought).
    """

    whole: Verdict
    local: Verdict
    scores: str | None = None
    ratings: Ratings | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    thinking: str | None = None


class Verifier(Protocol):
    """Verifies pairs.

    `name` enters the rows, `version` of the class the fingerprint. `verify` answers in order, for each case a
    Verification or a Failure; it never makes a score up. A case is prepared when it is taken from the iterable: take
    the next one when it is needed, and keep none.
    """

    name: str
    version: int

    def verify(self, cases: Iterable[Case]) -> Sequence[Verification | Failure]: ...
