"""HTML and SVG built from values that are always escaped, so that no string from data can become markup,
and without control characters."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from ugaf.base.printing import harmless

VOID = {"br", "input", "link", "meta"}


class Markup(str):
    """Text that is markup already; made only by `element` and `join`."""

    __slots__ = ()


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """`<tag attributes>children</tag>`; children that are not Markup are escaped, None and False are left out.

    A trailing underscore of an attribute's name is dropped and the others become hyphens: class_, aria_label.
    """
    text = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(harmless(_text(value)), quote=True)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in VOID:
        return Markup(f"<{tag}{text}>")
    return Markup(f"<{tag}{text}>{join(children)}</{tag}>")


def join(children: Any) -> Markup:
    """Children one after another: Markup as it is, lists flattened, everything else escaped."""
    parts = []
    for child in children:
        if child is None or child is False:
            continue
        if isinstance(child, Markup):
            parts.append(str(child))
        elif isinstance(child, list | tuple):
            parts.append(str(join(child)))
        else:
            parts.append(html.escape(harmless(str(child))))
    return Markup("".join(parts))


def _text(value: Any) -> str:
    if value is True:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


def table(
    name: str, caption: str, heads: list[str], lines: list[Markup], first_numeric: int, last_numeric: int = 99
) -> Markup:
    """A table in a box that scrolls sideways: columns `first_numeric` to `last_numeric` are numbers."""
    cells = [
        element("th", head, scope="col", class_="n" if first_numeric <= i <= last_numeric else None)
        if head
        else element("td")
        for i, head in enumerate(heads)
    ]
    title = element("caption", caption) if caption else None
    grid = element("table", title, element("thead", element("tr", *cells)), element("tbody", *lines), class_=name)
    return element(
        "div",
        grid,
        class_="scroll",
        tabindex=0 if caption else None,
        role="region" if caption else None,
        aria_label=caption or None,
    )


def security_policy(style: str, scripts: Sequence[str]) -> Markup:
    """The content security policy of a page that loads nothing: its own style and scripts (by hash), images as data."""
    sources = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {' '.join(map(_hash, scripts))}"
    policy = f"{sources}; base-uri 'none'; form-action 'none'"
    return element("meta", http_equiv="Content-Security-Policy", content=policy)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embed(data: Any) -> Markup:
    """JSON that is safe inside a script element: no `<`, `>`, `&`, and (ASCII only) no U+2028 or U+2029."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def base_style() -> str:
    """The style that all pages begin with."""
    return (resources.files("ugaf.pages") / "page.css").read_text("utf-8")
