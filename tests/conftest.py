"""Shared fixtures: real photographs that scikit-image carries, and a browser."""

from __future__ import annotations

import functools
import gc
import os
import re
import shutil

# As in the engine's workers, and before numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers give way to all other processes; the tests that wait for them may not wait for the other tests.
os.environ.setdefault("RAY_worker_niceness", "0")
# Checkpoints of the tests are made by them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Stages and engines of the tests, in runs that the tests read again.
os.environ["UGAF_TRUST"] = (
    "engine_stages,model_stages,tune_stages,bench_tools,same_size,test_images_api,test_predict,test_text"
)

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import settings

from ugaf.engine.session import Session

# The imports of all tests make millions of objects that stay: looking for garbage among them is a third of their time.
gc.disable()
cv2.setNumThreads(1)
settings.register_profile("ugaf", deadline=None, derandomize=True)
settings.load_profile("ugaf")


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """Real colour photographs, RGB uint8."""
    from skimage import data

    left, _, _ = data.stereo_motorcycle()
    return {
        "astronaut": data.astronaut(),
        "chelsea": data.chelsea(),
        "coffee": data.coffee(),
        "rocket": data.rocket(),
        "motorcycle": left,
    }


@pytest.fixture(scope="session")
def shared_images() -> Path:
    """A folder with photos/, pairs/ and index.json, where there is one (UGAF_TEST_IMAGES, else ../shared/images)."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("UGAF_TEST_IMAGES", root.parent / "shared" / "images"))
    if not (folder / "index.json").exists():
        pytest.skip(f"no test images at {folder}: set UGAF_TEST_IMAGES")
    return folder


BROWSER_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --force-prefers-reduced-motion "
    "--window-size=1366,900"
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium; skips where there is none, unless UGAF_REQUIRE_BROWSER=1."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        reason = "needs chromium and chromedriver on the path (Debian: apt install chromium chromium-driver)"
        if os.environ.get("UGAF_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*BROWSER_FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    from selenium.webdriver.chrome.service import Service

    with webdriver.Chrome(options=options, service=Service(driver)) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """A bucket on an S3 server of our own on a free local port."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="runs")
        yield f"s3://runs/%s?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


pytest_plugins = ["vllm_fixtures"]
SERVER_START_S = 600
"""Most seconds that vLLM takes to start."""
LIBRARIES = {"torch": ("torch", "torchvision", "transformers", "diffusers", "ultralytics"), "vllm": ("torch",)}
"""What the tests of a marker import: files that carry it are left out where that is not installed, unless
UGAF_REQUIRE_MODELS is set."""


@functools.cache
def _environment(file: Path) -> str:
    """The marker of the environment that a test file asks for by `pytestmark`; "" where any will do."""
    found = re.search(r"^pytestmark = .*mark\.(torch|vllm)\b", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file is read where its libraries are, and `-m torch` and `-m vllm` read no other."""
    if not (collection_path.name.startswith("test_") and collection_path.suffix == ".py"):
        return None
    wanted, needs = config.getoption("markexpr"), _environment(collection_path)
    if wanted in LIBRARIES and needs != wanted:
        return True
    if not needs:
        return None
    missing = [name for name in LIBRARIES[needs] if find_spec(name) is None]
    if needs == "vllm" and not missing:
        from vllm_fixtures import PYTHON

        missing = [] if PYTHON.exists() else [f"{PYTHON} (tests/environments/vllm.py makes it)"]
    if missing and os.environ.get("UGAF_REQUIRE_MODELS" if needs == "torch" else "UGAF_REQUIRE_VLLM"):
        raise pytest.UsageError(f"{collection_path.name} is to be run, and not installed are: {', '.join(missing)}")
    if not missing:
        _one_thread()
    return bool(missing) or None


@functools.cache
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


HELPERS = {
    "servers": {"chat_server", "fake_model_server", "images_server", "web_server"},
    "s3": {"faulty_store"},
}
"""Modules of the tests that start servers: a test file that imports from one needs what it is listed under."""
FIXTURES = {"browser": "browser", "s3_url": "s3", "head": "own_ray", "ray_here": "own_ray"}


SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text().split())
"""Tests that take more than 1.5 s of a CPU, all their parameters together: `make test-slow`."""

SHARED = Session()
"""The Ray of all tests of this process that are marked `ray`; one that a test started itself is that test's to end."""


@functools.cache
def _needs_of(module: ModuleType) -> frozenset[str]:
    """The markers of all tests of a file, by the helpers that it imports from."""
    origins = {getattr(value, "__module__", None) for value in vars(module).values()}
    return frozenset(marker for marker, modules in HELPERS.items() if modules & origins)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give a test the markers that follow from what it uses."""
    assert isinstance(item, pytest.Function)
    for marker in _needs_of(item.module) | {FIXTURES[name] for name in item.fixturenames if name in FIXTURES}:
        item.add_marker(marker)
    if item.nodeid.partition("[")[0].removeprefix("tests/") in SLOW:
        item.add_marker("slow")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay in one process, and so do the files that use Ray in one of three ways: a Ray costs as much as
    a test that works while it is there, and one process that has all of them is the last to end.
    """
    from xdist.scheduler import LoadFileScheduling

    class OneForRay(LoadFileScheduling):  # type: ignore[misc]
        @functools.cache  # noqa: B019 (it lives as long as the tests)
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            text = (Path(__file__).parents[1] / file).read_text()
            if re.search(r"mark\.own_ray\b|def ray_here\(", text):
                return "own_ray"
            if re.search(r"mark\.ray\b", text):
                return "ray, engine" if "test_engine" in file else "ray"
            return file

    return OneForRay(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: run last, they would keep one process busy for long. Those that share a Ray come after those
    that may not: it starts once. The first test of vLLM waits for its server's start too."""
    for item in items:
        if item.get_closest_marker("vllm") and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300 + SERVER_START_S))
    order = ("own_ray", "ray", "slow")
    items.sort(key=lambda item: next((at for at, name in enumerate(order) if item.get_closest_marker(name)), 9))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `ray` finds this process connected to a Ray that its like share; one of `own_ray` to none."""
    if item.get_closest_marker("ray"):
        SHARED.__enter__()
    elif item.get_closest_marker("own_ray"):
        SHARED.__exit__()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    SHARED.__exit__()
