"""What cells and links may open: nothing outside of the folders that the input names, and nothing that never ends."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingest_helpers import failures, good, ingest, picture, settings, write

from ugaf.base.errors import ConfigError, StopRun
from ugaf.ingest import NotRead, list_sources, produce
from ugaf.ingest.access import Reach
from ugaf.ingest.inputs import InputSettings
from ugaf.ingest.places import Place
from ugaf.ingest.sources import SourceError

EDITED = picture(2)


def _pairs(folder: Path, *cells: str) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "e.png").write_bytes(EDITED)
    lines = [{"source": cell, "edited": "e.png", "instruction": f"do {n}"} for n, cell in enumerate(cells)]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def set_folder(tmp_path: Path) -> Path:
    """A set's folder with an image in it, one beside it, and links."""
    write(tmp_path, {"set/in/a.png": picture(1), "private/secret.png": picture(3), "set2/a.png": picture(4)})
    (tmp_path / "set/link.png").symlink_to("../private/secret.png")
    (tmp_path / "set/links").symlink_to("../private")
    (tmp_path / "set/inner.png").symlink_to("in/a.png")
    return tmp_path / "set"


def test_a_cell_opens_what_is_below_its_file(set_folder: Path) -> None:
    inside = [
        "in/a.png",
        "./in/../in/a.png",
        "inner.png",
        str(set_folder / "in/a.png"),
        f"file://{set_folder}/in/a.png",
    ]
    assert len(good(ingest(_pairs(set_folder, *inside)))) == len(inside)


def _outside(folder: Path) -> list[str]:
    secret = folder.parent / "private/secret.png"
    return [
        *(str(secret), "../private/secret.png", "in/../../private/secret.png", "link.png", "links/secret.png"),
        *(f"file://{secret}", f"FILE://localhost{secret}", f"{folder}2/a.png", "links/../private/secret.png"),
        *("/etc/passwd", "/proc/self/environ", "/dev/zero", f"file://{folder}/%2e%2e/private/secret.png"),
    ]


def test_a_cell_opens_nothing_outside(set_folder: Path) -> None:
    cells = _outside(set_folder)
    rows = ingest(_pairs(set_folder, *cells))
    assert good(rows) == []
    reasons = [str(row.values) for row in rows]
    assert len(reasons) == len(cells)
    assert [reason for reason in reasons if "`allow" not in reason or "outside" not in reason] == []
    assert "root:x" not in "".join(reasons)


def test_root_and_allow_widen_the_border(set_folder: Path) -> None:
    secret = str(set_folder.parent / "private/secret.png")
    cells = _pairs(set_folder, secret, "in/a.png")
    assert len(good(ingest(cells, allow=[str(set_folder.parent / "private")]))) == 2
    (set_folder.parent / "e.png").write_bytes(EDITED)
    assert len(good(ingest(cells, root=str(set_folder.parent)))) == 1  # "in/a.png" starts at the root now
    assert len(good(ingest(_pairs(set_folder, "link.png"), allow=[str(set_folder.parent / "private")]))) == 1


def test_a_table_has_the_same_border(set_folder: Path) -> None:
    path = set_folder / "photos.parquet"
    pq.write_table(pa.table({"image": ["in/a.png", *_outside(set_folder)]}), path)
    rows = ingest(path, columns={"image": "image"})
    assert len(good(rows)) == 1
    assert all("outside" in str(failure) for failure in failures(rows).values())


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link to a pipe"])
def test_what_is_no_regular_file_is_refused_at_once(set_folder: Path, kind: str) -> None:
    path = set_folder / "odd.png"
    options: dict[str, Any] = {}
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
        options = {"allow": ["/dev"]}
    else:
        os.mkfifo(set_folder / "pipe")
        path.symlink_to("pipe")
    (failure,) = failures(ingest(_pairs(set_folder, "odd.png"), **options)).values()
    assert "not a regular file" in str(failure)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["pairs.jsonl", "photos.parquet", "photos.tar", "a.png"])
