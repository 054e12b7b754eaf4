"""Renders the page: the columns as typed arrays in base64, which its script makes a funnel of.

As the report's page it is one file that loads nothing, and its content security policy says so. Strings from data reach
it as in `ugaf.pages.markup`: escaped, or as JSON that the script shows with `textContent`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ugaf.pages.distributions import bin_edges
from ugaf.pages.markup import Markup, base_style, element, embed, join, security_policy
from ugaf.pages.thumbnails import Thumbnails
from ugaf.tune.data import KINDS, MEASURED, Column, Data, TunedStage
from ugaf.tune.funnel import StageYield
from ugaf.tune.pictures import Shown

if TYPE_CHECKING:
    from ugaf.columns.view import RunView
    from ugaf.pipeline.spec import StageSpec
    from ugaf.stage.stage import Range

BINS = 48
SCRIPTS = ("funnel.js", "settings.js", "show.js", "knob.js", "page.js")


def render(
    view: RunView,
    data: Data,
    now: Sequence[StageYield],
    shown: Sequence[Shown],
    images: Thumbnails,
    notes: Sequence[str],
) -> str:
    """The whole page."""
    files = resources.files("ugaf.tune")
    style = base_style() + (files / "page.css").read_text("utf-8")
    scripts = [(files / name).read_text("utf-8") for name in SCRIPTS]
    parts = {
        "policy": security_policy(style, scripts),
        "title": join([f"{view.name} · ugaf tune"]),
        "style": Markup(style),
        "name": join([view.name]),
        "path": join([view.path]),
        "notes": join([element("li", note) for note in notes]),
        "data": embed(page_data(view, data, now, shown, images)),
        "scripts": join([Markup(f"<script>{script}</script>\n") for script in scripts]),
    }
    template = (files / "page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: str(parts[found[1]]), template)


def page_data(
    view: RunView, data: Data, now: Sequence[StageYield], shown: Sequence[Shown], images: Thumbnails
) -> dict[str, Any]:
    """What the page's scripts read."""
    levels = [
        {"name": level.name, "rows": len(level), "parent": None if level.parent is None else packed(level.parent)}
        for level in data.levels
    ]
    return {
        "name": view.name,
        "levels": levels,
        "ingest": {"failed": data.failed, "pending": data.unread},
        "sampledFrom": data.sampled_from,
        "stages": [
            _stage(data, data.stage(spec.name), spec, found)
            for spec, found in zip(view.pipeline.stages, now, strict=True)
        ],
        "shown": [vars(one) for one in shown],
        "images": {name: thumbnail.url for name, thumbnail in images.made.items()},
    }


def page_bytes(stage: TunedStage, columns: Sequence[Column]) -> int:
    """About how many bytes a stage with these columns takes on the page."""
    values = sum(_type(column)().itemsize * len(column.values) for column in columns)
    return int((len(stage.state) + values + len(stage.fixed) * len(stage.state) / 8) * 4 / 3)


def packed(values: np.ndarray, kind: str = "i4") -> dict[str, str]:
    """An array as the script unpacks it: its type, and its bytes, little-endian, as base64."""
    data = np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()
    return {"t": kind, "b": base64.b64encode(data).decode("ascii")}


def _bits(values: np.ndarray) -> str:
    return base64.b64encode(np.packbits(values).tobytes()).decode("ascii")


def _stage(data: Data, stage: TunedStage, spec: StageSpec, now: StageYield) -> dict[str, Any]:
    bounds = data.present.get(stage.name, {})
    whole = bool(np.all(stage.state == MEASURED))
    links = [
        {"column": column, "kind": kind} | {name: packed(getattr(found, name)) for name in ("rows", "rank", "a", "b")}
        for (column, kind), found in stage.links.items()
    ]
    return {
        "name": stage.name,
        "level": stage.level,
        "fansOut": stage.fans_out,
        "state": None if whole else base64.b64encode(stage.state.tobytes()).decode("ascii"),
        "columns": [
            _column(column, _numbers(bounds.get(column.name, {}), now), spec.ranges.get(column.name))
            for column in stage.columns.values()
        ],
        "order": [list(key) for key in stage.order],
        "fixed": [
            {"column": column, "kind": kind, "text": _text(spec, column, [kind]), "broken": _bits(broken)}
            for (column, kind), broken in stage.fixed.items()
        ],
        "links": links,
        "frozen": {f"{column}\n{kind}": number for (column, kind), number in stage.frozen.items()},
        "bounds": {name: {kind: _bound(bound) for kind, bound in kinds.items()} for name, kinds in bounds.items()},
        "keep": [_entry(spec, name) for name in spec.keep],
    }


def _column(column: Column, bounds: Mapping[str, float], ends: Range | None) -> dict[str, Any]:
    finite = column.values[column.finite]
    edges = bin_edges(finite, bounds, BINS, ends) if len(finite) else np.array([0.0, 1.0])
    return {
        "name": column.name,
        "type": str(column.type),
        "whole": column.is_whole,
        "range": ends,
        "low": float(edges[0]),
        "high": float(edges[-1]),
        "bins": len(edges) - 1,
        "values": packed(column.values, np.dtype(_type(column)).str[1:]),
        "nulls": _bits(column.null) if column.null.any() else None,
    }


def _bound(bound: float) -> float | str:
    """JSON has no infinity; the script makes a number of its name."""
    return bound if np.isfinite(bound) else f"{'-' if bound < 0 else ''}Infinity"


def _numbers(kinds: Mapping[str, float], now: StageYield) -> dict[str, float]:
    """A column's bounds as numbers, for the histogram's range."""
    fitted = {kind: bound for (_, kind), bound in now.fitted.items()}
    found = {kind.removesuffix("_quantile"): fitted.get(kind, bound) for kind, bound in kinds.items()}
    return {side: bound for side, bound in found.items() if np.isfinite(bound)}


def _type(column: Column) -> type[np.generic]:
    """The smallest type that holds the column's values exactly."""
    values = column.values
    if column.is_whole:
        low, high = (values.min(), values.max()) if len(values) else (0, 0)
        for kind in (np.int8, np.int16, np.int32):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return kind
    with np.errstate(over="ignore"):
        exact = np.array_equal(values.astype(np.float32).astype(np.float64), values, equal_nan=True)
    return np.float32 if exact else np.float64


def _entry(spec: StageSpec, column: str) -> dict[str, Any]:
    """What the pipeline says of a column beside numbers, and which sides the stage's own defaults have."""
    given = spec.keep[column]
    others = [] if given is None else [kind for kind in given if kind not in KINDS and given[kind] is not None]
    defaults = [kind.removesuffix("_quantile") for kind in spec.cls.keep.get(column, {})]
    fixed = _text(spec, column, others)
    return {"column": column, "fixed": fixed, "defaults": list(dict.fromkeys(defaults)), "isNull": given is None}


def _text(spec: StageSpec, column: str, kinds: Sequence[str]) -> str:
    """Rules as they stand in a pipeline, in one line: `one_of: [ok]`."""
    if not kinds:
        return ""
    content = {kind: spec.keep[column][kind] for kind in kinds}
    return yaml.safe_dump(content, default_flow_style=True, width=1e9, sort_keys=False).strip()[1:-1]
