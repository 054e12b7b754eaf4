"""Image files: formats, names and order, folders and globs, bad files, duplicates, remote file systems."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import uuid
import zlib

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ingest_helpers import failures, good, ingest, keys, picture, settings, write
from PIL import Image, features

from ugaf.base.errors import ConfigError
from ugaf.imaging import images
from ugaf.ingest import IMAGE_SCHEMA, InputSettings, SourceRef, list_sources, produce
from ugaf.ingest.samples import SAMPLES
from ugaf.stage import Failure

FORMATS = {"a.jpg": "JPEG", "b.png": "PNG", "c.webp": "WEBP", "d.bmp": "BMP", "e.tiff": "TIFF", "f.gif": "GIF"}
if features.check("avif"):
    FORMATS["g.avif"] = "AVIF"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("name", "format"), FORMATS.items())
def test_every_format_is_read_with_its_size(tmp_path, name, format):
    data = picture(1, format, (13, 7))
    write(tmp_path, {name: data})
    (row,) = ingest(tmp_path)
    assert row.values == {
        "image": data,
        "width": 13,
        "height": 7,
        "format": format,
        "plain": True,
        "caption": None,
        "sources": [str(tmp_path / name)],
    }
    assert row.id == hashlib.sha256(data).hexdigest()[:32]
    pa.table({name: [row.values[name]] for name in IMAGE_SCHEMA.names}, schema=IMAGE_SCHEMA)


def test_size_is_after_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    write(tmp_path, {"a.jpg": picture(1, "JPEG", (20, 10), exif=exif)})
    (row,) = ingest(tmp_path)
    assert (row.values["width"], row.values["height"], row.values["plain"]) == (10, 20, False)


def test_an_image_that_needs_conversion_is_not_plain(tmp_path):
    out = io.BytesIO()
    Image.new("CMYK", (4, 4)).save(out, "JPEG")
    write(tmp_path, {"cmyk.jpg": out.getvalue()})
    assert good(ingest(tmp_path))[0]["plain"] is False


def test_folder_is_recursive_sorted_and_leaves_out_hidden_and_other_files(tmp_path):
    names = ["b.JPG", "a.png", "sub/deep/z.webp", "sub/a.jpeg", "Z.tif", ".hidden.png", ".git/x.png", "notes.txt"]
    write(tmp_path, {name: picture(i) for i, name in enumerate(names)})
    expected = ["Z.tif", "a.png", "b.JPG", "sub/a.jpeg", "sub/deep/z.webp"]
    assert keys(tmp_path) == [str(tmp_path / name) for name in expected]


def test_limit_takes_the_first(tmp_path):
    write(tmp_path, {f"{i}.png": picture(i) for i in range(5)})
    assert keys(tmp_path, limit=2) == [str(tmp_path / "0.png"), str(tmp_path / "1.png")]


def test_a_file_named_itself_is_taken_whatever_its_name(tmp_path):
    write(tmp_path, {"photo": picture(1), "data.bin": picture(2)})
    assert len(good(ingest(tmp_path / "photo"))) == 1
    assert len(good(ingest(tmp_path / "*.bin"))) == 1


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("?.jpg", ["a.jpg", "b.jpg"]),
        ("[ac].*", ["a.jpg"]),
        ("*/c.jpg", ["x/c.jpg", "y/c.jpg"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "x/c.jpg", "y/c.jpg", "y/z/d.jpg"]),
        ("**", ["a.jpg", "b.jpg", "x/c.jpg", "y/c.jpg", "y/z/d.jpg"]),
        ("y/**/d.jpg", ["y/z/d.jpg"]),
        ("[xy]", ["x/c.jpg", "y/c.jpg", "y/z/d.jpg"]),
    ],
)
def test_globs(tmp_path, pattern, expected):
    files = ["a.jpg", "b.jpg", "n.txt", "x/c.jpg", "y/c.jpg", "y/z/d.jpg"]
    write(tmp_path, {name: picture(i) for i, name in enumerate(files)})
    assert keys(tmp_path / pattern) == [str(tmp_path / name) for name in expected]


def test_a_path_with_brackets_that_exists_is_no_pattern(tmp_path):
    write(tmp_path, {"shoot [1]/a.png": picture(1)})
    assert keys(tmp_path / "shoot [1]") == [str(tmp_path / "shoot [1]" / "a.png")]


def test_links_are_followed_but_never_round(tmp_path):
    write(tmp_path, {"a/x.png": picture(1)})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert keys(tmp_path) == [str(tmp_path / "a/x.png"), str(tmp_path / "b/x.png")]


def test_a_plain_string_is_a_path():
    assert InputSettings.model_validate("photos") == InputSettings(path="photos")


@pytest.mark.parametrize(
    ("path", "files", "words"),
    [
        ("photoz", {"photos/a.png": b""}, ["photoz", "did you mean", "photos"]),
        ("none/at/all", {"x.png": b""}, ["no such file or folder", "x.png"]),
        ("empty", {"empty/.keep": b""}, ["empty", "no images", "found: no files"]),
        (
            "texts",
            {"texts/a.txt": b"", "texts/b.txt": b"", "texts/c": b""},
            [".txt files: 2", "files without a suffix: 1"],
        ),
        ("*.png", {"a.jpg": b""}, ["*.png", "match the pattern"]),
    ],
)
def test_an_input_that_holds_nothing_is_a_config_error_that_says_what_is_there(tmp_path, path, files, words):
    write(tmp_path, files)
    with pytest.raises(ConfigError) as raised:
        list(list_sources([settings(tmp_path / path)]))
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_unknown_sample_and_unknown_role_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'coffee'"):
        list(list_sources([settings("sample://cofee")]))
    with pytest.raises(ValueError, match="did you mean 'caption'"):
        settings("x", columns={"captoin": "text"})


def test_samples_are_real_photographs_in_colour_and_grey():
    rows = ingest("sample://")
    assert len(rows) == len(SAMPLES) == len({row.id for row in rows})
    pixels = [images.decode(row.values["image"]) for row in rows]
    grey = [np.ptp(photo.astype(int), axis=2).max() == 0 for photo in pixels]
    assert grey.count(False) >= 6
    assert grey.count(True) >= 3
    assert ingest("sample://coffee")[0].sources == ["sample://coffee"]


def test_listing_is_deterministic_and_versions_follow_the_file(tmp_path):
    write(tmp_path, {f"{i}.png": picture(i) for i in range(20)})
    first = list(list_sources([settings(tmp_path)]))
    assert first == list(list_sources([settings(tmp_path)]))
    os.utime(tmp_path / "3.png", (1, 1))
    changed = set(list_sources([settings(tmp_path)])) - set(first)
    assert [ref.key for ref in changed] == [str(tmp_path / "3.png")]


def test_names_that_are_not_utf8_are_read_and_stored(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:
            file.write(picture(1))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    refs = list(list_sources([settings(tmp_path)]))
    again = SourceRef.from_table(SourceRef.to_table(refs))
    assert len(good(list(produce(again)))) == 1


TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)


@given(st.lists(st.builds(SourceRef, TEXT, TEXT, TEXT, st.just("file"), TEXT), max_size=5))
@hypothesis_settings(max_examples=50, deadline=None)
def test_refs_survive_their_table(refs):
    assert SourceRef.from_table(SourceRef.to_table(refs)) == refs


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Twenty ways in which a file is bad, and a word of the reason; two of them byte-identical."""
    jpeg, png = picture(901, "JPEG", (64, 64)), picture(902, "PNG", (64, 64))
    webp, tiff = picture(903, "WEBP", (64, 64)), picture(904, "TIFF", (64, 64))
    gif, bmp = picture(905, "GIF", (64, 64)), picture(906, "BMP", (64, 64))
    return {
        "empty.jpg": (b"", "empty"),
        "empty-too.png": (b"", "empty"),
        "text.jpg": (b"not an image at all", "not an image"),
        "page.png": (b"<!DOCTYPE html><html>404</html>", "not an image"),
        "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        "zeros.bmp": (bytes(4096), "not an image"),
        "noise.webp": (np.random.default_rng(0).bytes(4096), "not an image"),
        "pdf.tif": (b"%PDF-1.7\n1 0 obj", "not an image"),
        "zip.png": (b"PK\x03\x04" + bytes(100), "not an image"),
        "archive.gif": (b"\x1f\x8b\x08" + bytes(100), "not an image"),
        "magic.jpg": (b"\xff\xd8\xff\xe0", ""),
        "signature.png": (png[:8], ""),
        "bomb.png": (png_header(30_000, 30_000), "bomb"),
        "no-pixels.png": (png_header(64, 64), ""),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "half.png": (png[: len(png) // 2], ""),
        "half.webp": (webp[: len(webp) // 2], ""),
        "half.tiff": (tiff[: len(tiff) // 2], ""),
        "half.gif": (gif[: len(gif) // 2], ""),
        "half.bmp": (bmp[: len(bmp) // 2], ""),
    }


def test_twenty_bad_files_cost_none_of_a_thousand_good_ones(tmp_path):
    bad = bad_files()
    assert len(bad) == 20
    write(tmp_path, {f"good/{i:04}.png": picture(i) for i in range(1000)})
    write(tmp_path, {f"good/{name}": data for name, (data, _) in bad.items()})
    rows = ingest(tmp_path)
    assert len({row.id for row in rows}) == len(rows) == 1020
    outcomes: dict[str, Failure | None] = {}
    for row in rows:
        (source,) = row.sources
        outcomes[source] = row.values if isinstance(row.values, Failure) else _decoded(row.values["image"])
    failed = {os.path.basename(source): failure for source, failure in outcomes.items() if failure is not None}
    assert failed.keys() == bad.keys()
    for name, (_, word) in bad.items():
        assert failed[name].type == "ImageError"
        assert word in failed[name].message, failed[name]


def _decoded(data: bytes) -> Failure | None:
    """What the first stage that needs the pixels would find."""
    try:
        images.decode(data)
    except images.ImageError as error:
        return Failure.of(error)
    return None


def test_a_failed_row_names_its_file_and_has_an_id_of_its_own(tmp_path):
    write(tmp_path, {"a.jpg": b"", "b.jpg": b"", "c.jpg": picture(1)})
    rows = ingest(tmp_path)
    found = failures(rows)
    assert found.keys() == {str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")}
    assert all(source in failure.message for source, failure in found.items())
    assert len({row.id for row in rows}) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_an_unreadable_file_fails_alone(tmp_path):
    write(tmp_path, {"a.png": picture(1), "b.png": picture(2)})
    (tmp_path / "a.png").chmod(0)
    assert failures(ingest(tmp_path)).keys() == {str(tmp_path / "a.png")}


def test_files_that_vanish_change_or_are_no_files_fail_alone(tmp_path):
    write(tmp_path, {f"{name}.png": picture(i) for i, name in enumerate("abcd")})
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    refs = list(list_sources([settings(tmp_path)]))
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.png").write_bytes(picture(9, size=(30, 30)))
    found = failures(list(produce(refs)))
    reasons = {os.path.basename(source): failure.message for source, failure in found.items()}
    assert reasons.keys() == {"a.png", "b.png", "dangling.png", "pipe.png"}
    assert "no such file" in reasons["a.png"]
    assert "changed while it was read" in reasons["b.png"]
    assert "not a regular file" in reasons["dangling.png"]
    assert "not a regular file" in reasons["pipe.png"]


def test_exact_duplicates_are_one_row_with_every_source(tmp_path):
    write(tmp_path, {"a.png": picture(1), "b/c.png": picture(1), "d.jpg": picture(1), "e.png": picture(2)})
    rows = ingest(tmp_path)
    assert sorted(tuple(row.sources) for row in rows) == [
        (str(tmp_path / "a.png"), str(tmp_path / "b/c.png"), str(tmp_path / "d.jpg")),
        (str(tmp_path / "e.png"),),
    ]
    assert sorted(len(row.refs) for row in rows) == [1, 3]
    assert all(row.values["sources"] == row.sources for row in rows)


def test_a_source_that_two_inputs_name_counts_once(tmp_path):
    write(tmp_path, {"a.png": picture(1), "b.png": b""})
    refs = list(list_sources([settings(tmp_path), settings(tmp_path / "*.png")]))
    rows = list(produce(refs))
    assert sorted(tuple(row.sources) for row in rows) == [(str(tmp_path / "a.png"),), (str(tmp_path / "b.png"),)]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
@hypothesis_settings(max_examples=30, deadline=None)
def test_each_source_is_in_exactly_one_row(tmp_path_factory, contents):
    """Property: ids are those of the contents, whatever repeats; 0 stands for a bad file."""
    folder = tmp_path_factory.mktemp("property")
    datas = [b"bad" if content == 0 else picture(content) for content in contents]
    write(folder, {f"{i:02}.png": data for i, data in enumerate(datas)})
    refs = list(list_sources([settings(folder)]))
    rows = list(produce(refs))
    assert sorted(ref.key for row in rows for ref in row.refs) == sorted(ref.key for ref in refs)
    expected = {hashlib.sha256(data).hexdigest()[:32] for data in datas if data != b"bad"}
    assert {row.id for row in rows if isinstance(row.values, dict)} == expected
    assert sum(isinstance(row.values, Failure) for row in rows) == contents.count(0)


def test_rows_come_before_all_files_are_read(tmp_path):
    """A row whose size is unique in the fragment cannot have a duplicate, and is not held back."""
    write(tmp_path, {f"{i}.png": picture(i, size=(8 + i, 8)) for i in range(4)})
    refs = list(list_sources([settings(tmp_path)]))
    rows = produce(refs)
    next(rows)
    (tmp_path / "3.png").unlink()
    assert sum(isinstance(row.values, Failure) for row in rows) == 1


def test_remote_folders_files_and_globs():
    base = f"memory://{uuid.uuid4().hex}"
    store = fsspec.filesystem("memory")
    files = {"a 1.png": picture(1), "sub/b#2.png": picture(2), "bad.png": b""}
    for name, data in files.items():
        store.pipe(f"{base}/{name}", data)
    assert keys(base) == [f"{base}/a 1.png", f"{base}/bad.png", f"{base}/sub/b#2.png"]
    rows = ingest(base)
    assert sorted(row["image"] for row in good(rows)) == sorted([files["a 1.png"], files["sub/b#2.png"]])
    assert failures(rows).keys() == {f"{base}/bad.png"}
    assert keys(f"{base}/*/*.png") == [f"{base}/sub/b#2.png"]
    assert len(good(ingest(f"{base}/a 1.png"))) == 1
    with pytest.raises(ConfigError, match="no such file or folder"):
        keys(f"{base}/missing")


def test_s3_through_its_own_server(monkeypatch):
    """Names that a URL would have to escape, options in the URL, globs, and a tar read by ranges."""
    server_class = pytest.importorskip("moto.server").ThreadedMotoServer
    boto3 = pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = server_class(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="photos")
        for name, data in {"in/a b%20c.png": picture(1), "in/x/d.jpg": picture(2), "in/bad.png": b""}.items():
            client.put_object(Bucket="photos", Key=name, Body=data)
        options = f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        rows = ingest(f"s3://photos/in{options}")
        assert {row["image"] for row in good(rows)} == {picture(1), picture(2)}
        assert failures(rows).keys() == {"s3://photos/in/bad.png"}
        assert keys(f"s3://photos/in/*/*.jpg{options}") == ["s3://photos/in/x/d.jpg"]
    finally:
        server.stop()
