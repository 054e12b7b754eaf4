"""Serves a tiny model with vLLM on the CPU, as a process of its own that ends with the tests.

Also runs by itself, to look at a server by hand: python tests/support/serve.py PYTHON_OF_VLLM CHECKPOINT
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_S = 600.0
"""Longest wait for a server to be healthy; on two busy cores it takes one or two minutes."""

OPTIONS = {
    "dtype": "float32",
    "max-model-len": "16384",
    "max-num-batched-tokens": "16384",
    "max-num-seqs": "16",
    "limit-mm-per-prompt": json.dumps({"image": 4, "video": 0}),
    # JSON without free white space: a model that starts with it may go on with nothing else until its tokens are used.
    "structured-outputs-config": json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
    "max-logprobs": "20",
    # From here on a request is only constrained to its schema where its thinking is switched off, or has ended.
    "reasoning-parser": "qwen3",
}
FLAGS = (
    "enforce-eager",
    "disable-access-log-for-endpoints=/health",
    # A seeded request whose prompt is taken in parts ends the engine of 0.32: it turns the generator back by an offset,
    # and those of a CPU have none.
    "no-enable-chunked-prefill",
)
PR_SET_PDEATHSIG = 1
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Served:
    """url: base of the API, "http://127.0.0.1:PORT/v1". model: the name that requests carry. log: what it printed."""

    url: str
    model: str
    log: Path
    pid: int


def command(python: Path | str, checkpoint: Path, name: str, port: int) -> list[str]:
    # `vllm serve` reads the metadata of a package named vllm; the CPU build has another name.
    program = [str(python), "-m", "vllm.entrypoints.openai.api_server"]
    where = ["--model", str(checkpoint), "--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    options = [part for key, value in OPTIONS.items() for part in (f"--{key}", value)]
    return [*program, *where, *options, *(f"--{flag}" for flag in FLAGS)]


@contextlib.contextmanager
def served(python: Path | str, checkpoint: Path, log: Path, name: str = "tiny") -> Iterator[Served]:
    """The running server. Raises RuntimeError with the end of its log if it does not get healthy."""
    port = _free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(python, checkpoint, name, port),
            env={**os.environ, **ENVIRONMENT},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_ends_with_parent,
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield Served(f"http://127.0.0.1:{port}/v1", name, log, process.pid)
        finally:
            _end(process)


def _ends_with_parent() -> None:
    """Tests that are killed leave no server behind: Linux sends it SIGTERM when their main thread is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM ended with exit code {process.returncode}:\n{_tail(log)}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"vLLM was not healthy after {START_S:.0f} s:\n{_tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and the engine process that it started: they are a process group of their own."""
    for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    with served(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[2]).with_suffix(".log")) as server:
        print(server, flush=True)
        signal.pause()
