"""Whose fault is it: the row's, or that of a service (a store, a server, the network, a disk)?

A picture that is gone or corrupt fails its row. A store that throttles, a token that has expired, a full disk or a name
that cannot be resolved says nothing about a row: it is asked again, with patience (`patiently`), and when that has run
out the run stops with its rows pending and says what to mend.

An answer that does not say that the thing itself is gone or wrong counts as the service's: a run that stops can go on,
while a photograph failed for its store is lost without a word.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import pyarrow as pa

from ugaf.base.errors import StopRun
from ugaf.base.location import Location, scrub

Result = TypeVar("Result")
Kind = Literal["busy", "refused", "away", "name", "full", "disk", "handles", "denied"]

PATIENCE_S = 300.0
"""Seconds that a service is waited for unless a pipeline says otherwise (`engine.patience_s`)."""
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_REASON_CHARACTERS = 500
_STORES = 1000
"""Most stores of which is known when it was said that they are waited for."""


@dataclass(frozen=True)
class Fault:
    """A fault of a service.

    Attributes:
        kind: busy (throttled, overloaded, an error of its own), refused (401, 403, an expired token), away (no
            connection, reset, time-out), name (DNS), full (disk or quota), disk (I/O error), handles (too many open
            files), denied (a local folder that may not be written).
        said: what the service said: one line, bounded, without secrets.
    """

    kind: Kind
    said: str

    @property
    def mend(self) -> str:
        """What whoever runs the pipeline can do."""
        return _MEND[self.kind]

    @property
    def share(self) -> float:
        """The share of all patience that waiting is worth: refused keys seldom mend themselves."""
        return {"refused": 0.1, "denied": 0.0}.get(self.kind, 1.0)


_MEND: dict[Kind, str] = {
    "busy": "It is overloaded or limits the requests: try later, or with fewer workers (engine.workers)",
    "refused": "The key or token is missing, wrong or has expired: renew it",
    "away": "Check the network and that the store or server is up",
    "name": "Its name cannot be resolved: check the network, the DNS and the spelling",
    "full": "Free some space or raise the quota",
    "disk": "The disk or mount reports errors: check it (dmesg, mount)",
    "handles": "Too many files are open: raise the limit (ulimit -n), or use fewer workers (engine.workers)",
    "denied": "It may not be read or written here: check its permissions, or choose another folder",
}
_ERRNOS: dict[int, Kind] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "full"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.ENOTCONN, errno.ENODEV, errno.ENXIO), "disk"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "handles"),
    **dict.fromkeys((errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.ENOBUFS), "busy"),
    errno.EROFS: "denied",
}
_AWAY_ERRNOS = (
    "ETIMEDOUT ECONNRESET ECONNREFUSED ECONNABORTED EPIPE ENETUNREACH EHOSTUNREACH ENETDOWN EHOSTDOWN ENETRESET "
    "ENOLINK ESHUTDOWN EADDRNOTAVAIL"
)
_ERRNOS.update({getattr(errno, name): "away" for name in _AWAY_ERRNOS.split() if hasattr(errno, name)})

_GONE = re.compile(
    r"(?i)no ?such ?(key|bucket|object|file|upload|container|host key)|NO_SUCH_(KEY|BUCKET|UPLOAD)|RESOURCE_NOT_FOUND|"
    r"\b(BlobNotFound|ContainerNotFound|NoSuchKey|NoSuchBucket|NOT_FOUND|path does not exist|InvalidObjectState|"
    r"INVALID_OBJECT_STATE)\b"
)
_TEXTS: tuple[tuple[Kind, str], ...] = (
    ("full", r"no space left|disk quota|quota exceeded|QuotaExceeded|disk is full|not enough space"),
    ("handles", r"too many open files"),
    (
        "name",
        r"resolve host|name resolution|name or service not known|nodename nor servname|getaddrinfo|"
        r"no address associated|curlCode: 6\b|NameResolutionError|Could not contact DNS|EndpointConnectionError",
    ),
    (
        "refused",
        r"expired|InvalidToken|TokenRefreshRequired|INVALID_CLIENT_TOKEN|InvalidAccessKeyId|INVALID_ACCESS_KEY|"
        r"SignatureDoesNotMatch|SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|MISSING_AUTHENTICATION|AuthorizationHeader|"
        r"RequestTimeTooSkewed|ACCESS_DENIED|AccessDenied|access denied|UNRECOGNIZED_CLIENT|NoCredentials|"
        r"unable to locate credentials|could not (find|load|create) credentials|UNAUTHENTICATED|PERMISSION_DENIED|"
        r"AuthenticationFailed|AuthorizationFailure|AuthorizationPermissionMismatch|unauthorized|"
        r"invalid_grant|OAuth|forbidden|NOT_INITIALIZED|OPT_IN_REQUIRED|VALIDATION\b",
    ),
    (
        "busy",
        r"SLOW_?DOWN|THROTTL|TooManyRequests|too many requests|RequestLimitExceeded|BandwidthLimitExceeded|"
        r"ProvisionedThroughput|SERVICE_?UNAVAILABLE|service unavailable|INTERNAL_(FAILURE|ERROR)|InternalError|"
        r"ServerBusy|OperationAborted|RESOURCE_EXHAUSTED|\bUNAVAILABLE\b|\bABORTED\b|temporarily unavailable|"
        r"bad gateway|server is busy|please (try|reduce)",
    ),
    (
        "away",
        r"timed? ?-?out|timeout|DEADLINE_EXCEEDED|REQUEST_TIMEOUT|RequestTimeout|NETWORK_CONNECTION|curlCode|"
        r"connection (was )?(reset|refused|aborted|closed|broken|error)|reset by peer|couldn.?t connect|"
        r"failed to connect|connect(ion)? fail|network is unreachable|no route to host|broken pipe|"
        r"server disconnected|IncompleteRead|payload is not completed|remote end closed|ssl|certificate|"
        r"transferred a partial file|ClientConnect|ClientPayloadError|ClientOSError|ServerDisconnected",
    ),
    ("disk", r"input/output error|stale file handle|transport endpoint is not connected"),
    ("denied", r"read-only file system"),
    # A store that answers with an error nobody has listed: it does not say that the thing is gone.
    ("busy", r"\bAWS Error\b|google::cloud::Status|Azure Error|HDFS\b.*errno"),
)
_ERRNO_TEXT = re.compile(r"(?i)\berrno:?\s*\]?\s*(\d+)")
_STATUS_TEXT = re.compile(
    r"(?i)\b(?:HTTP(?:/[\d.]+)?(?: status| error| code)?|status(?: |_|-)?code|status)[ :=]*\(?(\d{3})\b"
)
_LIBRARIES = ("aiohttp", "urllib3", "requests", "httpx", "botocore", "aiobotocore", "azure", "google", "gcsfs", "http")
"""Whose exceptions are told apart by their names and texts."""


def status_fault(status: int) -> Kind | None:
    """What an HTTP status says of the service; None where it speaks of the thing that was asked for."""
    if status in (401, 403, 407, 511):
        return "refused"
    if status in (408, 425):
        return "away"
    if status in (420, 429, 509) or status >= 500:
        return None if status in (501, 505) else "busy"
    return None


def service_fault(error: BaseException) -> Fault | None:
    """The fault of the service behind an exception of a file system, an HTTP library or a disk; None if it is the
    row's: the thing is not there (404, 410, no such key), may not be read alone, or is damaged."""
    for cause in _causes(error):
        kind = _kind(cause)
        if kind == "row":
            return None
        if kind is not None:
            return Fault(kind, said(error))
    return None


