"""A store that fails in the middle of its writes: what was good before is good after, and nothing half is there."""

from __future__ import annotations

import errno
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

import boto3
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from engine_tools import counts, go, make_photos, pipeline
from faulty_store import faulty
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ugaf import cli
from ugaf.base.errors import StopRun, UgafError
from ugaf.columns import lease
from ugaf.columns.view import RunView
from ugaf.export import export
from ugaf.imaging import images
from ugaf.pipeline.config import Pipeline
from ugaf.report import write_report
from ugaf.storage import Storage, local, objects

STAGES = [f"engine_stages:{name}" for name in ("Mean", "Halves", "Flip")]
EXPORT = {"formats": ["parquet", "webdataset"], "adapters": ["diffsynth"]}
FEW = settings(deadline=None, phases=(Phase.explicit, Phase.generate), suppress_health_check=[HealthCheck.too_slow])
AFTER = st.integers(0, 3000) | st.integers(0, 60000)


class Failing(MemoryFileSystem):
    """A file system of fsspec whose every write fails after some bytes."""

    protocol = "failing"
    store: dict[str, Any] = {}  # noqa: RUF012 (as in the class above)
    pseudo_dirs = [""]  # noqa: RUF012
    after: int | None = None

    def _open(self, path: str, mode: str = "rb", **rest: Any) -> Any:
        file = super()._open(path, mode, **rest)
        if mode != "rb" and self.after is not None:
            file.write = _limited(file.write, self.after)
        return file


def _limited(write: Any, after: int) -> Any:
    left = after

    def limited(data: Any) -> Any:
        nonlocal left
        some = memoryview(data).cast("B")
        if some.nbytes > left:
            write(bytes(some[:left]))
            raise OSError(errno.EINVAL, "the test's disk does not want more")
        left -= some.nbytes
        return write(data)

    return limited


class _Local(io.BytesIO):
    """A local file that takes so many bytes."""

    def __init__(self, file: IO[bytes], after: int) -> None:
        super().__init__()
        self.write = _limited(file.write, after)  # type: ignore[method-assign]
        self.tell = file.tell  # type: ignore[method-assign]


@contextmanager
def failing_disk(after: int) -> Iterator[None]:
    flushed = local.flushed

    @contextmanager
    def limited(path: str) -> Iterator[IO[bytes]]:
        with flushed(path) as file:
            yield _Local(file, after)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "flushed", limited)
        yield


def make(folder: Path, url: str) -> Pipeline:
    return pipeline(folder, url, STAGES, fragment_rows=2, export=EXPORT, engine={"executor": "inline", "patience_s": 0})


def steps(checked: Pipeline, rows: str) -> list[Any]:
    """Everything that writes, each by itself."""

    def view() -> RunView:
        return RunView(checked.output, checked)

    table = ["rows", checked.output, "--trust", "engine_stages", "-o"]
    return [
        lambda: go(checked),
        lambda: write_report(view(), gallery=4, seed=0),
        lambda: export(view(), replace=True),
        *(lambda kind=kind: cli.main([*table, f"{rows}{kind}"]) for kind in ("csv", "jsonl", "parquet")),
    ]


def all_of(steps: list[Any]) -> None:
    for step in steps:
        with suppress(OSError, UgafError, StopRun, pa.ArrowException):
            step()


def is_whole(name: str, data: bytes) -> bool:
    """Whether a file can be read to its end."""
    kind = name.rpartition(".")[2]
    if kind == "parquet":
        pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    elif kind == "tar":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return bool(tar.getmembers()) and data.endswith(b"\0" * 1024)
    elif kind in ("json", "yaml"):
        assert (json.loads if kind == "json" else yaml.safe_load)(data)
    elif kind == "html":
        return data.rstrip().endswith(b"</html>")
    elif kind == "jsonl":
        return all(json.loads(line) for line in data.splitlines())
    elif kind in ("png", "jpg", "webp"):
        images.decode(data)
    return data.endswith(b"\n") or kind not in ("md", "csv", "txt")


