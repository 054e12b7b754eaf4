"""The commands of the documentation that import torch before they read their arguments start: tests/smoke.py, which
starts all the others, is run where torch is not installed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from smoke_commands import TORCH
from smoke_tools import ROOT

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("script", TORCH)
def test_a_benchmark_that_needs_torch_says_how_it_is_called(script: str) -> None:
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: {Path(script).name}" in done.stdout
