"""A proxy before a store's server, which answers as stores do on bad days: throttled, refused, cut off, half."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Fault = str
"""An HTTP status as text, `reset` (the connection ends without an answer), `cut` (it ends within one), "" for none."""
_CODES = {"503": "SlowDown", "403": "ExpiredToken", "400": "ExpiredToken", "500": "InternalError"}


class FaultyStore(http.server.ThreadingHTTPServer):
    """Hands every request on to (host, port), but for those that `fault` (method, path) has another answer for.

    asked: (method, path) of every request. most: bytes that a request may bring; more are refused.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = (host, port)
        self.fault: Callable[[str, str], Fault] = lambda *_: ""
        self.given: Counter[Fault] = Counter()
        self.asked: list[tuple[str, str]] = []
        self.most: int | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def faulty(url: str) -> Iterator[tuple[FaultyStore, str]]:
    """(the proxy, the URL through it) for an S3 URL with an `endpoint_override`."""
    endpoint = url.partition("endpoint_override=")[2].partition("&")[0]
    host, _, port = endpoint.partition(":")
    proxy = FaultyStore(host, int(port))
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield proxy, url.replace(endpoint, f"127.0.0.1:{proxy.server_address[1]}")
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyStore

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one(self) -> None:
        body = self._body()
        self.server.asked.append((self.command, self.path))
        fault = self.server.fault(self.command, self.path)
        if self.server.most is not None and len(body) > self.server.most:
            fault = "403"
        self.server.given[fault] += 1
        if fault == "reset":
            self.close_connection = True
        elif fault and fault != "cut":
            self._refuse(int(fault), _CODES.get(fault, "Error"))
        else:
            self._hand_on(body, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one  # noqa: N815 (the names of http.server)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hand_on(self, body: bytes, cut: bool) -> None:
        behind = http.client.HTTPConnection(*self.server.behind, timeout=30)
        try:
            skipped = ("expect", "transfer-encoding", "content-length")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
            behind.request(self.command, self.path, body=body, headers=headers)
            answer = behind.getresponse()
            data = answer.read()
        finally:
            behind.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut
