"""Charts as SVG: stacked bars and histograms. Colours come from page.css, by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ugaf.pages.distributions import Distribution, thresholds
from ugaf.pages.markup import Markup, element

WIDTH, HEIGHT = 320, 112
TOP, BOTTOM = 18, 92
PAD = 6


def number(value: float, digits: int = 4) -> str:
    """A number for readers: whole numbers with thousands separators, others to so many significant digits."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(part: float, whole: float) -> str:
    """ "12.3 %"; never 0.0 % or 100.0 % for what is not exactly so; a dash without a whole."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.1f} %"


def stacked(parts: Sequence[tuple[str, float]], whole: float, label: str) -> Markup:
    """A horizontal bar of (class, amount) parts out of `whole`; what is missing to the whole stays empty."""
    at = 0.0
    rects = []
    for name, amount in parts:
        width = 100 * amount / whole if whole else 0.0
        if width > 0:
            rects.append(element("rect", class_=name, x=f"{at:.3f}%", width=f"{width:.3f}%", height="100%"))
        at += width
    return element("svg", *rects, class_="bar", role="img", aria_label=label)


def histogram(one: Distribution) -> Markup:
    """Bars of all values with the kept rows' bars before them, rejected side tinted, thresholds drawn in."""
    low, high = float(one.edges[0]), float(one.edges[-1])
    bounds = {name: bound for name, bound in thresholds(one.rule).items() if low <= bound <= high}

    def x(value: float) -> float:
        return PAD + (WIDTH - 2 * PAD) * (value - low) / (high - low)

    top = max(int(one.counts.max()), 1)
    shapes: list[Markup] = []
    for name, bound in bounds.items():
        left, right = (x(low), x(bound)) if name == "min" else (x(bound), x(high))
        shapes.append(_rect("zone", left, right, TOP, BOTTOM))
    for i, (count, kept) in enumerate(zip(one.counts.tolist(), one.kept.tolist(), strict=True)):
        if not count:
            continue
        left, right = x(float(one.edges[i])), x(float(one.edges[i + 1]))
        tip = f"{number(float(one.edges[i]))} to {number(float(one.edges[i + 1]))}: {count:,} rows, {kept:,} kept"
        bars = [_rect("all", left, right, _height(count, top), BOTTOM)]
        if kept:
            bars.append(_rect("kept", left, right, _height(kept, top), BOTTOM))
        shapes.append(element("g", element("title", tip), *bars))
    shapes.append(element("line", class_="axis", x1=PAD, x2=WIDTH - PAD, y1=BOTTOM + 0.5, y2=BOTTOM + 0.5))
    whole = len(one.edges) > 1 and one.edges[1] - one.edges[0] == 1 and low % 1 == 0.5
    for value in ticks(low, high):
        if whole and value % 1:
            continue
        shapes.append(element("line", class_="axis", x1=x(value), x2=x(value), y1=BOTTOM, y2=BOTTOM + 4))
        text = number(value)
        shapes.append(element("text", text, class_="tick", x=_inside(x(value), len(text)), y=HEIGHT - 4))
    for name, bound in bounds.items():
        shapes.append(element("line", class_="limit", x1=x(bound), x2=x(bound), y1=TOP - 4, y2=BOTTOM))
        anchor = "start" if x(bound) < WIDTH / 2 else "end"
        text = f"{name} {number(bound)}"
        shapes.append(element("text", text, class_="limit-text", x=x(bound), y=TOP - 7, text_anchor=anchor))
    label = f"Histogram of {one.column}, {one.n:,} rows, from {number(one.quantiles[0])} to {number(one.quantiles[4])}"
    return element("svg", *shapes, class_="histogram", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers inside [low, high], about so many of them."""
    raw = (high - low) / about
    if not raw > 0 or not math.isfinite(raw):
        return [low]
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def rule_text(rule: Mapping[str, Any]) -> str:
    """A keep rule in words: "min 5.5", "max 0.93 (quantile 0.98)", "one of ok", "distinct where similarity min 0.9"."""
    parts = []
    for name, value in rule.items():
        if name == "sampled_rows":
            continue
        if name == "distinct":
            parts.append(_distinct_text(value))
        elif name in ("equals", "one_of", "none_of"):
            parts.append(
                f"{name.replace('_', ' ')} {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
            )
        elif not name.endswith("_quantile") and value is not None:
            fitted = rule.get(f"{name}_quantile")
            text = number(value) if isinstance(value, int | float) else str(value)
            parts.append(f"{name} {text}" + (f" (quantile {fitted:g})" if fitted is not None else ""))
        elif rule.get(name.removesuffix("_quantile")) is None:
            parts.append(f"{name.replace('_', ' ')} {value} (not fitted yet)")
    return ", ".join(parts)


def _distinct_text(rule: Mapping[str, Any]) -> str:
    where = [f"{name} {rule_text(bounds)}" for name, bounds in (rule.get("where") or {}).items()]
    best = ", ".join(rule.get("best") or ())
    return (
        "distinct"
        + (f" where {' and '.join(where)}" if where else "")
        + (f"; the best by {best} stays" if best else "")
    )


def wanted(rows: int, want: float, most: float, label: str) -> Markup:
    """A bar of a category's rows out of `most`, with a line where its part of the target ends."""
    scale = 100 / most if most else 0.0
    bar = element("rect", class_="kept", width=f"{rows * scale:.3f}%", height="100%")
    at = f"{min(want * scale, 99.6):.3f}%"
    line = element("line", class_="want", x1=at, x2=at, y1="0", y2="100%")
    return element("svg", bar, line, class_="bar", role="img", aria_label=label)


def _height(count: int, top: int) -> float:
    """The y of a bar's top; a bar that is not empty is at least one unit high, so that rare values are seen."""
    return min(BOTTOM - (BOTTOM - TOP) * count / top, BOTTOM - 1)


def _rect(name: str, left: float, right: float, top: float, bottom: float) -> Markup:
    gap = 0.5 if name != "zone" and right - left > 3 else 0
    return element(
        "rect", class_=name, x=left + gap, width=max(right - left - 2 * gap, 0.6), y=top, height=bottom - top
    )


def _inside(at: float, characters: int) -> float:
    """Keeps a centred tick label inside the drawing (a character is about 6 units wide)."""
    return min(max(at, 3 * characters), WIDTH - 3 * characters)
