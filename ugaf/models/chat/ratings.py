"""A rating finer than the digits a model wrote: the expectation over the rating tokens.

Where a server gives log-probabilities, the token at a rating's place comes with the likeliest alternatives. The mean of
the ratings under these probabilities tells a confident 4 from one that nearly was a 3 (FireRed's reward does the same).
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from itertools import accumulate
from json import JSONDecodeError

from ugaf.models.chat.types import Answer, Token

_SPACE = " \t\r\n"


def expected_rating(answer: Answer, path: str, low: int, high: int) -> float | None:
    """Expectation of the integer at JSON key `path`, over the rating tokens low..high at its place; within low..high.

    path: "score_1", or "local.score_1" inside an object, or "scores.0" inside a list. Softmax over those of the top
    tokens that are, as a whole, an integer of low..high; others (spaces, words) take no part. A rating that the model
    itself wrote and that its tokens do not list among the top is counted with its own log-probability.

    None where it cannot be said: no log-probabilities, no integer at `path`, one that is spread over several tokens
    (12 as 1 and 2), or where such a tokenizer is likely, since a 1 then stands for 10..19 too: `high` is over 9, a
    first digit is among the top tokens and a number of two digits is not.
    """
    text = "".join(token.text for token in answer.tokens)
    span = number_at(text, path) if text else None
    if span is None:
        return None
    ends = list(accumulate(len(token.text) for token in answer.tokens))
    index = bisect_right(ends, span[0])
    token = answer.tokens[index]
    # A token may carry the space or the colon before the number, but must hold the whole of it.
    start = ends[index] - len(token.text)
    before, after = token.text[: span[0] - start], token.text[span[1] - start :]
    if ends[index] < span[1] or after.strip():
        return None
    weights = _weights(token, before.strip(), low, high)
    if not weights or _are_first_digits(weights, high):
        return None
    top = max(weights.values())
    exps = {rating: math.exp(logprob - top) for rating, logprob in weights.items()}
    return sum(rating * weight for rating, weight in exps.items()) / sum(exps.values())


def _weights(token: Token, before: str, low: int, high: int) -> dict[int, float]:
    """Rating -> log-probability; spellings of the same rating ("4" and " 4") are summed."""
    weights: dict[int, float] = {}
    alternatives = dict(token.top)
    alternatives.setdefault(token.text, token.logprob)
    for spelled, logprob in alternatives.items():
        digits = spelled.strip().removeprefix(before).strip()
        if not (digits.isascii() and digits.isdigit()) or not low <= int(digits) <= high or not math.isfinite(logprob):
            continue
        rating = int(digits)
        weights[rating] = _log_add(weights[rating], logprob) if rating in weights else logprob
    return weights


def _are_first_digits(weights: dict[int, float], high: int) -> bool:
    return any(0 < rating * 10 <= high for rating in weights) and max(weights) < 10


def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def number_at(text: str, path: str) -> tuple[int, int] | None:
    """Where in a JSON text the non-negative integer at `path` stands: (start, end) in characters; None without one.

    Text around the JSON object (a code fence) is passed over.
    """
    start = text.find("{")
    if start < 0:
        return None
    try:
        return _find(text, start, path.split("."))
    except (JSONDecodeError, IndexError, StopIteration):
        return None


def _find(text: str, at: int, keys: list[str]) -> tuple[int, int] | None:
    at = _skip(text, at)
    if not keys:
        end = at
        while end < len(text) and text[end] in "0123456789":
            end += 1
        return (at, end) if end > at and text[end : end + 1] not in (".", "e", "E") else None
    if text[at] not in "{[":
        return None
    closing = "}" if text[at] == "{" else "]"
    is_object = closing == "}"
    at, index = _skip(text, at + 1), 0
    while text[at] != closing:
        key = str(index)
        if is_object:
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at) + 1
        at = _skip(text, at)
        if key == keys[0]:
            return _find(text, at, keys[1:])
        at = _skip(text, _DECODER.raw_decode(text, at)[1])
        if text[at] == ",":
            at = _skip(text, at + 1)
        index += 1
    return None


_DECODER = json.JSONDecoder()


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
