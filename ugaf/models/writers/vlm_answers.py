"""What a vision-language model answers when it writes instructions: the schema, and what a schema cannot check.

The answer begins with what the model sees and whether the edit makes sense, so that an instruction is written only
after both. It is flat and short, for small models: no field repeats what the request already says.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from ugaf.models.chat.schemas import line

SEEN, REASON, NAME, WORDS, INSTRUCTION, CHINESE = 300, 300, 120, 60, 500, 300
"""Most characters of a field."""

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
LATIN = re.compile(r"[A-Za-z]")
MARKS = re.compile(
    r"\b(?:bounding|red|blue|marked|outlined|highlighted|drawn) "
    r"(?:box|rectangle|frame|outline|marker|marking)(?:es|s)?\b"
    r"|\b(?:inside|within|outside|in)(?: of)? the (?:box|rectangle)\b|\bbbox\b"
    r"|\b(?:marked|highlighted|outlined) (?:region|area|object|thing|part|person|place|spot)s?\b"
    r"|\b(?:close[ -]?up|close|cropped) (?:image|picture|photo|photograph|view)\b"
    r"|\b(?:first|second) (?:image|photograph)\b"
    r"|\b\d+ ?(?:px|pixels?)\b|\[\s*\d+\s*,",
    re.IGNORECASE,
)
"""What was drawn or told for the model alone."""
MARKS_CN = re.compile(r"(?:红|蓝|矩形|方|边界|标记|标注|检测)框|框(?:内|里|中|选|出)|像素")
SHAPES = frozenset(
    {"box", "boxes", "crate", "package", "carton", "frame", "frames", "picture", "painting", "mirror", "window"}
)
"""Words of labels of things that are boxes or have frames: "the red box" may then be one in the photograph."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


@functools.cache
def schema(task: str, count: int, chinese: bool) -> type[BaseModel]:
    """The model of an answer to a request for `count` instructions of a task: seen, why, feasible, edits."""
    fields: dict[str, Any] = {}
    if task == "text":
        # Words that are read, or to be read, in the picture; "" where none go, or none come.
        either = line(WORDS) | Literal[""]
        fields |= {"old_text": (either, ...), "new_text": (either, ...)}
    fields |= {"target": (line(NAME), ...), "instruction": (line(INSTRUCTION), ...)}
    if chinese:
        fields["instruction_cn"] = (line(CHINESE), ...)
    edit = create_model("Edit", __base__=_Answer, **fields)
    return create_model(
        "Answer",
        __base__=_Answer,
        seen=(line(SEEN), ...),
        why=(line(REASON), ...),
        feasible=(bool, ...),
        edits=(list[edit], Field(max_length=count)),  # type: ignore[valid-type]
    )


def check(answer: Any, labels: Sequence[str]) -> None:
    """Raises ValueError for an answer that fits its schema and cannot be used; it names the fault for the row's error.

    labels: of the photograph's objects. Where one is itself a box or a frame, it may be called so.
    """
    if not answer.feasible:
        return
    if not answer.edits:
        raise ValueError("the edit is said to be feasible, but there is no instruction")
    shapes = any(SHAPES.intersection(label.split()) for label in labels)
    for number, edit in enumerate(answer.edits, start=1):
        fault = _fault(edit, shapes)
        if fault:
            raise ValueError(f"instruction {number} {fault}: {edit.instruction!r}")
    for field in ("instruction", "instruction_cn"):
        said = [_bare(getattr(edit, field)) for edit in answer.edits if hasattr(edit, field)]
        if len(set(said)) < len(said):
            raise ValueError(f"two instructions are the same: {field} {answer.edits[0].instruction!r}")


def _fault(edit: Any, shapes: bool) -> str:
    text, chinese = edit.instruction, getattr(edit, "instruction_cn", None)
    words = [word for word in (getattr(edit, "old_text", ""), getattr(edit, "new_text", "")) if word]
    # What is to be read in the picture may be in any language, and say anything.
    plain, plain_cn = _without(text, words), _without(chinese or "", words)
    if not LATIN.search(plain) or HAN.search(plain):
        return "is not in English"
    if chinese is not None and not HAN.search(plain_cn):
        return f"has a Chinese wording without Chinese in it ({chinese!r})"
    mark = None if shapes else MARKS.search(plain) or MARKS.search(edit.target) or MARKS_CN.search(plain_cn)
    if mark:
        return f"speaks of what was drawn for the model alone ({mark.group()!r})"
    return _text_fault(edit, words) if hasattr(edit, "new_text") else ""


def _text_fault(edit: Any, words: Sequence[str]) -> str:
    if not words:
        return "names no words that go or come"
    if _bare(edit.old_text) == _bare(edit.new_text):
        return f"replaces {edit.old_text!r} by itself"
    missing = [word for word in words if _bare(word) not in _bare(edit.instruction)]
    return f"does not hold the words {missing[0]!r}" if missing else ""


def _without(text: str, words: Sequence[str]) -> str:
    for word in words:
        text = text.replace(word, " ")
    return text


def _bare(text: str) -> str:
    """Letters and digits alone, so that two wordings that differ in case or punctuation count as one."""
    return "".join(character for character in text.casefold() if character.isalnum())
