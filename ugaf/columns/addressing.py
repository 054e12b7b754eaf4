"""Which rows of a run a person means: by id or its beginning, by path or URL, by file name or a part of it.

A text is compared in this order, and the first way that finds anything decides:

1. a whole id, or the whole name of a source (a path as given, or from the working folder on; a URL;
   `shard.tar#member`), or a folder, tar, table or list that sources lie in, which means all of them;
2. the beginning of an id, of a photograph or an edit; the end of a name from a `/` on: `cats/1.jpg`, `1.jpg`; a file
   name without its suffix. A number may be all three, and which was meant cannot be known: these count alike, and a
   text that begins one row's id and is another one's name means both;
3. any part of a name.

A blank text means no row: as a path it would be the working folder, as a part of a name every row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ugaf.columns.parts import SOURCES, Columns
from ugaf.columns.verdicts import FragmentVerdicts
from ugaf.pipeline.config import INGEST, Pipeline

WHOLE, NAMED, PART = range(3)
_HEX = re.compile(r"[0-9a-f]{1,32}")
_ROW = re.compile(r"(.+?#.+?) \((.+)\)", re.DOTALL)


@dataclass(frozen=True)
class Match:
    """A row that a text may mean.

    base: id of the photograph of an edit; else the row's own. source: the name that was found; "" for an id. place: for
    a source that has not been read yet, so that it has no id (""), its position in the fragment.
    """

    id: str
    level: str
    fragment: str
    base: str
    source: str = ""
    place: int | None = None

    def __str__(self) -> str:
        return f"{self.id} ({self.source})" if self.id and self.source else self.id or self.source


@dataclass
class Found:
    """The rows that a text may mean, by the first way that found any."""

    rank: int = PART + 1
    by_row: dict[tuple[str, str, int | None], Match] = field(default_factory=dict)

    @property
    def matches(self) -> list[Match]:
        return list(self.by_row.values())

    def add(self, rank: int, match: Match) -> None:
        if rank < self.rank:
            self.rank, self.by_row = rank, {}
        if rank == self.rank:
            self.by_row.setdefault((match.id, match.fragment if match.place is not None else "", match.place), match)

    def ambiguity(self, text: str, path: str) -> str:
        """What to say where several rows of the run at `path` match and one was meant."""
        matches = self.matches
        some = "\n".join(f"  {match}" for match in matches[:8])
        more = f"\n  and {len(matches) - 8} more" if len(matches) > 8 else ""
        return f"{len(matches)} rows of {path} may be meant by {text!r}:\n{some}{more}\nGive more of it."


class Run(Protocol):
    """What of a run is searched (see `ugaf.columns.view.RunView`)."""

    pipeline: Pipeline
    columns: Columns

    def verdicts_of(self, texts: Sequence[str]) -> Iterator[FragmentVerdicts]: ...

    @property
    def more_sources(self) -> Mapping[str, Sequence[str]]: ...


def search(view: Run, texts: Sequence[str], parts: bool = True) -> dict[str, Found]:
    """For each text the rows that it may mean, in the order of the run; one reading of the run for all texts.

    parts: whether any part of a name will do, which costs a comparison of each text with each name.
    """
    best = {text: Found() for text in texts}
    wanted = _Wanted(texts, parts)
    level = view.pipeline.base_level
    for fragment in view.verdicts_of(texts):
        name = fragment.fragment
        for key, base, row_level in _ids(fragment, level):
            for text in wanted.ids(key):
                best[text].add(WHOLE if text == key else NAMED, Match(key, row_level, name, base))
        for match in _named(view, fragment, level):
            for rank, text in wanted.names(match.source):
                best[text].add(rank, match)
    return best


def source_names(columns: Columns, fragment: str) -> dict[str, list[str]]:
    """The names of the sources of each row of a fragment, by id."""
    table, _ = columns.light(INGEST, fragment, [SOURCES])
    ids, sources = table.column("id").to_pylist(), table.column(SOURCES).to_pylist()
    return {key: names or [] for key, names in zip(ids, sources, strict=True)}


def _ids(fragment: FragmentVerdicts, level: str) -> Iterator[tuple[str, str, str]]:
    yield from ((key, key, level) for key in fragment[INGEST].ids)
    yield from ((key, base, "edit") for key, base in fragment.parents.items())


def _named(view: Run, fragment: FragmentVerdicts, level: str) -> Iterator[Match]:
    """Every source of the fragment's rows, and those that have not been read."""
    given, name = fragment[INGEST], fragment.fragment
    sources = source_names(view.columns, name)
    for key in given.ids:
        for source in (*sources.get(key, ()), *view.more_sources.get(key, ())):
            yield Match(key, level, name, key, source)
    if given.unread:
        table = view.columns.sources(name, ["uri", "member"]).take(given.unread)
        for place, row in zip(given.unread, table.to_pylist(), strict=True):
            source = f"{row['uri']}#{row['member']}" if row["member"] else row["uri"]
            yield Match("", level, name, "", source, place)


class _Wanted:
    """The texts, laid out so that a row is compared with all of them at once."""

    def __init__(self, texts: Sequence[str], parts: bool) -> None:
        texts = [text for text in texts if text.strip()]
        self._ids: dict[int, set[str]] = {}
        self._whole: dict[str, list[str]] = {}
        self._endings = set(texts)
        self._parts = list(texts) if parts else []
        for text in texts:
            if _HEX.fullmatch(text):
                self._ids.setdefault(len(text), set()).add(text)
            plain = text.rstrip("/") or text
            # The working folder's file, and what is named so as it stands (a URL, a member).
            places = {plain} if "://" in plain else {plain, os.path.abspath(os.path.expanduser(plain))}
            for place in places:
                self._whole.setdefault(place, []).append(text)

    def ids(self, key: str) -> Iterator[str]:
        """Texts with which the id begins."""
        for length, texts in self._ids.items():
            if key[:length] in texts:
                yield key[:length]

    def names(self, source: str) -> Iterator[tuple[int, str]]:
        """(rank, text) of every text that the source's name answers to; a text may come several times."""
        for name in _names_of(source):
            for place in (name, *_around(name)):
                yield from ((WHOLE, text) for text in self._whole.get(place, ()))
            for ending in _endings(name):
                if ending in self._endings:
                    yield NAMED, ending
            stem = os.path.splitext(name.rpartition("/")[2].rpartition("#")[2])[0]
            if stem in self._endings:
                yield NAMED, stem
        yield from ((PART, text) for text in self._parts if text in source)


def _names_of(source: str) -> Iterator[str]:
    """The source's own name; of a row of a list or table also the name of its image, which stands in brackets."""
    row = _ROW.fullmatch(source)
    yield from row.groups() if row else (source,)


def _around(name: str) -> Iterator[str]:
    """What the name lies in: its tar or table, and every folder."""
    place = name
    while True:
        cut = max(place.rfind("/"), place.rfind("#"))
        if cut <= 0 or place[:cut].endswith((":/", ":")):
            return
        place = place[:cut]
        yield place


def _endings(name: str) -> Iterator[str]:
    """`c.jpg`, `b/c.jpg`, ... of `/a/b/c.jpg`; of a member the member, too."""
    for place in range(len(name) - 1, -1, -1):
        if name[place] in "/#" and place + 1 < len(name):
            yield name[place + 1 :]
    yield name
