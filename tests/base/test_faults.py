"""Whose fault an error is, and how long a service is waited for."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugaf.base import faults
from ugaf.base.errors import StopRun
from ugaf.storage import Storage, ahead

AWS = "When reading information for key 'a.jpg' in bucket 'b': AWS Error"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_FIRST_WAIT_S", 0.01)


class _AnswerError(Exception):
    """An exception of an HTTP library, which carries the answer's status in one of the usual places."""

    def __init__(self, where: str, status: int) -> None:
        super().__init__("said no more")
        if where == "response":
            self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": str(status)}}
        else:
            setattr(self, where, status)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(f"{AWS} SLOW_DOWN during GetObject operation: Please reduce your request rate."), "busy"),
        (OSError(f"{AWS} UNKNOWN (HTTP status 503) during HeadObject operation: No response body."), "busy"),
        (OSError(f"{AWS} INTERNAL_FAILURE during PutObject operation"), "busy"),
        (OSError(f"{AWS} A_NEW_ONE during GetObject operation: nobody has listed it"), "busy"),
        (OSError(f"{AWS} ACCESS_DENIED during HeadObject operation: No response body."), "refused"),
        (OSError(f"{AWS} UNKNOWN (HTTP status 400) during HeadObject operation: No response body."), "refused"),
        (OSError(f"{AWS} UNKNOWN (HTTP status 400) ... ExceptionName: ExpiredToken Message: expired"), "refused"),
        (OSError(f"{AWS} NETWORK_CONNECTION during GetObject operation: curlCode: 28, Timeout was reached"), "away"),
        (
            OSError(f"{AWS} NETWORK_CONNECTION during GetObject operation: curlCode: 6, Couldn't resolve host name"),
            "name",
        ),
        (OSError("google::cloud::Status(UNAVAILABLE: Retry policy exhausted in ReadObject())"), "busy"),
        (OSError("google::cloud::Status(UNAUTHENTICATED: Permanent error)"), "refused"),
        (pa.ArrowInvalid("Azure Error: [ServerBusy] 503 The server is busy."), "busy"),
        (OSError(errno.ENOSPC, "No space left on device"), "full"),
        (OSError("Error writing bytes to file. Detail: [errno 122] Disk quota exceeded"), "full"),
        (OSError(errno.EIO, "Input/output error", "/mnt/a.jpg"), "disk"),
        (OSError(errno.EMFILE, "Too many open files", "/mnt/a.jpg"), "handles"),
        (OSError(errno.EROFS, "Read-only file system"), "denied"),
        (PermissionError("Forbidden"), "refused"),
        (PermissionError("The provided token has expired."), "refused"),
        (socket.gaierror(-3, "Temporary failure in name resolution"), "name"),
        (ssl.SSLCertVerificationError("certificate has expired"), "away"),
        (TimeoutError("timed out"), "away"),
        (ConnectionResetError(104, "Connection reset by peer"), "away"),
    ],
)
def test_a_fault_of_the_service(error: Exception, kind: str) -> None:
    fault = faults.service_fault(error)
    assert fault is not None
    assert fault.kind == kind
    assert fault.mend


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "a.jpg"),
        PermissionError(errno.EACCES, "Permission denied", "/photos/a.jpg"),
        IsADirectoryError(errno.EISDIR, "Is a directory", "a"),
        OSError(errno.ELOOP, "Too many levels of symbolic links", "/photos/lossless/timeout-HTTP 503/forbidden.jpg"),
        OSError(f"{AWS} NO_SUCH_KEY during GetObject operation: The specified key does not exist."),
        OSError(f"{AWS} UNKNOWN (HTTP status 404) during HeadObject operation: No response body."),
        OSError("google::cloud::Status(NOT_FOUND: no such object)"),
        pa.ArrowInvalid("Parquet magic bytes not found in footer"),
        ValueError("not an image: timeout.jpg"),
        KeyError("status 503"),
    ],
)
def test_a_fault_of_the_row(error: Exception) -> None:
    assert faults.service_fault(error) is None


@given(
    where=st.sampled_from(["status", "status_code", "code", "response"]),
    status=st.integers(400, 599),
    depth=st.integers(0, 3),
)
def test_a_status_says_whose_fault_it_is_however_deep_it_lies(where: str, status: int, depth: int) -> None:
    error: Exception = _AnswerError(where, status)
    for _ in range(depth):
        outer = RuntimeError("a library's own words")
        outer.__cause__ = error
        error = outer
    services = {400, 401, 403, 407, 408, 420, 425, 429, 509, 511} | (set(range(500, 600)) - {501, 505})
    assert (faults.service_fault(error) is not None) == (status in services)


def test_patience_asks_again_and_the_answer_comes_through() -> None:
    answers: list[Exception] = [TimeoutError("timed out"), ConnectionResetError("reset")]

    def ask() -> str:
        if answers:
            raise answers.pop()
        return "bytes"

    assert faults.patiently(ask, "s3://bucket/run", patience_s=30) == "bytes"


def _raise(error: BaseException) -> Callable[[], None]:
    def ask() -> None:
        raise error

    return ask


