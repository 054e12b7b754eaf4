"""A URL's secrets open it, and are nowhere else: in no public face, file, row, card, page or line of output."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingest_helpers import picture
from web_server import serving

from ugaf.base import location
from ugaf.base.location import Location, scrub
from ugaf.cli import main
from ugaf.ingest import InputSettings, SourceRef
from ugaf.ingest.places import Place
from ugaf.pipeline.settings import PipelineSettings
from ugaf.storage import Storage

_SECRET = st.text("abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", min_size=12, max_size=30)
_HOSTS = st.sampled_from(["example.com", "example.com:8443", "[2001:db8::1]", "[2001:db8::1]:80", "127.0.0.1:9000"])
_SCHEMES = st.sampled_from(["http", "https", "s3", "gs", "sftp", "ftp", "abfs", "webdav+https", "HTTPS", "S3"])
_PATHS = st.sampled_from(["", "/", "/a/b.tar", "/a b/ü.png", "/run/*.parquet", "/x@2x.png", "/%41/b.png"])
_SECRET_OPTIONS = (
    *("token", "sig", "X-Amz-Signature", "X-Amz-Security-Token", "access_key", "secret_key", "sas", "se", "code"),
    *("key", "apikey", "password", "Policy", "auth", "hdnts", "Expires", "unheard_of"),
)
_HARMLESS = {"id": "17", "size": "large", "v": "1", "endpoint_override": "127.0.0.1:9", "region": "eu"}
_NAMES = st.sampled_from([*_SECRET_OPTIONS, *_HARMLESS])


@given(
    scheme=_SCHEMES,
    host=_HOSTS,
    path=_PATHS,
    names=st.lists(_NAMES, max_size=4),
    secret=_SECRET,
    where=st.sampled_from(["user", "password", "both", "slash", "query", "encoded", "fragment", "chain", "inner"]),
    text=st.sampled_from(["{}", "cannot open {}: 403", "('{}', 3)", "<{}>"]),
)
def test_no_public_face_holds_a_secret(
    scheme: str, host: str, path: str, names: list[str], secret: str, where: str, text: str
) -> None:
    known = _HARMLESS
    options = "&".join(f"{name}={known.get(name, secret)}" for name in names)
    user = {
        "user": f"{secret}@",
        "password": f"me:{secret}@",
        "both": f"{secret}:{secret}@",
        "slash": f"me:{secret}/x+/{secret}@",
        "encoded": f"me:{quote(secret + '/?#')}@",
    }.get(where, "")
    url = f"{scheme}://{user}{host}{path}" + (f"?{options}" if options else "")
    if where == "query":
        url += ("&" if options else "?") + f"token={secret}"
    if where == "fragment":
        url += f"#access_token={secret}"
    if where == "chain":
        url = f"zip://a.png::{scheme}://me:{secret}@{host}{path}"
    if where == "inner":
        url += ("&" if options else "?") + f"endpoint_override=http://me:{secret}@127.0.0.1:9"
    place = Location(url)
    kept = location.kept(url)
    message = scrub(text.format(url))
    for shown in (place.public, place.name, str(place), repr(place), message, kept):
        assert secret not in shown
    assert place.open == url
    assert location.opening(place.public) == url or not place.has_secret
    assert Location(place.public).public == place.public
    assert not Location(place.public).has_secret
    for name in names:
        if name in known and where not in ("chain", "fragment"):
            assert f"{name}=" in place.public


@given(st.text(max_size=80))
def test_any_text_has_a_public_face(text: str) -> None:
    public = Location(text).public
    assert Location(public).public == public
    if "://" not in text:
        assert public == text
        assert not Location(text).has_secret


@pytest.mark.parametrize(
    "url",
    [
        *("/photos/a b?c#d", "photos/*.png", "sample://coffee", "s3://bucket/run", "https://example.com/a/b.tar?id=3"),
        "s3://runs/%s?endpoint_override=127.0.0.1:5000&scheme=http&region=us-east-1",
        *("file:///photos", "memory://x/y", "abfs://container@account.dfs.core.windows.net/run", "C:/photos", "a@b:/c"),
    ],
)
def test_what_has_no_secret_stays_as_it_is(url: str) -> None:
    assert Location(url).public.replace("container@", "") == url.replace("container@", "")
    assert location.opening(location.kept(url)) == url


@pytest.mark.parametrize("url", ["s3://KEY:SECRETSECRET@bucket/run", "s3://bucket/run?secret_key=SECRETSECRET"])
def test_an_object_stores_keys_belong_in_the_environment(url: str) -> None:
    for model, fields in ((InputSettings, {"path": url}), (PipelineSettings, {"name": "x", "output": url})):
        with pytest.raises(ValueError, match="AWS_ACCESS_KEY_ID"):
            model.model_validate(fields)


def test_a_place_and_a_storage_hold_no_secret() -> None:
    url = "https://me:hunter2hunter2@example.com/a/set.tar?token=abcabcabc"
    place = Place.of(url)
    for shown in (repr(place), place.uri, json.dumps(place.locator()), repr(place.parent()), repr(place.child("x"))):
        assert "hunter2" not in shown
        assert "abcabc" not in shown
    assert place.opening == url
    assert place.parent().child("b.png").opening == "https://me:hunter2hunter2@example.com/a/b.png"
    storage = Storage("memory://run?token=abcabcabc")
    assert "abcabc" not in storage.url + storage.where("x")


def test_what_a_listing_could_not_read_is_kept_without_secrets() -> None:
    error = OSError("cannot open sftp://me:hunter2hunter2@host/a.tar: no answer")
    assert "sftp://host/a.tar" in SourceRef.broken("a.tar", "", "1", "tar", error).locator
    assert "hunter2" not in SourceRef.broken("a.tar", "", "1", "tar", error).locator


SECRETS = ("hunter2hunter2", "S1gnatureS1gnature", "t0kent0kent0ken")


def _everything(folder: Path) -> str:
    """The text of every file of a run, with the columns of its tables and the members of its tars."""
    pieces = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            pieces.append(path.read_bytes().decode("utf-8", "replace"))
            if path.suffix == ".parquet":
                file = pq.ParquetFile(path)
                pieces += [str(file.schema_arrow), str(file.schema_arrow.metadata), str(file.read().to_pylist())]
    assert pieces
    return "\n".join(pieces)


def test_a_run_of_addresses_with_secrets_shows_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A tar behind a password and a signature; one of its pictures is broken, so that reasons are written, too."""
    monkeypatch.chdir(tmp_path)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for number in range(3):
            data = picture(number, "JPEG", (640, 480)) if number else b"not an image"
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    user, signature, token = SECRETS
    with serving({"set.tar": packed.getvalue(), "gone.tar": b""}) as server:
        options = f"X-Amz-Signature={signature}&token={token}"
        url = f"http://me:{user}@{server.host}/ranges/set.tar?{options}"
        shared = ("--output", "run", "--set", "engine.executor=inline", "--set", "engine.patience_s=0.2")
        main(["run", "curate", "--input", url, "--until", "curation.resolution", *shared])
        assert [head for head in server.headers_seen if "authorization" not in head] == []
        main(["plan", "curate", "--input", url, *shared])
        server.decide = lambda *_: 503
        assert main(["run", "curate", "--input", url.replace("set.tar", "gone.tar"), *shared]) != 0
        assert main(["run", "curate", "--input", f"s3://me:{user}@bucket/x?secret={token}", *shared]) == 2
        main(["status", "run"])
        main(["report", "run"])
        main(["explain", "1.jpg", "--run", "run"])
    out, err = capfd.readouterr()
    text = _everything(tmp_path / "run") + out + err
    assert "HTTP 503" in err
    assert server.host in text
    assert [secret for secret in SECRETS if secret in text] == []
