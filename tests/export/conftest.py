"""The run that most of these tests export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from export_fakes import FakeView, two_fragments

from ugaf.storage import Storage


@pytest.fixture(scope="module")
def tables(photos: dict[str, np.ndarray]) -> list[pa.Table]:
    """Five photographs, ten kept edits and a rejected one."""
    return two_fragments(photos)


@pytest.fixture
def view(tmp_path: Path, tables: list[pa.Table]) -> FakeView:
    """A run with these tables, in a folder of its own."""
    return FakeView(Storage(str(tmp_path / "run")), list(tables))
