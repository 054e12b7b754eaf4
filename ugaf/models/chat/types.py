"""What is asked of a served model and what it answers, and `Chat`, the interface that takes the one for the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel

from ugaf.base.failure import Failure


@dataclass(frozen=True, eq=False)
class Picture:
    """An image of a message. pixels: RGB uint8 (height, width, 3).

    side: longer side in pixels to which it is reduced before it is sent (never enlarged); None sends it as it is.
    format: "jpeg" (quality 92) or "png".
    """

    pixels: np.ndarray
    side: int | None = 1024
    format: str = "jpeg"


@dataclass(frozen=True)
class Message:
    """role: "system" or "user". parts: texts and pictures, in order."""

    role: str
    parts: tuple[str | Picture, ...]


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. None leaves a value to the server.

    top_logprobs: alternatives whose log-probabilities come with each token; 0 asks for none. seed: of the first try; a
    further try, after an answer that could not be used, takes another seed derived from it.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int = 1024
    seed: int = 0
    top_logprobs: int = 0


@dataclass(frozen=True)
class ChatRequest:
    """One question. schema: the pydantic model that the answer must fit; None for free text.

    check: called with the parsed value (or with the text); raises ValueError where the answer cannot be used though it
    fits the schema (a box outside of the image): it is then asked again like a malformed one.
    extra: further fields of the request's body, e.g. {"chat_template_kwargs": {"enable_thinking": True}}.
    """

    messages: tuple[Message, ...]
    schema: type[BaseModel] | None = None
    sampling: Sampling = Sampling()
    check: Callable[[Any], None] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Token:
    """A token of the answer. top: the likeliest tokens at its place with their natural log-probabilities."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the server said.

    text: without the thinking. value: the instance of the request's schema, None without one. thinking: what a
    reasoning model thought, "" if nothing. tokens: of `text`, where log-probabilities were asked for and given.
    tokens_in, tokens_out: used by all tries of this request together. tries: 1 if the first one was good.
    """

    text: str
    value: Any
    thinking: str
    tokens: tuple[Token, ...]
    tokens_in: int
    tokens_out: int
    tries: int


class Chat(Protocol):
    """A served model. Safe to use from several threads; the bound on requests in flight holds for all of them.

    model: the model's name as it is written into rows.
    """

    model: str

    def ask(self, requests: Iterable[ChatRequest]) -> list[Answer | Failure]:
        """An answer or a Failure for each request, in order; no more than the entry's `in_flight` are on their way.

        Requests are taken from the iterable only when there is room for them, so that a generator holds no more
        pictures in memory than are in flight. Raises StopRun where the fault is no request's own: the server is gone
        and stays away, the key is refused, the server does not have the model.
        """
        ...
