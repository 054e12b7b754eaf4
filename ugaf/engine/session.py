"""A connection to Ray: to a cluster, or to a Ray that is started here for as long as it is needed.

A process has one connection at most. A `Session` inside another one, or in a process that called `ray.init` itself (a
notebook), joins what is there and leaves it connected: many runs, one after the other, need Ray to start once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ugaf.base.errors import StopRun
from ugaf.engine.head_watch import HeadWatch
from ugaf.engine.plan import Machine

OBJECT_STORE_BYTES = 160 << 20
"""A local Ray's shared memory: only names of fragments pass through it."""

START_TRIES = 3
"""Times that a local Ray is started before a run gives up."""


def cluster_address(address: str | None) -> str | None:
    """The cluster to attach to: the one that was named, else RAY_ADDRESS (a submitted job has it), else none."""
    named = address or os.environ.get("RAY_ADDRESS")
    return None if named == "local" else named


class Session:
    """Connected to Ray for as long as the `with` block lasts.

    address: a cluster's address; None starts Ray here, unless RAY_ADDRESS (which a submitted job has) names one. A
    process that is connected stays where it is. lost: called from a thread, with the reason, when the head of Ray is
    gone: Ray ends this process soon.
    """

    def __init__(self, address: str | None = None, lost: Callable[[str], None] | None = None) -> None:
        self.address = cluster_address(address) or "local"
        self._own = False
        self._lost = lost
        self._watch: HeadWatch | None = None

    def __enter__(self) -> Session:
        """Raises StopRun where Ray does not start, or cannot be reached."""
        # Ray's native code prints notices for its own developers to this terminal: only fatal ones are for users.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # And on SIGTERM its stack: Python's own handler is for users.
        os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        if ray.is_initialized():
            return self
        try:
            with _native_stderr_hidden(), _own_sigterm():
                _connect(self.address)
        except Exception as error:  # Ray raises a bare Exception where its processes do not start in time
            doing = "start Ray here" if self.address == "local" else f"reach Ray at {self.address!r}"
            raise StopRun(f"cannot {doing}: {error}") from error
        except BaseException:
            # Ended by a signal meanwhile: what of Ray runs already must not stay.
            ray.shutdown()
            raise
        self._own = True
        if self._lost is not None:
            self._watch = HeadWatch(ray.get_runtime_context().gcs_address, self._lost).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if self._watch is not None:
            self._watch.__exit__()
            self._watch = None
        if self._own:
            ray.shutdown()
        self._own = False


def machine() -> Machine:
    """The CPUs and GPUs of the Ray that this process is connected to."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    return Machine(
        total.get("CPU", 0),
        total.get("GPU", 0),
        max((n.get("CPU", 0) for n in nodes), default=0),
        max((n.get("GPU", 0) for n in nodes), default=0),
        tuple(sorted((n["GPU"] for n in nodes if n.get("GPU")), reverse=True)),
    )


def _connect(address: str) -> None:
    import ray

    local = address == "local"
    # Only this process uses a Ray that is started here.
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if local else {}
    for attempt in range(START_TRIES if local else 1):
        try:
            with _own_modules() if local else nullcontext():
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception:
            # A machine that loads models is busy, and Ray gives its own processes no more than 30 s to start.
            ray.shutdown()
            if not local or attempt + 1 == START_TRIES:
                raise


@contextmanager
def _own_modules() -> Iterator[None]:
    """The workers of a Ray that is started now find the modules that this process finds, such as a user's own stages:
    by the environment that they inherit, which costs less than one of Ray's (`runtime_env`).
    """
    # Of the workers that Ray would start in advance a run needs few, and each costs a second.
    os.environ.setdefault("RAY_enable_worker_prestart", "0")
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(os.path.abspath(entry) for entry in sys.path))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray puts handlers of its own in the place of that which was there, which end the process without a word: within,
    they are not taken on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    take_on, before = signal.signal, signal.getsignal(signal.SIGTERM)

    def choose(number: int, handler: Any) -> Any:
        rays = str(getattr(handler, "__module__", "")).partition(".")[0] == "ray"
        return signal.getsignal(number) if rays and number == signal.SIGTERM else take_on(number, handler)

    signal.signal = choose  # type: ignore[assignment]
    try:
        yield
    except BaseException:
        signal.signal = take_on
        raise
    signal.signal = take_on
    if signal.getsignal(signal.SIGTERM) is not before:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _native_stderr_hidden() -> Iterator[None]:
    """Hides what native code writes to this process's stderr while Ray starts; Python's own stderr is left alone."""
    sys.stderr.flush()
    kept = os.dup(2)
    python_stderr = sys.stderr
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(kept), "w", encoding="utf-8", errors="replace") as visible:
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = visible
        try:
            yield
        finally:
            sys.stderr = python_stderr
            os.dup2(kept, 2)
            os.close(kept)
