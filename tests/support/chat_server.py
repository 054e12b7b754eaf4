"""A small OpenAI-compatible chat server, over real sockets, that misbehaves on demand.

    with ChatServer(latency=0.05, faults=lambda text: Fault("429", times=1)) as server:
        link = server.link(in_flight=8)

Its answer follows from the request alone (`true_answer`), so that a test knows what each row must end with: a value
that fits the JSON schema of the request, drawn by a hash of the user's text. What goes wrong follows from the request
too: the same question asked again is the same request, whatever its seed. By itself: `python tests/chat_server.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

ALWAYS = 10**9

RETRIED_FAULTS = ("429", "500 html", "503", "200 html", "200 half", "hang", "cut before", "cut within")
"""What a later try may cure: the server's faults."""

ANSWER_FAULTS = (
    "half json",
    "wrong schema",
    "refusal",
    "filtered",
    "no choices",
    "nothing",
    "too long",
    "only thinking",
)
"""What another seed may cure: the model's."""

FINAL_FAULTS = ("400", "401", "404")

MIXED = (*RETRIED_FAULTS, *ANSWER_FAULTS, "400")
"""What `--faulty` draws from."""


@dataclass(frozen=True)
class Fault:
    """kind: one of the names above. times: how often the same question meets it before it is answered."""

    kind: str
    times: int = 1


@dataclass(frozen=True)
class Asked:
    """A request that arrived. text: the user's. seed, headers, body: as sent. fault: what it met, "" for an answer."""

    text: str
    seed: int | None
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    fault: str


def true_answer(text: str, schema: Mapping[str, Any] | None = None) -> Any:
    """What the server answers to a user's text: a value that fits the schema; without one, a short text."""
    rng = random.Random(hashlib.sha256(text.encode()).digest())
    return f"answer {rng.randrange(10**9)}" if schema is None else _drawn(schema, rng)


def _drawn(schema: Mapping[str, Any], rng: random.Random) -> Any:
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema:
        return _drawn(rng.choice(schema["anyOf"]), rng)
    kind = schema.get("type")
    if kind == "object":
        return {name: _drawn(field, rng) for name, field in schema.get("properties", {}).items()}
    if kind == "array":
        low = schema.get("minItems", 0)
        return [_drawn(schema["items"], rng) for _ in range(rng.randint(low, schema.get("maxItems", low + 2)))]
    if kind == "integer":
        return rng.randint(schema.get("minimum", 0), schema.get("maximum", 100))
    if kind == "number":
        return rng.uniform(schema.get("minimum", 0), schema.get("maximum", 1))
    return {"boolean": rng.random() < 0.5, "null": None}.get(str(kind), f"word{rng.randrange(1000)}")


