"""Which members of a tar belong together: a photograph with its caption, a source with its edited image.

Members are matched by name wherever they stand in the archive. A text belongs to the image of the same whole stem or
name (`IMG_1.0.txt` or `IMG_1.0.jpg.txt` to `IMG_1.0.jpg`), else to the images of its webdataset key that have no
picture of that plain name. A name that comes again starts a new sample of its key; where the samples of such a key
cannot be told apart, no image gets a text of it and no pair is made, since a wrong caption is worse than none.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ugaf.ingest.schemas import EDITED_ROLES, PAIR_ROLES, SOURCE_ROLES
from ugaf.ingest.tar_index import Item, Member, NoFile, TarError, members, plain_name

AT_ONCE = 500_000
"""Members that are matched with each other; a longer archive is taken in stretches of about so many."""

_TEXTS = ("txt", "caption", "json")
_SEEN_FOR_KIND = 16
_MOST_FOR_KIND = 20_000

Roles = tuple[str, str]
"""How a tar calls its two images: `("source", "edited")` for KEY.source.png and KEY.edited.png."""


@dataclass(frozen=True)
class Photo:
    """An image member and the text member of its caption, if there is one."""

    image: Member
    caption: Member | None


@dataclass(frozen=True)
class Pair:
    """The members of an edit pair. texts: by the name between the key and `.txt`, "" for KEY.txt."""

    key: str
    source: Member | None
    edited: Member | None
    fields: Member | None = None
    texts: Mapping[str, Member] = field(default_factory=dict)
    mixed: bool = False

    @property
    def offset(self) -> int:
        return min(member.offset for member in (self.source, self.edited) if member is not None)

    @property
    def used(self) -> list[Member]:
        own = [self.source, self.edited, self.fields, *self.texts.values()]
        return [member for member in own if member is not None]


@dataclass(frozen=True)
class Sample:
    """Members of one key. repeated: names that come several times, where nothing tells whose text is whose."""

    members: Sequence[Member]
    repeated: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Stretch:
    """Up to `AT_ONCE` members: links resolved, samples by key in archive order, what is damaged, and what no file."""

    samples: Sequence[Sample]
    errors: Sequence[TarError]
    no_files: Sequence[NoFile] = ()


def stretches(items: Iterable[Item]) -> Iterator[Stretch]:
    """The archive in stretches; neighbours that share a key are always in one."""
    held: list[Member] = []
    errors: list[TarError] = []
    no_files: list[NoFile] = []
    for item in items:
        if isinstance(item, TarError):
            errors.append(item)
            continue
        if isinstance(item, NoFile):
            no_files.append(item)
            continue
        if len(held) >= AT_ONCE and item.key != held[-1].key:
            yield _stretch(held, errors, no_files)
            held, errors, no_files = [], [], []
        held.append(item)
    if held or errors or no_files:
        yield _stretch(held, errors, no_files)


def pair_roles(file: object, given: Mapping[str, str]) -> tuple[Roles | None, bool]:
    """How an archive calls the images of its pairs (None for one of photographs), and whether it has images at all.

    It reads headers until a few keys with an image are known; where they have one half of a pair, until the first
    whole one. given: the input's own `columns`, whose `source` and `edited` win.
    """
    if {"source", "edited"} <= given.keys():
        return (given["source"], given["edited"]), True
    seen: dict[str, set[str]] = {}
    for item in itertools.islice(members(file), _MOST_FOR_KIND):
        if not isinstance(item, Member) or not item.is_image:
            continue
        base, role = _role(item)
        is_half = role in SOURCE_ROLES or role in EDITED_ROLES
        seen.setdefault(base if is_half else item.key, set()).add(role if is_half else "")
        if len(seen) >= _SEEN_FOR_KIND and (not _mostly_pairs(seen) or _common_roles(seen) is not None):
            break
    return _common_roles(seen) if _mostly_pairs(seen) else None, bool(seen)


def photos(sample: Sample) -> list[Photo]:
    """The photographs of a sample, with their captions.

    Beside an image of the key's plain name, one with a longer suffix is a part (`k.seg.png`) unless it has a text of
    its own; a mask is a part in any case.
    """
    texts = _texts(sample)
    images = [member for member in sample.members if member.is_image]
    shown = [member for member in images if not _is_mask(member)] or images
    plain = [member for member in shown if member.stem == member.key]
    if plain:
        shown = [member for member in shown if member.stem == member.key or member.stem in texts]
    shared = not plain and not sample.repeated
    return [Photo(member, _caption(member, texts, shared, sample.repeated)) for member in shown]


def pairs(sample: Sample, roles: Roles) -> list[Pair]:
    """The pairs of a sample: every base name that has an image in one of the two roles."""
    bases: dict[str, dict[str, Member]] = {}
    for member in sample.members:
        base, role = _role(member)
        if member.is_image and role in roles:
            bases.setdefault(base, {}).setdefault(role, member)
    texts = _texts(sample)
    found = []
    for base, images in bases.items():
        own = texts.get(base, {})
        named = {stem[len(base) + 1 :]: by["txt"] for stem, by in texts.items() if _under(stem, base) and "txt" in by}
        if "txt" in own or "caption" in own:
            named[""] = own.get("txt") or own["caption"]
        mixed = any(_under(name, base) for name in sample.repeated)
        found.append(Pair(base, images.get(roles[0]), images.get(roles[1]), own.get("json"), named, mixed))
    return found


def _stretch(held: Sequence[Member], errors: Sequence[TarError], no_files: Sequence[NoFile]) -> Stretch:
    resolved, broken = _without_links(held)
    by_key: dict[str, list[int]] = {}
    for index, member in enumerate(resolved):
        by_key.setdefault(member.key, []).append(index)
    samples = [sample for indices in by_key.values() for sample in _samples(resolved, indices)]
    return Stretch(samples, [*errors, *broken], no_files)


def _without_links(held: Sequence[Member]) -> tuple[list[Member], list[TarError]]:
    """Links as members with the bytes of what they stand for; images whose target is not there are errors."""
    if all(member.target is None for member in held):
        return list(held), []
    known: dict[str, Member] = {}
    resolved: list[Member] = []
    errors = []
    links = []
    for index, member in enumerate(held):
        if member.target is None:
            known[plain_name(member.name)] = member
        else:
            links.append(index)
    places = {}
    for index in links:
        link = held[index]
        found = known.get(link.target or "")
        if found is not None:
            places[index] = known[plain_name(link.name)] = Member(link.name, found.offset, found.size)
        elif link.is_image:
            errors.append(TarError(f"a link to {link.target}, which is not in the archive", link.name))
    for index, member in enumerate(held):
        if member.target is None or index in places:
            resolved.append(places.get(index, member))
    return resolved, errors


def _samples(held: Sequence[Member], indices: Sequence[int]) -> list[Sample]:
    """One key's members as samples: one, or one for each repetition where they follow each other in the same order."""
    own = [held[index] for index in indices]
    counts = Counter(member.name for member in own if member.is_image or member.suffix in _TEXTS)
    repeated = frozenset(name for name, count in counts.items() if count > 1)
    if not repeated:
        return [Sample(own)]
    names = [member.name for member in own]
    size = names.index(names[0], 1) if names[0] in names[1:] else len(names)
    regular = len(names) % size == 0 and names == names[:size] * (len(names) // size)
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]
    if regular and all(part[-1] - part[0] == len(part) - 1 for part in parts):
        return [Sample([held[index] for index in part]) for part in parts]
    return [Sample(own, repeated)]


