"""Images that cells name by web addresses: what comes whole is read, and whose fault it is where nothing comes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingest_helpers import failures, good, picture, settings
from web_server import WebServer, serving

from ugaf.base import faults
from ugaf.base.errors import StopRun
from ugaf.ingest import IngestedRow, fetching, list_sources, produce
from ugaf.ingest.addresses import Hosts, what_is_wrong

IMAGE, EDITED = picture(1, size=(60, 40)), picture(2, size=(60, 40))


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(faults, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(faults._Process, "patience_s", 0.3)
    fetching.forget()
    with serving({"a.png": IMAGE, "b.png": EDITED}) as server:
        yield server


class Read:
    """What became of the pairs of a list: rows by the cell of their source, and the cells that were put off."""

    def __init__(self, folder: Path, cells: list[str], **options: Any) -> None:
        (folder / "e.png").write_bytes(EDITED)
        lines = [{"source": cell, "edited": "e.png", "instruction": f"do {cell}", "id": cell} for cell in cells]
        (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        entry = settings(folder / "pairs.jsonl", **options)
        refs = list(list_sources(entry))
        self.put_off: dict[str, str] = {}
        rows = list(produce(refs, [entry], self._later))
        self.names = {ref.key: cells[int(ref.member) - 1] for ref in refs}
        self.rows: list[IngestedRow] = rows
        self.put_off = {self.names[key]: why for key, why in self.put_off.items()}

    def _later(self, ref: Any, error: Exception) -> None:
        self.put_off[ref.key] = str(error)

    @property
    def good(self) -> set[str]:
        return {
            cell
            for row in self.rows
            if isinstance(row.values, dict)
            for cell in self.names.values()
            if row.values["instruction"] == f"do {cell}"
        }

    @property
    def failed(self) -> dict[str, str]:
        return {self.names[key]: str(failure) for key, failure in failures(self.rows).items()}


def _named(web: WebServer, **options: Any) -> dict[str, Any]:
    return {"hosts": [web.host], **options}


@pytest.mark.parametrize("how", ["", "chunked/", "gzip/", "deflate/", "whole/", "ranges/", "to/", "to/gzip/"])
def test_a_sound_answer_is_read_whole(web: WebServer, tmp_path: Path, how: str) -> None:
    read = Read(tmp_path, [f"{web.url}/{how}a.png?size=large&v=1"], **_named(web))
    assert [row["image"] for row in good(read.rows)] == [IMAGE]


@pytest.mark.parametrize("status", [404, 405, 410, 451])
def test_what_is_gone_fails_its_row_with_the_status(web: WebServer, tmp_path: Path, status: int) -> None:
    read = Read(tmp_path, [f"{web.url}/{status}/a.png"], **_named(web))
    assert f"HTTP {status}" in read.failed[f"{web.url}/{status}/a.png"]
    assert web.asked.total() == 1


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("429", "HTTP 429"),
        ("500", "HTTP 500"),
        ("503", "HTTP 503"),
        ("401", "HTTP 401"),
        ("403", "HTTP 403"),
        ("cut", "cut short"),
        ("cutchunks", "cut short"),
        ("reset", "closed"),
        ("garbage", "cut short"),
    ],
)
def test_a_host_that_gives_no_answer_puts_its_rows_off(web: WebServer, tmp_path: Path, how: str, said: str) -> None:
    cell = f"{web.url}/{how}/a.png"
    read = Read(tmp_path, [cell], **_named(web, http={"tries": 2}))
    assert read.rows == []
    assert web.host in read.put_off[cell]
    assert said in read.put_off[cell]
    fetching.forget()
    read = Read(tmp_path, [cell], **_named(web, http={"tries": 2, "unanswered": "failed"}))
    assert said in read.failed[cell]
    assert not read.put_off


def test_a_host_that_comes_back_is_read_by_the_next_tries(web: WebServer, tmp_path: Path) -> None:
    web.decide = lambda _, count: 503 if count < 3 else 0
    read = Read(tmp_path, [f"{web.url}/a.png"], **_named(web))
    assert len(read.good) == 1


def test_a_refused_address_among_answered_ones_is_its_own_fault(web: WebServer, tmp_path: Path) -> None:
    cells = [f"{web.url}/{name}" for name in ("403/first.png", "a.png", "403/last.png")]
    read = Read(tmp_path, cells, **_named(web, http={"tries": 2}))
    assert read.good == {cells[1]}
    assert read.failed.keys() == {cells[0], cells[2]}
    assert "HTTP 403" in read.failed[cells[0]]
    assert "others" not in read.put_off


def test_a_token_that_expires_puts_off_what_comes_after(web: WebServer, tmp_path: Path) -> None:
    web.decide = lambda *_: 403 if web.asked.total() > 2 else 0
    read = Read(tmp_path, [f"{web.url}/a.png?n={number}" for number in range(6)], **_named(web, http={"tries": 2}))
    assert not read.failed
    assert len(read.put_off) == 6 - len(read.good)


def test_a_dead_host_holds_nobody_up(web: WebServer, tmp_path: Path) -> None:
    with serving({}) as other:
        dead = other.host
    cells = [f"http://{dead}/{number}.png" for number in range(50)]
    began = time.monotonic()
    read = Read(tmp_path, [*cells, f"{web.url}/a.png"], hosts=[web.host, dead], http={"connect_s": 1})
    assert read.good == {f"{web.url}/a.png"}
    assert read.put_off.keys() == set(cells)
    assert {"refused" in why.lower() and "connect_s" not in why for why in read.put_off.values()} == {True}
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("how", "setting"), [("hang", "read_s"), ("drip", "total_s"), ("dripwhole", "total_s")])
def test_a_time_limit_is_named(web: WebServer, tmp_path: Path, how: str, setting: str) -> None:
    cell = f"{web.url}/{how}/a.png"
    read = Read(tmp_path, [cell], **_named(web, http={setting: 0.5, "tries": 1}))
    assert f"http.{setting}" in read.put_off[cell]


@pytest.mark.parametrize("how", ["bomb", "round"])
def test_an_endless_answer_fails_its_row(web: WebServer, tmp_path: Path, how: str) -> None:
    read = Read(tmp_path, [f"{web.url}/{how}"], **_named(web, limits={"file_mb": 1}))
    assert ("limits.file_mb" if how == "bomb" else "redirects") in read.failed[f"{web.url}/{how}"]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "2130706433", "0x7f.0.0.1", "017700000001", "[::1]", "[::ffff:127.0.0.1]", "0"),
        *("127.1", "[0:0:0:0:0:ffff:7f00:1]", "①②⑦.⓪.⓪.①", "a:b@127.0.0.1", "127.0.0.1."),
    ],
)
def test_a_cell_does_not_reach_this_machine(web: WebServer, tmp_path: Path, host: str) -> None:
    cell = f"http://{host}:{web.server_address[1]}/a.png"
    read = Read(tmp_path, [cell], http={"tries": 1, "unanswered": "failed"})
    assert read.failed.keys() == {cell}
    assert web.asked.total() == 0


def test_a_redirect_does_not_reach_this_machine(web: WebServer, tmp_path: Path) -> None:
    with serving({"a.png": IMAGE}) as inner:
        cell = f"{web.url}/to/http:/{inner.host}/a.png"
        read = Read(tmp_path, [cell], **_named(web))
        assert "hosts" in read.failed[cell]
        assert inner.asked.total() == 0
        assert Read(tmp_path, [cell], hosts=[web.host, inner.host]).good == {cell}


def test_a_name_that_resolves_elsewhere_a_moment_later_changes_nothing(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    answers = ["93.184.215.14", "127.0.0.1"]
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "rebinding.example":
            ip = answers.pop(0) if len(answers) > 1 else answers[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))]
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    cell = f"http://rebinding.example:{web.server_address[1]}/a.png"
    Read(tmp_path, [cell], http={"tries": 1, "connect_s": 0.3, "unanswered": "failed"})
    assert web.asked.total() == 0


def test_hosts_restrict(web: WebServer, tmp_path: Path) -> None:
    cell = "https://images.example.com/a.png"
    read = Read(tmp_path, [cell, f"{web.url}/a.png"], hosts=[web.host, "*.example.org"])
    assert read.good == {f"{web.url}/a.png"}
    assert "*.example.org" in read.failed[cell]
    hosts = Hosts(("*.example.org", "one.net:8080"))
    hosts.check_name("a.example.org", 443)
    hosts.check_name("one.net", 8080)
    for host, port in (("example.org", 443), ("evilexample.org", 443), ("one.net", 80), ("a.example.org.evil", 1)):
        with pytest.raises(Exception, match="hosts"):
            hosts.check_name(host, port)


@given(st.ip_addresses())
def test_only_public_addresses_are_public(address: Any) -> None:
    if not address.is_global or address.is_multicast:
        assert what_is_wrong(str(address))
    if address.version == 4:
        inside = bool(what_is_wrong(str(address)))
        for text in (f"::ffff:{address}", f"64:ff9b::{address}"):
            assert bool(what_is_wrong(text)) == inside, text


@pytest.mark.parametrize("how", ["", "ranges/", "whole/", "chunked/", "gzip/", "to/ranges/"])
def test_a_list_and_its_images_on_one_server(web: WebServer, how: str) -> None:
    """The input names the host, so that it may be a private one; relative paths start from the list's folder."""
    line = json.dumps({"source": "../a.png", "edited": "/b.png", "instruction": "x"})
    web.files["sub/pairs.jsonl"] = f"{line}\n{line.replace('/b.png', 'none.png')}\n".encode() * 5
    web.files["pairs.jsonl"] = web.files["sub/pairs.jsonl"]
    entry = settings(f"{web.url}/{how or 'sub/'}pairs.jsonl")
    rows = list(produce(list(list_sources(entry)), [entry]))
    assert len(rows) == 6  # one pair five times, and five that lack an image
    assert [row["image"] for row in good(rows)] == [IMAGE]


