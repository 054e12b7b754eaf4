"""The cells of a table's row or a record: images, texts and boxes in the forms in which published sets write them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ugaf.imaging import boxes as box_geometry
from ugaf.imaging.boxes import Box
from ugaf.ingest import inline, json_text
from ugaf.ingest.sources import RecordError

_MIN_INSIDE = 0.5
_LABEL = 200


def image_cell(role: str, cell: Any) -> bytes | str:
    """An image's bytes, or its path: from bytes, a path, base64, a data URI, {bytes, path}, or a list of one of these.

    Raises RecordError for an empty cell, for several images (an edit of several sources is not a pair), and for
    anything else.
    """
    what = "the image" if role == "image" else f"{role} image"
    if isinstance(cell, list | tuple):
        if len(cell) > 1:
            only = "a row is one photograph" if role == "image" else "only edits of one image are supported"
            raise RecordError(f"{what}: {len(cell)} images in one cell; {only}")
        cell = cell[0] if cell else None
    if isinstance(cell, Mapping):
        if not {"bytes", "path"} & cell.keys():
            raise RecordError(f"{what}: neither bytes nor path in {shortened(sorted(cell))}")
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes | bytearray | memoryview) and len(cell):
        return bytes(cell)
    if isinstance(cell, str) and cell:
        found = inline.image(what, cell)
        return cell if found is None else found
    if cell is None or cell in ("", b""):
        raise RecordError(f"{what}: missing")
    raise RecordError(f"{what}: neither bytes nor a path but {type(cell).__name__}")


def path_hint(cell: str) -> str:
    """What may be wrong with a path at which there is nothing, in brackets; "" if it looks like any other."""
    if "\\" in cell:
        return " (written for Windows? here folders are divided by /)"
    if cell != cell.strip():
        return " (it begins or ends with a blank)"
    if re.search("%[0-9A-Fa-f]{2}", cell):
        return " (percent-encoded? names are taken as they are written)"
    if re.search(r"\.\w+\s*[,;|]\s*\S+\.\w+$", cell):
        return " (several names in one cell? only edits of one image are supported)"
    return ""


def instruction(cell: Any) -> str:
    """The instruction. Raises RecordError if there is none, or something that is no text."""
    found = text(cell)
    if found is not None:
        return found
    if cell is None or isinstance(cell, str | list | tuple):
        raise RecordError("no instruction")
    raise RecordError(f"the instruction is no text but {type(cell).__name__}: {shortened(cell)}")


def shortened(value: Any, length: int = 80) -> str:
    """A value of the data as a message shows it: on one line, and not endless."""
    shown = repr(value)
    return shown if len(shown) <= length else f"{shown[:length]}... ({len(shown)} characters)"


def text(cell: Any) -> str | None:
    """A text, stripped; of a list, its first that is not empty; None for anything else."""
    if isinstance(cell, list | tuple):
        return next((found for found in map(text, cell) if found), None)
    if isinstance(cell, str):
        return storable(cell).strip() or None
    return None


def storable(text: str) -> str:
    """The text as tables can hold it: JSON may escape half a character (`\\ud83d`), which becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def label(cell: Any) -> str | None:
    """A row's own id, for people."""
    return None if cell is None or isinstance(cell, list | dict | bytes) else str(cell)[:_LABEL]


def parse_boxes(cell: Any, width: int, height: int, reference: Any = None) -> list[Box]:
    """Boxes in whole pixels inside an image of (width, height), rounded outwards.

    Args:
        cell: one box or a list of boxes, each [x1, y1, x2, y2] or {x1, y1, x2, y2} in absolute pixels, or such a
            value as JSON text; empty for no box.
        reference: {width, height} or [width, height] of the frame that the boxes are drawn in, where it is not the
            image's own size (Inter-Edit's `bbox_reference_dimensions`).

    Raises:
        RecordError: not boxes, empty, fractions of the image, or less than half inside it.
    """
    cell = _parsed(cell, "boxes")
    if cell is None or cell == []:
        return []
    several = isinstance(cell, list | tuple) and not isinstance(cell[0], int | float)
    frame_width, frame_height = _frame(reference) or (width, height)
    scale = (width / frame_width, height / frame_height)
    return [_box(value, (width, height), scale) for value in (cell if several else [cell])]


def _box(value: Any, size: tuple[int, int], scale: tuple[float, float]) -> Box:
    if isinstance(value, Mapping):
        value = [value.get(corner) for corner in ("x1", "y1", "x2", "y2")]
    if not _is_numbers(value, 4):
        raise RecordError(f"box {shortened(value)} is not four numbers x1, y1, x2, y2")
    if any(isinstance(number, float) for number in value) and max(value) <= 1:
        raise RecordError(f"box {list(value)} looks like fractions of the image; absolute pixels are needed")
    scaled = [number * scale[index % 2] for index, number in enumerate(value)]
    if box_geometry.area(scaled) == 0:
        raise RecordError(f"box {list(value)} is empty: x1 < x2 and y1 < y2 are needed")
    if box_geometry.intersection(scaled, (0, 0, *size)) < _MIN_INSIDE * box_geometry.area(scaled):
        raise RecordError(f"box {list(value)} is mostly outside the source image of {size[0]} x {size[1]} pixels")
    # Scaling 960 / 1328 back and forth leaves 1e-13 above a whole pixel, which rounding outwards would make one more.
    return box_geometry.clip([round(number, 6) for number in scaled], *size)


def _frame(reference: Any) -> tuple[float, float] | None:
    reference = _parsed(reference, "reference dimensions")
    if isinstance(reference, Mapping):
        reference = [reference.get("width"), reference.get("height")]
    if reference is None or reference == []:
        return None
    if not _is_numbers(reference, 2) or min(reference) <= 0:
        raise RecordError(f"reference dimensions {shortened(reference)} are not a width and a height")
    return reference[0], reference[1]


def _parsed(cell: Any, what: str) -> Any:
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        return json_text.parse(cell)
    except ValueError:
        pass
    try:
        return json_text.parse(f"[{cell}]")
    except ValueError as error:
        raise RecordError(f"{what} {cell[:60]!r} are not numbers") from error


def _is_numbers(value: Any, count: int) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != count:
        return False
    return all(
        isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < 1e9 for number in value
    )
