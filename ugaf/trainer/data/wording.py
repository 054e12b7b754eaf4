"""What a sample is told: the wording drawn for it, and references in an order that the wording follows.

A row may have its instruction in several columns, by language and register. One is drawn for each epoch, by weight.
With Stochastic Instruction Alignment (FireRed-Image-Edit, section 3.2) references are shown in another order in each
epoch, and some are left out; "Picture 3" or "图3" in the instruction then becomes the number that this reference has
now. A reference that the instruction names is never left out: the instruction could not be followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ugaf.trainer.data import draws
from ugaf.trainer.data.settings import AlignmentSettings, InstructionSettings

_NAMED = re.compile(
    r"(?P<label>\b(?:pictures?|images?|figures?|photos?|references?|reference image)\s*(?:no\.?\s*)?#?\s*|"
    r"(?:图片|图像|图|照片|参考图)\s*)(?P<number>\d{1,2})(?![\d.]*\d|\s*(?:%|x\b|px\b))",
    re.IGNORECASE,
)


def choose(
    texts: Mapping[str, str | None], register: str | None, settings: InstructionSettings, u: float
) -> str | None:
    """The column whose text a sample is shown with; None if none that it has weighs anything.

    Args:
        texts: the row's text by column; null or blank ones do not count.
        register: the row's column `register`.
        u: the sample's random number, 0..1.
    """
    present = [name for name in settings.columns if (texts.get(name) or "").strip()]
    weights = np.array([settings.weight(name, register) for name in present], dtype=np.float64)
    if not weights.sum() > 0:
        return None
    return present[int(np.searchsorted(np.cumsum(weights) / weights.sum(), u, side="right"))]


def named(text: str | None, first: int, references: int) -> int:
    """The references that a text names, as bits (bit 0 is the first reference, which the text numbers `first`)."""
    numbers = [int(match["number"]) - first for match in _NAMED.finditer(text or "")]
    return sum(1 << number for number in set(numbers) if 0 <= number < references)


def kept(
    keys: np.ndarray,
    references: np.ndarray,
    needed: np.ndarray,
    settings: AlignmentSettings,
    seed: int,
    epochs: np.ndarray | int,
) -> np.ndarray:
    """Which references each sample is shown with, as bits: uint8 (n,).

    Args:
        keys, references, needed: of each sample, its key, number of references and those that must stay (bits).
    """
    bits = ((1 << references.astype(np.int64)) - 1).astype(np.uint8)
    if settings.drop == 0 or not bits.any():
        return bits
    for number in range(int(references.max())):
        dropped = draws.uniform(keys, seed, epochs, draws.DROP + number) < settings.drop
        bit = np.uint8(1 << number)
        bits = np.where(dropped & ((needed & bit) == 0), bits & ~bit, bits)
    return bits


def order(key: int, bits: int, settings: AlignmentSettings, seed: int, epoch: int) -> list[int]:
    """The references that are shown, in the order in which they are."""
    shown = [number for number in range(8) if bits >> number & 1]
    if settings.shuffle:
        keys = np.array([key], dtype=np.uint64)
        rank = {n: float(draws.uniform(keys, seed, epoch, draws.SHUFFLE + n)[0]) for n in shown}
        shown.sort(key=lambda number: rank[number])
    return shown


def renumber(text: str, shown: Sequence[int], first: int) -> str:
    """The text with each reference called by its place in `shown`; other numbers stay."""
    places = {number + first: place + first for place, number in enumerate(shown)}

    def place(match: re.Match[str]) -> str:
        number = int(match["number"])
        return match["label"] + str(places.get(number, number))

    return _NAMED.sub(place, text)
