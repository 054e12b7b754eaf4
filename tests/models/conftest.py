"""Tests that run the real model libraries on tiny random checkpoints: `make test-models` installs what they need.

Where torch is not installed they are skipped, unless UGAF_REQUIRE_MODELS is set.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

LIBRARIES = ("torch", "torchvision", "transformers", "diffusers", "ultralytics")

os.environ.setdefault("HF_HUB_OFFLINE", "1")

if missing := [name for name in LIBRARIES if find_spec(name) is None]:
    if os.environ.get("UGAF_REQUIRE_MODELS"):
        raise pytest.UsageError(f"UGAF_REQUIRE_MODELS is set, and not installed are: {', '.join(missing)}")
    collect_ignore_glob = ["test_*.py"]
else:
    import torch

    torch.set_num_threads(1)
