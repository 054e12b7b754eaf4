"""Phrases in, a score for each phrase out: how Grounding DINO is asked about a vocabulary, and how its answer is read.

The model sees one text ("a cat. a dog.") and scores every box against every token of it. A phrase's score is the mean
over its tokens, as in Grounding DINO's own evaluation on COCO (arXiv 2303.05499): so that a label is always a whole
phrase of the vocabulary, where a threshold on tokens gives pieces ("potted", "cat dog").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Span = tuple[int, int]


def as_text(phrases: Sequence[str]) -> tuple[str, list[Span]]:
    """The text that holds all phrases, and where each stands in it: half-open ranges of characters."""
    text, spans = "", []
    for phrase in phrases:
        # A full stop inside of a phrase would cut it in two.
        plain = " ".join(phrase.replace(".", " ").split())
        start = len(text)
        text += f"{plain}. "
        spans.append((start, start + len(plain)))
    return text.rstrip(), spans


def in_chunks(phrases: Sequence[str], tokens: Callable[[str], int], limit: int) -> list[tuple[str, ...]]:
    """The phrases in groups whose texts have at most `limit` tokens, in order.

    tokens: how many a text has, those of its start and end included; words that punctuation parts count separately.
    Raises ValueError for a phrase that is too long by itself.
    """
    around = tokens("")
    chunks: list[tuple[str, ...]] = []
    room = 0
    for phrase in phrases:
        count = tokens(as_text([phrase])[0]) - around
        if around + count > limit:
            raise ValueError(f"{phrase!r} has more tokens than the detector takes ({limit})")
        if count > room:
            chunks.append(())
            room = limit - around
        chunks[-1] += (phrase,)
        room -= count
    return chunks


def token_shares(offsets: Sequence[Span], spans: Sequence[Span], width: int) -> np.ndarray:
    """float32 (phrases, width): a phrase's row sums to 1 over the tokens that lie in it.

    offsets: the characters of each token, half-open, (0, 0) for special ones. Raises ValueError for a phrase that has
    no token: the model cannot be asked for it.
    """
    shares = np.zeros((len(spans), width), np.float32)
    for row, (start, end) in enumerate(spans):
        inside = [i for i, (a, b) in enumerate(offsets[:width]) if start <= a < b <= end]
        if not inside:
            raise ValueError(f"phrase {row + 1} of the vocabulary has no token that the detector knows")
        shares[row, inside] = 1 / len(inside)
    return shares


def read(logits: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scores (n,), phrases (n,)): each box's best phrase and its score 0..1, from logits (n, width).

    Tokens that are not the text's have a logit of -inf.
    """
    with np.errstate(over="ignore"):
        probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    scores = probabilities @ shares.T.astype(np.float64)
    best = scores.argmax(axis=1) if len(scores) else np.zeros(0, dtype=np.int64)
    return np.take_along_axis(scores, best[:, None], axis=1)[:, 0], best


def corners(centres: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes (n, 4) as centre x, centre y, width, height in shares of the image -> x1 y1 x2 y2 in pixels."""
    centre, half = centres[:, :2].astype(np.float64), centres[:, 2:].astype(np.float64) / 2
    return np.concatenate([centre - half, centre + half], axis=1) * (width, height, width, height)