def files(place: Storage) -> dict[str, bytes]:
    return {name: place.read(name) for name in place.files() if not name.startswith(f"run/{lease.FOLDER}/")}


def check(place: Storage, photos: Path, fails: Any, recovers: Any) -> None:
    """A run, then one more photograph on a store that fails, then again on one that does not."""
    make_photos(photos, 3)
    url = place.url.replace("?", "/run?", 1) if "?" in place.url else f"{place.url}/run"
    rows = f"{place.url.partition('?')[0]}/rows."
    checked = make(photos, url)
    todo = steps(checked, rows if "?" not in place.url else f"{photos.parent}/rows.")
    for step in todo:
        step()
    before = files(place)
    assert any(name.endswith(".tar") for name in before)
    make_photos(photos, 1, start=10)
    with fails():
        all_of(todo)
    after = files(place)
    kept = {name for name in before if "/part-" in name or "/sources/" in name or "/rows." in name}
    assert kept <= set(after)
    for name, data in after.items():
        assert data == before.get(name) or is_whole(name, data), name
        assert data == before.get(name, data) or "/part-" not in name, name
    recovers()
    for step in todo:
        step()
    found = counts(RunView(url, checked))
    assert found["ingest"].kept == found["engine_stages:Mean"].kept == 4
    assert [name for name, data in files(place).items() if not is_whole(name, data)] == []
    assert [name for name in place.files() if ".tmp-" in name] == []


@given(after=AFTER)
@settings(FEW, max_examples=3)
def test_a_disk_that_fails_after_some_bytes_of_every_write(after: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Storage(f"{folder}/out")
        check(place, Path(folder) / "in", lambda: failing_disk(after), lambda: None)
        assert [str(path) for path in Path(folder, "out").rglob(".tmp-*")] == []


@given(after=AFTER)
@settings(FEW, max_examples=2)
def test_a_file_system_of_fsspec_that_fails_after_some_bytes_of_every_write(after: int) -> None:
    fsspec.register_implementation("failing", Failing, clobber=True)
    Failing.store.clear()

    @contextmanager
    def fails() -> Iterator[None]:
        Failing.after = after
        try:
            yield
        finally:
            Failing.after = None

    with tempfile.TemporaryDirectory() as folder:
        check(Storage("failing:///out"), Path(folder) / "in", fails, lambda: None)


@pytest.mark.parametrize("most", [5000])
def test_an_object_store_that_refuses_what_is_longer_than_some_bytes(most: int, tmp_path: Path, s3_url: str) -> None:
    with faulty(s3_url % tmp_path.name) as (proxy, url):

        @contextmanager
        def fails() -> Iterator[None]:
            proxy.most = most
            try:
                yield
            finally:
                proxy.most = None

        check(Storage(url), tmp_path / "in", fails, lambda: None)


@pytest.mark.parametrize("how", ["store", "block"])
def test_an_upload_in_pieces_that_fails_is_aborted_and_the_object_before_it_stays(
    how: str, tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PIECE", 5 << 20)
    with faulty(s3_url % tmp_path.name) as (proxy, url):
        run = Storage(url, patience_s=0)
        run.write("shard.tar", b"good")
        if how == "store":
            proxy.fault = lambda _, path: "403" if "partNumber=2" in path else ""

        def stream() -> None:
            with run.open_output("shard.tar") as file:
                for _ in range(16):
                    file.write(b"x" * (1 << 20))
                if how == "block":
                    raise RuntimeError("the writer's own fault")

        with pytest.raises(StopRun if how == "store" else RuntimeError):
            stream()
        assert run.read("shard.tar") == b"good"
        endpoint = url.partition("endpoint_override=")[2].partition("&")[0]
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}")
        left = client.list_multipart_uploads(Bucket="runs").get("Uploads", [])
        assert [upload for upload in left if tmp_path.name in upload["Key"]] == []
        monkeypatch.setattr(objects, "ONE_REQUEST", 1 << 20)
        with pytest.raises(StopRun) if how == "store" else nullcontext():
            run.write("shard.tar", b"y" * (11 << 20))
        assert run.read("shard.tar")[:1] == (b"g" if how == "store" else b"y")
