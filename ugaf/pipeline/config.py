"""A pipeline: the YAML that a user writes, checked completely before any work starts.

`load` finds the file (a path, or the name of one that ugaf ships), applies `--set key=value`, validates every setting
with the nearest valid name for a typo, wires the stages' columns together and gives each stage its fingerprint.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from ugaf.base import yaml_files
from ugaf.base.errors import ConfigError, explain_validation, nearest
from ugaf.ingest import FREE_TEXT, IMAGE_SCHEMA, PAIR_SCHEMA, format_of
from ugaf.ingest import VERSION as INGEST_VERSION
from ugaf.ingest.detect import holds_pairs
from ugaf.ingest.listing import check_readable
from ugaf.pipeline import changes, naming, rules
from ugaf.pipeline.classes import known_stages as known_stages
from ugaf.pipeline.classes import stage_class as stage_class
from ugaf.pipeline.settings import PipelineSettings
from ugaf.pipeline.spec import (
    INGEST,
    Resources,
    StageSpec,
    check_best,
    check_lanes,
    check_levels,
    check_whole_run,
    digest,
    fingerprint_of,
    merged_keep,
)


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline. It travels to workers, and what it says there is what it says here: all of it is values.

    is_pairs: the rows that are taken in are edit pairs, not photographs. providers: the stage (or "ingest") that writes
    each column.
    """

    settings: PipelineSettings
    stages: tuple[StageSpec, ...]
    is_pairs: bool
    providers: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def output(self) -> str:
        return self.settings.output or f"runs/{self.name}"

    @property
    def ingest_schema(self) -> pa.Schema:
        return _ingest_schema(self.is_pairs)

    @property
    def base_level(self) -> str:
        return "edit" if self.is_pairs else "image"

    @property
    def ingest_fingerprint(self) -> str:
        return _ingest_fingerprint(self.is_pairs)

    @property
    def fan_out(self) -> int | None:
        """Position of the stage that turns photographs into edits, if there is one."""
        return next((number for number, spec in enumerate(self.stages) if spec.cls.fans_out), None)

    def type_of(self, column: str) -> pa.DataType:
        """The type of a column that a run of this pipeline has."""
        provider = self.providers[column]
        schema = self.ingest_schema if provider == INGEST else self.stage(provider).cls.schema
        return schema.field(column).type

    @property
    def free_text(self) -> frozenset[str]:
        """Columns that are told in words: their values are read, not counted."""
        written = {name for spec in self.stages for name, column in spec.cls.columns.items() if column.text}
        return frozenset(FREE_TEXT | written)

    def stage(self, name: str) -> StageSpec:
        """Raises ConfigError with the nearest name."""
        for spec in self.stages:
            if spec.name == name:
                return spec
        raise ConfigError(f"the pipeline has no stage {name!r}{nearest(name, [s.name for s in self.stages])}")

    def is_base_column(self, column: str) -> bool:
        """True for a column of the rows that were taken in, False for one of the rows that a stage fanned out."""
        if self.fan_out is None:
            return True
        order = [INGEST, *(spec.name for spec in self.stages)]
        return order.index(self.providers[column]) <= self.fan_out

    @property
    def document(self) -> dict[str, Any]:
        """The resolved pipeline as plain data, every default filled in; `parse` takes it back."""
        top = self.settings.model_dump(mode="json", exclude={"stages"})
        # What `kind: auto` found is written down, so that a run can be read when its inputs are gone.
        for entry in top["inputs"]:
            if entry["kind"] == "auto":
                entry["kind"] = "pairs" if self.is_pairs else _kind_by_name(entry["path"])
        stages = [
            {
                spec.name: {
                    **spec.settings.model_dump(mode="json"),
                    "keep": dict(spec.keep),
                    "resources": spec.resources.model_dump(mode="json", exclude_none=True),
                }
            }
            for spec in self.stages
        ]
        return {**top, "output": self.output, "stages": stages}


def shipped_pipelines() -> dict[str, Path]:
    """The pipelines that come with ugaf, by name."""
    pipelines = importlib.import_module("ugaf.pipelines")
    folders = [Path(folder) for folder in pipelines.__path__]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def load(pipeline: str, overrides: Sequence[str] = ()) -> Pipeline:
    """Read and check a pipeline file, or a shipped pipeline by name, with `key=value` overrides applied."""
    path = Path(pipeline)
    is_shipped = not path.is_file()
    if is_shipped:
        shipped = shipped_pipelines()
        if pipeline not in shipped and (path.is_dir() or "://" in pipeline):
            raise ConfigError(f"{pipeline} is no pipeline: for inputs, write `--input {pipeline}`")
        if pipeline not in shipped:
            raise ConfigError(f"no pipeline file or shipped pipeline {pipeline!r}{nearest(pipeline, shipped)}")
        path = shipped[pipeline]
    document = yaml_files.mapping(path, str(path), "a pipeline: a mapping with name, inputs and stages")
    if is_shipped:
        document = naming.with_other_inputs(document, overrides)
    return parse(document, overrides)


def parse(document: Mapping[str, Any], overrides: Sequence[str] = ()) -> Pipeline:
    """Check a pipeline given as plain data. Raises ConfigError that names the setting.

    Looks at inputs of `kind: auto`: raises StopRun where their store does not answer.
    """
    return _parse(document, overrides, lambda settings: {holds_pairs(entry) for entry in settings.inputs})


def parse_again(document: Mapping[str, Any], overrides: Sequence[str] = ()) -> Pipeline:
    """Check a pipeline's own `document`, as a run records it. What the inputs hold is written in it: they are not
    looked at, so that a run can be read where they are gone or their store is away. Raises ConfigError.
    """
    return _parse(document, overrides, lambda settings: {any(entry.kind == "pairs" for entry in settings.inputs)})


