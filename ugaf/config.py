"""A pipeline: the YAML that a user writes, checked completely before any work starts.

`load` finds the file (a path, or the name of one that ugaf ships), applies `--set key=value`, validates every setting
with the nearest valid name for a typo, wires the stages' columns together and gives each stage its fingerprint.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pydantic import Field, ValidationError

from ugaf import rules
from ugaf.errors import ConfigError, explain_validation, nearest
from ugaf.export import ExportSettings
from ugaf.ingest import IMAGE_SCHEMA, PAIR_SCHEMA, InputSettings
from ugaf.ingest import VERSION as INGEST_VERSION
from ugaf.stage import Settings, Stage

INGEST = "ingest"


class Resources(Settings):
    """What a stage's workers take; what is not set comes from the stage's own defaults."""

    cpus: float | None = Field(None, gt=0, description="CPUs that each worker reserves")
    gpus: float | None = Field(None, ge=0, description="GPUs that each worker reserves (fractions share one)")
    workers: int | None = Field(None, ge=1, description="number of workers; default: as many as fit")
    batch_rows: int | None = Field(None, ge=1, description="rows a call of the stage gets at most")


class EngineSettings(Settings):
    """How a run uses the machine or the cluster."""

    executor: str = Field("ray", pattern="^(ray|inline)$", description="ray, or inline: one process, for debugging")
    workers: int | None = Field(None, ge=1, description="CPU workers; default: one for each CPU")
    flush_mb: int = Field(64, ge=1, description="a worker writes a part whenever its new columns reach this size")
    row_crashes: int = Field(2, ge=1, description="times a row may kill its worker, alone in it, before it is failed")


class ReportSettings(Settings):
    """The HTML report."""

    gallery: int = Field(600, ge=0, description="pairs and photographs shown in the gallery, a stratified sample")


class PipelineSettings(Settings):
    """The top level of a pipeline file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's default folder")
    description: str = ""
    inputs: list[InputSettings] = Field(min_length=1, description="photographs or pairs: paths, globs, URLs, sample://")
    output: str | None = Field(None, description="the run's folder: a path or URL; default runs/NAME")
    seed: int = Field(0, description="every random choice derives from it, the stage and the row")
    fragment_rows: int = Field(256, ge=1, description="photographs a fragment; fixed for a fragment once it is cut")
    stages: list[Any] = Field(min_length=1, description="the steps, in order")
    engine: EngineSettings = EngineSettings()
    export: ExportSettings = ExportSettings()
    report: ReportSettings = ReportSettings()


