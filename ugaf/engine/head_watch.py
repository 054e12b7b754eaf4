"""Notices that the head of Ray has gone, and says so while this process can still speak.

Ray ends a driver that has lost the head for some time (RAY_gcs_rpc_server_reconnect_timeout_s), from native code: no
exception, no message. A thread that asks the head's port now and then is there before.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable

EVERY_S = 1.0
"""Seconds between two questions, and for an answer."""

RAYS_PATIENCE_S = 60.0
"""Ray's default for the time in which a head may come back."""

FEWEST = 5
"""Questions without an answer: a machine that slept has lost time, but has asked once."""

_RAYS_SETTING = "RAY_gcs_rpc_server_reconnect_timeout_s"
_GONE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ECONNRESET}


def patience() -> float:
    """Half of the time after which Ray ends the process."""
    try:
        return float(os.environ[_RAYS_SETTING]) / 2
    except (KeyError, ValueError):
        return RAYS_PATIENCE_S / 2


class HeadWatch:
    """Asks the head of Ray, while the `with` block lasts, whether it is there.

    Args:
        address: of the head's control store, host:port.
        lost: called once, from a thread, with the reason in words, when the head did not answer for `patience_s`.
    """

    def __init__(
        self, address: str, lost: Callable[[str], None], patience_s: float | None = None, every_s: float = EVERY_S
    ) -> None:
        self._address = address
        self._lost = lost
        self._patience_s = patience() if patience_s is None else patience_s
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="head-watch", daemon=True)

    def __enter__(self) -> HeadWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        since, unanswered = time.monotonic(), 0
        while not self._over.wait(self._every_s):
            if answers(self._address, self._every_s):
                since, unanswered = time.monotonic(), 0
                continue
            unanswered += 1
            silent = time.monotonic() - since
            if unanswered >= FEWEST and silent >= self._patience_s and not self._over.is_set():
                self._lost(f"Ray's head at {self._address} has not answered for {silent:.0f} s")
                return


def answers(address: str, within_s: float = EVERY_S) -> bool:
    """Whether somebody listens there. An error of this machine's own (no more files) is no answer of the head's."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), within_s):
            return True
    except TimeoutError:
        return False
    except OSError as error:
        return error.errno not in _GONE and not isinstance(error, socket.gaierror)
