"""The Chat of a served model: `POST /v1/chat/completions`, as every OpenAI-compatible server answers it.

Requests in flight, tries and what stops the run are those of `ugaf.models.chat.server_client`. Pictures are encoded
before a request is handed to the event loop; an answer that cannot be used is asked for again with another seed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ugaf.models.chat import reply, transport
from ugaf.models.chat.body import body_of, reseeded
from ugaf.models.chat.server_client import ServerClient
from ugaf.models.chat.types import Answer, ChatRequest
from ugaf.models.servers import ServerLink


@dataclass(eq=False)
class Question:
    """A request as it is sent. body: holds the pictures, a quarter of their size or less. request: without messages.

    tokens_in, tokens_out: used by all of its tries so far.
    """

    body: dict[str, Any]
    request: ChatRequest
    tokens_in: int = 0
    tokens_out: int = 0


class Client(ServerClient[ChatRequest, Question, Answer]):
    """A `ugaf.models.chat.Chat`; get it from `client_of`."""

    path = transport.COMPLETIONS

    def __reduce__(self) -> Any:
        return client_of, (self.link,)

    def prepare(self, request: ChatRequest) -> Question:
        body = body_of(request, self.settings.name_in_requests, self.settings.structured)
        return Question(body, replace(request, messages=()))

    async def exchange(self, client: Any, ready: Question, attempt: int) -> Mapping[str, Any]:
        body = reseeded(ready.body, ready.request.sampling.seed, attempt)
        return await transport.complete(client, body, self.settings.timeout_s, self.pace.connect_s)

    async def read(self, said: Mapping[str, Any], ready: Question, tries: int) -> Answer:
        # Answers that cannot be used have cost their tokens too.
        tokens_in, tokens_out = reply.usage(said)
        ready.tokens_in += tokens_in
        ready.tokens_out += tokens_out
        good = reply.read(said, ready.request)
        return Answer(good.text, good.value, good.thinking, good.tokens, ready.tokens_in, ready.tokens_out, tries)


_GUARD = threading.RLock()
_CLIENTS: dict[tuple[str, str, tuple[str, ...]], Client] = {}


def client_of(link: ServerLink) -> Client:
    """The process's client of that server. Raises StopRun if its key is not set, ConfigError without `openai`."""
    key = (link.name, link.settings.model_dump_json(), link.urls)
    with _GUARD:
        client = _CLIENTS.get(key)
        if client is None:
            client = _CLIENTS[key] = Client(link)
        else:
            client.relink(link)
        return client


def _forget_after_fork() -> None:
    global _GUARD
    _GUARD = threading.RLock()
    _CLIENTS.clear()


# A forked process must not share the parent's connections.
os.register_at_fork(after_in_child=_forget_after_fork)
