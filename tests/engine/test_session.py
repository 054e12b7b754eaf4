"""The connection to Ray: one for many runs of a process, and left as it was found."""

from __future__ import annotations

import importlib
import signal
from pathlib import Path

import pytest
import ray
from engine_tools import counts, go, make_photos, pipeline

from ugaf.engine import session
from ugaf.engine.session import Session


@pytest.mark.ray
def test_runs_of_a_session_share_one_ray_and_leave_it_connected(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 6)
    met = ray.get_runtime_context().get_job_id()
    with Session():
        engine = {"executor": "ray", "workers": 1}
        run = pipeline(tmp_path / "photos", tmp_path / "run", ["engine_stages:Mean"], engine=engine)
        assert counts(go(run))["engine_stages:Mean"].kept == 6
        assert ray.get_runtime_context().get_job_id() == met
    assert ray.is_initialized()


@pytest.mark.own_ray
def test_a_session_that_started_ray_hands_on_its_modules_and_ends_it() -> None:
    with Session():
        found = ray.remote(num_cpus=0)(lambda: importlib.import_module("engine_stages").__name__).remote()
        assert ray.get(found) == "engine_stages"
        with Session():
            pass
        assert ray.is_initialized()
    assert not ray.is_initialized()


@pytest.mark.parametrize("module", ["ray._private.worker", "ray._private.node", "ray"])
def test_a_handler_of_rays_never_takes_the_place_of_ours(module: str) -> None:
    """Not while Ray starts either; whoever else sets one, such as ours when the signal came, may."""
    ours: list[int] = []

    def theirs(number: int, _: object) -> None:
        ours.append(-number)

    theirs.__module__ = module
    before = signal.signal(signal.SIGTERM, lambda number, _: ours.append(number))
    try:
        with session._own_sigterm():
            signal.signal(signal.SIGTERM, theirs)
            signal.raise_signal(signal.SIGTERM)
            kept = signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.raise_signal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, kept)
        signal.raise_signal(signal.SIGTERM)
        assert ours == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)
