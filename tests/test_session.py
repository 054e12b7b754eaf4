"""The connection to Ray: one for many runs of a process, and left as it was found."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from engine_tools import counts, go, make_photos, pipeline

from ugaf.session import Session


@pytest.mark.own_ray
def test_runs_of_a_session_share_one_ray_and_leave_it_connected(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 6)
    with Session():
        met = ray.get_runtime_context().get_job_id()
        for name in ("first", "second"):
            run = pipeline(tmp_path / "photos", tmp_path / name, ["engine_stages:Mean"], engine={"executor": "ray"})
            assert counts(go(run))["engine_stages:Mean"].kept == 6
            assert ray.get_runtime_context().get_job_id() == met
    assert not ray.is_initialized()