@dataclass(frozen=True)
class StageSpec:
    """One stage of a pipeline, ready to run. `level` is that of the rows it is given: "image" or "edit"."""

    name: str
    cls: type[Stage]
    settings: Settings
    keep: Mapping[str, Any]
    rules: tuple[rules.Rule, ...]
    resources: Resources
    level: str
    fingerprint: str

    @property
    def folder(self) -> str:
        return f"{self.name}@{self.fingerprint}"

    @property
    def batch_rows(self) -> int:
        return self.resources.batch_rows or self.cls.batch_rows

    @property
    def own_pool(self) -> bool:
        custom = self.resources.cpus is not None or self.resources.workers is not None
        return self.cls.own_pool or self.gpus > 0 or custom

    @property
    def cpus(self) -> float:
        return self.cls.cpus if self.resources.cpus is None else self.resources.cpus

    @property
    def gpus(self) -> float:
        return self.cls.gpus if self.resources.gpus is None else self.resources.gpus

    @property
    def has_quantiles(self) -> bool:
        return any(rule.needs_fit for rule in self.rules)

    def build(self, seed: int) -> Stage:
        return self.cls(self.name, self.settings, seed)


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline. `providers` maps each column to the stage (or "ingest") that writes it."""

    settings: PipelineSettings
    stages: tuple[StageSpec, ...]
    ingest_schema: pa.Schema
    providers: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def output(self) -> str:
        return self.settings.output or f"runs/{self.name}"

    @property
    def is_pairs(self) -> bool:
        return self.ingest_schema is PAIR_SCHEMA

    @property
    def base_level(self) -> str:
        return "edit" if self.is_pairs else "image"

    @property
    def ingest_fingerprint(self) -> str:
        return _hash({"name": INGEST, "version": INGEST_VERSION, "pairs": self.is_pairs})

    @property
    def fan_out(self) -> int | None:
        """Position of the stage that turns photographs into edits, if there is one."""
        return next((number for number, spec in enumerate(self.stages) if spec.cls.fans_out), None)

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
    import pipelines

    folders = [Path(folder) for folder in pipelines.__path__]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def load(pipeline: str, overrides: Sequence[str] = ()) -> Pipeline:
    """Read and check a pipeline file, or a shipped pipeline by name, with `key=value` overrides applied."""
    path = Path(pipeline)
    if not path.is_file():
        shipped = shipped_pipelines()
        if pipeline not in shipped:
            raise ConfigError(f"no pipeline file or shipped pipeline {pipeline!r}{nearest(pipeline, shipped)}")
        path = shipped[pipeline]
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a pipeline is a mapping with name, inputs and stages")
    return parse(document, overrides)


def parse(document: Mapping[str, Any], overrides: Sequence[str] = ()) -> Pipeline:
    """Check a pipeline given as plain data. Raises ConfigError that names the setting."""
    document = {**document, "stages": _stage_entries(document.get("stages"))}
    for override in overrides:
        _apply(document, override)
    stages = document["stages"]
    try:
        settings = PipelineSettings.model_validate({**document, "stages": list(stages.items())})
    except ValidationError as error:
        raise ConfigError(explain_validation(error, "pipeline", PipelineSettings)) from error
    kinds = {entry.is_pairs for entry in settings.inputs}
    if len(kinds) > 1:
        raise ConfigError("inputs: photographs and edit pairs cannot be mixed in one run; use two runs")
    schema = PAIR_SCHEMA if kinds == {True} else IMAGE_SCHEMA
    return _wire(settings, stages, schema)


def _wire(settings: PipelineSettings, stages: Mapping[str, Any], schema: pa.Schema) -> Pipeline:
    """Resolve stages in order: each may read what ingest and the stages before it write."""
    is_pairs = schema is PAIR_SCHEMA
    level = "edit" if is_pairs else "image"
    ingest = _hash({"name": INGEST, "version": INGEST_VERSION, "pairs": is_pairs})
    providers = dict.fromkeys(schema.names, INGEST)
    fingerprints = {INGEST: ingest}
    specs: list[StageSpec] = []
    for name, entry in stages.items():
        options = dict(entry or {})
        cls = stage_class(name)
        keep = _merged_keep(cls.keep, options.pop("keep", None) or {}, name)
        resources = _validate(Resources, options.pop("resources", None) or {}, f"{name}.resources")
        own = _validate(cls.Settings, options, name)
        if cls.fans_out and level == "edit":
            raise ConfigError(f"{name}: turns photographs into edits, but the rows are edits already")
        if cls.fans_out and keep:
            raise ConfigError(f"{name}: a stage that fans out has no keep rules; give them to a stage after it")
        fingerprint = _fingerprint(name, cls, own, settings.seed, providers, fingerprints)
        parsed = rules.parse(keep, cls.writes, name)
        _check_levels(name, cls, level, is_pairs, providers, specs)
        specs.append(StageSpec(name, cls, own, keep, parsed, resources, level, fingerprint))
        for column in cls.writes.names:
            if column in ("id", "parent", "error"):
                raise ConfigError(f"{name}: the column name {column!r} is the engine's own")
            if column in providers:
                raise ConfigError(f"{name}: column {column!r} is written by {providers[column]} already")
            providers[column] = name
        fingerprints[name] = fingerprint
        level = "edit" if cls.fans_out else level
    return Pipeline(settings, tuple(specs), schema, providers)


def _merged_keep(defaults: Mapping[str, Any], given: Any, name: str) -> dict[str, Any]:
    """A stage's default rules with a pipeline's bounds put over them one by one; null switches a column's rules off.

    A bound takes the place of the default on the same side, be it a number or a quantile.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name}.keep: expected rules by column (got {given!r})")
    merged: dict[str, Any] = {column: dict(bounds) for column, bounds in defaults.items()}
    for column, bounds in given.items():
        if isinstance(bounds, Mapping) and isinstance(merged.get(column), dict):
            sides = {kind.removesuffix("_quantile") for kind in map(str, bounds)}
            others = {k: v for k, v in merged[column].items() if k.removesuffix("_quantile") not in sides}
            merged[column] = {**others, **bounds}
        else:
            merged[column] = bounds
    return merged


def _check_levels(
    name: str,
    cls: type[Stage],
    level: str,
    is_pairs: bool,
    providers: Mapping[str, str],
    before: Sequence[StageSpec],
) -> None:
    """Peers are rows of the stage's own level, and refs name rows that were taken in: so must be their columns."""
    edits = {spec.name for number, spec in enumerate(before) if spec.level == "edit" or spec.cls.fans_out}
    own = {column: "edit" if is_pairs or stage in edits else "image" for column, stage in providers.items()}
    for column in cls.peers:
        if own[column] != level:
            raise ConfigError(f"{name}: peers: {column!r} is a column of {own[column]}s; its neighbours are {level}s")
    for column in (column for columns in cls.refs.values() for column in columns):
        if own[column] != ("edit" if is_pairs else "image"):
            raise ConfigError(f"{name}: refs: {column!r} is no column of the rows that were taken in")


