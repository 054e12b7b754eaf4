"""What a user may set about the data: the section `data` of a training configuration. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ugaf.stage import Settings, operational


class WordingColumn(Settings):
    """What the text of one column of instructions is."""

    language: str = Field("en", description="language of its text, as in `languages`")
    wording: str | None = Field(None, description="its register; default: what the row's column `register` says")


class InstructionSettings(Settings):
    """Which wording of its instruction a sample is shown with; drawn anew in each epoch."""

    columns: dict[str, WordingColumn] = Field(
        {"instruction": WordingColumn(), "instruction_cn": WordingColumn(language="cn")},
        min_length=1,
        description="columns that hold instructions; a row may have null in some of them",
    )
    languages: dict[str, float] = Field(
        {"en": 1.0, "cn": 0.2}, description="weight of each language among the wordings that a row has; others weigh 0"
    )
    registers: dict[str, float] = Field(
        {}, description="weight of each register, likewise; empty: all weigh 1. A wording of unknown register weighs 1"
    )

    @field_validator("languages", "registers")
    @classmethod
    def _weights(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name} is {weight}: give a number >= 0")
        if weights and not any(weights.values()):
            raise ValueError("all weights are 0: nothing could be drawn")
        return weights

    def weight(self, column: str, register: str | None) -> float:
        """Weight of a column in a row whose column `register` is as given; >= 0."""
        entry = self.columns[column]
        known = entry.wording if entry.wording is not None else register
        by_register = 1.0 if known is None or not self.registers else self.registers.get(known, 0.0)
        return self.languages.get(entry.language, 0.0) * by_register

    def usable(self) -> tuple[str, ...]:
        """Columns that may be drawn for some row."""
        return tuple(
            name
            for name, entry in self.columns.items()
            if self.languages.get(entry.language, 0.0) > 0
            and (entry.wording is None or not self.registers or self.registers.get(entry.wording, 0.0) > 0)
        )

    @model_validator(mode="after")
    def _some_column(self) -> InstructionSettings:
        if not self.usable():
            raise ValueError("no column of `columns` has a language and a register of weight > 0")
        return self


class AlignmentSettings(Settings):
    """Stochastic Instruction Alignment (FireRed-Image-Edit, section 3.2): references reordered and left out, with the
    instruction's "Picture 2" numbered anew."""

    shuffle: bool = Field(False, description="show a sample's references in an order drawn anew in each epoch")
    drop: float = Field(
        0.0, ge=0, lt=1, description="chance of leaving out a reference that the instruction does not name"
    )
    first: int = Field(2, ge=0, description="number by which instructions name the first reference; the source is 1")


class DataSettings(Settings):
    """The shards and how they become batches."""

    shards: list[str] = Field(
        min_length=1, description="a run's folder, or folders, files or globs of *.parquet or *.tar; paths or URLs"
    )
    split: str | None = Field("train", description="split to read: `train`, `validation`; null: every row")
    where: dict[str, dict[str, Any]] = Field(
        {}, description="only rows within these bounds, by column: {quality: {min: 7}, task: {one_of: [remove]}}"
    )
    area: int = Field(1024 * 1024, ge=256, description="pixels of a bucket, about")
    multiple: int = Field(32, ge=1, description="a bucket's sides are multiples of this")
    ratios: tuple[float, float] = Field(
        (0.25, 4.0), description="narrowest and widest bucket, width / height; what lies beyond is cropped more"
    )
    tokens: int | None = Field(
        None, ge=1, description="most tokens of a microbatch, target and conditions; null: one sample a microbatch"
    )
    token_side: int = Field(16, ge=1, description="pixels of a token's side")
    references: str | None = Field(
        None, description="list column, or prefix of WebDataset members, with further condition images"
    )
    max_references: int = Field(3, ge=0, le=8, description="references of a sample that are used; the rest is left out")
    instructions: InstructionSettings = InstructionSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    lanes: int = Field(
        8, ge=1, description="microbatches of one step, over all ranks; the number of ranks must divide it"
    )
    window: int = Field(16, ge=1, description="chunks (row groups) of a lane that are shuffled together, at most")
    window_mb: float = Field(256, gt=0, description="and at most so many megabytes of them, but at least one chunk")
    on_corrupt: Literal["skip", "stop"] = Field(
        "skip", description="skip: a sample that cannot be read is named and its slot weighs 0; stop: it ends the run"
    )
    max_corrupt: float = Field(
        0.01, ge=0, le=1, description="share of such samples at which the run stops (never before the eleventh)"
    )
    cache: str | None = Field(None, description="folder of a feature cache; images are then not read")
    workers: int = operational(2, ge=0, description="processes that decode for a rank (cache: threads); 0: in the loop")
    prefetch: int = operational(4, ge=1, description="batches made ahead of the step")

    @field_validator("ratios")
    @classmethod
    def _ratios(cls, ratios: tuple[float, float]) -> tuple[float, float]:
        if not (0 < ratios[0] <= 1 <= ratios[1] and math.isfinite(ratios[1])):
            raise ValueError("give the narrowest ratio (at most 1) and the widest (at least 1), width / height")
        return ratios

    @model_validator(mode="after")
    def _fits_together(self) -> DataSettings:
        if self.multiple**2 > self.area:
            raise ValueError(f"area {self.area} is less than one square of `multiple` {self.multiple}")
        if self.multiple % self.token_side:
            raise ValueError(f"multiple {self.multiple} is no multiple of token_side {self.token_side}")
        if self.cache is not None and (self.alignment.shuffle or self.alignment.drop):
            raise ValueError("alignment cannot be used with a cache: its embeddings saw the references in one order")
        return self

    def geometry(self) -> Mapping[str, Any]:
        """What decides the pixels and words that a cache was made from."""
        names = ("area", "multiple", "ratios", "references", "max_references")
        document = self.model_dump(mode="json")
        return {name: document[name] for name in names}