def _texts(sample: Sample) -> dict[str, dict[str, Member]]:
    """Stem -> suffix -> the text member; the first of two that differ in case alone."""
    found: dict[str, dict[str, Member]] = {}
    for member in sample.members:
        if member.suffix in _TEXTS:
            found.setdefault(member.stem, {}).setdefault(member.suffix, member)
    return found


def _caption(
    image: Member, texts: Mapping[str, Mapping[str, Member]], shared: bool, repeated: frozenset[str]
) -> Member | None:
    if any(name.rpartition(".")[0] == image.stem for name in repeated):
        return None
    for stem in (image.stem, image.name, image.key) if shared else (image.stem, image.name):
        own = texts.get(stem, {})
        found = next((own[suffix] for suffix in _TEXTS if suffix in own), None)
        if found is not None:
            return found
    return None


def _under(name: str, base: str) -> bool:
    return name.startswith(f"{base}.")


def _role(member: Member) -> Roles:
    """("dir/KEY", "source") for dir/KEY.source.png; the role is "" for a plain name."""
    folder, slash, name = member.stem.rpartition("/")
    base, _, role = name.rpartition(".")
    return (f"{folder}{slash}{base}", role) if base else (member.stem, "")


def _is_mask(member: Member) -> bool:
    return _role(member)[1].lower().endswith("mask")


def _mostly_pairs(seen: Mapping[str, set[str]]) -> bool:
    return 2 * sum(roles != {""} for roles in seen.values()) > len(seen)


def _common_roles(seen: Mapping[str, set[str]]) -> Roles | None:
    """The published pair of names that most of these base names have whole."""
    counts = Counter(roles for own in seen.values() for roles in PAIR_ROLES if set(roles) <= own)
    return max(counts, key=lambda roles: (counts[roles], -PAIR_ROLES.index(roles))) if counts else None
