"""How an edit is said: a `Writer` turns an `Ask` into an instruction.

The embedded writer, `templates`, draws a frame of `phrases`, names the objects by `naming`, and joins them by the rules
of `grammar`. What it says is true by construction: it says no more than the ask and the measurements hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ugaf.stage import Failure
from ugaf.wording import grammar, phrases, places
from ugaf.wording.asks import Ask
from ugaf.wording.naming import Name
from ugaf.wording.scene import Thing

REGISTERS = ("detailed", "concise", "user")
NOUNS = {"detailed": ("object",), "concise": ("object", "object", "thing"), "user": ("thing", "object")}
MAIN = ("object", "subject")
"""Nouns for what is large and in the middle; it may be an animal, which nobody calls an item."""
AREAS = {"detailed": ("area",), "concise": ("area",), "user": ("area", "part")}
SIZES = {"large": ("large", "big"), "small": ("small", "little"), "": ("",)}


@dataclass(frozen=True)
class WriteRequest:
    """One instruction to write. rng: the only source of chance. photo: RGB uint8, scaled, for writers that look."""

    ask: Ask
    register: str
    rng: np.random.Generator
    photo: np.ndarray


@dataclass(frozen=True)
class Written:
    """instruction: English. target: the name of the object as used in it (of both, joined by "; "), or ""."""

    instruction: str
    target: str


class Writer(Protocol):
    name: str
    version: int

    def write(self, requests: Sequence[WriteRequest]) -> list[Written | Failure]:
        """Answers in the order of the requests."""
        ...


class TemplateWriter:
    """Sentences from frames. See the module's docstring."""

    name = "templates"
    version = 1

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)

        spelling: Literal["american", "british"] = Field(
            "american", description="Spelling of the instructions: color and gray, or colour and grey."
        )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def write(self, requests: Sequence[WriteRequest]) -> list[Written | Failure]:
        return [self._write(request) for request in requests]

    def _write(self, request: WriteRequest) -> Written:
        rng, register = request.rng, request.register
        fields, target = _fields(request.ask, register, rng)
        frame = _frame(request.ask, register, rng)
        if self.settings.spelling == "american":
            quoted = ("text", "old")
            frame = grammar.american(frame)
            fields = {key: value if key in quoted else grammar.american(value) for key, value in fields.items()}
            target = grammar.american(target)
        sentences = [grammar.tidy(grammar.fill(part, fields)) for part in frame.split(" // ") if part]
        if register == "user":
            return Written(". ".join(sentences), target)
        if register == "concise":
            text = sentences[0][:1].upper() + sentences[0][1:]
            return Written(text + "." if rng.random() < 0.5 else text, target)
        return Written(" ".join(grammar.sentence(text) for text in sentences), target)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return grammar.expand(options[int(rng.integers(len(options)))], rng)


def _frame(ask: Ask, register: str, rng: np.random.Generator) -> str:
    """Sentences separated by " // ", with fields still in braces."""
    if ask.task == "hybrid":
        join = _pick(phrases.JOIN_USER if register == "user" else phrases.JOIN, rng)
        first, second = (
            _numbered(_pick(phrases.LOCAL[op.task], rng), number) for number, op in enumerate(ask.operations, start=1)
        )
        wish = grammar.fill(join, {"first": first, "second": second})
    else:
        wish = _wish(ask, register, rng)
    if register == "user":
        return wish if _complete(wish) else grammar.fill(_pick(phrases.ASK, rng), {"wish": wish})
    if register == "concise":
        return wish
    return f"{wish} // {_note(ask, rng)}"


def _numbered(clause: str, number: int) -> str:
    return clause.replace("}", f"_{number}}}")


def _wish(ask: Ask, register: str, rng: np.random.Generator) -> str:
    if ask.task == "tone":
        return _pick(phrases.TONES[ask.params["tone"]], rng)
    if ask.task == "restore":
        return _pick(phrases.RESTORE[ask.params["degradation"]], rng)
    if ask.task == "text":
        return _pick(phrases.TEXT[ask.params["operation"]], rng)
    if ask.task == "background":
        return _pick(phrases.BACKGROUNDS[ask.params["background"]], rng)
    if register == "user" and rng.random() < 0.6:
        return _pick(phrases.CHATTY[ask.task], rng)
    return _pick(phrases.LOCAL[ask.task], rng)


def _complete(wish: str) -> bool:
    """A sentence that "can you ..." cannot be put around."""
    starts = ("i ", "i'd", "what", "can ", "{object}", "there ", "it ", "{new}")
    return wish.startswith(starts)


