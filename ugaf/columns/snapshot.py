"""A run as it is stored now, read once: from packs what they hold, from parts what has changed since.

`Snapshots.now` lists the run's files, one listing a stage, and reads only the fragments whose files are others than
when they were packed (`ugaf.columns.packs`). All else that readers of a whole run ask is then a matter of arrays: which
rows are exact duplicates, the fitted rules, the funnel, what is missing, and in which fragments a name or an id may
stand.

Parts are the only truth: `verdicts.judge`, which reads them, says the same of every row, and is asked for single ones.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property

import numpy as np
import pyarrow as pa

from ugaf.columns import keys
from ugaf.columns.counts import StageCounts
from ugaf.columns.keys import Keys, OtherIdsError
from ugaf.columns.origins import Origin
from ugaf.columns.packing import KIDS, NAMES, ROWS, read_ingest, read_sources, read_stage, wanted
from ugaf.columns.packs import FRAGMENTS, Read, Shelf, state_of
from ugaf.columns.parts import SOURCES, Columns, GoneError
from ugaf.columns.record import RUN_FILE, fed_by
from ugaf.columns.survey import Survey, survey
from ugaf.columns.tally import Judge
from ugaf.columns.verdicts import FAILED, KEPT, PENDING, REJECTED, Fits, judge, superseded
from ugaf.pipeline.config import INGEST, StageSpec
from ugaf.storage.stamps import Stamp, stamped

TRIES = 3
"""Times that a run is listed and read while it changes."""
MOST_NEEDLES = 64
"""Texts that are looked for in the names of sources; for more of them every fragment is read."""

Files = dict[str, Stamp]
_Reading = Callable[[str, Sequence[str]], Read]


class Snapshots:
    """The packs of a run, kept open between one look at it and the next.

    writes: whether what had to be read may be kept in the run's folder.
    """

    def __init__(self, columns: Columns, writes: bool = True) -> None:
        self.columns = columns
        self.latest: Snapshot | None = None
        self._listed: dict[str, dict[str, Files]] = {}
        writes = self.writes = writes and _writable(columns)

        def shelf(stage: str, read: _Reading) -> Shelf:
            return Shelf(columns.storage, columns.folder(stage), wanted(columns.pipeline, stage), read, writes)

        self.shelves = {INGEST: shelf(INGEST, self._read_ingest)}
        for spec in columns.pipeline.stages:
            self.shelves[spec.name] = shelf(spec.name, self._reader(spec))
        self.sources = Shelf(columns.storage, SOURCES, [], lambda name, _: read_sources(columns, name), writes)

    def now(self) -> Snapshot | None:
        """The run as it is now; None where it has ids that are not ugaf's own."""
        for _ in range(TRIES - 1):
            with suppress(GoneError):  # a driver at work has joined parts since they were listed
                return self._now()
        return self._now()

    def _now(self) -> Snapshot | None:
        states = self.states()
        fragments = list(states[SOURCES])
        try:
            self.sources.bring_up_to_date(states[SOURCES])
            for stage, shelf in self.shelves.items():
                shelf.bring_up_to_date(states[stage])
            self.latest = Snapshot(self, fragments, states)
        except OtherIdsError:
            self.latest = None
        return self.latest

    def states(self) -> dict[str, dict[str, bytes]]:
        """What each fragment is made of, in order, for ingest, each stage and the lists of sources."""
        cut = _cut(self.columns)
        states = {SOURCES: {name: state_of(files) for name, files in cut.items()}}
        for stage in self.shelves:
            found = _by_fragment(stamped(self.columns.storage, self.columns.folder(stage)))
            self._listed[stage] = found
            # What is unread, and of which input a row is, depends on the list of sources as well.
            more = cut if stage == INGEST else {}
            states[stage] = {
                name: state_of({**found.get(name, {}), **{f"/{n}": s for n, s in more.get(name, {}).items()}})
                for name in cut
            }
        return states

    def survey(self) -> Survey:
        """What is missing in the run, was fitted, and fed it."""
        snapshot = self.now()
        return survey(self.columns) if snapshot is None else snapshot.survey

    def _parts(self, stage: str, fragment: str) -> list[str]:
        folder = f"{self.columns.folder(stage)}/{fragment}"
        return [f"{folder}/{name}" for name in sorted(self._listed[stage].get(fragment, ()))]

    def _read_ingest(self, fragment: str, names: Sequence[str]) -> Read:
        return read_ingest(self.columns, fragment, self._parts(INGEST, fragment), names)

    def _reader(self, spec: StageSpec) -> _Reading:
        return lambda name, names: read_stage(self.columns, spec, name, self._parts(spec.name, name), names)


