"""What the detectors on torch share: optional libraries, batches that shrink when something is wrong, a vocabulary."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator

from ugaf.base.errors import ConfigError, StopRun
from ugaf.base.failure import Failure, RowError, at_once
from ugaf.base.needs import Needs, install_hint
from ugaf.models.detectors.interface import DetectQuery, phrases
from ugaf.stage import Settings, operational

Item = TypeVar("Item")
Result = TypeVar("Result")

GPU_SHARE = 0.25
"""Of a GPU, for one worker: decoding photographs on a CPU takes longer than a detector needs for them."""


class DeviceSettings(Settings):
    """Where a detector on torch runs."""

    device: Literal["cuda", "cpu"] = operational("cuda", description="cuda (a GPU) or cpu")


class BatchSettings(DeviceSettings):
    """And how many images at once."""

    batch_size: int = operational(8, ge=1, description="images that go through the model at once")


class VocabularySettings(Settings):
    """What an open-vocabulary detector looks for."""

    vocabulary: list[str] = Field([], description="What to look for, for models that are told.")
    vocabulary_column: str | None = Field(
        None,
        min_length=1,
        description="Column with what to look for in each photograph (caption, tags); where it is empty, `vocabulary`.",
    )

    @field_validator("vocabulary", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> list[str]:
        try:
            return list(phrases(value))
        except TypeError as error:
            raise ValueError(str(error)) from error

    @property
    def told(self) -> bool:
        """Whether it is said what to look for."""
        return bool(self.vocabulary or self.vocabulary_column)

    @property
    def columns(self) -> tuple[str, ...]:
        """The column that it is said in."""
        return (self.vocabulary_column,) if self.vocabulary_column else ()

    def phrases_for(self, query: DetectQuery) -> tuple[str, ...]:
        """What to look for in one photograph. Raises RowError if nothing is said."""
        if not (query.vocabulary or self.vocabulary):
            raise RowError(
                f"nothing to look for: {self.vocabulary_column!r} is empty here, and `vocabulary` is not set"
            )
        return query.vocabulary or tuple(self.vocabulary)


def gpu_needs(settings: DeviceSettings, packages: Mapping[str, str], models: Sequence[str], share: float) -> Needs:
    """What a detector on torch needs. packages: module -> extra. share: of a GPU."""
    on_gpu = settings.device == "cuda"
    return Needs(
        own_pool=True,
        cpus=1.0,
        gpus=share if on_gpu else 0.0,
        # Several batches at once, so that images of one size find each other.
        batch_rows=4 * settings.batch_size if isinstance(settings, BatchSettings) else None,
        packages=packages,
        models=tuple(models),
        without_gpu="detector.device=cpu" if on_gpu else "",
    )


def libraries(packages: Mapping[str, str]) -> list[ModuleType]:
    """The modules, imported. packages: module -> extra. Raises ConfigError naming the extra of a missing one."""
    try:
        return [importlib.import_module(name) for name in packages]
    except ModuleNotFoundError as error:
        missing = {name: extra for name, extra in packages.items() if name == (error.name or "").partition(".")[0]}
        hint = install_hint(missing or packages)
        raise ConfigError(hint if missing else f"{hint} ({error})") from error
    except ImportError as error:
        raise ConfigError(f"{', '.join(packages)}: installed, but cannot be imported: {error}") from error


def check_device(torch: Any, device: str) -> None:
    """Raises ConfigError for a GPU that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("detector.device: cuda, but torch sees no GPU here; detector.device=cpu does without")


def grouped(items: Iterable[Item], key: Callable[[Item], Hashable], size: int) -> Iterator[list[Item]]:
    """The items in batches of one key and at most `size`, each key's in their order."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    for group in groups.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))


def by_halves(
    torch: Any, function: Callable[[Sequence[Item]], Sequence[Result]], batch: Sequence[Item]
) -> list[Result | Failure]:
    """A result for each item: the batch at once, or where that raises (no memory left, one bad item) its halves.

    Raises StopRun when the GPU itself has failed: nothing that this process does on it can succeed any more.
    """
    return at_once(function, batch, "halves", after=lambda error, _: _recover(torch, error))


def _recover(torch: Any, error: BaseException) -> None:
    broken = getattr(torch, "AcceleratorError", None)
    if broken is not None and isinstance(error, broken):
        raise StopRun(f"the GPU failed, and its worker with it: {error}") from error
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
