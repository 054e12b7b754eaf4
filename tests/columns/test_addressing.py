"""Rows of a run are found by id, path, file name or a part of one."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from engine_tools import go, make_photos, pipeline
from hypothesis import given
from hypothesis import strategies as st

from ugaf.base.errors import UgafError
from ugaf.columns import addressing
from ugaf.columns.addressing import search
from ugaf.columns.view import RunView
from ugaf.imaging import images
from ugaf.ingest import image_id
from ugaf.withdrawal import withdraw as withdrawal

MEAN = {"engine_stages:Mean": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunView, Path]:
    """Photographs in folders, two of one name, a copy in a later fragment, a tar, and a broken file."""
    folder = tmp_path_factory.mktemp("addressing")
    cats = make_photos(folder / "in" / "cats", 6)
    make_photos(folder / "in" / "dogs", 2, start=100)
    (folder / "in" / "dogs" / cats[0].name).write_bytes(
        (folder / "in" / "dogs" / "photo-00100.jpg").read_bytes() + b"x"
    )
    (folder / "in" / "zoo").mkdir()
    (folder / "in" / "zoo" / "again.jpg").write_bytes(cats[1].read_bytes())
    (folder / "in" / "zoo" / "broken.jpg").write_bytes(b"no picture")
    with tarfile.open(folder / "in" / "zoo" / "shard.tar", "w") as tar:
        for number in (7, 8):
            data = images.encode(np.full((20, 20, 3), number * 20, np.uint8), "png")
            info = tarfile.TarInfo(f"member-{number}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return go(pipeline(folder / "in", folder / "run", [MEAN])), folder


def test_a_row_is_found_by_id_path_name_and_part(run: tuple[RunView, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    view, folder = run
    photo = folder / "in" / "cats" / "photo-00003.jpg"
    key = image_id(photo.read_bytes())
    monkeypatch.chdir(folder / "in")
    for text in (
        key,
        key[:9],
        str(photo),
        "cats/photo-00003.jpg",
        "./cats/../cats/photo-00003.jpg",
        photo.name,
        "00003",
    ):
        found, level, fragment = view.find(text)
        assert (found, level) == (key, "image"), text
        assert key in fragment["ingest"].ids


def test_a_name_in_two_folders_needs_more_and_the_message_shows_both(run: tuple[RunView, Path]) -> None:
    view, _ = run
    with pytest.raises(UgafError, match=r"2 rows .*photo-00000\.jpg.*\n.*cats/photo-00000\.jpg.*\n.*dogs/photo-00000"):
        view.find("photo-00000.jpg")
    assert view.find("cats/photo-00000.jpg")[0] != view.find("dogs/photo-00000.jpg")[0]


def test_a_copy_is_found_as_the_row_that_stands_for_it(run: tuple[RunView, Path]) -> None:
    view, _ = run
    assert view.find("zoo/again.jpg")[0] == view.find("cats/photo-00001.jpg")[0]


def test_a_row_that_failed_and_a_member_of_a_tar_have_names(run: tuple[RunView, Path]) -> None:
    view, folder = run
    key, _, fragment = view.find("broken.jpg")
    assert "ImageError" in fragment["ingest"].reason(fragment["ingest"].ids.index(key))
    assert view.find(f"{folder}/in/zoo/shard.tar#member-7.png")[0] == view.find("member-7")[0]


def test_a_folder_and_a_tar_mean_all_that_is_in_them(run: tuple[RunView, Path]) -> None:
    view, folder = run
    found = search(view, [f"{folder}/in/dogs/", f"{folder}/in/zoo/shard.tar", f"{folder}/in", "nothing of it"])
    assert [len(one.matches) for one in found.values()] == [3, 2, 12, 0]


@given(st.text(" \t\n\r\u2003\u00a0", max_size=4))
def test_a_blank_text_means_no_row(run: tuple[RunView, Path], text: str) -> None:
    view, folder = run
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert [len(one.matches) for one in search(view, [text, f"{folder}/in"]).values()] == [0, 12]
        for texts, listed in (([text], []), ([], [text])):
            with pytest.raises(UgafError, match="no row"):
                withdrawal.plan(view, texts, listed)
    finally:
        os.chdir(before)


def test_what_has_not_been_read_says_so(tmp_path: Path) -> None:
    make_photos(tmp_path / "in", 3)
    from ugaf.engine.cutting import cut

    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN])
    view = go(checked)
    make_photos(tmp_path / "in", 1, start=9)
    cut(view.columns)
    with pytest.raises(UgafError, match=r"photo-00009\.jpg has not been read yet"):
        RunView(checked.output, checked).find("photo-00009")


def test_pairs_are_found_by_their_line_and_their_file(tmp_path: Path) -> None:
    a, b = make_photos(tmp_path / "in", 2)
    line = {"source": a.name, "edited": b.name, "instruction": "swap"}
    (tmp_path / "in" / "pairs.jsonl").write_text(json.dumps(line))
    inputs = [{"path": str(tmp_path / "in" / "pairs.jsonl"), "kind": "pairs"}]
    view = go(pipeline(inputs, tmp_path / "run", [MEAN]))
    assert view.find("pairs.jsonl#1")[1] == view.find("pairs.jsonl")[1] == "edit"
    for picture in (b.name, "0000-source.jpg"):
        with pytest.raises(UgafError, match=r"a pair is named by where it stands, such as pairs\.jsonl#1$"):
            view.find(picture)


@pytest.mark.parametrize("source", ["/in/a#1 (b (2).jpg)", "/in/cat (3)", "/in (2)/cat (3).jpg", "/in/l.csv#7"])
def test_brackets_in_a_name_are_part_of_it(source: str) -> None:
    assert [rank for rank, _ in addressing._Wanted(["/in/cat", "/in"], parts=False).names(source)].count(
        addressing.WHOLE
    ) == (1 if source.startswith("/in/") else 0)


def test_a_text_that_is_a_name_and_the_beginning_of_another_id_means_both(tmp_path: Path) -> None:
    """A file that is called as another photograph's id begins: neither is taken for the other."""
    make_photos(tmp_path / "in", 4)
    photos = sorted((tmp_path / "in").iterdir())
    key = image_id(photos[0].read_bytes())
    photos[1].rename(tmp_path / "in" / f"{key[:5]}.jpg")
    checked = pipeline(tmp_path / "in", tmp_path / "run", [MEAN])
    view = go(checked)
    with pytest.raises(UgafError, match="2 rows"):
        view.find(key[:5])
    with pytest.raises(UgafError, match="2 rows"):
        withdrawal.plan(view, [], listed=[key[:5]])
    assert view.find(key)[0] == view.find(key[:6])[0] == key
    assert view.find(f"{key[:5]}.jpg")[0] != key


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0\n"), min_size=1, max_size=12)


@given(st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=5), st.data())
def test_every_ending_of_any_path_and_every_folder_of_it_is_known(parts: list[str], data: st.DataObject) -> None:
    source = "/" + "/".join(parts)
    start = data.draw(st.integers(0, len(parts) - 1))
    texts = ["/".join(parts[start:]), "/" + "/".join(parts[: start + 1])]
    wanted = addressing._Wanted(texts, parts=False)
    ranks = {text: rank for rank, text in wanted.names(source)}
    assert ranks.get(texts[0]) is not None
    assert ranks.get(texts[1]) is not None or os.path.abspath(texts[1]) != texts[1]