class Snapshot:
    """A run at one moment. fragments: all that were cut, in order. key: stands for all that is stored of them."""

    def __init__(self, of: Snapshots, fragments: Sequence[str], states: Mapping[str, Mapping[str, bytes]]) -> None:
        self.columns, self.writes = of.columns, of.writes
        self.fragments = list(fragments)
        self._shelves = of.shelves
        self._sources = of.sources
        text = repr([(kind, list(by_fragment.items())) for kind, by_fragment in states.items()])
        self.key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        self._groups = [fragments[start : start + FRAGMENTS] for start in range(0, len(fragments), FRAGMENTS)]
        # All of it now: a later look at the run brings the shelves to another state.
        self._runs = [runs_of_text(text) for text in self._shelves[INGEST].fact("runs")]
        self._unread: list[int] = self._shelves[INGEST].fact("unread")
        self.skips = self._duplicates()
        self._judge = Judge(of.columns, of.shelves, fragments, self.skips, self._unread)
        self.fits: Fits = self._judge.fits
        self._seconds = {stage: _sum(shelf.fact("seconds")) for stage, shelf in self._shelves.items()}
        self.survey = self._survey()

    @cached_property
    def counts(self) -> list[StageCounts]:
        """Every stage's account, checked; see `RunView.funnel`."""
        pipeline = self.columns.pipeline
        levels = {INGEST: pipeline.base_level, **{spec.name: spec.level for spec in pipeline.stages}}
        out = []
        for tally in self._judge.tallies:
            unread = sum(self._unread) if tally.stage == INGEST else 0
            rows = {code: int(tally.codes[:, code].sum()) for code in (KEPT, REJECTED, FAILED, PENDING)}
            counts = StageCounts(
                tally.stage,
                levels[tally.stage],
                given=sum(rows.values()) + unread,
                kept=rows[KEPT],
                failed=rows[FAILED],
                pending=rows[PENDING] + unread,
                rejected=tally.rejected,
                errors=tally.errors,
                seconds=self._seconds[tally.stage],
                rows=tally.rows,
            )
            for kind, fragment, key in tally.first:
                counts.examples[kind] = self._example(tally.stage, fragment, key)
            counts.check()
            out.append(counts)
        return out

    def _example(self, stage: str, fragment: str, key: str) -> dict[str, str]:
        from ugaf.columns.addressing import source_names

        skip = self.skips.get(fragment, ())
        verdicts = judge(self.columns, fragment, until=stage, skip=skip, fits=self.fits)
        names = source_names(self.columns, fragment).get(verdicts.parents.get(key, key), [])
        given = verdicts[stage]
        reason = given.reason(given.ids.index(key))
        return {"message": "" if reason is None else reason.message, "id": key, "source": names[0] if names else ""}

    def tasks(self) -> Iterator[str | None]:
        """Of a run of pairs, the task of each row."""
        for group in self._groups:
            yield from self._shelves[INGEST].rows(ROWS, group).column("task").to_pylist()

    def may_mean(self, texts: Collection[str]) -> list[str]:
        """Fragments in which ids or names of sources may be meant by these texts (see `addressing`), in order: all
        others need not be read for it."""
        texts = [text for text in texts if text.strip()]
        needles = {needle.encode() for text in texts for needle in _needles(text)}
        if len(needles) > MOST_NEEDLES:
            return self.fragments
        prefixes = [text for text in texts if len(text) <= 32 and set(text) <= set("0123456789abcdef")]
        found: set[str] = set()
        for group in self._groups:
            names = self._shelves[INGEST].rows(NAMES, group).column("names").to_pylist()
            found.update(f for f, blob in zip(group, names, strict=True) if any(needle in blob for needle in needles))
            for shelf, section in self._with_ids():
                hit = _beginning(keys.of_column(shelf.rows(section, group).column("id")), prefixes)
                if hit.any():
                    at = np.repeat(np.arange(len(group)), shelf.counts(section, group))[hit]
                    found.update(group[number] for number in np.unique(at).tolist())
        # A name of a duplicate is one of the row that speaks for it.
        found |= self.holding({key for fragment in found for key in self.skips.get(fragment, ())})
        return [fragment for fragment in self.fragments if fragment in found]

    def _with_ids(self) -> list[tuple[Shelf, str]]:
        fans = [spec for spec in self.columns.pipeline.stages if spec.cls.fans_out]
        return [(self._shelves[INGEST], ROWS), *((self._shelves[spec.name], KIDS) for spec in fans)]

    def holding(self, ids: Collection[str]) -> set[str]:
        """Fragments that hold photographs with these ids, duplicates too."""
        if not ids:
            return set()
        wanted_ids, shelf = keys.of_texts(sorted(ids)), self._shelves[INGEST]
        out: set[str] = set()
        for group in self._groups:
            hit = keys.among(keys.of_column(shelf.rows(ROWS, group).column("id")), wanted_ids) >= 0
            at = np.repeat(np.arange(len(group)), shelf.counts(ROWS, group))[hit]
            out.update(group[number] for number in np.unique(at).tolist())
        return out

    def _duplicates(self) -> dict[str, set[str]]:
        """See `verdicts.duplicates`."""
        highs, failed = [], list[tuple[int, str, list[int]]]()
        for number, group in enumerate(self._groups):
            table = self._shelves[INGEST].rows(ROWS, group)
            ids = keys.of_column(table.column("id"))
            highs.append(ids.high)
            at = np.flatnonzero(table.column("error").is_valid().to_numpy())
            if len(at) and "failed" in table.column_names:
                of = np.repeat(np.arange(len(group)), self._shelves[INGEST].counts(ROWS, group))[at]
                called = table.column("failed").take(pa.array(at)).to_pylist()
                rows = zip((of + number * FRAGMENTS).tolist(), ids[at].texts(), called, strict=True)
                failed += [row for row in rows if row[2]]
        out = self._superseded(failed)
        every = np.sort(np.concatenate([np.empty(0, np.uint64), *highs]))
        again = np.unique(every[1:][every[1:] == every[:-1]])
        if not len(again):
            return out
        here: list[tuple[str, list[str]]] = []
        for group, high in zip(self._groups, highs, strict=True):
            hit = np.isin(high, again)
            if hit.any():
                texts = keys.of_column(self._shelves[INGEST].rows(ROWS, group).column("id"))[hit].texts()
                of = np.repeat(np.arange(len(group)), self._shelves[INGEST].counts(ROWS, group))[hit]
                for place in np.unique(of).tolist():
                    here.append((group[place], [texts[row] for row in np.flatnonzero(of == place).tolist()]))
        counts = Counter(key for _, texts in here for key in texts)
        seen: set[str] = set()
        for fragment, texts in here:
            mine = {key for key in texts if counts[key] > 1} - out.get(fragment, set())
            if mine & seen:
                out.setdefault(fragment, set()).update(mine & seen)
            seen |= mine
        return out

    def _superseded(self, failed: Sequence[tuple[int, str, list[int]]]) -> dict[str, set[str]]:
        """Failed rows whose sources all stand in a later fragment: by digests of names, and then by these names."""
        if not failed:
            return {}
        asked = np.unique(np.array([name for _, _, called in failed for name in called], dtype=np.uint64))
        newest, holders = np.full(len(asked), -1, np.int64), dict[int, set[int]]()
        for number, group in enumerate(self._groups):
            names = self._sources.rows(ROWS, group).column("name").to_numpy()
            at = np.flatnonzero(np.isin(names, asked))
            of = np.repeat(np.arange(len(group)), self._sources.counts(ROWS, group))[at] + number * FRAGMENTS
            place = np.searchsorted(asked, names[at])
            np.maximum.at(newest, place, of)
            for one, fragment in zip(place.tolist(), of.tolist(), strict=True):
                holders.setdefault(one, set()).add(fragment)
        rows, where = list[tuple[int, str]](), set[int]()
        for fragment, key, called in failed:
            places = np.searchsorted(asked, np.array(called, dtype=np.uint64))
            if np.all(newest[places] > fragment):
                rows.append((fragment, key))
                where.update(holder for place in places.tolist() for holder in holders[place])
        return superseded(
            self.columns,
            [self.fragments[number] for number in sorted(where)],
            [(self.fragments[number], key) for number, key in rows],
        )

    def _survey(self) -> Survey:
        sources, rows = Counter[Origin](), Counter[Origin]()
        for runs, counts in zip(self._runs, self._judge.by_origin, strict=True):
            for origin, count in runs:
                sources[origin] += count
            for number, count in counts.items():
                rows[runs[number][0]] += count
        todo: dict[str, dict[str, tuple[int, int]]] = {}
        given: Counter[str] = Counter()
        made_by: dict[str, Counter[str]] = {}
        unread = np.array(self._unread, dtype=np.int64)
        for tally in self._judge.tallies if self.fragments else ():
            more = unread if tally.stage == INGEST else 0
            given[tally.stage] += int(tally.codes.sum() + np.sum(more))
            waiting, failed = tally.missing + more, tally.codes[:, FAILED]
            for number in np.flatnonzero((waiting > 0) | (failed > 0)).tolist():
                of = todo.setdefault(self.fragments[number], {})
                of[tally.stage] = int(waiting[number]), int(failed[number])
            made_by[tally.stage] = Counter()
            for text, times in Counter(self._shelves[tally.stage].fact("made_by")).items():
                for digest, count in (json.loads(text) if text else {}).items():
                    made_by[tally.stage][digest] += count * times
        ordered = {name: todo[name] for name in self.fragments if name in todo}
        measured = Counter({tally.stage: tally.rows for tally in self._judge.tallies if self.fragments})
        rates = {stage: self._seconds[stage] / count for stage, count in measured.items() if count}
        ingest = self._judge.tallies[0].codes.sum(axis=1).tolist()
        photographs = dict(zip(self.fragments, ingest, strict=True))
        fed = fed_by(sources, rows)
        return Survey(self.skips, self.fits, ordered, fed, made_by, given, measured, photographs, rates)


