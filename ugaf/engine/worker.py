"""A worker: runs chains of stages over units of work, commits their new columns, and hands on what goes on.

It asks `verdicts` what is pending, loads the columns that those rows need, and takes them through the chain a few
photographs at a time, so that neighbouring stages share a photograph's decoded pixels. Rows flow on while they are
kept. Columns are committed when they reach a size, and at the unit's end.

A row may kill the process (a crash in native code, memory). Before each batch the worker tells a `Journal` outside
its process what it is about to touch. A unit that comes back after a death has that batch's rows taken one by one;
a row that then dies alone, more than once, is recorded as failed and left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ugaf.base.errors import UgafError
from ugaf.columns.verdicts import KEPT, PENDING, judge
from ugaf.engine.chain_run import ChainRun, journal_name
from ugaf.engine.ingesting import IngestRun
from ugaf.engine.monitor import Blame
from ugaf.engine.units import Unit
from ugaf.engine.workplace import Workplace
from ugaf.pipeline.config import INGEST

MORE_DEATHS = 3
"""Deaths over `row_crashes` after which the run stops, since no row can be given up for them."""


class StageWorker(Workplace):
    """Does unit after unit; several at once if it is called from threads."""

    def run(self, unit: Unit, skip: Sequence[str] = ()) -> None:
        """Do all that is pending in this unit for the worker's chains. skip: rows that another fragment speaks for."""
        for chain in self.task.chains:
            name = journal_name(chain, self.task.lane)
            blame = self.journal.enter(name, unit.key)
            self._stop_if_hopeless(unit, blame)
            if chain == (INGEST,):
                IngestRun(self, unit.fragment, frozenset(skip), blame).run()
            else:
                done: set[tuple[str, str]] = set()
                while ChainRun(self, chain, unit, frozenset(skip), blame, done).run():
                    pass
            self.journal.leave(name, unit.key)

    def onward(self, unit: Unit, skip: Sequence[str] = ()) -> Iterator[Unit]:
        """The units of the next group that have the rows which go on from this one, after `run`."""
        onward = self.task.onward
        if onward is None or onward.size is None:
            yield Unit(unit.fragment, unit.ids, unit.share)
            return
        ids = self._going_on(unit, skip, onward.level)
        rows = onward.size.rows(self.journal.rates())
        for start in range(0, len(ids), rows):
            yield Unit(unit.fragment, tuple(ids[start : start + rows]))

    def _going_on(self, unit: Unit, skip: Sequence[str], level: str) -> list[str]:
        """Rows that are not out, or those that they fanned out to, each photograph's side by side."""
        verdicts = judge(self.columns, unit.fragment, until=self.task.chains[-1][-1], skip=skip, fits=self.task.fits)
        given = verdicts.stages[-1]
        # A row of another lane is pending here.
        ids = [given.ids[place] for place in np.flatnonzero((given.code == KEPT) | (given.code == PENDING))]
        chosen = unit.rows(verdicts[INGEST].ids)
        if level != given.level:
            standing = set(ids)
            ids = [child for child, parent in verdicts.parents.items() if parent in standing]
        parents = verdicts.parents
        if chosen is not None:
            ids = [key for key in ids if key in chosen or parents.get(key, key) in chosen]
        return sorted(ids, key=lambda key: (parents.get(key, key), key))

    def _stop_if_hopeless(self, unit: Unit, blame: Blame) -> None:
        """A row that kills is given up and recorded; what kills outside of a row's work would restart for ever."""
        limit = self.task.pipeline.settings.engine.row_crashes + MORE_DEATHS
        for (stage, key), deaths in blame.deaths.items():
            if deaths > limit:
                last = f"after row {key} in {stage}" if key else "before any row was in hand"
                raise UgafError(
                    f"fragment {unit.fragment}: {deaths} processes died in it outside of a row's work, {last}: while "
                    "columns were read or written (memory: try a smaller engine.flush_mb, fewer workers)"
                )
