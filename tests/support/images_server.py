"""A server for `POST /v1/images/edits` that answers, or misbehaves, as a test says. It edits by a formula.

It reads the multipart form as vLLM-Omni and SGLang do, and keeps what it was sent (`calls`).
"""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from ugaf.imaging import images

MODEL = "tiny/editor"

FAULTS = ("429", "500", "503", "cut", "half", "html", "empty", "no image", "bad base64", "hang")
"""Faults that pass: a second try is answered."""
REFUSALS = ("400", "422")
"""Faults that are the request's own: another try is useless."""


@dataclass(frozen=True)
class Call:
    """One request as it came in. number: how many with the same image, prompt and seed came before it."""

    fields: dict[str, str]
    image: np.ndarray
    mask: np.ndarray | None
    key: str | None
    number: int
    time: float


def edited(image: np.ndarray, prompt: str, seed: int) -> np.ndarray:
    """The edit that the server makes: the image mixed with one colour that follows from the prompt and the seed."""
    colour = np.frombuffer(hashlib.sha256(f"{prompt}/{seed}".encode()).digest()[:3], np.uint8)
    return ((image.astype(np.uint16) + colour) // 2).astype(np.uint8)


class ImagesServer:
    """behave: what to do with a call: "" answers it; else one of FAULTS, REFUSALS, "401", "404", "other size", "blank".

    latency_s: how long an answer takes. hang_s: how long "hang" keeps a request waiting before it cuts it.
    """

    def __init__(self, behave: Callable[[Call], str] = lambda _: "", latency_s: float = 0.0, port: int = 0) -> None:
        self.behave = behave
        self.model = MODEL
        self.latency_s = latency_s
        self.hang_s = 2.0
        self.calls: list[Call] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        owner = self

        class Handler(_Handler):
            server_owner = owner

        self._http = _Listener(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ImagesServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def handle(self, fields: dict[str, Any], key: str | None) -> tuple[Call, str]:
        image = images.decode(fields.pop("image"))
        mask = fields.pop("mask_image", None)
        if mask is not None:
            mask = base64.b64decode(mask.removeprefix("data:image/png;base64,"), validate=True)
        with self._lock:
            same = [c for c in self.calls if c.fields == fields and np.array_equal(c.image, image)]
            decoded = None if mask is None else images.decode(mask)[..., 0]
            call = Call(fields, image, decoded, key, len(same), time.monotonic())
            self.calls.append(call)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        return call, self.behave(call)

    def done(self) -> None:
        with self._lock:
            self._at_once -= 1


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server_owner: ImagesServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/images/edits":
            self._send(404, {"detail": "Not Found"})
            return
        call, behaviour = self.server_owner.handle(form(self.headers["Content-Type"], body), self._key())
        try:
            self._behave(call, behaviour)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has waited long enough
        finally:
            self.server_owner.done()

    def do_GET(self) -> None:
        known = self.path == "/v1/models"
        listed = {"object": "list", "data": [{"id": self.server_owner.model, "object": "model"}]}
        self._send(200 if known else 404, listed if known else {"detail": "Not Found"})

    def _key(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _behave(self, call: Call, behaviour: str) -> None:
        if behaviour == "hang":
            time.sleep(self.server_owner.hang_s)
        if behaviour in ("cut", "hang"):
            self.close_connection = True
            return
        time.sleep(self.server_owner.latency_s)
        if behaviour == "429":
            self._send(429, {"error": {"message": "too many requests"}}, {"Retry-After": "0.02"})
        elif behaviour in ("400", "401", "404", "422", "503"):
            self._send(int(behaviour), {"detail": f"this is a {behaviour}"})
        elif behaviour == "500":
            self._send_bytes(500, b"<html><h1>Internal Server Error</h1></html>", "text/html")
        elif behaviour == "html":
            self._send_bytes(200, b"<html>proxy login</html>", "text/html")
        elif behaviour == "empty":
            self._send(200, {"created": 1, "data": []})
        elif behaviour == "no image":
            self._send(200, {"data": [{"b64_json": base64.b64encode(b"GIF89a, not really").decode()}]})
        elif behaviour == "bad base64":
            self._send(200, {"data": [{"b64_json": "%%%"}]})
        else:
            width, height = (int(side) for side in call.fields["size"].split("x"))
            result = edited(call.image, call.fields["prompt"], int(call.fields["seed"]))
            assert result.shape == (height, width, 3)
            if behaviour == "blank":
                result = np.zeros_like(result)
            if behaviour == "other size":
                result = np.ascontiguousarray(result[::2, ::2])
            answer = {"created": 1, "data": [{"b64_json": base64.b64encode(images.encode(result)).decode()}]}
            if behaviour == "half":
                text = json.dumps(answer).encode()
                self._send_bytes(200, text[: len(text) // 2], "application/json")
            else:
                self._send(200, answer)

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(value).encode(), "application/json", headers)

    def _send_bytes(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Tests need no log."""


def form(content_type: str, body: bytes) -> dict[str, Any]:
    """The fields of a multipart form: str, or bytes for files."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    fields: dict[str, Any] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        data = part.get_payload(decode=True)
        fields[str(name)] = data if part.get_filename() else data.decode()
    return fields
