"""A run, read: its funnel, its rows with their verdicts, the story of one row. Nothing here writes or computes columns.

Everything is derived from the stored columns and the rules in `run.yaml` at the moment of asking.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from ugaf.base import location
from ugaf.base.errors import UgafError, nearest
from ugaf.base.trust import only as trusting
from ugaf.columns import reasons, record
from ugaf.columns.addressing import PART, search, source_names
from ugaf.columns.counts import EXAMPLES, StageCounts
from ugaf.columns.fitting import fit
from ugaf.columns.parts import Columns, part_schema
from ugaf.columns.snapshot import Snapshot, Snapshots
from ugaf.columns.survey import Survey, survey
from ugaf.columns.values import FragmentValues
from ugaf.columns.verdicts import (
    FAILED,
    KEPT,
    NAMES,
    PENDING,
    REJECTED,
    Fits,
    FragmentVerdicts,
    Given,
    duplicates,
    judge,
    judge_all,
)
from ugaf.pipeline import naming, rules
from ugaf.pipeline.config import INGEST, Pipeline, parse_again
from ugaf.storage import Storage

FEW = 64
"""Fragments of which each is listed by itself, and not the whole run."""


@dataclass(frozen=True)
class StageView:
    """A stage as the report shows it. keep: rules by column, fitted quantiles beside their numbers."""

    name: str
    level: str
    columns: list[str]
    measures: list[str]
    keep: dict[str, dict[str, Any]]
    fingerprint: str
    settings: dict[str, Any]


class RunView:
    """Reads a run's folder. `path` is the folder as the user named it.

    Without a `pipeline`, the one that the run records is read; of its own classes (`package.module:Class`) only those
    of the packages in `trust` are imported. Raises UgafError for others. snapshot: what was just read of the run, where
    that is at hand. writes: whether what has to be read may be kept in packs (see `ugaf.columns.packs`).
    """

    def __init__(
        self,
        path: str,
        pipeline: Pipeline | None = None,
        trust: Collection[str] = (),
        *,
        snapshot: Snapshot | None = None,
        writes: bool = True,
    ) -> None:
        self.path = location.kept(path)
        self.storage = Storage(path)
        self.record: dict[str, Any] = {}
        if pipeline is None or self.storage.exists(record.RUN_FILE):
            self.record = record.read(self.storage, self.path)
        if pipeline is None:
            with trusting(trust, f"{self.path}/{record.RUN_FILE}"):
                pipeline = parse_again(self.record["pipeline"])
            _check_fingerprints(self.record, pipeline, self.path)
        self.pipeline = pipeline
        self.name, self.about = naming.title(pipeline), naming.about(pipeline)
        self.columns = Columns(self.storage, pipeline)
        self._writes = writes
        if snapshot is not None:
            self.snapshot = snapshot

    @cached_property
    def snapshot(self) -> Snapshot | None:
        """The run as it is stored when this is first asked; None where only its parts can say it (see `Snapshots`)."""
        return Snapshots(self.columns, self._writes).now()

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Every input that ever fed the run: `input`, `sources`, `rows`. [] where there is no record of it."""
        return [{key: entry[key] for key in ("input", "sources", "rows")} for entry in self.record.get("inputs", ())]

    @cached_property
    def fragments(self) -> list[str]:
        return self.columns.fragments() if self.snapshot is None else self.snapshot.fragments

    @cached_property
    def skips(self) -> dict[str, set[str]]:
        """Exact duplicates across fragments: ids of each fragment that an earlier one holds."""
        return duplicates(self.columns, self.fragments) if self.snapshot is None else self.snapshot.skips

    @cached_property
    def fits(self) -> Fits:
        return fit(self.columns, self.fragments, self.skips) if self.snapshot is None else self.snapshot.fits

    @cached_property
    def survey(self) -> Survey:
        """What is missing in the run, and who fed it."""
        return survey(self.columns) if self.snapshot is None else self.snapshot.survey

    @cached_property
    def stages(self) -> list[StageView]:
        ingest = self.pipeline.ingest_schema
        views = [
            StageView(
                INGEST,
                self.pipeline.base_level,
                [name for name in ingest.names if name != "id"],
                [f.name for f in ingest if _is_measure(f.type)],
                {},
                self.pipeline.ingest_fingerprint,
                {"inputs": [entry.model_dump(mode="json") for entry in self.pipeline.settings.inputs]},
            )
        ]
        for spec in self.pipeline.stages:
            columns = spec.cls.schema
            keep = rules.describe(self.fits.get(spec.name, spec.rules))
            measures = [f.name for f in columns if _is_measure(f.type)]
            settings = spec.settings.model_dump(mode="json")
            views.append(
                StageView(spec.name, spec.level, list(columns.names), measures, keep, spec.fingerprint, settings)
            )
        return views

    def verdicts(self) -> Iterator[FragmentVerdicts]:
        """Fragment after fragment, as stored now."""
        yield from judge_all(self.columns, self.fragments, skips=self.skips, fits=self.fits)

    def verdicts_of(self, texts: Sequence[str]) -> Iterator[FragmentVerdicts]:
        """Of the fragments in which there may be something that these texts mean (see `ugaf.columns.addressing`)."""
        some = self.fragments if self.snapshot is None else self.snapshot.may_mean(texts)
        if len(some) > FEW:
            yield from judge_all(self.columns, some, skips=self.skips, fits=self.fits)
        for fragment in some if len(some) <= FEW else ():
            yield judge(self.columns, fragment, skip=self.skips.get(fragment, ()), fits=self.fits)

    def holding(self, ids: Collection[str], others: Collection[str] = ()) -> list[str]:
        """Fragments that may hold photographs with these ids, and these others, in order."""
        if self.snapshot is None:
            return self.fragments if ids or others else []
        some = self.snapshot.holding(ids) | set(others)
        return [fragment for fragment in self.fragments if fragment in some]

    def funnel(self) -> list[StageCounts]:
        """Every stage's account, ingest first, checked: no row is lost or counted twice."""
        if self.snapshot is not None:
            return copy.deepcopy(self.snapshot.counts)
        levels = {INGEST: self.pipeline.base_level, **{spec.name: spec.level for spec in self.pipeline.stages}}
        out = {name: StageCounts(name, level) for name, level in levels.items()}
        for fragment in self.verdicts():
            for given in fragment.stages:
                counts = out[given.stage]
                tally = np.bincount(given.code, minlength=4)
                counts.given += len(given.ids) + len(given.unread)
                counts.kept += int(tally[KEPT])
                counts.failed += int(tally[FAILED])
                counts.pending += int(tally[PENDING]) + len(given.unread)
                counts.rejected.update(given.cause(int(i)) for i in np.flatnonzero(given.code == REJECTED))
                counts.errors.update(given.cause(int(i)) for i in np.flatnonzero(given.code == FAILED))
                self._add_examples(counts, fragment, given)
                counts.seconds += given.seconds
                # Of a stage all that its seconds were spent on, whatever it would be given now; of ingest the rows.
                here = np.count_nonzero(given.index >= 0) if given.stage == INGEST else given.table.num_rows
                counts.rows += int(here)
        for counts in out.values():
            counts.check()
        return list(out.values())

    def _add_examples(self, counts: StageCounts, fragment: FragmentVerdicts, given: Given) -> None:
        """The first failure of each kind."""
        for position in np.flatnonzero(given.code == FAILED):
            reason = given.reason(int(position))
            if reason is None or reason.cause in counts.examples or len(counts.examples) >= EXAMPLES:
                continue
            key = given.ids[position]
            names = source_names(self.columns, fragment.fragment).get(fragment.parents.get(key, key), [])
            source = names[0] if names else ""
            counts.examples[reason.cause] = {"message": reason.message, "id": key, "source": source}

    def rows(
        self,
        level: str,
        columns: Sequence[str] = (),
        *,
        kept: bool = False,
        ids: Collection[str] | None = None,
        chosen: Callable[[dict[str, Any]], bool] = lambda _: True,
    ) -> Iterator[pa.Table]:
        """Rows of one level ("image" or "edit") with their verdicts, one table a fragment, sorted by id.

        Always with id, parent (edits of a run that made them), status ("kept", "rejected", "failed", "pending"),
        stage (that decided; "" if kept) and reason (see `ugaf.columns.reasons`; null if kept or pending). Then
        the asked columns, null where they have not been computed. An edit may ask for its photograph's columns.

        Args:
            kept: only rows that every stage kept.
            ids: only these rows; image-sized columns are read for no others.
            chosen: only rows for which this is true; it gets their id, status, stage and reason.
        """
        wanted = [name for name in dict.fromkeys(columns) if name not in ("id", "parent")]
        for fragment in self.verdicts():
            story = [row for row in self._story(fragment, level) if not kept or row["status"] == "kept"]
            story = [row for row in story if chosen(row)]
            if ids is not None:
                story = [row for row in story if row["id"] in ids]
            yield self._table(fragment.fragment, level, wanted, story)

    def find(self, text: str) -> tuple[str, str, FragmentVerdicts]:
        """(id, level, its fragment's verdicts) of the one row that a text means: an id or its beginning, a path, a file
        name or a part of one (see `ugaf.columns.addressing`); of a withdrawn one the row in its place, by its whole id,
        path or file name. Raises UgafError if none or several, or if it was not read yet.
        """
        found = search(self, [text])[text]
        matches = found.matches
        if found.rank >= PART and (stone := self.columns.tombstones.of_text(text)) is not None:
            # A part of another row's name is less than its own.
            matches = search(self, [stone.id], parts=False)[stone.id].matches
        if not matches:
            hint = f"; {self._how_named()}" if self.pipeline.is_pairs and self.fragments else ""
            raise UgafError(
                f"{self.path} has no row with an id that starts with {text!r} or a source of that name{hint}"
            )
        if len(matches) > 1:
            raise UgafError(found.ambiguity(text, self.path))
        (match,) = matches
        if match.place is not None:
            raise UgafError(f"{match.source} has not been read yet: it is pending at {INGEST}")
        skip = self.skips.get(match.fragment, ())
        return match.id, match.level, judge(self.columns, match.fragment, skip=skip, fits=self.fits)

    def _how_named(self) -> str:
        """How a pair is named, by the run's first: not by its pictures, whose names are not searched."""
        row = self.columns.sources(self.fragments[0], ["uri", "member"]).slice(0, 1).to_pylist()[0]
        name = row["uri"].rpartition("/")[2]
        return "a pair is named by where it stands, such as " + (f"{name}#{row['member']}" if row["member"] else name)

    def values(self, fragment: str, columns: Sequence[str], ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Columns of rows by id, all of the rows' own level."""
        return FragmentValues(self.columns, fragment).of(columns, ids)

    @cached_property
    def more_sources(self) -> dict[str, list[str]]:
        """Sources of exact duplicates in later fragments, by id: the one row remembers them all."""
        out: dict[str, list[str]] = {}
        for fragment, again in self.skips.items():
            if "sources" not in self.pipeline.ingest_schema.names:
                break
            for key, row in self.values(fragment, ["sources"], sorted(again)).items():
                out.setdefault(key, []).extend(row["sources"] or ())
        return out

    def _story(self, fragment: FragmentVerdicts, level: str) -> list[dict[str, Any]]:
        """Every row of a level with the verdict of the stage that decided it."""
        fan_out = self.pipeline.fan_out
        is_child = level == "edit" and not self.pipeline.is_pairs
        decided: dict[str, tuple[str, str, dict[str, str] | None]]
        if is_child:
            after = fragment.stages[fan_out + 2 :] if fan_out is not None else []
            decided = dict.fromkeys(sorted(fragment.parents), ("kept", "", None)) if fan_out is not None else {}
        elif level != self.pipeline.base_level:
            return []
        else:
            after = fragment.stages if fan_out is None else fragment.stages[: fan_out + 2]
            decided = dict.fromkeys(fragment[INGEST].ids, ("kept", "", None))
        for given in after:
            for number in np.flatnonzero(given.code != KEPT):
                status, reason = NAMES[given.code[number]], given.reason(int(number))
                decided[given.ids[number]] = (status, given.stage, None if reason is None else reason._asdict())
        return [
            {"id": key, **({"parent": fragment.parents[key]} if is_child else {})}
            | {"status": status, "stage": stage, "reason": reason}
            for key, (status, stage, reason) in decided.items()
        ]

    def _table(self, fragment: str, level: str, columns: Sequence[str], story: list[dict[str, Any]]) -> pa.Table:
        schema = self.rows_schema(level, columns)
        is_child = level == "edit" and not self.pipeline.is_pairs
        base = [name for name in columns if self.pipeline.is_base_column(name)]
        own = [name for name in columns if name not in base]
        reader = FragmentValues(self.columns, fragment)
        keys = [row["id"] for row in story]
        owners = [row["parent"] for row in story] if is_child else keys
        base_values = reader.of(base, sorted(set(owners))) if base and keys else {}
        own_values = reader.of(own, keys) if own and is_child and keys else {}
        rows = []
        for row, owner in zip(story, owners, strict=True):
            values = {**row, **base_values.get(owner, {}), **own_values.get(row["id"], {})}
            if "sources" in columns and owner in self.more_sources:
                values["sources"] = sorted({*(values["sources"] or ()), *self.more_sources[owner]})
            rows.append(values)
        return pa.Table.from_pylist([{f.name: r.get(f.name) for f in schema} for r in rows], schema=schema)

    def rows_schema(self, level: str, columns: Sequence[str]) -> pa.Schema:
        """The columns of `rows`. Raises UgafError for one that the run does not have."""
        for name in columns:
            if name not in self.pipeline.providers:
                raise UgafError(f"the run has no column {name!r}{nearest(name, self.pipeline.providers)}")
        is_child = level == "edit" and not self.pipeline.is_pairs
        text = ["id", *(["parent"] if is_child else []), "status", "stage"]
        fields = [*(pa.field(name, pa.string()) for name in text), pa.field("reason", reasons.TYPE)]
        return pa.schema([*fields, *(pa.field(name, self._type(name)) for name in columns)])

    def _type(self, column: str) -> pa.DataType:
        provider = self.pipeline.providers[column]
        if provider != INGEST and self.pipeline.stage(provider).cls.fans_out:
            return self.pipeline.stage(provider).cls.schema.field(column).type
        return part_schema(self.pipeline, provider).field(column).type


def _check_fingerprints(made: dict[str, Any], pipeline: Pipeline, path: str) -> None:
    """A run that other code made would read as pending, and its shards as stale: say so instead."""
    now = {INGEST: pipeline.ingest_fingerprint, **{spec.name: spec.fingerprint for spec in pipeline.stages}}
    then = made.get("fingerprints", {})
    for name, fingerprint in now.items():
        if then.get(name) != fingerprint:
            raise UgafError(
                f"{path} was made by ugaf {made.get('ugaf', '?')} with other code: {name} is {then.get(name)} there "
                f"and {fingerprint} here; read it with the code that made it, or run its pipeline again"
            )


def _is_measure(type: pa.DataType) -> bool:
    return pat.is_integer(type) or pat.is_floating(type)
