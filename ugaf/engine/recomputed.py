"""Why a stage computes again: what is on record of a run, beside the pipeline as it is now.

A stage's columns lie in a folder of its fingerprint, so a changed setting, seed, model or version means another folder,
and so does each of these in a stage whose columns it reads. The record has the fingerprints and settings of then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from ugaf.base import trust
from ugaf.base.errors import UgafError
from ugaf.models.servers import ModelServer
from ugaf.pipeline.config import INGEST, Pipeline, StageSpec
from ugaf.stage import engines

_SHOWN = 60


def changes(pipeline: Pipeline, record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Stages whose columns are others than those on record, each with the reasons, in words.

    record: a run's (`record.read`); {} where there is none, which gives {}.
    """
    then = record.get("fingerprints", {})
    out: dict[str, list[str]] = {}
    if not then:
        return out
    if then.get(INGEST) != pipeline.ingest_fingerprint:
        out[INGEST] = ["inputs are read in another way than then"]
    held = record["pipeline"]
    for spec in pipeline.stages:
        if spec.name not in then:
            out[spec.name] = ["new in the pipeline"]
        elif then[spec.name] != spec.fingerprint:
            out[spec.name] = list(_reasons(pipeline, spec, held, out))
    return out


def _reasons(pipeline: Pipeline, spec: StageSpec, held: Mapping[str, Any], changed: Mapping[str, Any]) -> Iterator[str]:
    found = False
    for reason in _of_settings(pipeline, spec, held):
        found = True
        yield reason
    seeds = held.get("seed"), pipeline.settings.seed
    if spec.cls.seeded and seeds[0] != seeds[1]:
        found = True
        yield f"seed {seeds[0]} -> {seeds[1]}"
    read = [*spec.reads, *spec.optional_reads, *spec.cls.peers, *spec.cls.refs]
    read += [column for columns in spec.cls.refs.values() for column in columns]
    for name in dict.fromkeys(pipeline.providers.get(column, "") for column in read):
        if name in changed:
            found = True
            yield f"reads columns of {name}"
    if not found:
        yield f"its code or the texts that it uses changed (version {spec.cls.version} now)"


def _of_settings(pipeline: Pipeline, spec: StageSpec, held: Mapping[str, Any]) -> Iterator[str]:
    """`width 64 -> 128`, for what of the settings the columns depend on."""
    options = next((entry[spec.name] for entry in held["stages"] if spec.name in entry), None) or {}
    own = {key: value for key, value in options.items() if key not in ("keep", "resources")}
    # The record may be another's: it brings in no code that this pipeline does not name.
    named = [spec.name, *(str(engine["engine"]) for _, _, engine in engines.engines_in(spec.settings))]
    packages = [name.partition(":")[0] for name in named if ":" in name]
    try:
        with trust.only(packages, "run.yaml"):
            models = {name: ModelServer.model_validate(entry) for name, entry in held.get("models", {}).items()}
            then = engines.identity(spec.cls.Settings.model_validate(own), models)
    except (UgafError, ValidationError):
        yield "its settings, which were others then"
        return
    yield from _differences(then, engines.identity(spec.settings, pipeline.settings.models))


def _differences(then: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*then, *now]):
            yield from _differences(then.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif then != now:
        yield f"{path} {_text(then)} -> {_text(now)}"


def _text(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
