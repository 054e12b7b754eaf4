"""Checkpoints: written by all processes, there completely or not at all, and read by any number of processes.

A checkpoint is a folder `step-00000500` in torch.distributed.checkpoint's format, in which every process writes its
own part. Its last file is `state.json`; a folder without one was cut off while it was written, counts as none and is
removed at the next start. Nothing random is stored: samples, noise and timesteps follow from the seed and the step.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from ugaf.base.errors import ConfigError
from ugaf.trainer.distributed import World

LOG = logging.getLogger(__name__)
STATE = "state.json"


class Checkpoints:
    """The checkpoints of a training.

    folder: one that every process reaches (a shared disk, where there are several machines).
    """

    def __init__(self, folder: Path, keep: int, world: World | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.world = world

    def steps(self) -> list[int]:
        """Steps of the complete ones, in order."""
        found = [match for path in self.folder.glob("step-*") if (match := re.fullmatch(r"step-(\d+)", path.name))]
        return sorted(int(match[1]) for match in found if (self.folder / match[0] / STATE).is_file())

    def state(self, step: int) -> dict[str, Any]:
        """What `save` was told beside the tensors. Raises ConfigError if it cannot be read."""
        file = self._path(step) / STATE
        try:
            return dict(json.loads(file.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{file}: cannot be read ({error}); remove the folder to go on from the one before"
            ) from error

    def save(self, step: int, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Called by every process, with the same step and state."""
        path = self._path(step)
        if self._leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(path, ignore_errors=True)
        self._wait()
        dcp.save(dict(tensors), checkpoint_id=str(path), no_dist=self.world is None)
        self._wait()
        if self._leads:
            _write(path / STATE, json.dumps({"step": step, **state}, indent=1))
            for old in self.steps()[: -self.keep]:
                # What says that it is complete goes first.
                (self._path(old) / STATE).unlink()
                shutil.rmtree(self._path(old))
        self._wait()

    def load(self, step: int, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Fills the tensors in place, whatever the number of processes that saved them; returns the state.

        Raises ConfigError if the checkpoint is damaged or of another model.
        """
        path = self._path(step)
        state = self.state(step)
        # It tells that there is one process, which is known.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        try:
            dcp.load(dict(tensors), checkpoint_id=str(path), no_dist=self.world is None)
        except (Exception, CheckpointException) as error:
            raise ConfigError(
                f"{path}: cannot be loaded ({type(error).__name__}: {_first_line(error)}); it is damaged or of a model "
                "with other settings: restore those, or remove the folder to go on from the one before"
            ) from error
        return state

    def clear_unfinished(self) -> None:
        """Removes what a kill left behind."""
        if self._leads:
            for path in self.folder.glob("step-*"):
                if not (path / STATE).is_file():
                    LOG.warning("%s: was cut off while it was written; removed", path)
                    shutil.rmtree(path)
        self._wait()

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    @property
    def _leads(self) -> bool:
        return self.world is None or self.world.leads

    def _wait(self) -> None:
        if self.world is not None:
            self.world.wait()


def _write(file: Path, text: str) -> None:
    """In one atomic step, on the disk before its name is there."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(file)


def _first_line(error: BaseException) -> str:
    causes = [str(cause) for cause, _ in error.failures.values()] if isinstance(error, CheckpointException) else []
    lines = [line for text in (*causes, str(error)) for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else repr(error)