def test_an_input_that_is_a_pipe_does_not_hang(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    try:
        said = str(failures(ingest(tmp_path / name)).popitem()[1])
    except ConfigError as error:
        said = str(error)
    assert "regular file" in said


def test_links_of_a_folder_that_lead_outside_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path, {"photos/a.png": picture(1), "private/b.png": picture(2), "private/deep/c.png": picture(3)})
    (tmp_path / "photos/b.png").symlink_to("../private/b.png")
    (tmp_path / "photos/inner.png").symlink_to("a.png")
    (tmp_path / "photos/deep").symlink_to("../private/deep")
    for path in (tmp_path / "photos", tmp_path / "photos/*"):
        not_read = NotRead()
        found = {ref.key for ref in list_sources(settings(path), not_read=not_read)}
        assert found == {f"{tmp_path}/photos/{name}" for name in ("a.png", "inner.png")}
        assert sum(not_read.counts.values()) == 2
        assert "`allow" in str(not_read)
        assert len(list(list_sources(settings(path, allow=[str(tmp_path / "private")])))) == 4
    (tmp_path / "linked").symlink_to("photos")
    assert len(list(list_sources(settings(tmp_path / "linked")))) == 2


@pytest.mark.parametrize("kind", ["image", "table", "list"])
def test_an_input_that_a_machine_does_not_see_is_no_verdict_on_its_photographs(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "photos"
    write(folder, {"alone/a.png": picture(1)})
    if kind == "image":
        write(folder, {"b.png": picture(2)})
    elif kind == "table":
        pq.write_table(pa.table({"image": [picture(2)]}), folder / "b.parquet")
    else:
        cell = base64.b64encode(picture(3, size=(80, 80))).decode()  # too long to be kept in the list of sources
        (folder / "b.jsonl").write_text(json.dumps({"image": cell}))
    entry = settings(folder if kind != "list" else folder / "b.jsonl")
    refs = list(list_sources(entry))
    (folder / "alone/a.png").unlink()
    if kind != "list":
        assert len(failures(list(produce(refs, [entry])))) == 1, "a folder with nothing left in it is no input"
    shutil.rmtree(folder)
    for _ in ("none", "an empty mount"):
        with pytest.raises(StopRun, match="sees nothing there"):
            list(produce(refs, [entry]))
        folder.mkdir(exist_ok=True)
    assert len(failures(list(produce(refs)))) == len(refs), "an input that the pipeline has no more"


@pytest.mark.parametrize("call", ["stat", "listdir"])
def test_a_disk_at_fault_is_no_verdict_on_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write(tmp_path, {"photos/a.png": picture(1), "photos/sub/b.png": picture(2)})
    real = getattr(os, call)
    kind = {"stat": "a.png", "listdir": "sub"}[call]

    def faulty(path: Any, **options: Any) -> Any:
        if str(path).endswith(kind):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, **options)

    monkeypatch.setattr(os, call, faulty)
    with pytest.raises(StopRun, match="Input/output error"):
        list(list_sources(settings(tmp_path / "photos")))


@pytest.mark.parametrize("name", ["a.tar", "a.parquet"])
def test_a_disk_at_fault_is_no_verdict_on_an_archive_or_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write(tmp_path, {f"photos/{name}": b"x" * 2000, "photos/b.png": picture(2)})

    def faulty(*_: Any) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Place, "open", faulty)
    monkeypatch.setattr(Place, "open_native", faulty)
    with pytest.raises(StopRun, match="Stale file handle"):
        list(list_sources(settings(tmp_path / "photos", kind="webdataset" if name == "a.tar" else "parquet")))


def test_addresses_with_secrets_stay_in_their_list(tmp_path: Path) -> None:
    cell = "https://example.com/a.png?X-Amz-Signature=s1gnature"
    for other in (cell, [cell], {"path": cell}):
        line = json.dumps({"source": other, "edited": "e.png", "instruction": "x"})
        (tmp_path / "pairs.jsonl").write_text(line + "\n")
        (ref,) = list_sources(settings(tmp_path / "pairs.jsonl", hosts=[]))
        assert "s1gnature" not in repr(ref)
        (failure,) = failures(ingest(tmp_path / "pairs.jsonl", hosts=[])).values()
        assert "`hosts`" in str(failure)
        assert "s1gnature" not in str(failure)


