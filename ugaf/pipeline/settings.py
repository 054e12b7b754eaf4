"""What stands at the top level of a pipeline file, and what each setting means."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ugaf.balance.settings import BalanceSettings
from ugaf.base import location
from ugaf.base.errors import nearest
from ugaf.base.settings import Settings
from ugaf.ingest import InputSettings
from ugaf.models.servers import ModelServer

FORMATS = ("parquet", "webdataset")
ADAPTERS = ("ai_toolkit", "diffsynth", "instruct_pix2pix")
"""Layouts of trainers that an export writes, see `ugaf.export.adapters`."""
NEEDS_PARQUET = frozenset({"instruct_pix2pix"})
"""Adapters that name columns of the Parquet shards instead of copying images."""


class EngineSettings(Settings):
    """How a run uses the machine or the cluster."""

    executor: str = Field("ray", pattern="^(ray|inline)$", description="ray, or inline: one process, for debugging")
    workers: int | None = Field(None, ge=1, description="CPU workers; default: one for each CPU")
    streaming: bool | Literal["auto"] = Field(
        "auto",
        description="true: all stages run side by side; false: those with workers of their own one after the other; "
        "auto: side by side as far as that is the sooner end on the GPUs that there are",
    )
    flush_mb: int = Field(64, ge=1, description="a worker writes a part whenever its new columns reach this size")
    flush_s: float = Field(30.0, ge=0, description="and whenever they hold so many seconds of a stage's work")
    patience_s: float = Field(
        300.0,
        ge=0,
        description="a store, server or disk that is at fault is asked again for so long; then the run stops, its rows "
        "pending",
    )
    stop_after_alike: int = Field(
        100,
        ge=0,
        description="the run stops when nearly all of a stage's last so many rows failed in one way, and those rows "
        "stay pending; 0: never, for inputs of which most are broken",
    )
    worker_mb: int | None = Field(
        4096,
        ge=256,
        description="a worker whose process has grown beyond so many MB (of memory, not of a GPU), and beyond twice "
        "what it took when its models were loaded, is begun anew between two units of work; null: never",
    )
    row_crashes: int = Field(2, ge=1, description="times a row may kill its worker, alone in it, before it is failed")


class QuantileSettings(Settings):
    """Where the numbers of quantile rules come from."""

    source: str = Field(
        "run",
        description="run: fitted on all values of this run; frozen: once fitted, they stay when the run grows; or the "
        "folder of another run, whose numbers judge this one",
    )
    exact_rows: int = Field(
        10_000_000,
        ge=1000,
        description="up to so many values a quantile is exact; above, that of a sample of them",
    )

    @field_validator("source")
    @classmethod
    def _public(cls, value: str) -> str:
        return location.check_keys(value, "the URL of another run")


class ExportSettings(Settings):
    """How the kept pairs become shards."""

    name: str | None = Field(None, description="title of the dataset card; default: the run's title")
    formats: list[str] = Field(list(FORMATS), description=f"shards to write: {', '.join(FORMATS)}")
    shard_mb: float = Field(512, gt=0, description="most megabytes (10^6 bytes) of images and text in a shard")
    validation: float = Field(
        0.05, ge=0, lt=1, description="share of photographs whose edits go to the validation split"
    )
    photographs: str = Field(
        "auto",
        pattern="^(auto|images|references)$",
        description="the kept photographs as a set of their own; auto: where the pipeline makes no pairs; images: "
        "always; references: always, without their bytes (ids, sources, measures)",
    )
    balance: BalanceSettings | None = Field(
        None, description="count the pairs by category, and sample them to a target; default: neither"
    )
    registered: bool = Field(
        True,
        description="write an edited image of another size than its source's at its source's size, aligned to it; "
        "false: as it came",
    )
    adapters: list[str] = Field([], description=f"layouts of trainers to write besides: {', '.join(ADAPTERS)}")
    license: str = Field("unknown", description="licence of the dataset: a Hugging Face Hub identifier, or free text")

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, names: list[str]) -> list[str]:
        return _checked(names, FORMATS, "format")

    @field_validator("adapters")
    @classmethod
    def _known_adapters(cls, names: list[str]) -> list[str]:
        return _checked(names, ADAPTERS, "adapter")

    @model_validator(mode="after")
    def _parquet_for_maps(self) -> ExportSettings:
        for name in self.adapters:
            if name in NEEDS_PARQUET and "parquet" not in self.formats:
                raise ValueError(f"the adapter {name} names columns of the Parquet shards: add parquet to formats")
        return self


def _checked(names: list[str], known: object, kind: str) -> list[str]:
    """Sorted and without repeats, so that the order in which a user lists them changes nothing."""
    for name in names:
        if name not in known:  # type: ignore[operator]
            raise ValueError(f"unknown {kind} {name!r}{nearest(name, known)}")  # type: ignore[arg-type]
    return sorted(set(names))


class ReportSettings(Settings):
    """The HTML report."""

    gallery: int = Field(600, ge=0, description="pairs and photographs shown in the gallery, a stratified sample")


class PipelineSettings(Settings):
    """The top level of a pipeline file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's default folder")
    title: str | None = Field(
        None, description="what the run, its report and card are called; default: its folder, or its inputs"
    )
    description: str = ""
    inputs: list[InputSettings] = Field(min_length=1, description="photographs or pairs: paths, globs, URLs, sample://")
    output: str | None = Field(None, description="the run's folder: a path or URL; default runs/NAME")
    seed: int = Field(0, description="every random choice derives from it, the stage and the row")
    fragment_rows: int | None = Field(
        None, ge=1, description="sources a fragment, fixed once it is cut; null: an eighth of what is new, 4 to 256"
    )
    stages: list[Any] = Field(min_length=1, description="the steps, in order")
    quantiles: QuantileSettings = QuantileSettings()
    models: dict[str, ModelServer] = Field({}, description="model servers, by the name that stages give for `server`")
    engine: EngineSettings = EngineSettings()
    export: ExportSettings = ExportSettings()
    report: ReportSettings = ReportSettings()

    @field_validator("output")
    @classmethod
    def _public(cls, value: str | None) -> str | None:
        return None if value is None else location.check_keys(value, "the output's URL")
