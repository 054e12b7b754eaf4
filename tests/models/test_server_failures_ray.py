"""A faulty model server under a run on Ray: its rows stay pending, as in a run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import test_server_failures


@pytest.mark.ray
@pytest.mark.servers
@pytest.mark.parametrize("good", [0, 30])
def test_a_faulty_editor_fails_no_row_and_the_run_goes_on_after_the_mend(
    good: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test_server_failures.faulty_editor("400", good, "ray", tmp_path, capsys)
