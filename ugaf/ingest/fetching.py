"""Asking web servers for files, and whose fault it is when one does not come.

The input's own servers are waited for with all patience, as a store is, and stop the run when it has run out. A cell
may name any of a thousand foreign hosts, of which some are always down: such a host is asked a few times, then its rows
are put off (`NotNowError`) and it is left alone for a while, so that one dead host holds nobody up.

A refusal (401, 403) may be one address's or the whole host's. It is the address's own, and fails its row, if another
address of that host is answered at the same time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ugaf.base import faults
from ugaf.base.location import Location
from ugaf.ingest.sources import SourceError
from ugaf.ingest.web import Answer, HttpError, Web, host_of

QUIET_S = 60.0
"""A host that gave no answer is left alone for so long."""
_PROBE_BYTES = 1 << 20

Get = Callable[[], Answer]


class NotNowError(Exception):
    """A foreign host gave no answer: nothing is known of the row, which is read another time.

    refused: the host said no, so that another address of it may tell whose fault that was.
    """

    def __init__(self, host: str, said: str, refused: bool = False) -> None:
        super().__init__(f"{host}: {said}")
        self.host = host
        self.refused = refused


@dataclass
class _Host:
    """What this process knows of a host: an address that it answered, and until when it is left alone, and why."""

    good: str = ""
    quiet_until: float = 0.0
    refuses: bool = False
    said: str = ""


_HOSTS: dict[str, _Host] = {}
_LOCK = threading.Lock()


def fetch(web: Web, url: str, limit: int, own: bool) -> Answer:
    """The whole file at an address.

    Args:
        web: how to ask.
        url: http or https.
        limit: most bytes.
        own: the input itself names this server.

    Raises:
        SourceError: the row's own fault, see `Web.get`.
        NotNowError: a foreign host gave no answer, and its rows are to stay pending (`http.unanswered`).
        StopRun: a server of the input gave no answer for as long as patience lasts.
    """
    name = host_of(url)
    with _LOCK:
        host = _HOSTS.setdefault(name, _Host())

    def once() -> Answer:
        answer = web.get(url, limit)
        host.good, host.quiet_until, host.refuses = url, 0.0, False
        return answer

    if own:
        return faults.patiently(lambda: _unless_refused(web, url, once, host), url)
    return _few_tries(web, url, once, name, host)


def _few_tries(web: Web, url: str, once: Get, name: str, host: _Host) -> Answer:
    waits = web.http.unanswered == "pending"
    quiet = host.quiet_until > time.monotonic()
    if quiet and waits:
        raise NotNowError(name, f"{host.said} (asked a moment ago)")
    tries = 1 if quiet or host.refuses else web.http.tries
    for attempt in range(1, tries + 1):
        try:
            return _unless_refused(web, url, once, host)
        except Exception as error:
            fault = faults.service_fault(error)
            if fault is None:
                raise
            last: Exception = error
        if attempt < tries:
            asked = getattr(last, "retry_after", None)
            faults.pause(min(asked if asked is not None else faults.back_off(attempt), 30.0))
    host.said, host.refuses = _said(last), fault is not None and fault.kind == "refused"
    if not host.refuses:
        host.quiet_until = time.monotonic() + QUIET_S
    if waits:
        raise NotNowError(name, host.said, host.refuses) from None
    raise SourceError(f"{host.said} (asked {tries} times)") from None


def _unless_refused(web: Web, url: str, once: Get, host: _Host) -> Answer:
    """The answer. A refusal while the host answers for another address is a SourceError, for it is this row's."""
    try:
        return once()
    except HttpError as error:
        fault = faults.service_fault(error)
        if fault is None or fault.kind != "refused" or host.good in ("", url) or not _is_answered(web, host.good):
            raise
        raise SourceError(f"{error}: refused, while other addresses of {host_of(url)} are answered") from None


def _is_answered(web: Web, url: str) -> bool:
    try:
        web.get(url, _PROBE_BYTES)
    except HttpError as error:
        return faults.service_fault(error) is None
    except SourceError:  # longer than the probe reads
        return True
    except OSError:
        return False
    return True


def forget() -> None:
    """Start anew, as a new process does."""
    with _LOCK:
        _HOSTS.clear()


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return Location(text).public if "://" in text else text
