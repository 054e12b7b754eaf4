"""Engines: implementations by the name that a pipeline gives, `detector: {engine: proposals, max_boxes: 12}`.

The classes are named here and imported only when used, so that a pipeline pays for no library that it does not run.
Each class has a `Settings` model for its options, and is built as `cls(settings)`; one whose settings name a server of
the pipeline's `models:` is built as `cls(settings, servers)`. A name with a colon (`my_package.module:MyDetector`)
takes a class of the user's own; an installed package may give it a short one (`extensions`).

A stage names an engine in a setting of one of the types at the end (`DetectorSpec` and the like): its options are
checked with the stage's, and its needs and identity are then the stage's too.

An engine's module imports no heavy library at its top: settings are checked, and `needs` answered, where none is there.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ValidationError

from ugaf.base import trust
from ugaf.base.errors import ConfigError, explain_validation, nearest
from ugaf.base.needs import Needs, together
from ugaf.stage import extensions
from ugaf.stage.prompts import PromptsOf, digest

ENGINES: dict[str, dict[str, str]] = {
    "detector": {
        "proposals": "ugaf.models.detectors.proposals.detector:ProposalDetector",
        "transformers": "ugaf.models.detectors.transformers_engine:TransformersDetector",
        "ultralytics": "ugaf.models.detectors.ultralytics_engine:UltralyticsDetector",
        "mmdet": "ugaf.models.detectors.mmdet_engine:MMDetDetector",
        "boxes": "ugaf.models.detectors.boxes:BoxesDetector",
        "vlm": "ugaf.models.detectors.vlm:VLMDetector",
    },
    "editor": {
        "templates": "ugaf.models.editors.templates:TemplateEditor",
        "diffusers": "ugaf.models.editors.diffusion.engine:DiffusersEditor",
        "http": "ugaf.models.editors.images_api:ImagesAPIEditor",
    },
    "writer": {
        "templates": "ugaf.wording.writer:TemplateWriter",
        "vlm": "ugaf.models.writers.vlm:VLMWriter",
    },
    "screener": {
        "rules": "ugaf.models.screeners.passing:RuleScreener",
        "llm": "ugaf.models.screeners.llm:LLMScreener",
    },
    "verifier": {
        "rules": "ugaf.models.verifiers.rules:RuleVerifier",
        "vlm": "ugaf.models.verifiers.vlm:VLMVerifier",
    },
    "reader": {
        "rapidocr": "ugaf.models.readers.rapidocr_engine:RapidOCRReader",
    },
    "scorer": {
        "measures": "ugaf.models.scorers.measures:MeasureScorer",
        "editscore": "ugaf.models.scorers.editscore:EditScorer",
    },
    "encoder": {
        "transformers": "ugaf.models.encoders.transformers_engine:TransformersEncoder",
        "torchscript": "ugaf.models.encoders.torchscript_engine:TorchScriptEncoder",
    },
    "predictor": {
        "head": "ugaf.models.predictors.head:HeadPredictor",
        "classifier": "ugaf.models.predictors.classifier:ClassifierPredictor",
    },
}


@dataclass(frozen=True)
class EngineOf:
    """Marks a setting that names an engine (or with `many`, a mapping of names to engines)."""

    interface: str
    many: bool = False


@dataclass(frozen=True)
class ServerRef:
    """Marks an engine's setting that names an entry of the pipeline's `models:`."""


ServerName = Annotated[str, ServerRef()]


def engine_class(interface: str, spec: Mapping[str, Any]) -> Any:
    """The class that `spec["engine"]` names. Raises ConfigError with the nearest name if there is none."""
    known = ENGINES[interface]
    name = spec.get("engine")
    if not isinstance(name, str):
        raise ConfigError(f"{interface}: name an engine, one of {', '.join(sorted(known))}")
    path = known.get(name, name)
    if ":" not in path:
        others = extensions.named(f"ugaf.{interface}s")
        if name not in others:
            raise ConfigError(f"{interface}: unknown engine {name!r}{nearest(name, [*known, *others])}")
        path = others[name]
    module, _, attribute = path.partition(":")
    if name not in known:
        trust.check(module)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{interface}: engine {name!r} cannot be loaded from {path}: {error}") from error


def check(interface: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with defaults filled in and the engine's `version` added.

    The engine is not built, so that no model is loaded before the run starts. Raises ConfigError naming the option.
    """
    cls = engine_class(interface, spec)
    return {
        "engine": spec["engine"],
        **settings_of(interface, spec).model_dump(mode="json"),
        "version": getattr(cls, "version", 1),
    }


def build(interface: str, spec: Mapping[str, Any], servers: Mapping[str, Any] | None = None) -> Any:
    """The implementation itself, ready to use. servers: name -> `ugaf.models.servers.ServerLink`.

    Raises ConfigError naming the option.
    """
    cls, settings = engine_class(interface, spec), settings_of(interface, spec)
    return cls(settings, servers or {}) if server_names(settings) else cls(settings)