def _writable(columns: Columns) -> bool:
    storage = columns.storage
    if "://" not in storage.url and not os.access(storage.path(""), os.W_OK):
        return False
    return storage.exists(RUN_FILE)


def _cut(columns: Columns) -> dict[str, Files]:
    """The file of each fragment's sources, in order."""
    found = stamped(columns.storage, SOURCES)
    names = {name: f"{name}.parquet" for name in columns.fragments()}
    return {name: {path: found.get(path, (0, 0))} for name, path in names.items()}


def source_lists(columns: Columns) -> tuple[list[str], Shelf]:
    """All fragments, and what was cut into each (see `packing.read_sources`)."""
    cut = _cut(columns)
    shelf = Shelf(columns.storage, SOURCES, [], lambda name, _: read_sources(columns, name), _writable(columns))
    shelf.bring_up_to_date({name: state_of(files) for name, files in cut.items()})
    return list(cut), shelf


def _by_fragment(files: Mapping[str, Stamp]) -> dict[str, Files]:
    out: dict[str, Files] = {}
    for path, stamp in files.items():
        fragment, _, part = path.partition("/")
        if part.endswith(".parquet"):
            out.setdefault(fragment, {})[part] = stamp
    return out


def runs_of_text(text: str) -> list[tuple[Origin, int]]:
    return [(Origin(name, place), count) for name, place, count in json.loads(text)]


def _sum(numbers: Sequence[float]) -> float:
    """One after the other, as a reader of parts adds them."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def _needles(text: str) -> set[str]:
    """Of which every name has one that the text may mean: itself, or the file that it is from the working folder on."""
    plain = text.rstrip("/") or text
    return {plain} if "://" in plain else {plain, os.path.abspath(os.path.expanduser(plain))}


def _beginning(ids: Keys, prefixes: Sequence[str]) -> np.ndarray:
    """Which ids begin with one of these hexadecimal digits: bool (n,)."""
    out = np.zeros(len(ids), dtype=bool)
    for text in prefixes:
        first, second = text[:16], text[16:]
        hit = ids.high >> np.uint64(64 - 4 * len(first)) == np.uint64(int(first, 16))
        if second:
            hit &= ids.low >> np.uint64(64 - 4 * len(second)) == np.uint64(int(second, 16))
        out |= hit
    return out
