"""Why a list has no columns: what its first bytes tell, in words for who wrote it."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import pyarrow as pa

from ugaf.ingest.places import Place
from ugaf.ingest.records import delimiter, plain_suffix

_HEAD = 4096
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


def why_no_columns(place: Place, names: Sequence[str]) -> str | None:
    """What is wrong with the list as a whole, where that can be told; names: the columns that were found in it.

    Raises OSError, ArrowException if it cannot be read.
    """
    with place.stream() as stream:
        head = stream.read(_HEAD)
    if head.strip(b"\xef\xbb\xbf \t\r\n") in (b"", b"[]"):
        return "the list is empty" if b"[" in head else "the file is empty"
    if head.startswith(_WIDE) or b"\0" in head[:200]:
        return "it is written in UTF-16 or holds no text: save it as UTF-8"
    name = plain_suffix(place.name)
    if not name.endswith((".csv", ".tsv")):
        return None
    first = head.decode("utf-8", "replace").lstrip("\ufeff").splitlines()[0]
    if not names:
        header = ", ".join(next(csv.reader([first], delimiter=delimiter(name)), []))
        return f"it has a header ({header[:200]}) and no rows" if len(head.split(b"\n")) < 3 else None
    other = max(_SEPARATORS, key=first.count)
    if len(names) == 1 and other in names[0] and other != delimiter(name):
        wanted = _SEPARATORS[delimiter(name)]
        return f"its values are separated by {_SEPARATORS[other]} ({other!r}), and are read as separated by {wanted}"
    return None


def cannot_be_read(place: Place, error: Exception) -> str:
    """What is wrong with a list that raised this when it was opened or read."""
    suffix = place.name.lower().rpartition(".")[2]
    form = {"gz": "gzip", "bz2": "bzip2", "zst": "Zstandard"}.get(suffix)
    if form is None or not isinstance(error, OSError | pa.ArrowException):
        return f"cannot be read: {error}"
    return f"cannot be read as {form} data, which its name says it is: damaged, cut off, or none at all ({error})"