def _fingerprint(
    name: str,
    cls: type[Stage],
    settings: Settings,
    seed: int,
    providers: Mapping[str, str],
    fingerprints: Mapping[str, str],
) -> str:
    """Covers all that a stage's columns depend on: code version, settings, seed if used, and the columns it reads."""
    needed = [*cls.reads, *cls.peers, *cls.refs, *(column for columns in cls.refs.values() for column in columns)]
    for column in needed:
        if column not in providers:
            raise ConfigError(f"{name}: reads column {column!r}, which no stage before it writes")
    present = [column for column in cls.optional_reads if column in providers]
    reads = {column: fingerprints[providers[column]] for column in sorted({*needed, *present})}
    content = {"name": name, "version": cls.version, "settings": settings.model_dump(mode="json"), "reads": reads}
    # A forgotten `version` must not mix parts with other columns or other ids.
    content["writes"] = [f"{field.name}: {field.type}" for field in cls.writes]
    if cls.fans_out:
        content["identity"] = list(cls.identity)
    if cls.seeded:
        content["seed"] = seed
    return _hash(content)


def stage_class(name: str) -> type[Stage]:
    """The Stage subclass of `stages/<name>.py`, or of `package.module:Class`. Raises ConfigError."""
    module_name, _, attribute = name.partition(":")
    if not attribute:
        module_name = f"stages.{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(f"{name}: needs the package {error.name!r}, which is not installed") from error
        raise ConfigError(f"unknown stage {name!r}{nearest(name, known_stages())}") from error
    if attribute:
        cls = getattr(module, attribute, None)
        if not (inspect.isclass(cls) and issubclass(cls, Stage)):
            raise ConfigError(f"{name}: {module_name} has no Stage named {attribute!r}")
        return cls
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Stage) and c is not Stage]
    found = [c for c in found if c.__module__ == module_name]
    if len(found) != 1:
        raise ConfigError(f"{name}: {module_name} must define exactly one Stage (it defines {len(found)})")
    return found[0]


def known_stages() -> list[str]:
    """Names of the stages in the `stages` package."""
    import stages

    found = pkgutil.walk_packages(stages.__path__, "stages.")
    return sorted(module.name.removeprefix("stages.") for module in found if not module.ispkg)


def _kind_by_name(path: str) -> str:
    """The kind of an input of photographs, so that it is not taken for pairs when it is gone."""
    return {".parquet": "parquet", ".tar": "webdataset"}.get(Path(path).suffix, "auto")


def _stage_entries(stages: Any) -> dict[str, Any]:
    """The list of names and single-key mappings as an ordered mapping."""
    if not isinstance(stages, list):
        raise ConfigError("stages: expected a list of stage names, each with or without settings")
    entries: dict[str, Any] = {}
    for entry in stages:
        if isinstance(entry, str):
            entry = {entry: None}
        if not (isinstance(entry, dict) and len(entry) == 1):
            raise ConfigError(f"stages: each entry is a name, or `name: {{settings}}` (got {entry!r})")
        ((name, options),) = entry.items()
        if name in entries:
            raise ConfigError(f"stages: {name!r} stands twice")
        if options is not None and not isinstance(options, dict):
            raise ConfigError(f"stages.{name}: expected a mapping of settings (got {options!r})")
        entries[str(name)] = options
    return entries


def _apply(document: dict[str, Any], override: str) -> None:
    """Set one `key=value`; the key is a top-level setting's path, or a stage's name and a path in its settings."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: expected key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
    stages = document["stages"]
    key = key.strip().removeprefix("stages.")
    owner = max((name for name in stages if key.startswith(f"{name}.")), key=len, default=None)
    if owner is not None:
        stages[owner] = dict(stages[owner] or {})
        _set_path(stages[owner], key[len(owner) + 1 :].split("."), value, override)
        return
    first = key.split(".")[0]
    if first not in PipelineSettings.model_fields or first == "stages":
        known = [*PipelineSettings.model_fields, *stages]
        close = nearest(key.rsplit(".", 1)[0], stages) if "." in key else nearest(first, known)
        raise ConfigError(f"--set {override}: no such setting or stage in this pipeline{close}")
    _set_path(document, key.split("."), value, override)


def _set_path(target: dict[str, Any], path: Sequence[str], value: Any, override: str) -> None:
    for part in path[:-1]:
        inner = target.get(part)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {part} is not a mapping")
        target[part] = dict(inner or {})
        target = target[part]
    target[path[-1]] = value


def _validate(model: Any, options: Mapping[str, Any], where: str) -> Any:
    try:
        return model.model_validate(options)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, where, model)) from error
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from error


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
