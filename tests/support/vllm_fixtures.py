"""A tiny vision-language model, served by vLLM on the CPU, for the tests marked `vllm`: `make test-vllm`.

`tests/environments/vllm.py` makes the environment that vLLM runs in (UGAF_VLLM_PYTHON, else .venv-vllm).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from places import ROOT, SUPPORT
from serve import Served, served

from ugaf.models.servers import ModelServer, ServerLink

PYTHON = Path(os.environ.get("UGAF_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server, and a checkpoint of Qwen3-VL's format that it serves under the name "tiny"."""
    folder = tmp_path_factory.mktemp("vllm")
    checkpoint = folder / "qwen3_vl"
    builder = [str(PYTHON), str(SUPPORT / "tiny_vlm.py"), "qwen3_vl", str(checkpoint)]
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
