"""A tiny vision-language model, served by vLLM on the CPU, for the tests of this folder: `make test-vllm`.

`environment.py` makes the environment that vLLM runs in. Where there is none (UGAF_VLLM_PYTHON, else .venv-vllm) the
tests are skipped, unless UGAF_REQUIRE_VLLM is set.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serve import START_S, Served, served

from ugaf.models.servers import ModelServer, ServerLink

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("UGAF_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))

if not PYTHON.exists():
    if os.environ.get("UGAF_REQUIRE_VLLM"):
        raise pytest.UsageError(f"UGAF_REQUIRE_VLLM is set, and there is no {PYTHON}: run tests/vllm/environment.py")
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test waits for the server's start too."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300 + START_S))


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server, and a checkpoint of Qwen3-VL's format that it serves under the name "tiny"."""
    folder = tmp_path_factory.mktemp("vllm")
    checkpoint = folder / "qwen3_vl"
    builder = [str(PYTHON), str(ROOT / "tests" / "models" / "tiny_vlm.py"), "qwen3_vl", str(checkpoint)]
    built = subprocess.run(builder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    with served(PYTHON, checkpoint, folder / "vllm.log") as server:
        yield server


@pytest.fixture(scope="session")
def entry(vllm_server: Served) -> dict[str, object]:
    """The server as an entry of a pipeline's `models:`."""
    return {"model": vllm_server.model, "endpoints": [vllm_server.url], "in_flight": 8}


@pytest.fixture(scope="session")
def servers(entry: Mapping[str, object]) -> dict[str, ServerLink]:
    settings = ModelServer.model_validate(entry)
    return {"tiny": ServerLink("tiny", settings, tuple(settings.endpoints))}