def said(error: BaseException) -> str:
    """An error's type and message as one bounded line without secrets."""
    line = " ".join(scrub(str(error)).split()) or "no message"
    line = f"{type(error).__name__}: {line}"
    return line if len(line) <= _REASON_CHARACTERS else line[: _REASON_CHARACTERS - 1] + "…"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, at most a few deep."""
    seen: BaseException | None = error
    for _ in range(6):
        if seen is None:
            return
        yield seen
        reason = getattr(seen, "reason", None)
        seen = seen.__cause__ or (reason if isinstance(reason, BaseException) else None)


def _kind(error: BaseException) -> Kind | Literal["row"] | None:
    """What one exception says by itself: a kind, "row", or None for nothing."""
    if isinstance(error, StopRun):
        return None
    status = _status(error)
    if status is not None and status >= 400:
        return status_fault(status) or ("row" if status != 400 else _by_text(error) or "refused")
    if isinstance(error, socket.gaierror):
        return "name"
    if isinstance(error, ssl.SSLError | TimeoutError | ConnectionError):
        return "away"
    code = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if code in _ERRNOS:
        return _ERRNOS[code]
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | FileExistsError):
        return "row"
    if isinstance(error, PermissionError) and error.filename is not None:
        return "row"
    library = type(error).__module__.partition(".")[0] in _LIBRARIES
    if library or isinstance(error, OSError | pa.ArrowException):
        return _by_text(error)
    return None


def _by_text(error: BaseException) -> Kind | Literal["row"] | None:
    # A file's name may be any word.
    words = error.strerror if isinstance(error, OSError) and error.filename is not None else str(error)
    text = f"{type(error).__name__} {words}" if type(error).__module__ != "builtins" else str(words)
    found = _STATUS_TEXT.search(text)
    status = int(found[1]) if found else 0
    if _GONE.search(text) or status in (404, 410, 416):
        return "row"
    if status and (kind := status_fault(status)):
        return kind
    number = _ERRNO_TEXT.search(text)
    if number and int(number[1]) in _ERRNOS:
        return _ERRNOS[int(number[1])]
    if status == 400:  # how S3 answers an expired token where an answer has no body
        return "refused"
    return next((kind for kind, pattern in _TEXTS if re.search(pattern, text, re.IGNORECASE)), None)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an exception of any of the usual libraries carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return response if isinstance(response, int) else None
    found = (getattr(error, "status", None), getattr(error, "status_code", None), getattr(error, "code", None))
    for value in (*found, getattr(response, "status_code", None)):
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600:
            return value
        if isinstance(value, str) and re.fullmatch(r"[1-5]\d\d", value):
            return int(value)
    return None


class _Process:
    """How this process waits: for how long, whom it tells, and (for a thread) what ends its waiting.

    told: when it was last said of a store that it is waited for, by the store and the kind of fault.
    """

    patience_s = PATIENCE_S
    tell: Callable[[str], None] | None = None
    local = threading.local()
    told: ClassVar[dict[tuple[str, str], float]] = {}
    lock = threading.Lock()


def set_patience(seconds: float, tell: Callable[[str], None] | None = None) -> None:
    """For all of this process: how long a service is waited for, and who is told that it is (a line now and then; None
    leaves that as it is)."""
    _Process.patience_s = seconds
    _Process.tell = tell or _Process.tell


def patience() -> float:
    """Seconds that this process waits for a service."""
    return _Process.patience_s


def wait_until(stop: threading.Event) -> None:
    """Waiting in the calling thread ends when `stop` is set: for threads that a pool waits for at its end."""
    _Process.local.stop = stop


def patiently(
    call: Callable[[], Result],
    store: str,
    patience_s: float | None = None,
    mend: Callable[[Fault], None] | None = None,
) -> Result:
    """call(), and again while it fails by a fault of the service, for so long as patience lasts.

    Args:
        call: reads, writes or lists; must be safe to call again.
        store: the path or URL that is asked, for people.
        patience_s: seconds; default: the process's own (`set_patience`).
        mend: called before each further try, to open a connection anew for example.

    Raises:
        StopRun: patience has run out; the message names the store, the last error and what to do.
        Exception: whatever `call` raises that is no fault of the service.
    """
    total = patience() if patience_s is None else patience_s
    began, tries, told = time.monotonic(), 0, 0.0
    while True:
        try:
            return call()
        except Exception as error:
            fault = service_fault(error)
            if fault is None:
                raise
            last: Exception = error
        tries += 1
        waited = time.monotonic() - began
        left = total * fault.share - waited
        if left <= 0:
            raise stop(store, fault, tries, waited) from last
        every = min(10.0, total / 4)
        if waited - told > every or tries == 3:
            told = waited
            _tell_of_waiting(store, fault, left, every)
        pause(min(back_off(tries), left))
        if mend is not None:
            mend(fault)


def back_off(tries: int) -> float:
    """Seconds to wait after so many tries: doubled each time, up to half a minute, and spread at random, so that a
    thousand workers do not come back at the same moment."""
    longest = min(_FIRST_WAIT_S * 2.0 ** min(tries - 1, 20), _LONGEST_WAIT_S)
    return random.uniform(0.5, 1.0) * longest


def pause(seconds: float) -> None:
    """Sleep; a signal or the end of the thread's pool ends it. Raises StopRun in the latter case."""
    event: threading.Event | None = getattr(_Process.local, "stop", None)
    if event is None:
        time.sleep(seconds)
    elif event.wait(seconds):
        raise StopRun("the run stopped while this was waited for")


