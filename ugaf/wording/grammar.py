"""Small rules of English that every sentence passes: alternatives, articles, capitals, full stops.

A frame is a string with alternatives in round brackets, `(remove|erase) {object}`; brackets nest, and an empty
alternative leaves its place out. Fields in braces are filled after one alternative of each bracket was chosen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_INNERMOST = re.compile(r"\(([^()]*)\)")
_ARTICLE = re.compile(r"\ba (?=(\w+))", re.IGNORECASE)
_VOWEL_SOUND = re.compile(r"^(?!(?:uni|use|usu|euro|one\b|once\b|ut))[aeiou]|^(?:hour|honest|heir)", re.IGNORECASE)

AMERICAN = {
    "colour": "color", "colours": "colors", "coloured": "colored", "recolour": "recolor", "centre": "center",
    "grey": "gray", "greyish": "grayish", "greyscale": "grayscale", "watercolour": "watercolor",
    "analogue": "analog",
}  # fmt: skip
"""British words of the frames and names, as an American writes them."""


def expand(frame: str, rng: np.random.Generator) -> str:
    """One reading of a frame: each bracket replaced by one of its alternatives, inner brackets first."""
    while match := _INNERMOST.search(frame):
        options = match.group(1).split("|")
        frame = frame[: match.start()] + options[int(rng.integers(len(options)))] + frame[match.end() :]
    return frame


def readings(frame: str) -> set[str]:
    """Every reading of a frame."""
    match = _INNERMOST.search(frame)
    if not match:
        return {tidy(frame)}
    start, end = frame[: match.start()], frame[match.end() :]
    return set().union(*(readings(start + option + end) for option in match.group(1).split("|")))


def fill(frame: str, fields: Mapping[str, str]) -> str:
    """Fields in braces by their values; an unknown field is a KeyError."""
    return re.sub(r"\{(\w+)\}", lambda match: fields[match.group(1)], frame)


def tidy(text: str) -> str:
    """Single spaces, none before punctuation, and `an` before a vowel sound (outside quotation marks)."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([,.?!;:])", r"\1", text)
    return _ARTICLE.sub(lambda m: m.group(0)[0] + ("n " if _VOWEL_SOUND.search(m.group(1)) else " "), text)


def sentence(text: str) -> str:
    """With a capital and a full stop, unless it ends in ? or ! already."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."


def american(text: str) -> str:
    """The same text in American spelling; fields in braces stay as they are."""
    return re.sub(r"\{\w+\}|[A-Za-z]+", lambda match: _american_word(match.group(0)), text)


def _american_word(word: str) -> str:
    spelled = AMERICAN.get(word.lower(), word)
    return spelled.capitalize() if word[0].isupper() and spelled != word else spelled