def _parse(
    document: Mapping[str, Any], overrides: Sequence[str], kinds_of: Callable[[PipelineSettings], set[bool]]
) -> Pipeline:
    document = {**document, "stages": changes.stage_entries(document.get("stages"))}
    for override in overrides:
        changes.apply(document, override)
    stages = document["stages"]
    try:
        settings = PipelineSettings.model_validate({**document, "stages": list(stages.items())})
    except ValidationError as error:
        raise ConfigError(explain_validation(error, "pipeline", PipelineSettings)) from error
    kinds = kinds_of(settings)
    if len(kinds) > 1:
        raise ConfigError("inputs: photographs and edit pairs cannot be mixed in one run; use two runs")
    pipeline = _wire(settings, stages, is_pairs=kinds == {True})
    _check_pairs_are_wanted(pipeline)
    if settings.export.balance is not None:
        from ugaf.balance import check as check_balance

        check_balance(settings.export.balance.by, pipeline.providers, pipeline.type_of)
    return pipeline


def _check_pairs_are_wanted(pipeline: Pipeline) -> None:
    """That pairs which nobody called pairs are not measured by their sources alone."""
    found = [entry.path for entry in pipeline.settings.inputs if entry.kind == "auto"]
    if pipeline.is_pairs and found and not any("edited_image" in spec.reads for spec in pipeline.stages):
        _check_readable(pipeline.settings)
        raise ConfigError(
            f"inputs: {', '.join(found)}: holds edit pairs, and no stage of {pipeline.name} looks at an edited image: "
            "take a pipeline that does (refine), or set `kind: pairs` to have the pairs' sources measured"
        )


def _check_readable(settings: PipelineSettings) -> None:
    """That nothing is said of what inputs hold which are not there or cannot be read."""
    for entry in settings.inputs:
        if entry.kind == "auto":
            check_readable(entry)


def _ingest_schema(is_pairs: bool) -> pa.Schema:
    return PAIR_SCHEMA if is_pairs else IMAGE_SCHEMA


def _ingest_fingerprint(is_pairs: bool) -> str:
    return digest({"name": INGEST, "version": INGEST_VERSION, "pairs": is_pairs})


def _wire(settings: PipelineSettings, stages: Mapping[str, Any], is_pairs: bool) -> Pipeline:
    """Resolve stages in order: each may read what ingest and the stages before it write."""
    level = "edit" if is_pairs else "image"
    schema = _ingest_schema(is_pairs)
    providers = dict.fromkeys(schema.names, INGEST)
    fingerprints = {INGEST: _ingest_fingerprint(is_pairs)}
    specs: list[StageSpec] = []
    for name, entry in stages.items():
        options = dict(entry or {})
        cls = stage_class(name)
        keep = merged_keep(cls.keep, options.pop("keep", None) or {}, name)
        resources = _validate(Resources, options.pop("resources", None) or {}, f"{name}.resources")
        own = _validate(cls.Settings, options, name)
        if "edited_image" in cls.reads and not (is_pairs or "edited_image" in providers):
            _check_readable(settings)
            photographs = ", ".join(entry.path for entry in settings.inputs)
            raise ConfigError(
                f"{name}: needs edit pairs, and {photographs} holds photographs; no stage before it makes edits"
            )
        if cls.fans_out and level == "edit":
            raise ConfigError(f"{name}: turns photographs into edits, but the rows are edits already")
        if cls.fans_out and keep:
            raise ConfigError(f"{name}: a stage that fans out has no keep rules; give them to a stage after it")
        parsed = rules.parse(keep, cls.schema, name)
        lanes = {lane: cls.needs(own, lane) for lane in cls.lanes(own)}
        spec = StageSpec(name, cls, own, keep, parsed, resources, level, "", cls.needs(own), lanes)
        spec = replace(spec, fingerprint=fingerprint_of(spec, settings.seed, settings.models, providers, fingerprints))
        check_levels(name, cls, level, is_pairs, providers, specs)
        check_lanes(spec, providers, specs)
        specs.append(spec)
        _check_columns(spec, specs, schema, is_pairs)
        for column in cls.schema.names:
            if column in ("id", "parent", "error"):
                raise ConfigError(f"{name}: the column name {column!r} is the engine's own")
            if column in providers:
                raise ConfigError(f"{name}: column {column!r} is written by {providers[column]} already")
            providers[column] = name
        fingerprints[name] = spec.fingerprint
        level = "edit" if cls.fans_out else level
    return Pipeline(settings, tuple(specs), is_pairs, providers)


def _check_columns(spec: StageSpec, specs: Sequence[StageSpec], schema: pa.Schema, is_pairs: bool) -> None:
    """The checks that need the columns' types, and whether they are of photographs or of edits."""
    types = {field.name: field.type for field in schema}
    own = set(types) if is_pairs or spec.level == "image" else set()
    for other in specs:
        types.update({field.name: field.type for field in other.cls.schema})
        written = "edit" if other.cls.fans_out else other.level
        own |= set(other.cls.schema.names) if written == spec.level else set()
    check_best(spec, types, own)
    check_whole_run(spec, own)


def _kind_by_name(path: str) -> str:
    """The kind of an input of photographs, so that it is not taken for pairs when it is gone."""
    if format_of(path) == "records":
        return "list"
    return {".parquet": "parquet", ".tar": "webdataset"}.get(Path(path).suffix, "auto")


def _validate(model: Any, options: Mapping[str, Any], where: str) -> Any:
    try:
        return model.model_validate(options)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, where, model)) from error
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from error
