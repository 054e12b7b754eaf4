"""One server that is kept alive: started, watched, started again when it dies or hangs, and given up in the end.

A server that dies before it was ever healthy is given up at once, since it would die the same way again. One that was
healthy is started again, `restarts` times in all; deaths are forgotten when the server was healthy for an hour after
them, so that a run of weeks is not stopped by a few. Where it was given up, the end of its log says why.
"""

from __future__ import annotations

import http.client
import os
import random
import shlex
import shutil
import socket
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ugaf.base.errors import UgafError
from ugaf.models.servers import ModelServer
from ugaf.models.servers.commands import check_installed, command_line, environment, key_of
from ugaf.models.servers.process import ServerProcess, describe_exit, log_end

PORTS = range(20000, 32768)
"""Below the ports that Linux gives to outgoing connections, above those of Ray's workers."""

PORT_TRIES = 3
"""First starts that may fail because something else took the port in the meantime."""

MAX_DELAY_S = 60.0


@dataclass(frozen=True)
class Timing:
    """How a server is watched, in seconds.

    look_s: between two looks at a healthy server. probe_s: how long a look waits for its answer. hang_s: how long a
    server that was healthy may fail to answer before it is killed. grace_s: between SIGTERM and SIGKILL. delay_s:
    before a server is started again, doubled at every death. forgive_s: healthy time after which deaths are forgotten.
    """

    look_s: float = 5.0
    probe_s: float = 10.0
    hang_s: float = 120.0
    grace_s: float = 15.0
    delay_s: float = 1.0
    forgive_s: float = 3600.0


State = Literal["starting", "healthy", "failed", "stopped"]


@dataclass(frozen=True)
class Status:
    """A server as it is now.

    url: base URL ("http://host:port/v1"), None before the first start. pid: of the server's process, if it runs.
    restarts: times that it was started again. problem: why it was given up, with the end of its log; "" if it was not.
    log: where its log is, on the node `node`.
    """

    state: State = "starting"
    url: str | None = None
    pid: int | None = None
    restarts: int = 0
    problem: str = ""
    node: str = ""
    log: str = ""