def settings_of(interface: str, spec: Mapping[str, Any]) -> Any:
    """The engine's checked settings. Raises ConfigError naming the option."""
    cls = engine_class(interface, spec)
    options = {key: value for key, value in spec.items() if key not in ("engine", "version")}
    try:
        return cls.Settings(**options)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, f"{interface} engine {spec['engine']!r}", cls.Settings)) from error


def server_names(settings: BaseModel) -> tuple[str, ...]:
    """The entries of `models:` that an engine's settings name."""
    fields = type(settings).model_fields.items()
    names = [getattr(settings, name) for name, field in fields if _marked(field, ServerRef)]
    return tuple(name for name in names if name)


def needs(interface: str, spec: Mapping[str, Any]) -> Needs:
    """What the engine needs with these options: its classmethod `needs(settings)`, and its servers."""
    cls, settings = engine_class(interface, spec), settings_of(interface, spec)
    own = cls.needs(settings) if hasattr(cls, "needs") else Needs()
    return together([own, Needs(servers=server_names(settings))])


def identity(settings: BaseModel, models: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What of some settings the columns depend on, as plain data: what goes into a fingerprint.

    Left out: settings marked `operational` (how the work is done, not what comes out). An engine is its name, version
    and own identity. Prompts are the texts that count, shipped ones too. A server is its entry's `identity()` in
    `models` (which model), not its name. Raises ConfigError for a server that is not there.
    """
    dumped = settings.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("operational"):
            continue
        engine = _marked(field, EngineOf)
        value = dumped[name]
        if engine is not None and value is not None:
            specs = value if engine.many else {"": value}
            told = {key: _engine_identity(engine.interface, spec, models) for key, spec in specs.items()}
            found[name] = told if engine.many else told[""]
        elif (prompted := _marked(field, PromptsOf)) is not None:
            found[name] = digest(prompted.folder, value)
        elif _marked(field, ServerRef) is not None and value:
            found[name] = _server(value, models or {}).identity()
        else:
            found[name] = value
    return found


def engines_in(settings: BaseModel) -> list[tuple[str, str, dict[str, Any]]]:
    """(interface, key, spec) of the engines that a stage's settings name; the key is "" for a single one."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for name, field in type(settings).model_fields.items():
        engine, value = _marked(field, EngineOf), getattr(settings, name)
        if engine is None or value is None:
            continue
        specs = value.items() if engine.many else [("", value)]
        found.extend((engine.interface, key, spec) for key, spec in specs)
    return found


def _engine_identity(interface: str, spec: Mapping[str, Any], models: Mapping[str, Any] | None) -> dict[str, Any]:
    cls, settings = engine_class(interface, spec), settings_of(interface, spec)
    return {"engine": spec["engine"], **identity(settings, models), "version": getattr(cls, "version", 1)}


def _server(name: str, models: Mapping[str, Any]) -> Any:
    if name not in models:
        raise ConfigError(f"server {name!r} is not among the pipeline's `models:`{nearest(name, models)}")
    return models[name]


def _marked(field: Any, mark: type) -> Any:
    """The mark of a pydantic field, also where it stands inside of a union (`ServerName | None`)."""
    marks = [
        *field.metadata,
        *(m for option in get_args(field.annotation) for m in getattr(option, "__metadata__", ())),
    ]
    return next((found for found in marks if isinstance(found, mark)), None)


def _checked(interface: str) -> AfterValidator:
    return AfterValidator(lambda spec: check(interface, spec))


def _all_checked(interface: str) -> AfterValidator:
    return AfterValidator(lambda specs: {key: check(interface, spec) for key, spec in specs.items()})


DetectorSpec = Annotated[dict[str, Any], EngineOf("detector"), _checked("detector")]
EditorSpec = Annotated[dict[str, Any], EngineOf("editor"), _checked("editor")]
EditorSpecs = Annotated[dict[str, dict[str, Any]], EngineOf("editor", many=True), _all_checked("editor")]
WriterSpec = Annotated[dict[str, Any], EngineOf("writer"), _checked("writer")]
ScreenerSpec = Annotated[dict[str, Any], EngineOf("screener"), _checked("screener")]
VerifierSpec = Annotated[dict[str, Any], EngineOf("verifier"), _checked("verifier")]
ScorerSpec = Annotated[dict[str, Any], EngineOf("scorer"), _checked("scorer")]
EncoderSpec = Annotated[dict[str, Any], EngineOf("encoder"), _checked("encoder")]
PredictorSpecs = Annotated[dict[str, dict[str, Any]], EngineOf("predictor", many=True), _all_checked("predictor")]
ReaderSpec = Annotated[dict[str, Any], EngineOf("reader"), _checked("reader")]
