"""One run of a benchmark: edit what is not edited yet, measure and judge what is not scored yet, write the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ugaf.base.failure import Failure, attempt
from ugaf.bench import report
from ugaf.bench.editing import Edits, edits_of
from ugaf.bench.items import Benchmark, Item, Pictures, chunks
from ugaf.bench.judging import Judge
from ugaf.bench.protocols import PROTOCOLS, Case, Protocol, Values
from ugaf.bench.report import Result
from ugaf.bench.settings import BenchSettings
from ugaf.bench.store import Store, digest
from ugaf.imaging import images

CHUNK = 16
"""Items whose pictures are in memory at once."""


def run(settings: BenchSettings) -> str:
    """Do what is missing of a benchmark, write report.md and report.json, and give the former.

    Raises ConfigError for settings that cannot be used, StopRun where editor or judge are gone; what is done is kept.
    """
    judge = Judge(settings.judge, settings.max_tokens, settings.prompts) if settings.judge else None
    protocol = PROTOCOLS[settings.protocol](settings, judge)
    edits = edits_of(settings)
    benchmark = protocol.load().checked(settings.data, settings.limit)
    store = Store(settings.out)
    with store.storage.lock(""):
        boxes = {"boxes": settings.boxes} if settings.protocol == "fineedit" else {}
        store.claim({"protocol": settings.protocol, **edits.identity, **boxes})
        edits.make(benchmark, protocol, store)
        protocol.prepare()
        results = scored(benchmark, protocol, edits, store, settings.retry_failed)
        told = report.of(protocol, results, settings, edits.label, judge)
        text = report.markdown(told)
        store.storage.write("report.json", report.as_json(told))
        store.storage.write("report.md", text.encode())
    return text


@dataclass
class Turn:
    """An item in hand. made_from: digest of its pictures and boxes. case: None where there is nothing to score."""

    item: Item
    case: Case | None = None
    made_from: str = ""
    missing: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    values: Values = field(default_factory=dict)

    def result(self) -> Result:
        resized = self.case is not None and self.case.edited.shape != self.case.source.shape
        return Result(self.item, self.missing, self.failed, self.values, resized)


def scored(benchmark: Benchmark, protocol: Protocol, edits: Edits, store: Store, retry: bool) -> list[Result]:
    """The result of each item, in order; what is stored and still true is not made again."""
    results: list[Result] = []
    for chunk in chunks(benchmark.items, CHUNK):
        turns = [
            _turn(item, pictures, protocol, edits, store)
            for item, pictures in zip(chunk, benchmark.read(chunk), strict=True)
        ]
        for turn in turns:
            if turn.case is not None:
                _measure(turn, turn.case, protocol, store, retry)
        if protocol.judge is not None:
            _judge([turn for turn in turns if turn.case is not None], protocol, protocol.judge, store, retry)
        results += [turn.result() for turn in turns]
        print(f"scored {len(results)} of {len(benchmark.items)}", file=sys.stderr, flush=True)
    return results


def _turn(item: Item, pictures: Pictures | Failure, protocol: Protocol, edits: Edits, store: Store) -> Turn:
    """An item with its pictures decoded, or what is wrong with them."""
    if isinstance(pictures, Failure):
        return Turn(item, failed={"source": str(pictures)})
    try:
        edited = edits.get(item, pictures, store)
    except OSError as error:
        edited = Failure.of(error)
    if edited is None:
        return Turn(item, missing=True)
    if isinstance(edited, Failure):
        return Turn(item, failed={"edit": str(edited)})
    case = attempt(lambda found: _case(item, found, edited, protocol), pictures)
    if isinstance(case, Failure):
        return Turn(item, failed={"pictures": str(case)})
    return Turn(item, case, digest(pictures.source, edited, case.boxes))


def _case(item: Item, pictures: Pictures, edited: bytes, protocol: Protocol) -> Case:
    source = images.decode(pictures.source)
    reference = images.decode(pictures.edited) if pictures.edited is not None else None
    return Case(item, source, images.decode(edited), protocol.boxes(item, source, reference))


def _measure(turn: Turn, case: Case, protocol: Protocol, store: Store, retry: bool) -> None:
    of = digest(turn.made_from, protocol.name, protocol.version, protocol.identity())
    if _taken("measured", turn, of, store, retry):
        return
    values = attempt(protocol.measure, case)
    if isinstance(values, Failure):
        _keep_failure("measured", turn, of, values, store)
    else:
        _keep("measured", turn, of, values, store)


def _judge(turns: Sequence[Turn], protocol: Protocol, judge: Judge, store: Store, retry: bool) -> None:
    pending: list[tuple[Turn, Case, str]] = []
    for turn in turns:
        of = digest(turn.made_from, protocol.name, protocol.version, judge.identity)
        if turn.case is not None and not _taken("judged", turn, of, store, retry):
            pending.append((turn, turn.case, of))
    outcomes = judge.ask(pending, lambda one: protocol.questions(one[1])) if pending else []
    for (turn, _, of), answers in zip(pending, outcomes, strict=True):
        if isinstance(answers, Failure):
            _keep_failure("judged", turn, of, answers, store)
        else:
            said: dict[str, Any] = {label: answer.value.model_dump() for label, answer in answers.items()}
            _keep("judged", turn, of, protocol.judged(answers), store, said)


def _taken(part: str, turn: Turn, of: str, store: Store, retry: bool) -> bool:
    """Take what is stored into the turn, if it was made from the same things; False if it has to be made."""
    there = store.get(part, turn.item.key)
    if there is None or there.get("of") != of or (retry and "error" in there):
        return False
    if "error" in there:
        turn.failed[part] = there["error"]
    else:
        turn.values |= there["values"]
    return True


def _keep(part: str, turn: Turn, of: str, values: Values, store: Store, said: dict[str, Any] | None = None) -> None:
    store.put(part, turn.item.key, {"of": of, "id": turn.item.id, "values": values, **({"said": said} if said else {})})
    turn.values |= values


def _keep_failure(part: str, turn: Turn, of: str, failure: Failure, store: Store) -> None:
    store.put(part, turn.item.key, {"of": of, "id": turn.item.id, "error": str(failure)})
    turn.failed[part] = str(failure)