class SupervisedServer:
    """Keeps one server of an entry alive, in a thread, on this machine.

    name: of the entry. host: the address that the server listens on. started_before: a server of this entry was healthy
    already, before its supervisor was lost, so that a death at the start may be due to what is left of that one.
    """

    def __init__(
        self,
        name: str,
        settings: ModelServer,
        host: str = "127.0.0.1",
        on_ray: bool = False,
        timing: Timing | None = None,
        started_before: bool = False,
    ) -> None:
        self._name = name
        self._settings = settings
        self._host = host
        self._on_ray = on_ray
        self._timing = timing or Timing()
        self._was_healthy = started_before
        self._folder = Path(tempfile.mkdtemp(prefix="ugaf-server-"))
        self._log = self._folder / "server.log"
        self._status = Status(node=host, log=str(self._log))
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: ServerProcess | None = None
        self._command: list[str] = []
        self._key: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"server-{name}", daemon=True)

    def start(self) -> None:
        """Returns at once; `status` tells how it goes."""
        self._thread.start()

    def status(self) -> Status:
        return self._status

    def log_end(self, lines: int) -> str:
        return log_end(self._log, lines, self._key)

    def stop(self) -> None:
        """Ends the server with all that it started, and waits until that is done."""
        self._stopping.set()
        with self._lock:
            if self._process is not None:
                self._process.stop()
        if self._thread.ident is not None:
            self._thread.join(2 * self._timing.grace_s + self._timing.probe_s + 10)
        if self._status.state != "failed":
            self._tell(state="stopped", pid=None)
            # Nobody asks why a server died that did not.
            if not self._status.restarts:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _tell(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]

    def _run(self) -> None:
        try:
            self._supervise()
        except UgafError as error:
            self._fail(str(error))
        except Exception as error:
            self._fail(f"its supervisor failed: {type(error).__name__}: {error}")
        finally:
            with self._lock:
                process = self._process
            if process is not None:
                process.stop()

    def _supervise(self) -> None:
        check_installed(self._settings)
        self._key = key_of(self._settings, os.environ)
        port, deaths, port_tries = free_port(self._host), 0, PORT_TRIES
        while not self._stopping.is_set():
            port = port if is_free(self._host, port) else free_port(self._host)
            self._launch(port)
            reason, healthy_s = self._follow(port)
            if self._stopping.is_set():
                return
            if not self._was_healthy and port_tries and not is_free(self._host, port):
                port_tries -= 1
                continue
            if healthy_s > self._timing.forgive_s:
                deaths = 0
            deaths += 1
            if not self._was_healthy:
                self._give_up(f"the server cannot start: {reason}")
                return
            if deaths > self._settings.restarts:
                self._give_up(f"the server died once more than its restarts ({self._settings.restarts}): {reason}")
                return
            self._tell(state="starting", pid=None, restarts=self._status.restarts + 1)
            self._stopping.wait(min(MAX_DELAY_S, self._timing.delay_s * 2 ** (deaths - 1)))

    def _launch(self, port: int) -> None:
        self._command = command_line(self._settings, self._host, port)
        env = environment(self._settings, os.environ, self._on_ray)
        self._tell(url=f"http://{_in_url(self._host)}:{port}/v1")
        with self._lock:
            # `stop` has either been seen here, or it sees the process.
            if not self._stopping.is_set():
                self._process = ServerProcess(self._command, env, self._log, self._timing.grace_s)

    def _follow(self, port: int) -> tuple[str, float]:
        """Watch the process until it has ended. Returns why, and for how many seconds it was healthy."""
        process, timing = self._process, self._timing
        if process is None:
            return "stopped", 0.0
        started = time.monotonic()
        healthy_at, answered, wait_s = 0.0, started, 0.05
        reason = ""
        while (code := process.ended(wait_s)) is None:
            problem = unhealthy(self._host, port, timing.probe_s, self._key)
            now = time.monotonic()
            if not problem:
                healthy_at, answered = healthy_at or now, now
                self._was_healthy = True
                self._tell(state="healthy", pid=process.pid)
            elif not healthy_at and now - started > self._settings.start_timeout_s:
                reason = f"it was not healthy after {self._settings.start_timeout_s:g} s ({problem})"
            elif healthy_at and now - answered > timing.hang_s:
                reason = f"it ran, and did not answer for {timing.hang_s:g} s ({problem})"
            if reason:
                process.stop()
                process.ended(2 * timing.grace_s + 5)
                break
            wait_s = timing.look_s if healthy_at else min(2.0, wait_s * 1.5)
        ended = time.monotonic()
        process.close()
        if not reason:
            reason = f"it {describe_exit(code or 0)} after {ended - started:.0f} s"
        return reason, ended - healthy_at if healthy_at else 0.0

    def _give_up(self, what: str) -> None:
        end = log_end(self._log, secret=self._key) or "(it wrote nothing)"
        self._fail(
            f"{what}\n  command: {shlex.join(self._command)}\n  log: {self._log} on {self._host}, which ends:\n"
            + "\n".join(f"    {line}" for line in end.splitlines())
        )

    def _fail(self, problem: str) -> None:
        self._tell(state="failed", pid=None, problem=f"models.{self._name}: {problem}")


def unhealthy(host: str, port: int, timeout_s: float, key: str | None) -> str:
    """Why a server is not healthy; "" if it is: `/health` answers 200, or `/v1/models` where there is no `/health`."""
    try:
        status = _get(host, port, "/health", timeout_s, None)
        if status in (404, 405):
            status = _get(host, port, "/v1/models", timeout_s, key)
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return "" if status == 200 else f"it answers HTTP {status}"


def _get(host: str, port: int, path: str, timeout_s: float, key: str | None) -> int:
    # Not urllib, which would ask a proxy that the environment names.
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        return connection.getresponse().status
    finally:
        connection.close()


def free_port(host: str) -> int:
    """A port that nothing listens on. Raises UgafError if the address is not of this machine."""
    for port in random.SystemRandom().sample(PORTS, 200):
        if is_free(host, port):
            return port
    raise UgafError(f"no port of {PORTS.start}-{PORTS.stop - 1} can be listened on at {host}")


def is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As servers do: connections of a server that died do not hold its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
