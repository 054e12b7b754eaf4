"""How a training is going: a line a step, `metrics.jsonl`, TensorBoard, and how much of the GPU it uses."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

LOG = logging.getLogger(__name__)

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "H800": 989.0, "B200": 2250.0, "A100": 312.0, "A800": 312.0, "L40S": 362.0}
"""Dense bfloat16 peak of common GPUs, from their makers' data sheets; by a part of the device's name."""


class Monitor:
    """Written by the leading process only.

    folder: the training's output. resumed: the step that the training goes on from; later lines of an earlier try are
    dropped, for those steps are done again.
    """

    def __init__(self, folder: Path, resumed: int, peak_tflops: float | None, writes: bool) -> None:
        self.peak = peak_tflops
        self._writes = writes
        self._board: Any = None
        self._since = time.perf_counter()
        self._flops = 0.0
        self._done = {"samples": 0, "tokens": 0, "steps": 0}
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "metrics.jsonl"
        # From the start, everything is done again, what was logged before the first step too.
        keep_until(self._file, resumed or -1)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            LOG.warning("tensorboard is not installed: metrics go to %s only", self._file)
        else:
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed)

    def done(self, samples: int, tokens: int, flops: float) -> None:
        """After each step: what it worked on."""
        self._done["samples"] += samples
        self._done["tokens"] += tokens
        self._done["steps"] += 1
        self._flops += flops

    def rates(self) -> dict[str, float]:
        """Since the last call: samples and tokens a second, seconds a step, and MFU where the GPU's peak is known."""
        now = time.perf_counter()
        seconds, self._since = max(now - self._since, 1e-9), now
        found = {
            "samples_per_s": self._done["samples"] / seconds,
            "tokens_per_s": self._done["tokens"] / seconds,
            "step_s": seconds / max(1, self._done["steps"]),
        }
        if self.peak:
            found["mfu"] = self._flops / seconds / (self.peak * 1e12)
        self._done = dict.fromkeys(self._done, 0)
        self._flops = 0.0
        return found

    def restart(self) -> None:
        """Leaves out of the next rates what has passed since the last ones: a checkpoint, pictures."""
        self._since = time.perf_counter()

    def log(self, step: int, values: Mapping[str, Any], line: bool = True) -> None:
        """`step` is the number of steps done."""
        if not self._writes:
            return
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, step)
        if line:
            LOG.info("step %d  %s", step, "  ".join(f"{name} {_short(value)}" for name, value in values.items()))

    def picture(self, step: int, name: str, rgb: Any) -> None:
        """uint8 (h, w, 3)."""
        if self._board is not None:
            self._board.add_image(name, rgb, step, dataformats="HWC")

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def keep_until(file: Path, step: int) -> None:
    """Drops the lines of a log that are of later steps, and a last one that was cut off."""
    if not file.is_file():
        return
    kept = []
    for text in file.read_text("utf-8").splitlines():
        try:
            entry = json.loads(text)
        except ValueError:
            continue
        if entry.get("step", 0) <= step:
            kept.append(text)
    file.write_text("".join(f"{text}\n" for text in kept), "utf-8")


def peak_tflops(device: torch.device, given: float | None) -> float | None:
    """Of one GPU, in 10^12 operations a second; None if it is not known."""
    if given is not None or device.type != "cuda":
        return given
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
