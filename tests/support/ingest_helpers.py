"""Small helpers of the ingest tests: tiny images of any content, and an input listed and produced in one call."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ugaf.ingest import IngestedRow, InputSettings, list_sources, produce
from ugaf.stage import Failure


def picture(seed: int, format: str = "PNG", size: tuple[int, int] = (12, 8), **options: Any) -> bytes:
    """An encoded noise image of (width, height); another seed is another image."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **options)
    return out.getvalue()


def settings(path: Any, **options: Any) -> InputSettings:
    return InputSettings.model_validate({"path": str(path), **options})


def ingest(path: Any, **options: Any) -> list[IngestedRow]:
    entry = settings(path, **options)
    return list(produce(list(list_sources([entry])), [entry]))


def keys(path: Any, **options: Any) -> list[str]:
    return [ref.key for ref in list_sources([settings(path, **options)])]


def good(rows: list[IngestedRow]) -> list[dict[str, Any]]:
    return [row.values for row in rows if isinstance(row.values, dict)]


def failures(rows: list[IngestedRow]) -> dict[str, Failure]:
    """The failed rows' reasons by their source."""
    return {row.sources[0]: row.values for row in rows if isinstance(row.values, Failure)}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
