"""HTML and SVG built from values that are always escaped, so that no string from data can become markup."""

from __future__ import annotations

import html
from typing import Any

VOID = {"br", "input", "link", "meta"}


class Markup(str):
    """Text that is markup already; made only by `element` and `join`."""

    __slots__ = ()


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """`<tag attributes>children</tag>`; children that are not Markup are escaped, None and False are left out.

    A trailing underscore of an attribute's name is dropped and the others become hyphens: class_, aria_label.
    """
    text = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(_text(value), quote=True)}"'
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
            parts.append(html.escape(str(child)))
    return Markup("".join(parts))


def _text(value: Any) -> str:
    if value is True:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