class ChatServer:
    """answer: from the user's text and the schema to the answer, text or plain data. faults: from the user's text to
    what goes wrong with that request. latency: seconds until an answer. key: what Authorization has to carry.
    models: what /models lists; None for a server without it (404). thinking: put before each answer in <think> tags.
    message: further fields of the answer's message. health: the status of /models where it is not 200.

    asked: the requests so far. most: the largest number that it had in hand at once.
    """

    def __init__(
        self,
        *,
        answer: Callable[[str, Mapping[str, Any] | None], Any] = true_answer,
        faults: Callable[[str], Fault | None] = lambda _: None,
        latency: float = 0.0,
        key: str | None = None,
        models: Sequence[str] | None = ("test-model",),
        thinking: str = "",
        message: Mapping[str, Any] | None = None,
        retry_after: str = "0",
        port: int = 0,
        keep: bool = True,
    ) -> None:
        self.answer = answer
        self.faults = faults
        self.latency = latency
        self.key = key
        self.models = models
        self.thinking = thinking
        self.message = message or {}
        self.retry_after = retry_after
        self.port = port
        self.health = 200
        self.asked: list[Asked] = []
        self.count = 0
        self.in_hand = 0
        self.most = 0
        self.looks = 0
        self._keep = keep
        self._met: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> ChatServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def link(self, **settings: Any) -> Any:
        return link_to([self], **settings)

    def start(self) -> None:
        """Listen, on the same port as before if it was stopped."""
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        if not started.wait(20):
            raise RuntimeError("the test server did not start")

    def stop(self) -> None:
        """Die: connections are cut, and nobody listens any more."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(20)
            self._loop = None

    async def _serve(self, started: threading.Event | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        if started is not None:
            started.set()
        await self._end.wait()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return  # the client went away, or the server is stopped
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            said = f"Incorrect API key provided: {headers.get('authorization', '')}"
            return await _json(writer, {"error": {"message": said}}, 401)
        if path == "/v1/models" and method == "GET":
            return await self._list(writer)
        if path == "/stats":
            return await _json(writer, {"requests": self.count, "most": self.most})
        if path != "/v1/chat/completions":
            return await _json(writer, {"detail": "Not Found"}, 404)
        self.in_hand += 1
        self.most = max(self.most, self.in_hand)
        try:
            return await self._complete(json.loads(data), headers, writer)
        finally:
            self.in_hand -= 1

    async def _list(self, writer: asyncio.StreamWriter) -> bool:
        self.looks += 1
        if self.health != 200:
            return await _send(writer, b"<html>nobody home</html>", self.health, "text/html")
        if self.models is None:
            return await _json(writer, {"detail": "Not Found"}, 404)
        return await _json(writer, {"object": "list", "data": [{"id": name} for name in self.models]})

    async def _complete(self, body: dict[str, Any], headers: dict[str, str], writer: asyncio.StreamWriter) -> bool:
        text, schema = user_text(body), schema_of(body)
        fault = self.faults(text)
        kind = fault.kind if fault is not None and self._met[text] < fault.times else ""
        self._met[text] += 1
        self.count += 1
        if self._keep:
            self.asked.append(Asked(text, body.get("seed"), headers, body, kind))
        await asyncio.sleep(self.latency)
        if kind in ANSWER_FAULTS:
            return await _json(writer, _spoiled(kind, self._payload(body, self.answer(text, schema))))
        if kind:
            return await self._fail(kind, writer, self._payload(body, self.answer(text, schema)))
        return await _json(writer, self._payload(body, self.answer(text, schema)))

    def _payload(self, body: Mapping[str, Any], answer: Any) -> dict[str, Any]:
        said = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        content = f"<think>{self.thinking}</think>\n\n{said}" if self.thinking else said
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": content, **self.message},
        }
        if body.get("logprobs"):
            # One token for each character, with a second choice that is as likely as e^-1 of it.
            top = body.get("top_logprobs", 0)
            choice["logprobs"] = {"content": [_logprob(character, top) for character in content]}
        return {
            "id": "chat",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }

    async def _fail(self, kind: str, writer: asyncio.StreamWriter, payload: dict[str, Any]) -> bool:
        html = b"<html><body><h1>Something broke</h1></body></html>"
        if kind == "429":
            return await _json(writer, {"error": {"message": "slow down"}}, 429, {"Retry-After": self.retry_after})
        if kind in ("500 html", "503", "200 html"):
            return await _send(writer, html, int(kind[:3]), "text/html")
        if kind == "200 half":
            return await _send(writer, json.dumps(payload).encode()[:40], 200, "application/json")
        if kind in (*FINAL_FAULTS, "402"):
            return await _json(writer, {"error": {"message": f"this request is bad in way {kind}"}}, int(kind))
        if kind == "hang":
            await self._end.wait()
        if kind == "cut within":
            data = json.dumps(payload).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data[: len(data) // 2])
            await writer.drain()
        return False  # "cut before", and after the above: the connection is closed


def _logprob(character: str, top: int) -> dict[str, Any]:
    others = [{"token": character, "logprob": -0.5}, {"token": "1", "logprob": -1.5}][:top]
    return {"token": character, "logprob": -0.5, "bytes": list(character.encode()), "top_logprobs": others}


def _spoiled(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    choice = payload["choices"][0]
    message = choice["message"]
    content = message["content"]
    if kind == "no choices":
        payload["choices"] = []
    elif kind == "half json":
        message["content"] = content[: len(content) // 2]
    elif kind == "wrong schema":
        message["content"] = json.dumps({"quite": "another thing"})
    elif kind == "refusal":
        message |= {"content": None, "refusal": "I would rather not."}
    elif kind == "filtered":
        choice["finish_reason"] = "content_filter"
    elif kind == "nothing":
        message["content"] = ""
    elif kind == "too long":
        message["content"] = content[: len(content) // 2]
        choice["finish_reason"] = "length"
    elif kind == "only thinking":
        message["content"] = "<think>I wonder whether"
    return payload


async def _json(
    writer: asyncio.StreamWriter, value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> bool:
    return await _send(writer, json.dumps(value).encode(), status, "application/json", headers)


async def _send(
    writer: asyncio.StreamWriter, data: bytes, status: int, kind: str, headers: Mapping[str, str] | None = None
) -> bool:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
    await writer.drain()
    return True


def user_text(body: Mapping[str, Any]) -> str:
    """All that the user said in words."""
    texts = []
    for message in body["messages"]:
        content = message["content"]
        if message["role"] == "user":
            parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
            texts += [part for part in parts if part]
    return "\n".join(texts)


def picture_urls(body: Mapping[str, Any]) -> list[str]:
    """The data URLs of a request's pictures."""
    found = []
    for message in body["messages"]:
        if isinstance(message["content"], list):
            found += [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
    return found


def schema_of(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    wanted = body.get("response_format") or {}
    return wanted["json_schema"]["schema"] if wanted.get("type") == "json_schema" else None


def mixed_faults(share: float, kinds: Sequence[str] = MIXED, always: float = 0.25) -> Callable[[str], Fault | None]:
    """Faults for that share of all questions, chosen by a hash; `always` of these never go away."""

    def fault(text: str) -> Fault | None:
        rng = random.Random(hashlib.sha256(f"fault/{text}".encode()).digest())
        if rng.random() >= share:
            return None
        return Fault(rng.choice(list(kinds)), ALWAYS if rng.random() < always else 1)

    return fault


def link_to(servers: Sequence[ChatServer], name: str = "judge", refresh: Any = None, **settings: Any) -> Any:
    """A ServerLink to running test servers."""
    from ugaf.models.servers import ModelServer, ServerLink

    urls = tuple(server.url for server in servers)
    return ServerLink(name, ModelServer(**{"model": "test-model", "endpoints": list(urls)} | settings), urls, refresh)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--model", default="test-model")
    parser.add_argument("--faulty", type=float, default=0.0, help="share of questions that meet a fault")
    chosen = parser.parse_args()
    faults = mixed_faults(chosen.faulty)
    server = ChatServer(latency=chosen.latency, models=[chosen.model], faults=faults, port=chosen.port, keep=False)

    async def serve() -> None:
        serving = asyncio.create_task(server._serve())
        while not server.port:
            await asyncio.sleep(0.01)
        print(server.url, flush=True)
        await serving

    asyncio.run(serve())


if __name__ == "__main__":
    main()
