"""What models of photographs on torch share: loading, preparation one by one, batches that shrink, half precision.

Every photograph is prepared by itself, and only those of one prepared size share a batch: nothing is padded, so that a
photograph's answer does not depend on its neighbours. What is left are the rounding errors of other kernels for other
batch sizes.
"""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ugaf.base.errors import ConfigError
from ugaf.base.failure import each
from ugaf.base.needs import Needs
from ugaf.models.detectors.common import GPU_SHARE, BatchSettings, by_halves, gpu_needs, grouped, libraries
from ugaf.models.encoders import Photo
from ugaf.stage import Failure, operational

PACKAGES = {"torch": "transformers", "transformers": "transformers"}
Dtype = Literal["auto", "float32", "float16", "bfloat16"]


class TorchSettings(BatchSettings):
    """Where a model on torch runs, how many photographs at once, and how exactly."""

    batch_size: int = operational(32, ge=1, description="images that go through the model at once")
    dtype: Dtype = Field("auto", description="Precision of the model; auto: float16 on a GPU, float32 on a CPU.")


class CheckpointSettings(TorchSettings):
    """A checkpoint in the format of the transformers library."""

    model: str = Field(min_length=1, description="The checkpoint: a hub id or a folder.")
    revision: str | None = Field(None, description="The checkpoint's revision on the hub: a commit, tag or branch.")

    @property
    def label(self) -> str:
        """The model as it stands in rows: a hub id as it is, a folder by its last part."""
        folder = Path(self.model).expanduser()
        return folder.resolve().name if folder.is_dir() else self.model


@dataclass(frozen=True, eq=False)
class Work:
    """A photograph that is ready for the model: its number, and the model's tensors, each (1, ...)."""

    index: int
    tensors: Mapping[str, Any]

    @property
    def shape(self) -> Hashable:
        return tuple((name, tuple(tensor.shape)) for name, tensor in self.tensors.items())


def needs_of(settings: TorchSettings, packages: Mapping[str, str], model: str, setting: str) -> Needs:
    """What a model on torch needs. setting: the name by which the stage knows it, for advice where no GPU is there."""
    needs = gpu_needs(settings, packages, [model], GPU_SHARE)
    return replace(needs, without_gpu=needs.without_gpu and f"{setting}.device=cpu")


def check_gpu(torch: Any, device: str, setting: str) -> None:
    """Raises ConfigError for a GPU that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{setting}.device: cuda, but torch sees no GPU here; {setting}.device=cpu does without, slowly"
        )


def look(
    torch: Any,
    photos: Sequence[Photo],
    prepare: Callable[[np.ndarray], Mapping[str, Any]],
    run: Callable[[Mapping[str, Any]], np.ndarray],
    batch_size: int,
) -> list[np.ndarray | Failure]:
    """The model's answer to each photograph, in order.

    Args:
        prepare: pixels RGB uint8 (height, width, 3) -> the model's tensors, each (1, ...).
        run: the tensors of n photographs, each (n, ...) -> answers (n, ...).

    A photograph that cannot be decoded or prepared fails alone. A batch that raises is halved, down to the photograph
    that is the cause. Raises StopRun when the GPU itself has failed.
    """
    ready = each(lambda one: Work(one[0], prepare(one[1]())), enumerate(photos))
    answers: list[np.ndarray | Failure | None] = [one if isinstance(one, Failure) else None for one in ready]

    def answered(batch: Sequence[Work]) -> list[np.ndarray]:
        joined = {name: torch.cat([work.tensors[name] for work in batch]) for name in batch[0].tensors}
        return list(run(joined))

    works = [one for one in ready if not isinstance(one, Failure)]
    for batch in grouped(works, lambda work: work.shape, batch_size):
        for work, answer in zip(batch, by_halves(torch, answered, batch), strict=True):
            answers[work.index] = answer
    return [answer for answer in answers if answer is not None]


class Checkpoint(ABC):
    """A checkpoint of the transformers library, with the preparation that comes with it.

    A subclass moves `_model` to the device, and says in `_run` what it takes of the model's answer.
    """

    settings: CheckpointSettings

    def __init__(self, settings: CheckpointSettings, auto: str, setting: str) -> None:
        """auto: the library's class that loads the model. setting: the name by which the stage knows it.

        Raises ConfigError for a library or a GPU that is not there, and naming a model that cannot be loaded.
        """
        self.settings = settings
        self._torch, transformers = libraries(PACKAGES)
        check_gpu(self._torch, settings.device, setting)
        transformers.utils.logging.disable_progress_bar()
        named = {"pretrained_model_name_or_path": settings.model, "revision": settings.revision}
        try:
            self._processor = transformers.AutoImageProcessor.from_pretrained(**named)
            self._model = getattr(transformers, auto).from_pretrained(**named).eval()
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{setting}.model: {settings.model!r} cannot be loaded: {error}") from error

    def _look(self, photos: Sequence[Photo]) -> list[np.ndarray | Failure]:
        return look(self._torch, photos, self._prepared, self._run, self.settings.batch_size)

    def _prepared(self, pixels: np.ndarray) -> Mapping[str, Any]:
        from PIL import Image

        return dict(self._processor(images=[Image.fromarray(pixels)], return_tensors="pt"))

    def _moved(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tensor.to(self.settings.device) for name, tensor in tensors.items()}

    @abstractmethod
    def _run(self, tensors: Mapping[str, Any]) -> np.ndarray:
        """The tensors of n photographs, each (n, ...) -> answers (n, ...)."""


@contextmanager
def forward(torch: Any, settings: TorchSettings) -> Iterator[None]:
    """The context of a model's call: no gradients, and half precision by autocast where that is asked for."""
    named = settings.dtype
    if named == "auto":
        named = "float16" if settings.device == "cuda" else "float32"
    half = getattr(torch, named)
    with torch.inference_mode(), torch.autocast(settings.device, half, enabled=half != torch.float32):
        yield


def probe(answer: list[np.ndarray | Failure], what: str) -> int:
    """How many numbers a model gives, by its answer to one photograph. Raises ConfigError if it gave none."""
    (one,) = answer
    if isinstance(one, Failure):
        raise ConfigError(f"{what} cannot be used: {one}")
    return len(one)


def grey() -> np.ndarray:
    """A picture to try a model with."""
    return np.full((64, 64, 3), 128, np.uint8)


def content_of(path: str, what: str) -> str:
    """A hash of a local file's bytes. Raises ValueError if it is not there."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"there is no {what} {file}")
    stat = file.stat()
    return _hash(str(file), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _hash(path: str, size: int, time: int) -> str:  # noqa: ARG001 - they say when to look again
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:32]
