"""Lets torchvision be imported beside a torch without CUDA when its own C++ library cannot be loaded there.

Package registries offer torchvision in one build, for CUDA. Beside a CPU build of torch its library does not load, and
the import ends at "operator torchvision::nms does not exist". Libraries that import torchvision at their top
(ultralytics, vLLM's image processors) are then lost, though they need little of it: here `nms` is defined in plain
torch, and the rest of torchvision's operators stay missing, or run where torchvision has a Python version itself.
Where the library does load, nothing is changed.

    python torchvision_on_cpu.py PYTHON        installs it into the environment of that interpreter
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

EXTENSION = "torchvision.extension"
"""The module that loads the C++ library, before any other of torchvision asks for an operator."""

_LIBRARIES: list[Any] = []
"""Kept for ever: operators go away with the object that defined them."""


def nms(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """Non-maximum suppression of boxes (n, 4), x1 y1 x2 y2, with scores (n,): positions kept (int64), best first."""
    import torch

    order = scores.argsort(descending=True, stable=True)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        upper_left = torch.maximum(boxes[best, :2], boxes[rest, :2])
        lower_right = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        common = (lower_right - upper_left).clamp(min=0).prod(dim=1)
        order = rest[common <= iou_threshold * (areas[best] + areas[rest] - common)]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.int64)


def register() -> None:
    """From now on, the import of torchvision gets the missing operators. torch is not imported for it."""
    if EXTENSION not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != EXTENSION:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Completed(spec.loader)
        return spec


class _Completed(importlib.abc.Loader):
    """Runs the module as its own loader does, then adds what is missing."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module._has_ops():
            return
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", nms, "CPU")
        _LIBRARIES.append(library)
        # `_has_ops` stays false, so that torchvision takes its own Python versions of other operators (roi_align).
        module._assert_has_ops = lambda: None  # type: ignore[attr-defined]


def install(python: Path | str) -> Path:
    """Registers it at the start of every process of that interpreter's environment. Returns the folder."""
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    folder = Path(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip())
    name = Path(__file__).stem
    shutil.copyfile(__file__, folder / f"{name}.py")
    (folder / f"{name}.pth").write_text(f"import {name}; {name}.register()\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", help="the environment's interpreter")
    print(f"torchvision can be imported beside a CPU torch in {install(parser.parse_args().python)}")