def test_an_input_whose_server_is_away_stops_the_run(web: WebServer) -> None:
    web.files["pairs.jsonl"] = json.dumps({"source": "a.png", "edited": "b.png", "instruction": "x"}).encode()
    entry = settings(f"{web.url}/pairs.jsonl")
    refs = list(list_sources(entry))
    web.decide = lambda *_: 503
    with pytest.raises(StopRun, match="HTTP 503"):
        list(produce(refs, [entry]))
    web.decide = lambda _, count: 503 if count < 4 else 0
    assert len(good(list(produce(refs, [entry])))) == 1


def test_a_tar_is_read_by_ranges_and_whole(web: WebServer) -> None:
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(4):
            info = tarfile.TarInfo(f"{number}.png")
            data = picture(number, size=(80, 60))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    web.files["set.tar"] = out.getvalue()
    for how in ("ranges/", "", "chunked/"):
        entry = settings(f"{web.url}/{how}set.tar")
        rows = list(produce(list(list_sources(entry)), [entry]))
        assert {row["image"] for row in good(rows)} == {picture(n, size=(80, 60)) for n in range(4)}


def test_a_password_goes_to_its_own_server_only(web: WebServer) -> None:
    with serving({"a.png": IMAGE}) as other:
        line = {"source": f"{other.url}/a.png", "edited": "b.png", "instruction": "x"}
        web.files["pairs.jsonl"] = json.dumps(line).encode()
        entry = settings(f"http://me:secret@{web.host}/pairs.jsonl?token=abc", hosts=[other.host])
        rows = list(produce(list(list_sources(entry)), [entry]))
        assert len(good(rows)) == 1
        assert [headers for headers in web.headers_seen if "authorization" not in headers] == []
        assert not any("authorization" in headers for headers in other.headers_seen)
        assert "secret" not in repr(rows) + repr(entry)
