"""Reading over HTTP: whole bodies within limits of bytes and time, and what the server said where there is none.

A request goes to an address that was judged (`addresses`), also after a redirect. An answer that came whole is the
file; 404, 410 and the like are the file's fault; everything else (throttled, refused, no answer, half an answer) is the
server's, and says nothing about a photograph.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import IO, Any
from urllib.parse import unquote, urljoin

import urllib3
import urllib3.connection
import urllib3.exceptions
from urllib3.util import Url, parse_url

from ugaf import __version__
from ugaf.base.location import Location, scrub
from ugaf.ingest.addresses import ForbiddenError, Hosts
from ugaf.ingest.limits import HttpSettings
from ugaf.ingest.sources import SourceError

REDIRECTS = 5
_CHUNK = 1 << 16
_REDIRECT = (301, 302, 303, 307, 308)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_PORTS = {"http": 80, "https": 443}


class HttpError(SourceError):
    """An answer that is no file. `status`: as HTTP has it; `retry_after`: seconds that the server asks for."""

    def __init__(self, status: int, reason: str, retry_after: float | None = None) -> None:
        super().__init__(f"HTTP {status} {reason}".strip())
        self.status = status
        self.retry_after = retry_after


class CutShortError(ConnectionError):
    """An answer that ended before its end."""


class TooLongError(TimeoutError):
    """A server that did not answer in time; the message says which setting bounds it."""


@dataclass(frozen=True)
class Answer:
    """What a server sent. total: bytes of the whole file if it told; first: the first byte's number in the file."""

    body: bytes
    headers: Mapping[str, str]
    total: int | None = None
    first: int = 0

    @property
    def version(self) -> str:
        """What changes when the file does; "" where the server tells nothing."""
        return self.headers.get("etag") or self.headers.get("last-modified") or ""

    @property
    def modified_ns(self) -> int | None:
        try:
            return int(parsedate_to_datetime(self.headers["last-modified"]).timestamp() * 1e9)
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class Web:
    """How one input's files are asked for.

    Attributes:
        http: its limits of time.
        hosts: the hosts that may be asked.
        user: `name:password` for one origin, and for no other.
        origin: that origin, as `https://host:port`.
    """

    http: HttpSettings = field(default_factory=HttpSettings)
    hosts: Hosts = field(default_factory=Hosts)
    user: str = field(default="", repr=False)
    origin: str = ""

    def get(self, url: str, limit: int, span: tuple[int, int] | None = None, into: IO[bytes] | None = None) -> Answer:
        """The file at an address; one try.

        Args:
            url: http or https.
            limit: most bytes.
            span: first and last byte that are wanted, where the server can; else the whole file comes.
            into: takes the body as it comes, which is then empty in the answer.

        Raises:
            ForbiddenError: the address may not be asked, also where a redirect leads to it.
            HttpError: an answer that is no file.
            SourceError: more than `limit` bytes; an address that is none.
            OSError: no answer, or half of one.
        """
        for _ in range(REDIRECTS + 1):
            address = _parsed(url)
            with self._ask(address, span) as response:
                if response.status in _REDIRECT and response.headers.get("location"):
                    url = urljoin(address.url, response.headers["location"])
                    continue
                return _answer(response, limit, span, into)
        raise SourceError(f"more than {REDIRECTS} redirects")

    @contextlib.contextmanager
    def _ask(self, address: Url, span: tuple[int, int] | None) -> Iterator[urllib3.BaseHTTPResponse]:
        connection = self._connected(address)
        late = _Deadline(connection, self.http.total_s)
        try:
            connection.request("GET", address.request_uri, headers=self._headers(address, span), preload_content=False)
            yield connection.getresponse()
            if late.passed:  # an answer that tells no length ends where its connection does
                raise TimeoutError
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if late.passed:
                raise TooLongError(f"no whole answer within {self.http.total_s:g} s (http.total_s)") from error
            if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError):
                raise TooLongError(f"the server sent nothing for {self.http.read_s:g} s (http.read_s)") from error
            if isinstance(error, OSError):
                raise
            if isinstance(error, urllib3.exceptions.HTTPError | http.client.HTTPException):
                raise CutShortError(f"the answer was cut short: {scrub(str(error))}") from error
            raise SourceError(f"cannot be asked for: {scrub(str(error))}") from error
        finally:
            late.cancel()
            connection.close()

    def _connected(self, address: Url) -> urllib3.connection.HTTPConnection:
        """A connection to an address of the host that was judged; TLS is checked against the host's name."""
        host, port = (address.host or "").strip("[]"), address.port or _PORTS[address.scheme or "http"]
        self.hosts.check_name(host, port)
        problem: Exception | None = None
        for ip in self.hosts.addresses(host, port):
            timeout = self.http.connect_s
            if address.scheme == "https":
                connection: urllib3.connection.HTTPConnection = urllib3.connection.HTTPSConnection(
                    ip, port, timeout=timeout, server_hostname=host, assert_hostname=host
                )
            else:
                connection = urllib3.connection.HTTPConnection(ip, port, timeout=timeout)
            try:
                connection.connect()
            except (urllib3.exceptions.HTTPError, OSError) as error:
                problem = error
                continue
            connection.timeout = self.http.read_s
            return connection
        if isinstance(problem, ssl.SSLError) or "certificate" in str(problem).lower():
            raise ConnectionError(f"{host}: TLS: {problem}") from problem
        # A refused connection is one that took too long for urllib3, too, though it took no time.
        refused = isinstance(problem, urllib3.exceptions.NewConnectionError)
        if isinstance(problem, urllib3.exceptions.ConnectTimeoutError | TimeoutError) and not refused:
            raise TooLongError(f"{host} took no connection within {self.http.connect_s:g} s (http.connect_s)")
        raise ConnectionError(f"{host} took no connection: {_cause(problem)}") from problem

    def _headers(self, address: Url, span: tuple[int, int] | None) -> dict[str, str]:
        headers = {
            "Host": address.netloc or "",
            "User-Agent": f"ugaf/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity" if span else "gzip, deflate",
            "Connection": "close",
        }
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1]}"
        user = address.auth or (self.user if self.origin == origin_of(address) else "")
        if user:
            headers.update(urllib3.util.make_headers(basic_auth=unquote(user)))
        return headers