def test_patience_that_runs_out_stops_the_run_and_tells_no_secret() -> None:
    error = OSError("cannot read https://me:pw@host/a?X-Amz-Signature=abc123: HTTP 503")
    with pytest.raises(StopRun) as stopped:
        faults.patiently(_raise(error), "s3://KEY:hunter2@bucket/run?token=abc123", patience_s=0.01)
    text = str(stopped.value)
    assert "s3://bucket/run" in text
    assert "HTTP 503" in text
    assert "overloaded" in text
    assert "same command" in text
    assert not [secret for secret in ("hunter2", "KEY", "abc123", "pw@") if secret in text]


def test_a_store_that_is_waited_for_is_told_of_once_for_all_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(faults._Process, "tell", lines.append)
    monkeypatch.setattr(faults._Process, "told", {})
    monkeypatch.setattr(faults, "pause", lambda _: None)
    for host in ("one.org", "two.org"):
        for number in range(20):
            answers = iter([TimeoutError("no"), TimeoutError("no"), TimeoutError("no")])

            def ask(answers: Iterator[Exception] = answers) -> str:
                for error in answers:
                    raise error
                return "bytes"

            assert faults.patiently(ask, f"https://{host}/{number}.jpg", patience_s=60) == "bytes"
    assert len(lines) == 2
    assert "https://one.org/0.jpg" in lines[0]
    assert "https://two.org/0.jpg" in lines[1]


def test_a_fault_of_the_row_is_not_asked_again() -> None:
    with pytest.raises(FileNotFoundError):
        faults.patiently(_raise(FileNotFoundError(errno.ENOENT, "no such file")), "/photos", patience_s=60)


def test_a_full_disk_is_named_with_what_it_has_left(tmp_path: Path) -> None:
    with pytest.raises(StopRun, match=r"disk at /.* has [\d,]+ of [\d,]+ bytes free") as stopped:
        faults.patiently(_raise(OSError(errno.ENOSPC, "No space left")), str(tmp_path / "run"), patience_s=0)
    assert str(tmp_path / "run") in str(stopped.value)


def test_the_threads_of_a_pool_do_not_wait_on_when_one_has_given_up() -> None:
    waiting = threading.Event()

    def read(number: int) -> None:
        if number == 0:
            waiting.wait(10)
            raise StopRun("given up")
        waiting.set()
        faults.patiently(_raise(TimeoutError("timed out")), "s3://b", patience_s=10_000)

    with pytest.raises(StopRun, match="given up"):
        list(ahead(read, range(4), readers=4))


class _Faulty(pafs.FileSystemHandler):
    """A file system that answers some calls with errors, and else as the local disk does."""

    def __init__(self, errors: list[Exception]) -> None:
        self.local, self.errors = pafs.LocalFileSystem(), errors

    def _fault(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def get_type_name(self) -> str:
        return "faulty"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths):  # type: ignore[no-untyped-def]
        self._fault()
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector):  # type: ignore[no-untyped-def]
        self._fault()
        return self.local.get_file_info(selector)

    def create_dir(self, path, recursive):  # type: ignore[no-untyped-def]
        self.local.create_dir(path, recursive=recursive)

    def delete_file(self, path):  # type: ignore[no-untyped-def]
        self.local.delete_file(path)

    def move(self, source, target):  # type: ignore[no-untyped-def]
        self.local.move(source, target)

    def open_input_stream(self, path):  # type: ignore[no-untyped-def]
        self._fault()
        return self.local.open_input_stream(path)

    def open_input_file(self, path):  # type: ignore[no-untyped-def]
        self._fault()
        return self.local.open_input_file(path)

    def open_output_stream(self, path, metadata):  # type: ignore[no-untyped-def]  # noqa: ARG002
        self._fault()
        return self.local.open_output_stream(path)

    def delete_dir(self, path):  # type: ignore[no-untyped-def]
        self.local.delete_dir(path)

    delete_dir_contents = delete_root_dir_contents = copy_file = open_append_stream = None


def _faulty(folder: Path, errors: list[Exception]) -> Storage:
    storage = Storage(str(folder))
    storage._opened = (pafs.PyFileSystem(_Faulty(errors)), str(folder))
    return storage


def test_every_call_of_a_storage_is_patient(tmp_path: Path) -> None:
    fault = TimeoutError("timed out")
    errors: list[Exception] = []
    storage = _faulty(tmp_path, errors)
    for call, right in (
        (lambda: storage.write("a.bin", b"123"), None),
        (lambda: storage.read("a.bin"), b"123"),
        (lambda: storage.open("a.bin").read(), b"123"),
        (lambda: storage.read_with("a.bin", lambda file: file.read()), b"123"),
        (lambda: storage.exists("a.bin"), True),
        (lambda: storage.list(), ["a.bin"]),
        (lambda: storage.files(), ["a.bin"]),
        (lambda: storage.remove("a.bin"), None),
    ):
        errors.append(fault)
        assert call() == right
        assert not errors
    assert storage.files() == []
