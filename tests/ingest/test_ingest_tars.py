"""Tars of any order and naming: whose caption is whose, links, and edit pairs."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ingest_helpers import failures, good, ingest, keys, picture, settings, write

from ugaf.base.errors import ConfigError
from ugaf.ingest import NotRead, hold_pairs, list_sources, produce, tar_samples
from ugaf.ingest.detect import holds_pairs
from ugaf.ingest.schemas import PAIR_ROLES

PICTURES = [picture(seed) for seed in range(12)]
NAMES = st.text("ab1.-", min_size=1, max_size=5).filter(
    lambda name: not name.startswith(".") and not name.endswith(".")
)
STEMS = st.builds(lambda folder, name: folder + name, st.sampled_from(["", "d/", "d.e/"]), NAMES)


def tar(members, links=()):
    """members: (name, bytes); links: (name, target, type)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target, kind in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return out.getvalue()


def listed(path, **options):
    """(sources, what was not read) of a path."""
    not_read = NotRead()
    return list(list_sources([settings(path, **options)], None, not_read)), not_read


def captions(path):
    """Source without its folder -> caption, of the rows that are not failed."""
    refs, _ = listed(path)
    return {
        row.sources[0].partition("#")[2]: row.values["caption"] for row in produce(refs) if isinstance(row.values, dict)
    }


@st.composite
def archives(draw):
    """Members with distinct names in any order: images, and texts that say for which stem they were written."""
    stems = draw(st.lists(STEMS, min_size=1, max_size=7, unique=True))
    members, number = [], 0
    for stem in stems:
        image = draw(st.sampled_from(["png", "PNG", None]))
        if image:
            members.append((f"{stem}.{image}", PICTURES[number]))
            number += 1
        for suffix in draw(st.sets(st.sampled_from(["txt", "json", "cls"]))):
            text = json.dumps({"caption": f"json {stem}"}) if suffix == "json" else f"{suffix} {stem}"
            members.append((f"{stem}.{suffix}", text.encode()))
    return draw(st.permutations(members))


