"""What a pipeline's `inputs:` may say: where the photographs, or the edit pairs, come from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ugaf.base import location
from ugaf.base.errors import nearest
from ugaf.ingest.limits import HttpSettings, LimitSettings
from ugaf.stage import Settings

Kind = Literal["auto", "images", "webdataset", "parquet", "list", "pairs"]
SCHEMES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hdfs", "http", "https")
"""Of URLs that name a bucket or a host."""
ROLES = (
    *("image", "caption", "source", "edited", "instruction", "task", "boxes", "reference", "engine", "id"),
    *("image_id", "split"),
)


class InputSettings(Settings):
    """One input; in YAML a plain string stands for `{path: string}`."""

    path: str = Field(
        min_length=1,
        description="file, folder, glob or URL of images, tars, Parquet or pair sets; sample:// for bundled ones",
    )
    kind: Kind = Field(
        "auto",
        description="what the path holds; auto decides by file names and columns",
    )
    columns: dict[str, str] = Field(
        {},
        description=f"our names ({', '.join(ROLES)}) to the file's columns, where they are not recognised",
    )
    root: str | None = Field(
        None,
        description="folder that image paths in a pair set or Parquet file start from; default: the file's own",
    )
    allow: list[str] = Field(
        [], description="other folders or URLs below which a path in the data may lie, or a link of a folder may lead"
    )
    hosts: list[str] | None = Field(
        None,
        description="hosts that web addresses in the data may name (HOST, HOST:PORT, *.DOMAIN); default: every public "
        "one",
    )
    limits: LimitSettings = Field(LimitSettings(), description="sizes over which a file, line or image is refused")
    http: HttpSettings = Field(HttpSettings(), description="patience with web servers")
    limit: int | None = Field(None, ge=1, description="take only this many, in listing order")

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("path")
    @classmethod
    def _names_something(cls, value: str) -> str:
        scheme, slashes, rest = value.partition("://")
        if slashes and scheme.lower() in SCHEMES and not rest.strip("/"):
            raise ValueError(f"{value!r}: nothing after {scheme}:// (a variable that is not set?)")
        return value

    @field_validator("path", "root")
    @classmethod
    def _public(cls, value: str | None) -> str | None:
        return None if value is None else location.check_keys(value, "an input's URL")

    @field_validator("allow")
    @classmethod
    def _public_all(cls, value: list[str]) -> list[str]:
        return [location.check_keys(folder, "a URL of `allow`") for folder in value]

    @field_validator("columns")
    @classmethod
    def _known_roles(cls, columns: dict[str, str]) -> dict[str, str]:
        for role in columns:
            if role not in ROLES:
                raise ValueError(f"unknown name {role!r}{nearest(role, ROLES)}")
        return columns
