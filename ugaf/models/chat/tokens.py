"""Which tokens of a completion spell the answer's text.

Servers list log-probabilities for all that was generated: the thinking, the tag that ends it, and special tokens at the
end too. And a character may be spread over several tokens, which then hold no whole character each.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from ugaf.models.chat.types import Token

_HALF = "\ufffd"
_THINK_END = "</think>"
_SPECIAL = re.compile(r"<\|[^<>|]*\|>|</?[a-z_]+>")


def tokens_of(content: list[dict[str, Any]], text: str) -> tuple[Token, ...]:
    """The tokens whose texts, joined, are `text`; () where they cannot be told apart.

    content: `choices[0].logprobs.content`. A token cut at the text's border keeps the part inside; a character that is
    spread over several tokens belongs to the last of them.
    """
    spelled = [str(item.get("token", "")) for item in content]
    ends = [i for i, token in enumerate(spelled) if _THINK_END in token]
    first = ends[-1] + 1 if ends and _THINK_END not in text else 0
    content, spelled = content[first:], spelled[first:]
    borders = _borders(spelled, text) if text else None
    if borders is None:
        # Special tokens that a model says in the middle are left out of the text.
        kept = [i for i, token in enumerate(spelled) if not _SPECIAL.fullmatch(token)]
        content = [content[i] for i in kept]
        borders = _borders([spelled[i] for i in kept], text) if text else None
    if borders is None:
        return ()
    tokens = []
    for item, (start, end) in zip(content, pairwise(borders), strict=True):
        if end > start:
            tokens.append(_token(item, text[start:end]))
    return tuple(tokens)


def _token(item: dict[str, Any], text: str) -> Token:
    top = tuple((str(other["token"]), float(other["logprob"])) for other in item.get("top_logprobs") or ())
    return Token(text, float(item["logprob"]), top)


def _borders(spelled: list[str], text: str) -> list[int] | None:
    """Where in `text` each token begins, and where the last one ends; None if they do not spell it.

    Tokens before the text begin and end at 0, those after it at its end.
    """
    joined = "".join(spelled)
    start = joined.rfind(text)
    if start >= 0:
        at, borders = -start, [0]
        for token in spelled:
            at += len(token)
            borders.append(min(max(at, 0), len(text)))
        return borders
    return _borders_with_halves(spelled, text) if _HALF in joined else None


def _borders_with_halves(spelled: list[str], text: str) -> list[int] | None:
    """As `_borders`, where some tokens are parts of characters: each run of these reaches to where the next whole
    tokens are found in the text."""
    borders, at, index = [0], 0, 0
    while index < len(spelled):
        is_half = _HALF in spelled[index]
        end = index
        while end < len(spelled) and (_HALF in spelled[end]) == is_half:
            end += 1
        if is_half:
            following = _clean_run(spelled, end)
            found = text.find(following, at + 1) if following else len(text)
            if found < 0:
                # The end of the run lies behind the text: special tokens.
                found = len(text)
            borders += [at] * (end - index - 1) + [found]
            at = found
        else:
            for token in spelled[index:end]:
                rest = text[at:]
                piece = token if at else token.lstrip()
                if not (rest.startswith(piece) or piece.startswith(rest) or not rest):
                    return None
                at = min(at + len(piece), len(text))
                borders.append(at)
        index = end
    return borders if at == len(text) else None


def _clean_run(spelled: list[str], start: int) -> str:
    end = start
    while end < len(spelled) and _HALF not in spelled[end]:
        end += 1
    return "".join(spelled[start:end])
