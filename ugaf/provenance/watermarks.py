"""How much the text in a picture looks like a watermark, from what it says and where and how it stands.

A model-free rule over the lines that a reader (OCR) found: the words of agencies, addresses and copyright notes, the
same text all over the picture, a small line in the outer margin, faint letters. It knows nothing of watermarks without
letters, and nothing of letters that the reader did not find.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import cv2
import numpy as np
import yaml

from ugaf.imaging.boxes import Box, crop
from ugaf.imaging.text import Line

AGENCY, REPEATED, MARK, IN_MARGIN, FAINT = 1.0, 0.8, 0.5, 0.3, 0.2
"""What each kind of evidence counts."""
LONG_NAME = 8
"""Letters of an agency's name from which on it is found inside of a line."""
PART_FROM = 11
"""Letters of a name from which on a part of it is enough: tiles are cut off at the border, letters are misread."""
NAME_PART = 0.75
"""Share of its letters, one after the other, that is such a part."""
REPEATS = 3
"""Lines with the same text that make it a repeated one."""
REPEATED_LETTERS = 4
ALIKE = 0.75
"""Ratcliff-Obershelp ratio of two texts that makes them alike: twice the letters they share over those of both."""
SPREAD = 0.3
"""Share of the picture's width, and of its height, that the middles of a repeated text span."""
COMPARED = 100
"""Lines of a picture that are compared with each other: the work grows with the square."""
MARGIN = 0.08
"""Share of the picture's height or width that counts as its outer margin."""
SMALL = 0.06
"""A small line is at most this share of the picture's longer side high."""
FAINT_LEVELS = 40
"""Faint letters differ from what is behind them by less than so many levels of luma."""
CHARACTERS = 300
"""Characters of a line that are looked at."""


def watermark(lines: Sequence[Line], picture: np.ndarray, names: Sequence[str] = ()) -> float:
    """The strongest line's evidence, 0..1: at most 1, else the sum of

    - 1.0 if it names an agency (`agencies` in `watermarks.yaml`, and `names`),
    - 0.8 if three lines or more, itself among them, say the same, of 4 letters or more, and their middles span 30 % of
      the picture's width and of its height,
    - 0.5 if it has an address, a handle or a copyright note (`marks`),
    - 0.3 if it is small (its height is 6 % of the longer side or less) and its middle is in the outer 8 % of the
      picture's height or width,
    - 0.2 if its letters are faint: the two groups of luma that Otsu's threshold (1979) parts within the line's box have
      means less than 40 levels apart.

    0 where there is no text.

    Args:
        picture: RGB uint8 (height, width, 3), the one that was read.
        names: further names, beside the agencies.
    """
    repeated = _repeated(lines, picture.shape[1], picture.shape[0])
    found = [
        AGENCY * _names(line.text, (*_lists()[0], *names))
        + REPEATED * again
        + MARK * bool(_lists()[1].search(_plain(line.text)))
        + IN_MARGIN * _marginal(line, picture)
        + FAINT * _faint(line, picture)
        for line, again in zip(lines, repeated, strict=True)
    ]
    return min(1.0, max(found, default=0.0))


def pixel_box(corners: np.ndarray, width: int, height: int) -> Box | None:
    """The box around a line's corners (4, 2): whole pixels, rounded outwards, inside the image; None if empty."""
    x1, y1 = np.floor(corners.min(axis=0)).clip(0).astype(int)
    x2, y2 = np.minimum(np.ceil(corners.max(axis=0)), (width, height)).astype(int)
    return (int(x1), int(y1), int(x2), int(y2)) if x1 < x2 and y1 < y2 else None


@functools.cache
def _lists() -> tuple[tuple[str, ...], re.Pattern[str]]:
    lists = yaml.safe_load((Path(__file__).parent / "watermarks.yaml").read_text("utf-8"))
    return tuple(lists["agencies"]), re.compile("|".join(lists["marks"]))


def _plain(text: str) -> str:
    """In one case and one width (full-width letters are letters)."""
    return unicodedata.normalize("NFKC", text[:CHARACTERS]).casefold()


def _letters(text: str) -> str:
    """Letters and digits only."""
    return "".join(c for c in _plain(text) if c.isalnum())


def _names(text: str, names: Sequence[str]) -> bool:
    """Whether a line says one of the names: a long one anywhere, a short one as words of its own."""
    plain, squeezed = _plain(text), _letters(text)
    for name in filter(None, map(_letters, names)):
        if not name.isascii():
            found = name in squeezed
        elif len(name) < LONG_NAME:
            found = bool(_spaced(name).search(plain))
        else:
            part = math.ceil(len(name) * NAME_PART) if len(name) >= PART_FROM else len(name)
            found = any(name[start : start + part] in squeezed for start in range(len(name) - part + 1))
        if found:
            return True
    return False


@functools.lru_cache(maxsize=1000)
def _spaced(name: str) -> re.Pattern[str]:
    """The name as words of their own, with spaces and signs anywhere between its letters."""
    return re.compile(r"(?<![^\W_])" + r"[\W_]{0,2}".join(map(re.escape, name)) + r"(?![^\W_])")


def _repeated(lines: Sequence[Line], width: int, height: int) -> list[bool]:
    said = [_letters(line.text) for line in lines[:COMPARED]]
    middles = np.array([line.corners.mean(axis=0) / (width, height) for line in lines[:COMPARED]]).reshape(-1, 2)
    found = [False] * len(lines)
    for index, text in enumerate(said):
        if len(text) < REPEATED_LETTERS:
            continue
        same = middles[[_alike(text, other) for other in said]]
        found[index] = len(same) >= REPEATS and bool((np.ptp(same, axis=0) >= SPREAD).all())
    return found


def _alike(a: str, b: str) -> bool:
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    return a == b or (matcher.real_quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE)


def _marginal(line: Line, picture: np.ndarray) -> bool:
    height, width = picture.shape[:2]
    x, y = line.corners.mean(axis=0) / (width, height)
    sides = np.linalg.norm(line.corners - np.roll(line.corners, -1, axis=0), axis=1)
    # Of a line's four sides the shorter two are its height, but for a line of one letter.
    small = float(np.sort(sides)[:2].mean()) <= SMALL * max(height, width)
    return small and min(x, y, 1 - x, 1 - y) < MARGIN


def _faint(line: Line, picture: np.ndarray) -> bool:
    box = pixel_box(line.corners, picture.shape[1], picture.shape[0])
    if box is None:
        return False
    luma = cv2.cvtColor(np.ascontiguousarray(crop(picture, box)), cv2.COLOR_RGB2GRAY)
    threshold, _ = cv2.threshold(luma, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above = luma > threshold
    return not above.any() or bool(above.all()) or float(luma[above].mean() - luma[~above].mean()) < FAINT_LEVELS
