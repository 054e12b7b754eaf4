"""What a user may set about an export."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from ugaf.balance.settings import BalanceSettings
from ugaf.base.errors import nearest
from ugaf.export.adapters import ADAPTERS, NEEDS_PARQUET
from ugaf.stage import Settings

FORMATS = ("parquet", "webdataset")


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
    adapters: list[str] = Field([], description=f"layouts of trainers to write besides: {', '.join(sorted(ADAPTERS))}")
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
