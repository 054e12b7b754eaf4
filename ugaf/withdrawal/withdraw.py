"""Withdrawing photographs: out of the run with all that came of them, and never taken in again.

`plan` says what would go. `withdraw` writes the tombstones first, with what is to be erased: from that moment the
verdicts know the rows as withdrawn. Then the columns are erased, shards, report and tune page made anew, and at last
the list of what is to be erased is dropped. `finish` does what is left of this; the next run, too, begins with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ugaf.base.errors import UgafError
from ugaf.base.printing import counted
from ugaf.columns import lease, packs, record, tombstones
from ugaf.columns.addressing import WHOLE, Match, search
from ugaf.columns.parts import REFS, SOURCES, Columns
from ugaf.columns.tombstones import FILE, Erasing, Tombstones
from ugaf.columns.view import RunView
from ugaf.engine.cutting import source_digest
from ugaf.ingest import SourceRef, failed_id
from ugaf.pipeline.config import INGEST, Pipeline
from ugaf.storage import Storage
from ugaf.withdrawal import erasing, products
from ugaf.withdrawal.erasing import Gone

Notify = Callable[[str], None]

_TEXTS = (".json", ".jsonl", ".log", ".md", ".txt", ".yaml")


@dataclass(frozen=True)
class Plan:
    """What would be withdrawn.

    names: of the sources of each photograph (or pair), by its id. places: for each fragment the positions of these
    sources, and of which id each is. unread: how many have not been read: they are known by their names alone.
    edits: all edits that go; others: how many of them are edits of other photographs, which show a part of one that
    goes. known: what was asked for and is withdrawn already.
    """

    names: Mapping[str, Sequence[str]]
    places: Mapping[str, Mapping[int, str]]
    unread: int
    edits: frozenset[str]
    others: int
    known: Sequence[str]

    def told(self, pairs: bool, dry: bool) -> str:
        """What goes, for a person: counts, and the first names."""
        if not self.names:
            return "nothing to withdraw"
        count = len(self.names)
        what = f"{counted(count, 'pairs' if pairs else 'photographs')} and {counted(len(self.edits), 'edits')}"
        lines = [f"{'would withdraw' if dry else 'withdraws'} {what}"]
        if self.others:
            lines.append(f"  {self.others} of the edits are of other photographs, and show a part of one that goes")
        if self.unread:
            lines.append(f"  {self.unread} not read yet: known by file name alone, not in a copy elsewhere")
        shown = [f"  {id}  {', '.join(names) or '(no name)'}" for id, names in sorted(self.names.items())[:20]]
        return "\n".join([*lines, *shown, *([f"  and {count - 20} more"] if count > 20 else [])])


def plan(view: RunView, texts: Sequence[str], listed: Sequence[str] = ()) -> Plan:
    """What the texts mean (see `ugaf.columns.addressing`); an edit means its photograph, a folder or tar all in it.

    Args:
        listed: texts of a list, in which a part of a name will not do.

    Raises:
        UgafError: a text that means nothing in the run, or one of several rows. Nothing is withdrawn then.
    """
    found = {**search(view, list(dict.fromkeys(listed)), parts=False), **search(view, list(dict.fromkeys(texts)))}
    stones, known, problems = view.columns.tombstones, list[str](), list[str]()
    matches: dict[tuple[str, str, int | None], Match] = {}
    for text, one in found.items():
        rows = [match for match in one.matches if match.place is not None or stones.of_id(match.base) is None]
        if not rows and (one.matches or stones.of_text(text)):
            known.append(text)
        elif not rows:
            problems.append(f"{view.path} has no row with an id that starts with {text!r} or a source of that name")
        elif len(rows) > 1 and one.rank != WHOLE:
            problems.append(one.ambiguity(text, view.path))
        for match in rows:
            matches[match.base, match.fragment if match.place is not None else "", match.place] = match
    if problems:
        more = [f"and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise UgafError("\n".join([*problems[:20], *more]))
    return _planned(view, list(matches.values()), known)


def of_shards(view: RunView, planned: Plan) -> list[str]:
    """What would become of the shards that are there, for a person."""
    return list(products.told(view, Gone(frozenset(planned.names), planned.edits, {}))) if planned.names else []


def withdraw(view: RunView, planned: Plan, reason: str, notify: Notify) -> None:
    """Carry it out: after this the run's folder has none of it, and knows it again."""
    if not planned.names:
        return
    with lease.held(view.storage, "ugaf withdraw"):
        _write_stones(view, planned, reason)
        finish(view, notify)


def _write_stones(view: RunView, planned: Plan, reason: str) -> None:
    columns = view.columns
    digests = _digests(columns, planned)
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    every = Tombstones.read(columns.storage)
    new = tombstones.stones(planned.names, digests, planned.names, when, reason)
    places = {fragment: sorted(of) for fragment, of in planned.places.items()}
    names = sorted({name for names in planned.names.values() for name in names})
    task = Erasing(sorted(planned.names), sorted(planned.edits), places, names)
    Tombstones({**every.by_id, **{stone.id: stone for stone in new}}, [*every.erasing, task]).write(columns.storage)


def finish_interrupted(pipeline: Pipeline, notify: Notify) -> None:
    """Do what is left of an interrupted withdrawal from this pipeline's run."""
    own = {spec.name.partition(".")[0] for spec in pipeline.stages if ":" in spec.name}
    try:
        # By the pipeline that made its shards: a changed one might leave it without a pair.
        view = RunView(pipeline.output, trust=own)
    except UgafError:
        view = RunView(pipeline.output, pipeline)
    finish(view, notify)


