"""A run as it is stored now: what is missing in it, what was fitted, and which inputs fed it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ugaf.columns.fitting import fit
from ugaf.columns.origins import Origin
from ugaf.columns.parts import Columns
from ugaf.columns.record import Fed, fed_by
from ugaf.columns.verdicts import FAILED, Fits, duplicates, judge_all
from ugaf.pipeline.config import INGEST, Pipeline


@dataclass(frozen=True)
class Survey:
    """A run as it is stored now. skips: see `duplicates`. fits: see `fit`. todo: fragment -> stage -> rows that the
    stage has yet to see, and rows that failed in it; without those where both are none. inputs: who fed it. made_by:
    stage -> digest of code -> part files that it made. given: rows that a stage was given so far, of ingest sources.
    measured: rows that a stage has done. photographs: (or pairs) of each fragment, so far. rates: seconds of work a
    row, of the stages that were measured."""

    skips: dict[str, set[str]]
    fits: Fits
    todo: dict[str, dict[str, tuple[int, int]]]
    inputs: list[Fed]
    made_by: dict[str, Counter[str]]
    given: Counter[str]
    measured: Counter[str]
    photographs: dict[str, int]
    rates: dict[str, float]

    def missing_inputs(self, pipeline: Pipeline, first: str | None) -> str | None:
        """Why there is nothing yet for the stage that a call begins with; None where there is, or never will be."""
        if first in (None, INGEST) or self.given[str(first)]:
            return None
        order = [INGEST, *(spec.name for spec in pipeline.stages)]
        why = None if self.given[INGEST] else "nothing was taken in yet"
        for name in order[: order.index(str(first))]:
            waiting = sum(todo[name][0] for todo in self.todo.values() if name in todo)
            if waiting:
                why = f"{waiting} {'row is' if waiting == 1 else 'rows are'} pending in {name}"
                break
        if why is None:
            return None
        return f"{first}: its inputs are not computed yet ({why}). Run the stages before it, too: --until {first}"


def survey(columns: Columns) -> Survey:
    """Read the whole run once (and once more for each stage with quantile rules)."""
    fragments = columns.fragments()
    sources, rows, total = Counter[Origin](), Counter[Origin](), Counter[str]()
    skips = duplicates(columns, fragments)
    fits = fit(columns, fragments, skips)
    todo: dict[str, dict[str, tuple[int, int]]] = {}
    made_by: dict[str, Counter[str]] = {}
    photographs: dict[str, int] = {}
    seconds: dict[str, float] = {}
    done = Counter[str]()
    for verdicts in judge_all(columns, fragments, skips=skips, fits=fits):
        for origin, count in verdicts[INGEST].origins:
            sources[origin] += count
        rows.update(verdicts[INGEST].by_origin())
        photographs[verdicts.fragment] = len(verdicts[INGEST].ids)
        for given in verdicts.stages:
            seconds[given.stage] = seconds.get(given.stage, 0.0) + given.seconds
            done[given.stage] += len(given.ids) if given.stage == INGEST else given.table.num_rows
            made_by.setdefault(given.stage, Counter()).update(given.made_by)
            total[given.stage] += len(given.ids) + len(given.unread)
            counts = int(np.count_nonzero(given.index < 0)) + len(given.unread), int(np.sum(given.code == FAILED))
            if any(counts):
                todo.setdefault(verdicts.fragment, {})[given.stage] = counts
    rates = {stage: seconds[stage] / count for stage, count in done.items() if count}
    return Survey(skips, fits, todo, fed_by(sources, rows), made_by, total, done, photographs, rates)