_NAMES = st.sampled_from(["in", "a.png", "..", ".", "links", "private", "set", "secret.png", "", "set2", "link.png"])


@given(st.lists(_NAMES, min_size=1, max_size=8), st.sampled_from(["", "/", "file://", "./", "//"]))
def test_no_path_leads_out(tmp_path_factory: pytest.TempPathFactory, names: list[str], start: str) -> None:
    top = _TREE or _tree(tmp_path_factory.mktemp("tree"))
    reach = Reach(Place("", f"{top}/set"), Place("", f"{top}/set"), InputSettings(path=f"{top}/set/pairs.jsonl"))
    path = "/".join(names)
    cell = f"{start}{top}/{path}" if start in ("/", "file://") else f"{start}{path}"
    try:
        found = reach.resolve(cell)
    except (SourceError, OSError):
        return
    assert isinstance(found, Place)
    assert os.path.realpath(found.path).startswith(f"{top}/set")
    assert not os.path.realpath(found.path).startswith(f"{top}/set2")


_TREE = ""


def _tree(folder: Path) -> str:
    global _TREE
    write(folder, {"set/in/a.png": b"", "private/secret.png": b"", "set2/a.png": b""})
    (folder / "set/links").symlink_to("../private")
    (folder / "set/link.png").symlink_to("../private/secret.png")
    _TREE = os.path.realpath(folder)
    return _TREE


def test_keys_of_a_store_stay_below_the_folder() -> None:
    base = "memory://bucket/data/set"
    reach = Reach(Place.of(base), Place.of(base), InputSettings(path=f"{base}/pairs.jsonl"))
    inside = reach.resolve("in/a.png")
    assert isinstance(inside, Place)
    assert inside.path.endswith("bucket/data/set/in/a.png")
    for cell in (
        *("../other.png", "in/../../x.png", "memory://bucket/data/set/../x.png", "memory://bucket/data/set2/x.png"),
        *("s3://other/x.png", "memory://u:p@bucket/data/set/a.png", "memory://bucket/data/set/a.png?endpoint=evil"),
        *("gs://x/y.png", "ftp://host/a.png", "smb://host/a.png", "github://x:y@main/a.png", "/../x.png"),
    ):
        with pytest.raises(SourceError):
            reach.resolve(cell)


@given(cell=st.text(max_size=60))
def test_any_text_is_a_place_inside_or_refused(cell: str) -> None:
    reach = Reach(Place("", "/nowhere/set"), Place("", "/nowhere/set"), InputSettings(path="/nowhere/set/p.jsonl"))
    try:
        found = reach.resolve(cell)
    except (SourceError, ValueError):
        return
    assert isinstance(found, str) or f"{found.path}/".startswith("/nowhere/set/")


def test_pixels_and_bytes_have_limits_that_are_named(tmp_path: Path) -> None:
    from PIL import Image

    flat = tmp_path / "flat.png"
    Image.fromarray(np.zeros((1200, 1100), np.uint8)).save(flat)
    (failure,) = failures(ingest(flat, limits={"megapixels": 1})).values()
    assert "1100 x 1200" in str(failure)
    assert "limits.megapixels" in str(failure)
    assert len(good(ingest(flat))) == 1
    big = tmp_path / "big.png"
    big.write_bytes(picture(1) + bytes(1 << 20))
    (failure,) = failures(ingest(big, limits={"file_mb": 1})).values()
    assert "limits.file_mb" in str(failure)
    cells = _pairs(tmp_path / "set", "../big.png")
    (failure,) = failures(ingest(cells, limits={"file_mb": 1}, allow=[str(tmp_path)])).values()
    assert "limits.file_mb" in str(failure)
