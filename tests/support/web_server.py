"""A web server on 127.0.0.1 that answers in all the ways in which servers do, sound and unsound."""

from __future__ import annotations

import gzip
import http.server
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STATUSES = (400, 401, 403, 404, 405, 410, 429, 451, 500, 502, 503, 504)


class WebServer(http.server.ThreadingHTTPServer):
    """What a path begins with says how it is answered; what follows is the file. `asked` counts requests by path."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.asked: Counter[str] = Counter()
        self.headers_seen: list[dict[str, str]] = []
        self.decide: Callable[[str, int], int] = lambda *_: 0
        """(path, how often it was asked) -> a status to answer with, 0 for the file."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[WebServer]:
    server = WebServer(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send(405, b"")

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.server.asked[path] += 1
        self.server.headers_seen.append({name.lower(): value for name, value in self.headers.items()})
        status = self.server.decide(path, self.server.asked[path])
        how, _, name = path.partition("/")
        data = self.server.files.get(name or how, b"")
        if status or (how.isdigit() and int(how) in STATUSES):
            self.send(status or int(how), b"no", {"Retry-After": "0"})
        elif hasattr(self, f"say_{how}"):
            getattr(self, f"say_{how}")(data)
        elif path in self.server.files:
            self.send(200, self.server.files[path])
        else:
            self.send(404, b"")

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def say_chunked(self, data: bytes, cut: int = 0) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(data) - cut, 500):
            piece = data[start : start + 500]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if not cut:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def say_gzip(self, data: bytes) -> None:
        self.send(200, gzip.compress(data), {"Content-Encoding": "gzip"})

    def say_deflate(self, data: bytes) -> None:
        self.send(200, zlib.compress(data), {"Content-Encoding": "deflate"})

    def say_whole(self, data: bytes) -> None:
        """Until the connection ends, without a length."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def say_ranges(self, data: bytes) -> None:
        wanted = self.headers.get("Range")
        if not wanted:
            self.send(200, data)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        end = min(int(last), len(data) - 1)
        body = data[int(first) : end + 1]
        self.send(206, body, {"Content-Range": f"bytes {first}-{end}/{len(data)}", "ETag": '"1"'})

    def say_to(self, _: bytes) -> None:
        """A redirect to what follows; `to/http:/host/...` leads elsewhere."""
        target = self.path.removeprefix("/to").replace(":/", "://", 1).lstrip("/")
        self.send(302, b"", {"Location": target if "://" in target else f"/{target}"})

    def say_round(self, _: bytes) -> None:
        self.send(302, b"", {"Location": "/round"})

    def say_cut(self, data: bytes) -> None:
        self.send(200, data[: len(data) // 2], length=len(data))
        self.close_connection = True

    def say_cutchunks(self, data: bytes) -> None:
        self.say_chunked(data, cut=len(data) // 2)

    def say_reset(self, _: bytes) -> None:
        self.close_connection = True

    def say_hang(self, _: bytes) -> None:
        time.sleep(3)
        self.close_connection = True

    def say_drip(self, data: bytes) -> None:
        """A byte now and then: each within the time that a read may take."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for byte in data[:60]:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.05)
        self.close_connection = True

    def say_dripwhole(self, data: bytes) -> None:
        """The same without a length."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for start in range(60):
            self.wfile.write(data[start * 50 : start * 50 + 50])
            self.wfile.flush()
            time.sleep(0.05)
        self.close_connection = True

    def say_bomb(self, _: bytes) -> None:
        self.send(200, gzip.compress(bytes(64 << 20)), {"Content-Encoding": "gzip"})

    def say_garbage(self, _: bytes) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        self.close_connection = True
