"""What a file's metadata declare of its origin: an image generator, a camera, a program.

Declared, not detected: most generated images have lost their metadata, and anyone can write any tag. What is declared
is worth knowing because it is free and, where it says "generated", nearly always true.
"""

from __future__ import annotations

import functools
import html
import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from ugaf.provenance.c2pa import statements
from ugaf.provenance.metadata import Metadata

GENERATED_TYPES = (
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "compositeSynthetic",
    "algorithmicMedia",
)
"""IPTC digital source types (cv.iptc.org/newscodes/digitalsourcetype) of images that a model or program made, or that
have parts which it made."""
EVIDENCE_CHARACTERS = 500
NAME_CHARACTERS = 100
PLACES = 50
"""Places of a text that are looked at for one property or pattern."""
XMP_ELEMENT = 8000
"""Characters of an element's content."""

_RECIPE = re.compile(r"Steps: \d{1,5}, (?=.{0,200}(Sampler|CFG scale|Seed): )", re.DOTALL)
_JOB = re.compile(r"Job ID: [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_ATTRIBUTE = re.compile(r"\s{0,20}=\s{0,20}(?:\"([^\"]{0,4000})\"|'([^']{0,4000})')")
_OPENED = re.compile(r"<[\w.-]{1,40}$")
_AFTER_NAME = tuple(" \t\r\n/>")
_RESOURCE = re.compile(r"resource\s{0,20}=\s{0,20}[\"']([^\"']{1,400})")
_CONTENT = re.compile(r">([^<>]{1,4000})<")
_KEYWORDS = {
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "fooocus_scheme": "Fooocus",
    "sui_image_params": "SwarmUI",
}
"""Words that only one generator writes, as a PNG keyword or inside of its parameters."""


@dataclass(frozen=True)
class Provenance:
    """What a file declares.

    generated: whether anything declares that a generative model made the image or a part of it. generator: its name,
    where one is told. evidence: the tags that said so, "; " between them; None if none did. source_type: the IPTC
    digital source type, the generated one if there are several. camera: maker and model. software: the program that
    wrote the file.
    """

    generated: bool
    generator: str | None
    evidence: str | None
    source_type: str | None
    camera: str | None
    software: str | None


class _Findings:
    """Evidence in order; the first name is the generator's."""

    def __init__(self) -> None:
        self.evidence: list[str] = []
        self.names: list[str] = []
        self.types: list[str] = []

    def add(self, tag: str, value: str, name: str | None = None) -> None:
        text = f"{tag}: {_line(value, NAME_CHARACTERS)}"
        if text not in self.evidence:
            self.evidence.append(text)
        if name and name not in self.names:
            self.names.append(name)

    def source_type(self, tag: str, value: str, name: str | None = None) -> None:
        """A digital source type, as URI or code."""
        code = re.split(r"[/:]", value.strip().rstrip("/"))[-1]
        if not re.fullmatch(r"\w{1,60}", code):
            return
        self.types.append(code)
        if code in GENERATED_TYPES:
            self.add(tag, code, name)

    def tool(self, tag: str, value: str | None) -> None:
        """The name of a program: evidence if it is a generator's."""
        if value and (name := generator_named(value)):
            self.add(tag, value, name)


def provenance(metadata: Metadata) -> Provenance:
    """What the metadata declare. The order of evidence: C2PA, XMP, labels, generators' own texts, program names."""
    found = _Findings()
    programs = _content_credentials(metadata.c2pa, found)
    for value in _xmp(metadata.xmp, "DigitalSourceType"):
        found.source_type("XMP DigitalSourceType", value)
    for value in _xmp(metadata.xmp, "AISystemUsed"):
        found.add("XMP AISystemUsed", value, generator_named(value) or _line(value, NAME_CHARACTERS))
    for value in _xmp(metadata.xmp, "AIGC"):
        _label("XMP TC260:AIGC", value, found)
    _texts(metadata, found)
    creators = _xmp(metadata.xmp, "CreatorTool")
    keyed = {key: text for key, text in reversed(metadata.texts) if key in ("Software", "Source")}
    for tag, named in (
        *(("XMP Credit", value) for value in _xmp(metadata.xmp, "Credit")),
        *((f"IPTC {key}", value) for key, value in metadata.iptc.items()),
        *((f"EXIF {key}", metadata.exif.get(key)) for key in ("Software", "Make", "Model", "Artist")),
        *(("XMP CreatorTool", value) for value in creators),
        *((f"PNG {key}", value) for key, value in keyed.items()),
    ):
        found.tool(tag, named)
    software = [metadata.exif.get("Software"), *creators, keyed.get("Software"), *programs]
    types = sorted(found.types, key=lambda code: code not in GENERATED_TYPES)
    return Provenance(
        generated=bool(found.evidence),
        generator=found.names[0] if found.names else None,
        evidence=_line("; ".join(found.evidence), EVIDENCE_CHARACTERS) or None,
        source_type=types[0] if types else None,
        camera=_camera(metadata),
        software=next((_line(name, NAME_CHARACTERS) for name in software if name and name.strip()), None),
    )


def generator_named(text: str) -> str | None:
    """The generator that the name of a program, model or service belongs to (`generators.yaml`), or None."""
    text = text[:1000]
    return next((name for name, pattern in _generators() if pattern.search(text)), None)


@functools.cache
def _generators() -> tuple[tuple[str, re.Pattern[str]], ...]:
    entries = yaml.safe_load((Path(__file__).parent / "generators.yaml").read_text("utf-8"))
    return tuple((entry["name"], re.compile(entry["pattern"], re.IGNORECASE)) for entry in entries)


def _content_credentials(store: bytes, found: _Findings) -> list[str]:
    """Evidence in the C2PA manifests; the names of their programs."""
    said = statements(store) if store else []
    programs = [statement.tool for statement in said if statement.tool and statement.source.startswith("c2pa.claim")]
    for statement in said:
        if statement.source_type:
            tool = statement.tool or next(iter(programs), None)
            name = (generator_named(tool) or _line(tool, NAME_CHARACTERS)) if tool else None
            found.source_type(f"C2PA {statement.source}", statement.source_type, name)
        found.tool(f"C2PA {statement.source}", statement.tool)
    return programs


def _texts(metadata: Metadata, found: _Findings) -> None:
    """What generators write in words of their own: PNG texts, comments, and EXIF in formats without such texts."""
    exif = [(f"EXIF {key}", metadata.exif.get(key, "")) for key in ("UserComment", "ImageDescription")]
    for key, text in (*metadata.texts, *exif):
        tag = key if key.startswith("EXIF ") else f"text {_line(key, 40)}"
        start = text[:2000]
        own = next((name for word, name in _KEYWORDS.items() if word == key or f'"{word}"' in text), None)
        if own:
            found.add(tag, own, own)
        elif key in ("prompt", "workflow") and ('"class_type"' in text or '"nodes"' in text):
            found.add(tag, "ComfyUI graph", "ComfyUI")
        elif key == "AIGC":
            _label(tag, text, found)
        elif _first(_RECIPE, "Steps: ", text):
            found.add(tag, "sampler's steps and seed", "Stable Diffusion")
        elif job := _first(_JOB, "Job ID: ", text):
            found.add(tag, job[0], "Midjourney")
        elif key == "Title" and start.strip().casefold() == "ai generated image":
            found.add(tag, start)


def _first(pattern: re.Pattern[str], start: str, text: str) -> re.Match[str] | None:
    """The pattern's first match among the first places where its fixed start stands: a bounded search."""
    at = -1
    for _ in range(PLACES):
        at = text.find(start, at + 1)
        if at < 0:
            return None
        if found := pattern.match(text, at):
            return found
    return None


def _label(tag: str, text: str, found: _Findings) -> None:
    """The label that GB 45438-2025 (annex E) asks for: JSON whose `Label` is 1 (generated), 2 or 3 (perhaps)."""
    try:
        label = json.loads(html.unescape(text))
    except (ValueError, RecursionError):
        return
    if isinstance(label, dict) and str(label.get("Label")) in ("1", "2", "3"):
        producer = str(label.get("ContentProducer") or "")
        found.add(tag, f"Label {label['Label']}", generator_named(producer) or _line(producer, NAME_CHARACTERS) or None)


def _xmp(packet: str, name: str) -> list[str]:
    """The values of a property in an XMP packet, as attribute, element, list or resource, in any namespace.

    Read by patterns: XML parsers refuse what is a little broken, and can be made to expand without end.
    """
    values: list[str] = []
    word, at = f":{name}", 0
    for _ in range(PLACES):
        at = packet.find(word, at) + len(word)
        if at < len(word):
            break
        if attribute := _ATTRIBUTE.match(packet, at):
            values.append(attribute[1] or attribute[2] or "")
        elif _OPENED.search(packet, max(0, at - len(word) - 41), at - len(word)) and packet[at : at + 1] in _AFTER_NAME:
            end = packet.find(f"{word}>", at, at + XMP_ELEMENT)
            start, _, content = packet[at : end if end >= 0 else at + 500].partition(">")
            if resource := _RESOURCE.search(start[:500]):
                values.append(resource[1])
            if end >= 0:
                values += _CONTENT.findall(f">{content}")
    return [value for value in (html.unescape(value).strip() for value in values) if value]


def _camera(metadata: Metadata) -> str | None:
    """Maker and model, the maker's name once."""
    maker, model = (metadata.exif.get(key) or next(iter(_xmp(metadata.xmp, key)), "") for key in ("Make", "Model"))
    first = maker.split()[0].casefold() if maker.split() else ""
    name = model if first and model.casefold().startswith(first) else f"{maker} {model}"
    return _line(name, NAME_CHARACTERS) or None


def _line(text: str, characters: int) -> str:
    """On one line, printable, and not endless."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * characters]).split())
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