@given(archives())
@hypothesis_settings(max_examples=80, deadline=None)
def test_a_caption_is_found_wherever_it_stands_and_is_never_another_pictures(tmp_path_factory, members):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(tar(members))
    names = {name for name, _ in members}
    images = {name for name in names if name.lower().endswith(".png")}
    if not images:
        return
    found = captions(path)
    for name, caption in found.items():
        stem = name.rpartition(".")[0]
        own = [f"{suffix} {stem}" for suffix in ("txt", "json") if f"{stem}.{suffix}" in names]
        if own:
            assert caption == own[0]
        elif caption is not None:
            # That of the key, which is no other picture's.
            of = caption.partition(" ")[2]
            assert stem.startswith(f"{of}.")
            assert not any(image.rpartition(".")[0] == of for image in images)
    refs, not_read = listed(path)
    used = len(refs) + sum("caption" in ref.where() for ref in refs)
    assert used <= len(members) <= used + sum(not_read.counts.values())
    left_out = {name for name in images if name not in {ref.member for ref in refs}}
    assert sum(count for what, count in not_read.counts.items() if "png" in what or "odd" in what) >= len(left_out)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=9))
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_name_that_comes_again_is_another_sample_with_its_own_caption_or_none(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    members = []
    for number, (key, captioned) in enumerate(samples):
        members.append((f"{key}.png", PICTURES[number]))
        if captioned:
            members.append((f"{key}.txt", str(number).encode()))
    path.write_bytes(tar(members))
    rows = good(ingest(path))
    assert len(rows) == len(samples)
    by_key = Counter(key for key, _ in samples)
    for row in rows:
        number = PICTURES.index(row["image"])
        key, captioned = samples[number]
        assert row["caption"] in (str(number), None)
        every = all(other for name, other in samples if name == key)
        if captioned and (by_key[key] == 1 or (every and not _touching(samples, key))):
            assert row["caption"] == str(number)


def _touching(samples, key):
    return any(a[0] == b[0] == key for a, b in itertools.pairwise(samples))


def test_captions_that_cannot_be_told_apart_are_nobodys(tmp_path):
    members = [("a.png", PICTURES[0]), ("a.png", PICTURES[1]), ("a.txt", b"one"), ("a.txt", b"two")]
    write(tmp_path, {"x.tar": tar([*members, ("b.png", PICTURES[2]), ("b.txt", b"b")])})
    assert sorted(str(row["caption"]) for row in good(ingest(tmp_path / "x.tar"))) == ["None", "None", "b"]
    _, not_read = listed(tmp_path / "x.tar")
    assert not_read.counts == {".txt members of tars": 2}


def test_a_text_may_be_called_as_the_whole_image(tmp_path):
    members = [
        ("a.b.png", PICTURES[0]),
        ("a.b.png.txt", b"one"),
        ("c.png", PICTURES[1]),
        ("c.png.json", b'{"text": "two"}'),
    ]
    write(tmp_path, {"x.tar": tar(members[::-1])})
    assert captions(tmp_path / "x.tar") == {"a.b.png": "one", "c.png": "two"}


def test_an_archive_of_many_members_is_matched_in_stretches(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_samples, "AT_ONCE", 5)
    members = [
        (f"{n}.{kind}", PICTURES[n] if kind == "png" else str(n).encode()) for n in range(9) for kind in ("png", "txt")
    ]
    write(tmp_path, {"x.tar": tar(members)})
    assert captions(tmp_path / "x.tar") == {f"{n}.png": str(n) for n in range(9)}


def test_links_are_the_members_that_they_stand_for(tmp_path):
    links = [
        ("d/hard.png", "d/a.png", tarfile.LNKTYPE),
        ("d/soft.png", "./a.png", tarfile.SYMTYPE),
        ("lost.png", "nowhere.png", tarfile.SYMTYPE),
    ]
    write(tmp_path, {"x.tar": tar([("d/a.png", PICTURES[0]), ("d/a.txt", b"a")], links)})
    rows = ingest(tmp_path / "x.tar")
    (row,) = good(rows)
    assert {source.partition("#")[2] for source in row["sources"]} == {"d/a.png", "d/hard.png", "d/soft.png"}
    assert row["caption"] == "a"
    (failure,) = failures(rows).values()
    assert "a link to nowhere.png, which is not in the archive" in failure.message


def pair_members(keys, roles, fields):
    """(name, bytes) of whole pairs: sources are even pictures, edited images odd ones."""
    for number, key in enumerate(keys):
        yield f"{key}.{roles[0]}.png", PICTURES[2 * number]
        yield f"{key}.{roles[1]}.png", PICTURES[2 * number + 1]
        yield from ((f"{key}.{name}", data) for name, data in fields(number).items())


def as_json(number):
    return {"json": json.dumps({"instruction": f"do {number}", "image_id": "p", "split": "validation"}).encode()}


def as_text(name):
    return lambda number: {name: f"do {number}".encode()}


@given(
    st.lists(STEMS, min_size=1, max_size=5, unique=True),
    st.sampled_from(PAIR_ROLES),
    st.sampled_from([as_json, as_text("edit_prompt.txt"), as_text("txt")]),
    st.randoms(use_true_random=False),
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_pairs_in_tars_are_read_in_any_order_and_under_the_published_names(
    tmp_path_factory, keys, roles, fields, random
):
    # A key that is another one and a role is the same member's name.
    keys = [key for key in keys if not any(key.startswith(f"{other}.") for other in keys)]
    path = tmp_path_factory.mktemp("pairs") / "x.tar"
    members = [*pair_members(keys, roles, fields), ("note.txt", b"x")]
    random.shuffle(members)
    path.write_bytes(tar(members))
    assert holds_pairs(settings(path))
    refs, not_read = listed(path)
    rows = list(produce(refs))
    assert failures(rows) == {}
    assert {(row["image"], row["edited_image"], row["instruction"]) for row in good(rows)} == {
        (PICTURES[2 * n], PICTURES[2 * n + 1], f"do {n}") for n in range(len(keys))
    }
    assert sum(not_read.counts.values()) == 1


def test_our_shards_as_tars_and_as_parquet_are_the_same_pairs(tmp_path):
    boxes = [[1, 2, 9, 8]]
    rows = [
        {"id": str(n), "instruction": f"i{n}", "task": "swap", "boxes": boxes, "image_id": f"p{n}", "split": "train"}
        for n in range(3)
    ]
    members = []
    for number, row in enumerate(rows):
        members += [
            (f"{row['id']}.edit_mask.png", PICTURES[11]),
            (f"{row['id']}.edited.png", PICTURES[2 * number + 1]),
            (f"{row['id']}.json", json.dumps(row).encode()),
            (f"{row['id']}.source.png", PICTURES[2 * number]),
        ]
    write(tmp_path, {"tars/train-000000.tar": tar(members)})
    images = {"source": [PICTURES[2 * n] for n in range(3)], "edited": [PICTURES[2 * n + 1] for n in range(3)]}
    table = pa.table({**images, **{name: [row[name] for row in rows] for name in rows[0]}})
    (tmp_path / "tables").mkdir()
    pq.write_table(table, tmp_path / "tables" / "x.parquet")
    from_tar, from_table = ({row.id: row.values for row in ingest(tmp_path / name)} for name in ("tars", "tables"))
    for values in (*from_tar.values(), *from_table.values()):
        values.pop("sources")
    assert from_tar == from_table
    (first, *_) = from_tar.values()
    assert (first["task"], first["given_task"], first["split"], first["boxes"]) == ("replace", "swap", "train", boxes)
    assert hold_pairs([settings(tmp_path / "tars")])


def test_half_a_pair_and_pairs_that_cannot_be_told_apart_fail_by_name(tmp_path):
    whole = list(pair_members(["a", "b", "c"], ("source", "edited"), as_json))
    twice = [*whole, ("c.source.png", PICTURES[8]), ("half.source.png", PICTURES[9])]
    write(tmp_path, {"x.tar": tar(twice)})
    rows = ingest(tmp_path / "x.tar")
    assert len(good(rows)) == 2
    reasons = {source.partition("#")[2]: failure.message for source, failure in failures(rows).items()}
    assert "there is no half.edited image" in reasons["half"]
    assert "several times" in reasons["c"]


def test_names_of_a_tars_own_are_given_by_columns(tmp_path):
    fields = {"json": json.dumps({"words": "go"}).encode()}
    write(tmp_path, {"x.tar": tar(list(pair_members(["a"], ("v0", "v1"), lambda _: fields)))})
    assert not holds_pairs(settings(tmp_path / "x.tar"))
    columns = {"source": "v0", "edited": "v1", "instruction": "words"}
    (row,) = good(ingest(tmp_path / "x.tar", columns=columns))
    assert (row["instruction"], row["image"]) == ("go", PICTURES[0])
    with pytest.raises(ConfigError, match=r"holds photographs.*columns: \{source: NAME"):
        keys(tmp_path / "x.tar", kind="pairs")


def test_a_tar_of_pairs_beside_photographs_stops_with_its_name(tmp_path):
    pairs = tar(list(pair_members(["a"], ("source", "edited"), as_json)))
    write(tmp_path, {"a.tar": tar([("a.png", PICTURES[0])]), "b.tar": pairs})
    with pytest.raises(ConfigError, match=r"b\.tar holds edit pairs, the input photographs"):
        keys(tmp_path)


def test_masks_are_no_photographs_and_a_tar_of_pairs_can_be_taken_as_photographs(tmp_path):
    members = [*pair_members(["a", "b"], ("source", "edited"), as_json), ("a.edit_mask.png", PICTURES[9])]
    write(tmp_path, {"x.tar": tar(members)})
    assert len(keys(tmp_path / "x.tar", kind="webdataset")) == 4


def blocks(*names):
    """An archive of images without its end: headers and data alone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(PICTURES[0])
            archive.addfile(member, io.BytesIO(PICTURES[0]))
        return out.getvalue()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), min_size=1, max_size=5), st.data())
@hypothesis_settings(max_examples=60, deadline=None)
def test_archives_in_one_file_are_read_to_the_last(tmp_path_factory, parts, data):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    content, names, junk = b"", [], False
    for number, (count, zeros) in enumerate(parts):
        own = [f"{number}-{n}.png" for n in range(count)]
        content += blocks(*own) + bytes(512 * zeros)
        names += own
    if data.draw(st.booleans()) and parts[-1][1]:
        content, junk = content + b"signed by nobody" * 64, True
    if not names:
        return
    path.write_bytes(content)
    refs, _ = listed(path)
    assert [ref.member for ref in refs if "error" not in ref.where()] == names
    assert [("damaged archive" in str(ref.where()["error"])) for ref in refs if "error" in ref.where()] == [True] * junk


@given(st.integers(0, 3), st.integers(1, 4))
@hypothesis_settings(deadline=None)
def test_a_hole_of_zeros_in_an_archive_costs_what_it_hits_and_is_told(tmp_path_factory, place, length):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    single = len(blocks("a.png"))
    names = [f"{n}.png" for n in range(6)]
    content = bytearray(tar([(name, PICTURES[0]) for name in names]))
    size = 512 * min(length, single // 512 - 1)
    content[place * single : place * single + size] = bytes(size)
    path.write_bytes(content)
    refs, _ = listed(path)
    assert {ref.member for ref in refs if "error" not in ref.where()} == set(names) - {names[place]}
    (broken,) = [ref for ref in refs if "error" in ref.where()]
    assert broken.member == f"byte {place * single}"


KINDS = {tarfile.CHRTYPE: "devices", tarfile.BLKTYPE: "devices", tarfile.FIFOTYPE: "devices", tarfile.DIRTYPE: ""}


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=6))
@hypothesis_settings(deadline=None)
def test_members_that_are_no_files_are_counted_and_named(tmp_path_factory, kinds):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    path.write_bytes(tar([("a.png", PICTURES[0])], [(f"{n}.jpg", "", kind) for n, kind in enumerate(kinds)]))
    refs, not_read = listed(path)
    assert [ref.member for ref in refs] == ["a.png"]
    wanted = sum(KINDS[kind] != "" for kind in kinds)
    assert not_read.counts == ({"devices and pipes of tars": wanted} if wanted else {})
    if wanted:
        assert not_read.examples["devices and pipes of tars"].startswith(f"{path}#")


@given(st.integers(-(2**40), -1), st.integers(0, 2))
@hypothesis_settings(deadline=None)
def test_a_size_below_zero_costs_its_member(tmp_path_factory, size, place):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    single = len(blocks("a.png"))
    content = bytearray(tar([(f"{n}.png", PICTURES[n]) for n in range(3)]))
    header = content[place * single : place * single + 512]
    header[124:136] = (size % 256**12).to_bytes(12, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[place * single : place * single + 512] = header
    path.write_bytes(content)
    rows = ingest(path)
    assert {row["image"] for row in good(rows)} == {PICTURES[n] for n in range(3) if n != place}
    ((source, failure),) = failures(rows).items()
    assert source == f"{path}#byte {place * single}"
    assert f"'{place}.png'" in failure.message
    assert f"says {size} bytes" in failure.message
