"""Writing to object stores: whole objects, only where there is none if that is asked, and never half of one.

The one place that knows `obstore`, the Python face of the `object_store` library. pyarrow, which reads and lists, has
no conditional requests, and a stream of its that is left by an exception is *completed*: half an object takes the place
of the good one. Here an upload that fails is aborted, and one that is small enough is a single request.
"""

from __future__ import annotations

import configparser
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import pyarrow.fs as pafs

from ugaf.base.location import Location

ONE_REQUEST = 64 << 20
"""Bytes up to which an object is one PUT; beyond, and where it is streamed, it goes in pieces of PIECE bytes."""
PIECE = 16 << 20
_RETRIES = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
"""Of one request; `faults.patiently` waits for a store that stays at fault."""
_CLIENT = {"timeout": "300s", "connect_timeout": "10s"}
_UNTOLD = ("tls_ca_file_path", "role_arn", "external_id")
"""Options of a URL that pyarrow knows and this does not."""


class UnavailableError(Exception):
    """Why a store cannot be written to by conditional requests from here; a reason for people."""


class Objects:
    """The objects of one bucket or container. Paths are those of pyarrow, which begin with its name."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def put(self, path: str, data: Any) -> None:
        """Write an object, in place of one that is there."""
        with _told_as_oserror():
            multipart = len(data) > ONE_REQUEST
            _obstore().put(self._store, _key(path), _octets(data), use_multipart=multipart, chunk_size=PIECE)

    def create(self, path: str, data: Any) -> bool:
        """Write an object if there is none of this name (`If-None-Match: *`). Returns whether it was written.

        Where an answer is lost and the request is sent again, False may be said of one's own object.
        """
        from obstore.exceptions import AlreadyExistsError

        with _told_as_oserror():
            try:
                _obstore().put(self._store, _key(path), _octets(data), mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

    @contextmanager
    def writer(self, path: str) -> Iterator[IO[bytes]]:
        """Stream an object, which is there when the block ends; a block that raises leaves all as it was."""
        with (
            _told_as_oserror(),
            _obstore().open_writer(self._store, _key(path), buffer_size=PIECE, max_concurrency=4) as upload,
        ):
            yield _Stream(upload)  # type: ignore[misc]


class _Stream(io.RawIOBase):
    """An upload as a file: closing it does not complete the upload, the end of the block does."""

    def __init__(self, upload: Any) -> None:
        self._upload = upload
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        with _told_as_oserror():
            octets = _octets(data)
            self._upload.write(octets)
        self._written += octets.nbytes
        return octets.nbytes


def _octets(data: Any) -> memoryview:
    return memoryview(data).cast("B")


def open_objects(url: str, filesystem: pafs.FileSystem) -> Objects:
    """What writes to the store of a URL that pyarrow has opened. Raises UnavailableError with the reason."""
    location = Location(url)
    makers = {"s3": _s3, "gs": _gcs, "gcs": _gcs, "abfs": _azure, "abfss": _azure}
    if location.scheme not in makers:
        raise UnavailableError(f"{location.scheme}: has no conditional writes here")
    _obstore()
    told = dict(location.options)
    for name in _UNTOLD:
        if name in told:
            raise UnavailableError(f"the URL's option {name} is for pyarrow alone")
    if location.scheme == "s3":
        told = {"region": getattr(filesystem, "region", None) or "us-east-1", **told}
    return Objects(makers[location.scheme](location, told))


def _obstore() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise UnavailableError(f"obstore is not installed ({error})") from None
    return obstore


def _key(path: str) -> str:
    return path.partition("/")[2]


def _s3(location: Location, told: Mapping[str, str]) -> Any:
    from obstore.store import S3Store

    endpoint = (
        told.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    config: dict[str, Any] = {"region": told["region"]}
    if endpoint:
        config["endpoint"] = endpoint if "://" in endpoint else f"{told.get('scheme', 'https')}://{endpoint}"
    if told.get("force_virtual_addressing", "").lower() in ("1", "true"):
        config["virtual_hosted_style_request"] = True
    provider = None
    if location.user:
        from urllib.parse import unquote

        key, _, secret = location.user.partition(":")
        config.update(access_key_id=unquote(key), secret_access_key=unquote(secret))
    elif told.get("anonymous", "").lower() in ("1", "true"):
        config["skip_signature"] = True
    elif not os.environ.get("AWS_ACCESS_KEY_ID") and _aws_files():
        provider, keys = _of_profile()
        config.update(keys)
    plain = str(config.get("endpoint", "")).startswith("http://")
    options = {**_CLIENT, "allow_http": plain}
    return S3Store(
        location.host,
        config=config,  # type: ignore[arg-type]
        client_options=options,  # type: ignore[arg-type]
        retry_config=_RETRIES,  # type: ignore[arg-type]
        credential_provider=provider,
    )


def _aws_files() -> list[Path]:
    """Files in which a profile's keys are, where there are any."""
    home = Path.home() / ".aws"
    named = (
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or str(home / "credentials"),
        os.environ.get("AWS_CONFIG_FILE") or str(home / "config"),
    )
    return [Path(name) for name in named if os.path.isfile(name)]


def _of_profile() -> tuple[Any, dict[str, str]]:
    """(a provider of keys, keys) of the profile that the AWS libraries take: boto3's where it is installed, which knows
    every kind of profile; else those that stand in the file."""
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider(), {}
    except ImportError:
        pass
    except Exception as error:  # it has found no keys, and pyarrow may
        raise UnavailableError(f"boto3 finds no keys ({type(error).__name__})") from None
    profile = os.environ.get("AWS_PROFILE") or "default"
    for path in _aws_files():
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(path)
        for section in (profile, f"profile {profile}"):
            if parser.has_option(section, "aws_access_key_id"):
                found = dict(parser[section])
                names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
                return None, {name.removeprefix("aws_"): found[name] for name in names if name in found}
    raise UnavailableError(f"the keys of the AWS profile {profile!r} are not in its file, and boto3 is not installed")


def _gcs(location: Location, told: Mapping[str, str]) -> Any:
    from obstore.store import GCSStore

    if "endpoint_override" in told:
        raise UnavailableError("a server of one's own that speaks as Google's does is for pyarrow alone")
    config: dict[str, Any] = {"skip_signature": True} if location.user == "anonymous" else {}
    return GCSStore(location.host, config=config, client_options=_CLIENT, retry_config=_RETRIES)  # type: ignore[arg-type]


def _azure(location: Location, told: Mapping[str, str]) -> Any:
    from obstore.store import AzureStore

    match = re.match(r"([a-z0-9]+)\.(?:dfs|blob)\.core\.windows\.net$", location.host)
    user, _, secret = location.user.partition(":")
    account = match[1] if match else _environment("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
    container = user if match else location.host
    if not (account and container) or told:
        raise UnavailableError("of Azure's URLs only abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH can be used")
    config: dict[str, Any] = {"account_name": account}
    key = secret or _environment("AZURE_STORAGE_KEY")
    if key:
        config["account_key"] = key
    return AzureStore(container, config=config, client_options=_CLIENT, retry_config=_RETRIES)  # type: ignore[arg-type]


def _environment(*names: str) -> str:
    """The first of these variables that is set; "" if none is."""
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


@contextmanager
def _told_as_oserror() -> Iterator[None]:
    """obstore's errors as those of a file system, in words from which `faults` tells whose they are."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        text = str(error).partition("\n\nDebug source")[0]
        if re.search(r"(?i)HTTP error|error sending request|timed out|connection", text) and "status code" not in text:
            raise ConnectionError(text) from None
        raise OSError(text) from None
