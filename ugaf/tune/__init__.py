"""What other thresholds would keep: a table for the terminal, and a page with sliders over the stored columns.

Nothing is measured and nothing is changed. `data` reads the run's columns, `funnel` predicts the verdicts for any
thresholds, `table` tries a handful of them, `page` gives all of them to a browser, where funnel.js does what `funnel`
does here. The settings that come of it are pasted into the pipeline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ugaf.base.errors import ConfigError
from ugaf.columns.view import RunView
from ugaf.pipeline import config
from ugaf.pipeline.rules import DISTINCT
from ugaf.tune import data as reading
from ugaf.tune import pictures
from ugaf.tune.data import Data
from ugaf.tune.funnel import predict, quantile_keys
from ugaf.tune.page import page_bytes, render
from ugaf.tune.table import RuleYield, as_table, yields

PATH = "tune/index.html"
PICTURES = 400
"""Rows whose pictures the page has."""
MAX_ROWS = 400_000
"""Rows of all levels that the page takes; of more it has a sample."""
MAX_BYTES = 60_000_000
"""Bytes of the columns on the page."""

__all__ = ["PATH", "Tuned", "as_table", "tune", "with_settings"]


@dataclass(frozen=True)
class Tuned:
    """What came of it. path: the page, in the run's folder. end: what is counted at the end, "photographs" or "edits".

    notes: what a reader of the numbers has to know.
    """

    rules: list[RuleYield]
    path: str
    end: str
    notes: list[str]

    def document(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"page": self.path, "end": self.end, "notes": self.notes, "rules": [asdict(rule) for rule in self.rules]}


def with_settings(view: RunView, overrides: Sequence[str]) -> RunView:
    """The run as it would be with these `key=value` settings.

    Raises:
        ConfigError: a setting changes what a stage measures, so that there are no columns to tune on.
    """
    if not overrides:
        return view
    changed = config.parse_again(view.pipeline.document, overrides)
    for old, new in zip(view.pipeline.stages, changed.stages, strict=True):
        if old.fingerprint != new.fingerprint:
            raise ConfigError(
                f"{new.name}: the settings given with --set change what it measures; tune tries keep rules only, so "
                f"run the pipeline with them first"
            )
    return RunView(view.path, changed)


def tune(view: RunView, stage: str | None = None, *, shown: int = PICTURES) -> Tuned:
    """Tabulate the yield of thresholds, and write the run's `tune/index.html`.

    The same run gives the same bytes; the file is only written when they differ from what is there.

    Args:
        view: the run.
        stage: only this stage in the table, with its columns that have no rule. The page always has all stages.
        shown: how many rows the page shows pictures of; 0 for none.

    Raises:
        ConfigError: the pipeline has no such stage.
        ValueError: `shown` is negative.
    """
    if shown < 0:
        raise ValueError(f"shown is {shown}; it is the number of rows with pictures, 0 or more")
    if stage is not None:
        view.pipeline.stage(stage)
    data = reading.read(view)
    rules = yields(data, data.present, stage)
    fitted, notes = fit_page(data, stage)
    notes += _notes(fitted)
    now = predict(fitted, fitted.present)
    seen, images = pictures.load(view, fitted, pictures.choose(fitted, now, shown))
    page = render(view, fitted, now, seen, images, notes)
    view.storage.write_if_changed(PATH, page.encode("utf-8"))
    end = "edits" if data.levels[data.stages[-1].level].name == "edit" else "photographs"
    return Tuned(rules, PATH, end, notes)


def fit_page(
    data: Data, stage: str | None = None, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES
) -> tuple[Data, list[str]]:
    """The run as the page holds it, and what was left out: columns without a rule first, then rows."""
    notes = []
    if _size(data) > max_bytes:
        data, left = _without_free(data, stage)
        if left:
            notes.append(
                f"To keep the page small, {left} columns without a rule are left out; "
                "ugaf tune --stage NAME brings those of one stage."
            )
    rows = sum(len(level) for level in data.levels)
    share = min(1.0, max_rows / max(rows, 1), max_bytes / max(_size(data), 1))
    if share < 1:
        photographs = len(data.levels[0])
        data = reading.sample(data, _chosen(data, share))
        notes.append(
            f"The page holds a sample of {len(data.levels[0]):,} of {photographs:,} rows that were taken in, with all "
            "that was made of them. Its numbers are estimates for the whole run, ± one standard error; the table that "
            "ugaf tune prints is exact."
        )
    return data, notes


def _size(data: Data) -> int:
    return sum(page_bytes(stage, list(stage.columns.values())) for stage in data.stages)


def _without_free(data: Data, named: str | None) -> tuple[Data, int]:
    """Without the columns that have no rule, but for those of one stage; and how many these were."""
    stages, left = [], 0
    for stage in data.stages:
        ruled = data.present.get(stage.name, {})
        kept = {name: column for name, column in stage.columns.items() if name in ruled or stage.name == named}
        left += len(stage.columns) - len(kept)
        order = tuple(key for key in stage.order if key[0] in kept or key in stage.fixed)
        stages.append(replace(stage, columns=kept, order=order))
    return replace(data, stages=tuple(stages)), left


def _chosen(data: Data, share: float) -> np.ndarray:
    """Rows that were taken in whose id's hash is below a limit: bool (rows,)."""
    limit = int(share * 2**64)
    digests = (hashlib.blake2b(key.as_py().encode(), digest_size=8).digest() for key in data.levels[0].ids)
    return np.fromiter((int.from_bytes(digest) < limit for digest in digests), dtype=bool, count=len(data.levels[0]))


def _notes(data: Data) -> list[str]:
    """What holds for the page's numbers."""
    notes = []
    as_now = [
        f"{stage.name}: {column}"
        for stage in data.stages
        for column, kind in stage.fixed
        if kind == DISTINCT and (column, kind) not in stage.links
    ]
    if as_now:
        notes.append(f"Near-duplicates are as computed now, whatever the thresholds: {', '.join(as_now)}.")
    if any(quantile_keys(stage, data.present.get(stage.name, {})) for stage in data.stages):
        notes.append(
            "Quantile rules are fitted on the rows that the stage is given and has measured; a run fits them when none "
            "is waiting to be measured."
        )
    return notes
