"""Where something is: a path or URL that may carry secrets, parsed once.

A URL opens with all that stands in it; a user's name, a password, a token or a signed query must be in no file, row,
log or page. So it is one type with two faces: `open` for what opens it, and `public` for everybody else, which is
also what it looks like when it is printed. Of the options of a URL, `public` keeps only those that are known to be
harmless: an option that nobody has heard of may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl, quote

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)", re.DOTALL
)
_ODD_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#@\[]*:(?!\d{0,5}[/?#])[^@]*[/?#][^@]*@")
"""A user whose password holds / ? or # as they are, as the keys of S3 do: what is before the @ is no port and path."""
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:://|::))")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]+")
_STORE_OPTIONS = (
    "allow_bucket_creation",
    "allow_bucket_deletion",
    "anonymous",
    "check_directory_existence_before_creation",
    "connect_timeout",
    "endpoint_override",
    "force_virtual_addressing",
    "region",
    "request_timeout",
    "retry_limit_seconds",
    "scheme",
    "tls_ca_file_path",
    "use_virtual_addressing",
)
_WEB_OPTIONS = ("download", "fm", "format", "h", "height", "id", "page", "q", "size", "v", "version", "w", "width")
_HARMLESS = frozenset(_STORE_OPTIONS + _WEB_OPTIONS)
_HARMLESS_VALUE = re.compile(r"[A-Za-z0-9_.:/ \[\]-]{0,64}")
_SECRET_NAMES = re.compile(
    r"(?i)(?<![A-Za-z0-9])([\w-]*(?:signature|credential|secret|password|passwd|token|api_?key|access_?key|account_?key)"
    r"[\w-]*|sig)(=|%3D)[^\s&;,'\"<>]+"
)
_KEY_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci")


@dataclass(frozen=True)
class Location:
    """A local path or a URL.

    Attributes:
        open: what opens it, credentials and options included. Never to be written anywhere.
    """

    open: str

    def __post_init__(self) -> None:
        if isinstance(self.open, Location):  # so that a Location may be given where a text may
            object.__setattr__(self, "open", self.open.open)

    def __str__(self) -> str:
        return self.public

    def __repr__(self) -> str:
        return f"Location({self.public!r})"

    @property
    def scheme(self) -> str:
        """The URL's scheme in small letters; "" for a local path."""
        return self._parts["scheme"].lower() if self._parts else ""

    @property
    def is_url(self) -> bool:
        return bool(self._parts)

    @property
    def host(self) -> str:
        """The URL's host with its port, without user and password; a store's bucket."""
        return self._parts["authority"].rpartition("@")[2] if self._parts else ""

    @property
    def user(self) -> str:
        """`user:password` as it stands in the URL; "" where there is none."""
        return self._parts["authority"].rpartition("@")[0] if self._parts else ""

    @cached_property
    def public(self) -> str:
        """The place without user, password, fragment and all options that are not known to be harmless.

        It still opens what needs no secret: an S3 server's address and region stay.
        """
        if self._chain:
            return "::".join(link.public for link in self._chain)
        if not self._parts:
            return scrub(self.open) if "://" in self.open else self.open
        if not self.has_secret:
            return self.open
        kept = [(name, _without_user(value)) for name, value in self.options]
        query = "&".join(f"{name}={quote(value, safe='/:')}" for name, value in kept if _is_harmless(name, value))
        return f"{self.name}?{query}" if query else self.name

    @cached_property
    def name(self) -> str:
        """The place without any option."""
        if self._chain:
            return "::".join(link.name for link in self._chain)
        if not self._parts:
            return scrub(self.open) if "://" in self.open else self.open
        return f"{self._parts['scheme']}://{self.host}{self._parts['path']}"

    @cached_property
    def options(self) -> list[tuple[str, str]]:
        """The URL's options, decoded, in order."""
        if not self._parts or not self._parts["rest"].startswith("?"):
            return []
        return parse_qsl(self._parts["rest"][1:].partition("#")[0], keep_blank_values=True)

    @property
    def has_secret(self) -> bool:
        """True if `public` leaves something out: a user, or an option that may be a secret."""
        if self._chain:
            return any(link.has_secret for link in self._chain)
        return bool(self._parts) and (
            bool(self.user) or "#" in self._parts["rest"] or not all(_is_harmless(*option) for option in self.options)
        )

    @property
    def has_store_keys(self) -> bool:
        """True if it names the keys of an object store, which are for the environment.

        The user of `abfs://container@account` is a container and no key.
        """
        if self.scheme not in _KEY_STORES:
            return False
        user = bool(self.user) and not (self.scheme in ("abfs", "abfss", "az", "adl") and ":" not in self.user)
        return user or not all(_is_harmless(*option) for option in self.options)

    @cached_property
    def _chain(self) -> list[Location]:
        """The links of one of fsspec's chained URLs (`zip://a.png::https://user@host/b.zip`); [] for any other."""
        links = _CHAIN.split(self.open) if "://" in self.open else []
        return [Location(link) for link in links] if len(links) > 1 else []

    @cached_property
    def _parts(self) -> dict[str, str]:
        if self._chain:
            return self._chain[-1]._parts
        text, odd = self.open, _ODD_USER.match(self.open)
        if odd is not None:
            start = len(odd[1])
            text = f"{odd[1]}{quote(odd[0][start:-1], safe=':')}@{text[odd.end() :]}"
        match = _URL.fullmatch(text)
        return match.groupdict() if match else {}


_KEPT: dict[str, str] = {}
"""Public face -> what opens it, for the secrets that this process was given. In memory only."""


def kept(url: str) -> str:
    """The public face of a path or URL, whose secrets this process remembers for `opening`.

    Settings hold public faces alone, so that whatever is written from them has no secret in it.
    """
    location = Location(url)
    if location.has_secret:
        _KEPT[location.public] = url
    return location.public


def opening(url: str) -> str:
    """What opens a place of which the public face is given; what has no secrets comes back as it is."""
    return _KEPT.get(url, url)


def secrets() -> dict[str, str]:
    """All that `kept` remembers, to be handed to a worker's process in memory (see `remember`)."""
    return dict(_KEPT)


def remember(known: Mapping[str, str]) -> None:
    """Take over what another process knows."""
    _KEPT.update(known)


def check_keys(url: str, what: str) -> str:
    """`kept`, for a setting. Raises ValueError for an object store's keys, which belong in the environment."""
    location = Location(url)
    if location.has_store_keys:
        raise ValueError(
            f"{what} must not hold keys or tokens of an object store: they belong in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_KEY) or in "
            "the store's own configuration file"
        )
    return kept(url)


def public(url: str) -> str:
    """The public face of a path or URL, see `Location.public`."""
    return Location(url).public


def scrub(text: str) -> str:
    """A text, such as a library's error, with every URL in it public, and every `password=...` gone.

    A URL with blanks in it is recognised as a whole only if this process knows it (`kept`).
    """
    if "://" in text:
        for public_face, known in list(_KEPT.items()):
            text = text.replace(known, public_face)
        text = _IN_TEXT.sub(lambda match: public(match[0]), text)
    return _SECRET_NAMES.sub(lambda match: f"{match[1]}=***", text)


def _is_harmless(name: str, value: str) -> bool:
    return name in _HARMLESS and bool(_HARMLESS_VALUE.fullmatch(value))


def _without_user(value: str) -> str:
    """An option's value, which may be an address itself (`endpoint_override`), without a user and password."""
    scheme, mark, rest = value.rpartition("://")
    return scheme + mark + rest.rpartition("@")[2]