def finish(view: RunView, notify: Notify) -> None:
    """Do what is left of withdrawals: erase, write anew what was written from the run, forget the plain names."""
    with lease.held(view.storage, "ugaf withdraw"):
        _finish(view, notify)


def _finish(view: RunView, notify: Notify) -> None:
    storage = view.storage
    every = Tombstones.read(storage)
    # Ids, names and measures stand in it, too: what is made of it from now on is of what is left.
    storage.remove(packs.FOLDER)
    for task in every.erasing:
        gone = Gone.of(task.ids, task.edits, every)
        count = erasing.erase(storage, gone, frozenset(task.places))
        for fragment, places in task.places.items():
            erasing.bury_sources(storage, fragment, _owners(view.columns, fragment, places, gone))
        notify(f"columns: {counted(count, 'part files')} written anew")
    fresh = RunView(view.path, view.pipeline)
    record.save(fresh.columns, fresh.fits, fresh.survey.inputs)
    ids, edits = (sorted({id for task in every.erasing for id in getattr(task, of)}) for of in ("ids", "edits"))
    products.rewrite(RunView(view.path, view.pipeline), Gone.of(ids, edits, every), notify)
    _rewrite_pages(RunView(view.path, view.pipeline), notify)
    _scrub(storage, {text for task in every.erasing for text in (*task.ids, *task.edits, *task.names)})
    Tombstones(every.by_id).write(storage)


def _planned(view: RunView, matches: Sequence[Match], known: Sequence[str]) -> Plan:
    columns = view.columns
    unread = {(match.fragment, match.place): match for match in matches if match.place is not None}
    ids = {match.base for match in matches if match.place is None}
    names: dict[str, list[str]] = {id: [] for id in ids}
    places: dict[str, dict[int, str]] = {}
    for fragment in view.holding(ids, {fragment for fragment, _ in unread}):
        table = columns.light(INGEST, fragment, [REFS, SOURCES])[0]
        for row in table.select(["id", REFS, SOURCES]).to_pylist():
            if row["id"] in ids:
                names[row["id"]] += row[SOURCES] or ()
                places.setdefault(fragment, {}).update(dict.fromkeys(row[REFS], row["id"]))
        for place in [place for where, place in unread if where == fragment and place is not None]:
            ref = SourceRef.from_table(columns.sources(fragment).take([place]))[0]
            names[failed_id(ref)] = [ref.key]
            places.setdefault(fragment, {})[place] = failed_id(ref)
    goners = frozenset(names)
    edits = erasing.edits_of(columns.storage, goners, frozenset(places))
    others = sum(1 for v in _parents(view, edits).values() if v not in goners)
    return Plan(names, places, len(unread), frozenset(edits), others, known)


def _parents(view: RunView, edits: set[str]) -> dict[str, str]:
    """The photographs of these edits, as far as the run's pipeline has them."""
    if not edits:
        return {}
    return {edit: base for part in view.verdicts() for edit, base in part.parents.items() if edit in edits}


def _digests(columns: Columns, planned: Plan) -> dict[str, list[bytes]]:
    """By which the sources of each are known when they are listed again."""
    out: dict[str, list[bytes]] = {}
    for fragment, places in planned.places.items():
        rows = columns.sources(fragment, ["uri", "member", "version"]).to_pylist()
        for place, id in places.items():
            out.setdefault(id, []).append(source_digest(*(rows[place][name] for name in ("uri", "member", "version"))))
    return out


def _owners(columns: Columns, fragment: str, places: Sequence[int], gone: Gone) -> dict[int, str]:
    """Of which withdrawn photograph each of these sources was: by the rows that stand in their places.

    A source that was not read has none, and gets the row that says why it never will be.
    """
    table = columns.light(INGEST, fragment, [REFS])[0]
    by_stone = {stone.id: id for id, stone in gone.stones.items()}
    rows = [(by_stone.get(row["id"]), row[REFS]) for row in table.select(["id", REFS]).to_pylist()]
    found = {place: id for id, refs in rows if id is not None for place in refs}
    refs = SourceRef.from_table(columns.sources(fragment))
    for place in places:
        unread = failed_id(refs[place])
        if place not in found and unread in gone.stones:
            stone = gone.stones[unread]
            row = {"id": stone.id, REFS: [place], SOURCES: [], "error": stone.error}
            columns.write(INGEST, fragment, [row], 0.0)
            found[place] = unread
    return {place: found[place] for place in places if place in found}


def _rewrite_pages(view: RunView, notify: Notify) -> None:
    """The pages that were written from the run's columns, where they are there, without what was withdrawn."""
    from ugaf import report, tune

    shown = view.pipeline.settings
    if view.storage.exists(report.PATH):
        notify(report.write_report(view, gallery=shown.report.gallery, seed=shown.seed))
    if view.storage.exists(tune.PATH):
        notify(tune.tune(view).path)


def _scrub(storage: Storage, secrets: set[str]) -> None:
    """Take ids and names out of what the run tells of itself in words (its log, its progress)."""
    longest = "|".join(re.escape(secret) for secret in sorted(secrets, key=len, reverse=True))
    whole = re.compile(rf"(?<!\w)(?:{longest})(?!\w)")
    for name in storage.list():
        if name != FILE and name.endswith(_TEXTS):
            old = text = storage.read(name).decode("utf-8", "surrogateescape")
            text = whole.sub("(withdrawn)", text) if secrets else text
            if text != old:
                storage.write(name, text.encode("utf-8", "surrogateescape"))
