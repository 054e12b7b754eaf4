"""A Chat that answers from a function: for tests of stages and engines, without a server.

It validates as the real client does: an answer that does not fit the request's schema, or that its `check` refuses, is
a Failure, never a value.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from ugaf.models.chat import Answer, ChatRequest, Picture, Token
from ugaf.models.chat.reply import AnswerError, checked
from ugaf.stage import Failure

Reply = str | dict[str, Any] | list[Any] | BaseModel | Answer | Failure | BaseException


class FakeChat:
    """answers: what the model says to a request: text, plain data (sent as JSON), an Answer, a Failure, or an
    exception, which `ask` raises (StopRun).

    requests: those asked so far, in order. tokens_in of an answer are the words of its question and 100 a picture,
    tokens_out its text's words. With `logprobs`, tokens are single characters of log-probability 0, each its own top.
    """

    def __init__(
        self,
        answers: Callable[[ChatRequest], Reply],
        *,
        model: str = "fake-model",
        thinking: str = "",
        logprobs: bool = False,
    ) -> None:
        self.model = model
        self.requests: list[ChatRequest] = []
        self._answers = answers
        self._thinking = thinking
        self._logprobs = logprobs
        self._lock = threading.Lock()

    def ask(self, requests: Iterable[ChatRequest]) -> list[Answer | Failure]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: ChatRequest) -> Answer | Failure:
        with self._lock:
            self.requests.append(request)
        reply = self._answers(request)
        if isinstance(reply, BaseException):
            raise reply
        if isinstance(reply, Failure | Answer):
            return reply
        if isinstance(reply, BaseModel):
            text = reply.model_dump_json()
        else:
            text = reply if isinstance(reply, str) else json.dumps(reply, ensure_ascii=False)
        try:
            value = checked(text, request)
        except AnswerError as error:
            return Failure(error.kind, f"after 1 try: {error}")
        tokens = tuple(Token(character, 0.0, ((character, 0.0),)) for character in text) if self._logprobs else ()
        return Answer(text, value, self._thinking, tokens, tokens_of(request), len(text.split()), 1)


def texts_of(request: ChatRequest) -> str:
    """All text of a request, in order."""
    return "\n".join(part for part in _parts(request) if isinstance(part, str))


def quotations(text: str, name: str = r"[a-z]+") -> list[str]:
    """What a prompt quotes from data, in order."""
    found = re.findall(rf"<({name}-[0-9a-f]{{12}})>([^<>\n]*)</\1>", text)
    return [quoted for _, quoted in found]


def unmarked(text: str) -> str:
    """A prompt without the marks around what it quotes."""
    return re.sub(r"</?[a-z]+-[0-9a-f]{12}>", "", text)


def pictures_of(request: ChatRequest) -> list[Picture]:
    return [part for part in _parts(request) if isinstance(part, Picture)]


def tokens_of(request: ChatRequest) -> int:
    return len(texts_of(request).split()) + 100 * len(pictures_of(request))


def _parts(request: ChatRequest) -> Iterator[str | Picture]:
    for message in request.messages:
        yield from message.parts