def origin_of(address: Url | str) -> str:
    """`scheme://host:port` of an address, the port always written."""
    url = parse_url(address) if isinstance(address, str) else address
    return f"{url.scheme}://{url.host}:{url.port or _PORTS.get(url.scheme or '', 0)}"


def host_of(url: str) -> str:
    """`host:port` of an address, for people and for `Hosts.named`."""
    address = _parsed(url)
    return f"{address.host}:{address.port or _PORTS[address.scheme or 'http']}"


def _parsed(url: str) -> Url:
    """Parsed once, for the judgement and for the request: two readers of one URL may see two hosts."""
    try:
        address = parse_url(url)
    except urllib3.exceptions.LocationParseError as error:
        raise SourceError(f"{Location(url).public[:200]!r} is no web address") from error
    if address.scheme not in _PORTS or not address.host:
        raise ForbiddenError(f"{(address.scheme or '')[:40]}://: only http and https addresses may be asked for")
    return address


class _Deadline:
    """Ends a connection when its time is up, whatever it is waiting for."""

    def __init__(self, connection: urllib3.connection.HTTPConnection, seconds: float) -> None:
        self.passed = False
        # A second handle: the connection's own may be wrapped, or closed meanwhile.
        self._socket = socket.fromfd(connection.sock.fileno(), connection.sock.family, connection.sock.type)
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        self.passed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def cancel(self) -> None:
        self._timer.cancel()
        self._socket.close()


def _answer(response: Any, limit: int, span: tuple[int, int] | None, into: IO[bytes] | None) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    if response.status not in (200, 203, 206) or (response.status == 206 and span is None):
        raise HttpError(response.status, str(response.reason or "")[:80], _retry_after(headers))
    total, first = None, 0
    if response.status == 206:
        told = _RANGE.fullmatch(headers.get("content-range", "").strip())
        if told is None:
            raise CutShortError("an answer of some bytes that does not say which")
        first, total = int(told[1]), int(told[3])
    length = headers.get("content-length", "")
    if response.status != 206 and length.isdigit() and "content-encoding" not in headers:
        total = int(length)
        if total > limit:
            raise SourceError(_too_big(total, limit))
    kept, size = into or io.BytesIO(), 0
    for chunk in response.stream(_CHUNK, decode_content=True):
        size += kept.write(chunk)
        if size > limit:
            raise SourceError(_too_big(size, limit))
    if response.status != 206 and total is not None and size != total:
        raise CutShortError(f"the answer was cut short: {size} of {total} bytes")
    body = kept.getvalue() if isinstance(kept, io.BytesIO) else b""
    return Answer(body, headers, size if total is None else total, first)


def _too_big(size: int, limit: int) -> str:
    return f"more than {limit} bytes (at least {size}); the input's limits.file_mb sets that limit"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    told = headers.get("retry-after", "")
    if told.isdigit():
        return float(told)
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _cause(error: Exception | None) -> str:
    inner = error.__cause__ if error is not None and error.__cause__ is not None else error
    return scrub(str(inner))
