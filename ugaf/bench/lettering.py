"""How much of a wanted text stands in a picture, from the lines that a reader (OCR) found in it.

REDEdit-Bench's report (arXiv 2602.13344, sec. 4.2) scores text edits by Levenshtein distance, completion rate and word
accuracy, weighted and normalised; it publishes neither the weights nor the target texts. Here the target is what the
instruction puts in quotes, last (`change "A" to "B"`), the distance is to the best matching stretch of what was read,
and the weights are equal.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|「([^」]+)」|『([^』]+)』|《([^》]+)》|‘([^’]+)’|(?<!\w)'([^']+)'(?!\w)")
_WORD = re.compile(r"[㐀-鿿豈-﫿぀-ヿ]|[^\W_]+", re.UNICODE)
_REMOVES = re.compile(r"\b(remove|delete|erase)\b|删除|去掉|去除|移除|擦除", re.IGNORECASE)


def target_of(instruction: str) -> str | None:
    """The text that the edited picture has to show; None where the instruction quotes none, or takes text away."""
    found = ["".join(groups).strip() for groups in _QUOTED.findall(instruction)]
    found = [text for text in found if _plain(text)]
    return None if not found or (len(found) == 1 and _REMOVES.search(instruction)) else found[-1]


def text_scores(target: str, read: str) -> dict[str, float]:
    """OCR similarity, completion and word accuracy, and their mean: each 0..1, higher is better.

    Case, spaces, punctuation and the width of characters do not count. similarity: 1 - Levenshtein distance to the
    stretch of `read` that is nearest, over the target's length. completion: longest common subsequence over that
    length. words: share of the target's words (characters, in Chinese) that were read, each as often as it is wanted.
    """
    wanted, seen = _plain(target), _plain(read)
    if not wanted:
        raise ValueError(f"the target {target!r} has no letter or digit")
    similarity = max(0.0, 1 - _distance(wanted, seen) / len(wanted))
    words, there = Counter(_words(target)), Counter(_words(read))
    scores = {
        "similarity": similarity,
        "completion": _common(wanted, seen) / len(wanted),
        "words": sum((words & there).values()) / sum(words.values()),
    }
    return {**scores, "mean": sum(scores.values()) / len(scores)}


def _distance(wanted: str, seen: str) -> int:
    """Least edits that make `wanted` of some stretch of `seen` (Sellers 1980)."""
    row = [0] * (len(seen) + 1)
    for number, letter in enumerate(wanted, 1):
        above, row = row, [number]
        for place, other in enumerate(seen, 1):
            row.append(min(above[place - 1] + (letter != other), above[place] + 1, row[-1] + 1))
    return min(row)


def _common(wanted: str, seen: str) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(seen) + 1)
    for letter in wanted:
        above, row = row, [0]
        for place, other in enumerate(seen, 1):
            row.append(above[place - 1] + 1 if letter == other else max(above[place], row[-1]))
    return row[-1]


def _plain(text: str) -> str:
    return "".join(_words(text))


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
