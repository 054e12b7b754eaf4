"""What a server's reply says: the thinking parsed off, the answer checked against its schema, or what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from ugaf.base.failure import RowError
from ugaf.models.chat.tokens import tokens_of
from ugaf.models.chat.types import ChatRequest, Token

SHOWN = 300
"""Characters of an answer that an error message shows."""

_OPEN, _CLOSE = "<think>", "</think>"


class AnswerError(RowError):
    """An answer that cannot be used; another seed may give a better one. kind: the type of the Failure."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Reply:
    """A usable answer: see `ugaf.models.chat.Answer`."""

    text: str
    value: Any
    thinking: str
    tokens: tuple[Token, ...]


def read(payload: Mapping[str, Any], request: ChatRequest) -> Reply:
    """The answer in a server's JSON. Raises AnswerError."""
    choice = _first_choice(payload)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise AnswerError("EmptyAnswer", f"the reply has no message: {shown(json.dumps(choice, ensure_ascii=False))}")
    reason = choice.get("finish_reason")
    text, thinking = split_thinking(_content(message))
    thinking = _aside(message) or thinking
    if message.get("refusal"):
        raise AnswerError("RefusedAnswer", f"the model refused: {shown(message['refusal'])}")
    if reason == "content_filter":
        raise AnswerError("RefusedAnswer", f"the server's content filter stopped the answer: {shown(text)}")
    if reason == "length":
        limit = request.sampling.max_tokens
        said = f"{shown(text)}" if text else f"thinking only: {shown(thinking)}"
        raise AnswerError("TruncatedAnswer", f"the answer was cut at max_tokens ({limit}); raise it: {said}")
    if not text:
        said = f"; it thought: {shown(thinking)}" if thinking else ""
        raise AnswerError("EmptyAnswer", f"the model answered nothing (finish_reason {reason}){said}")
    return Reply(text, checked(text, request), thinking, _tokens(choice, text))


def checked(text: str, request: ChatRequest) -> BaseModel | None:
    """The value that the answer's text gives under the request's schema and `check`. Raises AnswerError."""
    value = _parsed(text, request.schema) if request.schema is not None else None
    if request.check is not None:
        try:
            request.check(text if request.schema is None else value)
        except ValueError as error:
            raise AnswerError("MalformedAnswer", f"{error}; the answer was {shown(text)}") from error
    return value


def usage(payload: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens in and out; 0 where the server does not say."""
    counts = payload.get("usage")
    if not isinstance(counts, Mapping):
        return 0, 0
    return _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))


def split_thinking(content: str) -> tuple[str, str]:
    """(text, thinking) of an answer that may begin with a <think> block, or with the end of one opened by the prompt.

    A block that is never closed is all thinking. A closing tag by itself counts only in what does not begin as JSON.
    """
    content = content.strip()
    opened = content.startswith(_OPEN)
    if opened or (_CLOSE in content and not content.startswith(("{", "["))):
        thinking, _, text = content.removeprefix(_OPEN).partition(_CLOSE)
        return text.strip(), thinking.strip()
    return content, ""


def first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text, in a code fence or among words; None if there is none.

    NaN and Infinity are no JSON. Raw control characters in strings are let through: `schemas.line` deals with them.
    """
    at = text.find("{")
    while at >= 0:
        try:
            value, _ = _DECODER.raw_decode(text, at)
        except RecursionError:
            return None  # endless nesting, which each of its braces would run into again
        except ValueError:
            value = None
        if isinstance(value, dict):
            return value
        at = text.find("{", at + 1)
    return None


def shown(text: Any) -> str:
    """The beginning of a text on one line, quoted."""
    line = " ".join(str(text).split())
    return repr(line if len(line) <= SHOWN else f"{line[:SHOWN]}...")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse_constant)


def _first_choice(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = payload.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise AnswerError("EmptyAnswer", f"the reply has no choices: {shown(json.dumps(payload, ensure_ascii=False))}")
    return choices[0]


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping)]
        return "".join(str(part.get("text", "")) for part in parts)
    return content if isinstance(content, str) else ""


def _aside(message: Mapping[str, Any]) -> str:
    """What a server's own parser put aside; vLLM's field was renamed from `reasoning_content` to `reasoning`."""
    for field in ("reasoning", "reasoning_content"):
        thinking = message.get(field)
        if isinstance(thinking, str) and thinking.strip():
            return thinking.strip()
    return ""


def _parsed(text: str, schema: type[BaseModel]) -> BaseModel:
    found = first_object(text)
    if found is None:
        raise AnswerError("MalformedAnswer", f"no JSON object in the answer: {shown(text)}")
    try:
        # Strict: "4", 4.0 and true are not the integer that was asked for.
        return schema.model_validate_json(json.dumps(found), strict=True)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()[:5])
        raise AnswerError("MalformedAnswer", f"{wrong}; the answer was {shown(text)}") from error


def _tokens(choice: Mapping[str, Any], text: str) -> tuple[Token, ...]:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    try:
        return tokens_of(content, text) if isinstance(content, list) else ()
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()  # log-probabilities of another form are none: the answer itself is good


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