def stop(store: str, fault: Fault, tries: int = 1, waited: float = 0.0) -> StopRun:
    """What stops a run for a fault of a service: the store's public name, what it said, and what to mend."""
    asked = f" (asked {tries} times in {waited:.0f} s)" if tries > 1 else ""
    space = f" {_space(store)}" if fault.kind == "full" else ""
    return StopRun(
        f"{Location(store).public}: {fault.said}{asked}. {fault.mend}.{space} No row is failed for it: the same "
        "command goes on where it stopped"
    )


@contextmanager
def stopping(store: str) -> Iterator[None]:
    """For work that cannot be done again: a fault of the service within stops the run at once."""
    try:
        yield
    except Exception as error:
        raise_if_service(error, store)
        raise


def raise_if_service(error: Exception, store: str) -> None:
    """Raises StopRun if the fault is the service's."""
    fault = service_fault(error)
    if fault is not None:
        raise stop(store, fault) from error


def _space(store: str) -> str:
    """How much the disk of a local path has left."""
    if "://" in store:
        return ""
    path = os.path.abspath(store)
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    mount = path
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return f"(the disk at {mount})"
    return f"(the disk at {mount} has {usage.free:,} of {usage.total:,} bytes free)"


def _tell_of_waiting(store: str, fault: Fault, left: float, every: float) -> None:
    """Say that a store is waited for: once for all its files, though each of them is waited for."""
    tell, place = _Process.tell, Location(store)
    if tell is None:
        return
    name = f"{place.scheme}://{place.host}" if place.is_url else os.path.dirname(store)
    now = time.monotonic()
    with _Process.lock:
        if now - _Process.told.get((name, fault.kind), -every) < every:
            return
        if len(_Process.told) >= _STORES:
            _Process.told.clear()
        _Process.told[name, fault.kind] = now
    tell(f"waiting for {place.public}: {fault.said}; for {left:.0f} s more")
