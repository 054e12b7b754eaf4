"""Makes the environment in which the tests serve a model with vLLM on a CPU. Run again, it changes nothing.

    python tests/environments/vllm.py [FOLDER]        default: .venv-vllm beside the repository's Makefile

Nothing of ugaf is installed there: the server is a program of its own, which the tests start and ask.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REQUIREMENTS = HERE / "vllm-requirements.txt"
SHIM = ROOT / "tests" / "support" / "torchvision_on_cpu.py"
UNUSABLE = ("torchaudio", "torchcodec", "triton")
"""vLLM requires them and imports them where they are found; their builds are for CUDA and fail beside a CPU torch."""
PYTHON = (3, 11)
"""Versions that the CPU builds of torch and vLLM named in vllm-requirements.txt were seen to run with."""

CHECK = """
import torch, torchvision, vllm
from vllm.platforms import current_platform
assert current_platform.is_cpu(), f"vLLM runs on {current_platform!r}"
assert torch.version.cuda is None, f"torch {torch.__version__} is built for CUDA"
print(f"vLLM {vllm.__version__} on the CPU, torch {torch.__version__}, torchvision {torchvision.__version__}")
"""


def main(folder: Path) -> None:
    python = folder / "bin" / "python"
    stamp = folder / ".ready"
    state = hashlib.sha256(b"".join(path.read_bytes() for path in (REQUIREMENTS, SHIM, Path(__file__)))).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == state:
        print(f"{folder} is ready")
        return
    if sys.version_info[:2] != PYTHON and not python.exists():
        wanted = ".".join(map(str, PYTHON))
        raise SystemExit(f"run this with Python {wanted}: vLLM's CPU build was tried with no other ({sys.version})")
    if not python.exists():
        _run("new environment", [sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    _run(
        "vLLM and torch (some minutes)",
        [*pip, "install", "--quiet", "--no-compile", "--requirement", str(REQUIREMENTS)],
        "if pip found no torch+cpu, name an index of PyTorch's CPU builds in PIP_EXTRA_INDEX_URL",
    )
    _run("without what needs CUDA", [*pip, "uninstall", "--quiet", "--yes", *UNUSABLE])
    _run("torchvision beside a CPU torch", [str(python), str(SHIM), str(python)])
    _run("does it load", [str(python), "-c", CHECK])
    stamp.write_text(state, encoding="utf-8")


def _run(what: str, command: list[str], hint: str = "") -> None:
    print(f"{what} ...", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(f"{what}: failed with exit code {code}" + (f"; {hint}" if hint else ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / ".venv-vllm")
    main(parser.parse_args().folder.absolute())
