"""What trainings of a tiny model start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from training_tools import make_shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "shards", 24)


@pytest.fixture
def no_group() -> Iterator[None]:
    """Leaves the group of processes that a training has joined."""
    yield
    from ugaf.trainer.distributed import leave

    leave()