def _note(ask: Ask, rng: np.random.Generator) -> str:
    """The second sentence of a detailed instruction."""
    if ask.task == "background":
        return _pick(phrases.BACKGROUND_KEEP, rng)
    if ask.task == "tone":
        return _pick(phrases.TONE_KEEP, rng)
    if ask.task == "restore":
        return _pick(phrases.RESTORE_NOTE, rng)
    options = list(phrases.KEEP)
    extra = {"add": phrases.ADD_NOTE, "remove": phrases.REMOVE_NOTE}.get(ask.task)
    if ask.task == "text" and ask.params["operation"] == "replace":
        extra = phrases.TEXT_KEEP
    if extra and rng.random() < 0.5:
        options = list(extra)
    return _pick(options, rng)


def _fields(ask: Ask, register: str, rng: np.random.Generator) -> tuple[dict[str, str], str]:
    """Values for the frame's fields, and the target's name."""
    if ask.task == "hybrid":
        fields: dict[str, str] = {}
        targets = []
        for number, operation in enumerate(ask.operations, start=1):
            inner, target = _fields(operation, register, rng)
            fields |= {f"{key}_{number}": value for key, value in inner.items()}
            targets.append(target)
        return fields, "; ".join(targets)
    fields = {key: str(ask.params[key]) for key in ("colour",) if key in ask.params}
    if ask.task == "style":
        style, in_style = phrases.STYLES[ask.params["style"]]
        fields |= {"style": grammar.expand(style, rng), "in_style": grammar.expand(in_style, rng)}
    if ask.task == "material":
        fields["material"] = grammar.expand(phrases.MATERIALS[ask.params["material"]], rng)
    if ask.task == "text":
        fields |= _text_fields(ask, rng)
    target = ""
    if ask.targets:
        thing = ask.targets[0]
        target = fields["object"] = spoken(choose_name(thing, register, rng), register, rng)
    if ask.task == "add":
        target = fields["new"] = new_name(ask.targets[0], register, rng)
    if ask.task == "replace":
        fields["donor"] = donor_name(ask, rng)
    return fields, target


def _text_fields(ask: Ask, rng: np.random.Generator) -> dict[str, str]:
    mark = ("'", "'") if rng.random() < 0.5 else ('"', '"')
    side = places.Place.of(ask.params["box"], *ask.size).side
    fields = {"ink": str(ask.params["ink"]), "place": _place(side, rng)}
    for key in ("text", "old"):
        if ask.params.get(key):
            fields[key] = mark[0] + ask.params[key] + mark[1]
    return fields


def choose_name(thing: Thing, register: str, rng: np.random.Generator) -> Name:
    """The fullest name in the detailed register, a short one in the concise, any in the user's."""
    names = sorted(thing.names, key=_length)
    if register == "detailed":
        return max(names, key=_length)
    if register == "concise":
        return names[min(len(names) - 1, int(rng.integers(2)))]
    return names[int(rng.integers(len(names)))]


def _length(name: Name) -> int:
    return sum(1 for part in (name.order, name.size, name.colour, name.side) if part)


def spoken(name: Name, register: str, rng: np.random.Generator) -> str:
    """ "the small dark blue object on the left"."""
    return grammar.tidy(f"the {_noun_phrase(name, register, rng)}")


def new_name(thing: Thing, register: str, rng: np.random.Generator) -> str:
    """ "a small dark blue object on the left": for an object that is not in the source."""
    facts = thing.facts
    size = facts.place.size if register != "concise" or rng.random() < 0.5 else ""
    name = Name("", size, facts.colour.phrase, facts.label, facts.place.side, facts.whole)
    return grammar.tidy(f"a {_noun_phrase(name, register, rng)}")


def donor_name(ask: Ask, rng: np.random.Generator) -> str:
    """ "a light brown one", or what little is known of the object that is put in."""
    facts = ask.donor.facts if ask.donor else None
    if facts is None or not (facts.label or facts.colour.phrase):
        return "another object of about the same size" if rng.random() < 0.5 else "a different object"
    same_kind = not facts.label and not ask.targets[0].facts.label
    different = facts.colour.phrase != ask.targets[0].facts.colour.phrase
    noun = facts.label or ("one" if same_kind and different and rng.random() < 0.5 else "object")
    article = "a" if different or facts.label else "a different"
    return grammar.tidy(f"{article} {facts.colour.phrase} {noun}")


def _noun_phrase(name: Name, register: str, rng: np.random.Generator) -> str:
    nouns = (NOUNS if name.whole else AREAS)[register]
    if name.whole and (name.size, name.side) == ("large", "middle") and register != "user":
        nouns = MAIN
    noun = name.label or nouns[int(rng.integers(len(nouns)))]
    size = SIZES[name.size][int(rng.integers(len(SIZES[name.size])))]
    return " ".join(part for part in (name.order, size, name.colour, noun, _place(name.side, rng)) if part)


def _place(side: str, rng: np.random.Generator) -> str:
    if not side:
        return ""
    options = places.PHRASES[side]
    return options[int(rng.integers(len(options)))]
