"""A run's record, `run.yaml`: which pipeline the folder is a run of, made how, and every input that ever fed it.

A folder is a run of the pipeline whose name its record has. That pipeline may be changed and run again as often as one
likes. Another one may go on in the folder where it has all that is there, so that nothing is done again and nothing is
lost (`curate`, and later the pipeline that edits). Any other would leave what the folder holds out of its funnel and
its shards, so it is refused, unless it is told to take the folder over.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from ugaf import __version__
from ugaf.base import yaml_files
from ugaf.base.errors import ConfigError, UgafError
from ugaf.base.printing import counted
from ugaf.base.versions import package_versions
from ugaf.columns.origins import UNKNOWN, Origin
from ugaf.columns.parts import Columns
from ugaf.columns.verdicts import Fits
from ugaf.ingest import save_listing
from ugaf.pipeline import rules
from ugaf.pipeline.config import INGEST, Pipeline
from ugaf.storage import Storage

RUN_FILE = "run.yaml"


@dataclass(frozen=True)
class Fed:
    """What an input gave to the run. rows: those that stand in it now. first_seen: UTC."""

    origin: Origin
    sources: int
    rows: int
    first_seen: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the record."""
        seen = {"first_seen": self.first_seen} if self.first_seen else {}
        return {"input": self.origin.name, "sources": self.sources, "rows": self.rows, **seen}


def read(storage: Storage, path: str) -> dict[str, Any]:
    """The record of the run at `path`, as the user named it. Raises UgafError if there is none, or it is damaged."""
    record = find(storage, path)
    if record is None:
        raise UgafError(f"{path} is not a run: it has no {RUN_FILE}")
    if "pipeline" not in record:
        raise UgafError(f"{path}/{RUN_FILE} is damaged: it has no `pipeline`")
    return record


def find(storage: Storage, path: str) -> dict[str, Any] | None:
    """What the folder has of a record; None where there is no file. Raises UgafError if it cannot be parsed."""
    try:
        record = yaml_files.load(storage.read(RUN_FILE))
    except FileNotFoundError:
        return None
    except yaml.YAMLError as error:
        raise UgafError(f"{path}/{RUN_FILE} is damaged: {error}") from error
    return record if isinstance(record, dict) else {}


def save(columns: Columns, fits: Fits, inputs: Sequence[Fed] | None = None) -> None:
    """Write the record: versions, fingerprints, fitted numbers, inputs and what was not read of them, and the pipeline
    with every default filled in.

    inputs: what fed the run; None keeps what is on record. The same run gives the same record: the time of day in it
    is that at which an input was first seen.
    """
    pipeline, storage = columns.pipeline, columns.storage
    known = read(storage, pipeline.output).get("inputs", []) if storage.exists(RUN_FILE) else []
    record = {
        "ugaf": __version__,
        "python": platform.python_version(),
        "packages": package_versions(),
        "fingerprints": {INGEST: pipeline.ingest_fingerprint, **{s.name: s.fingerprint for s in pipeline.stages}},
        "fitted": {name: rules.describe(fitted) for name, fitted in fits.items()},
        **save_listing(storage),
        "inputs": known if inputs is None else [fed.as_dict() for fed in _dated(inputs, known)],
        "pipeline": pipeline.document,
    }
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=110)
    storage.write_if_changed(RUN_FILE, text.encode())


def check_pipeline(pipeline: Pipeline, replace: bool = False) -> str | None:
    """Whether this pipeline may work in its output folder; a line to show where it goes on in another one's run.

    Raises:
        ConfigError: the folder is a run of another pipeline (not with `replace`), or of rows of another kind.
    """
    storage = Storage(pipeline.output)
    if not storage.exists(RUN_FILE):
        return None
    record = read(storage, pipeline.output)
    held = record["pipeline"]
    _check_kind(pipeline, held)
    if held.get("name") == pipeline.name:
        return None
    then = record.get("fingerprints", {})
    now = {INGEST: pipeline.ingest_fingerprint, **{spec.name: spec.fingerprint for spec in pipeline.stages}}
    gone = [name for name in then if name not in now]
    other = [name for name in then if name in now and now[name] != then[name]]
    if not gone and not other:
        return f"{pipeline.output} was a run of {held.get('name')}; {pipeline.name} has all of its stages and goes on"
    if replace:
        return f"{pipeline.output} was a run of {held.get('name')}, and becomes one of {pipeline.name}"
    raise ConfigError(_refusal(pipeline, str(held.get("name")), record, gone, other))


def _refusal(pipeline: Pipeline, name: str, record: Mapping[str, Any], gone: list[str], other: list[str]) -> str:
    why = []
    if gone:
        why.append(f"{pipeline.name} has no {_some(gone)}")
    if other:
        why.append(f"{_some(other)} would be computed anew, with other settings")
    rows = sum(entry.get("rows", 0) for entry in record.get("inputs") or ())
    holds = f"{len(record['fingerprints']) - 1} stages" + (f", {counted(rows, 'rows')}" if rows else "")
    return (
        f"{pipeline.output} is a run of the pipeline {name!r} ({holds}), not of {pipeline.name!r}: {'; '.join(why)}.\n"
        f"Name another folder with --output. Or, to make this folder a run of {pipeline.name!r}, add --replace: its "
        f"columns stay, and its funnel, shards and report become those of {pipeline.name!r}."
    )


def _check_kind(pipeline: Pipeline, held: Mapping[str, Any]) -> None:
    pairs = any(entry.get("kind") == "pairs" for entry in held.get("inputs", ()))
    if pairs != pipeline.is_pairs:
        kinds = ("photographs", "edit pairs")
        raise ConfigError(
            f"{pipeline.output} is a run of {kinds[pairs]} ({held.get('name')}), and the inputs of this call are "
            f"{kinds[not pairs]}: a run holds one or the other; name another folder with --output"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} stages more" if len(names) > 3 else "")


def fed_by(sources: Counter[Origin], rows: Counter[Origin]) -> list[Fed]:
    """What each input gave, by how they were named first; the same place under two names is one input."""
    names: dict[str, Origin] = {}
    for origin in sources:
        names.setdefault(origin.place, origin)
    return [
        Fed(
            origin,
            sum(count for other, count in sources.items() if other.place == place),
            sum(count for other, count in rows.items() if other.place == place),
        )
        for place, origin in names.items()
        if origin != UNKNOWN or len(names) > 1
    ]


def stays(pipeline: Pipeline, inputs: Sequence[Fed]) -> list[str]:
    """A line for each input whose rows are in the run though this call does not name it."""
    now = {Origin.of(entry).place for entry in pipeline.settings.inputs}
    others = [fed for fed in inputs if fed.rows and fed.origin.place not in now]
    return [
        f"{fed.rows} {'row' if fed.rows == 1 else 'rows'} of {fed.origin.name or 'inputs that are not on record'} "
        f"{'stays' if fed.rows == 1 else 'stay'} in this run, though this call does not name it"
        for fed in others
    ]


def _dated(inputs: Sequence[Fed], known: Sequence[Mapping[str, Any]]) -> list[Fed]:
    """With the time at which each was first seen: as it is on record, else now."""
    seen = {entry.get("input"): entry.get("first_seen", "") for entry in known}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [Fed(fed.origin, fed.sources, fed.rows, seen.get(fed.origin.name, now)) for fed in inputs]
