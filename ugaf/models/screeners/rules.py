"""Rules that need no model: what no editor could carry out, and what nobody should ask for.

An edit that would change nothing, a local edit of nearly the whole image, a target too small to see, a face that would
be altered, words that do not belong in a training set. An edit of the template writer comes with parameters, so that
much can be known of it; of one that a model wrote there are only the instruction, the task and the boxes, and the
rules that those suffice for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from pydantic import ValidationError

from ugaf.base import tasks
from ugaf.imaging import boxes, images
from ugaf.imaging.boxes import Box
from ugaf.models.screeners.faces import Faces
from ugaf.stage import Row, RowError
from ugaf.wording import colours, params, tones

SIDE = 480
"""Longer side, pixels, at which faces are looked for."""

FACE_OF_BOX = 0.2
"""A face that takes more of a box is what the box is about; one that takes less belongs to a whole person."""
NEW_SURROUNDINGS = frozenset({"studio white", "studio gradient", "sunset sky", "starry night"})
"""Backgrounds that paint over what is not the kept object."""

UNSAFE = frozenset(
    {
        "nude", "nudes", "naked", "undress", "undressed", "porn", "porno", "sex", "sexy", "nsfw", "topless", "gore",
        "corpse", "behead", "suicide", "terrorist", "nazi", "swastika", "hitler", "fuck", "fucking", "shit",
        "bitch", "cunt", "whore", "slut", "rape", "rapist", "kill", "murder",
    }
)  # fmt: skip
"""Words that no instruction and no inserted text may contain; whole words, in any case."""

Found = tuple[str, str]
"""A reason, and its detail with the numbers."""


class Limits(Protocol):
    """The numbers of the rules, as settings of the stage describe them."""

    @property
    def max_box_share(self) -> float: ...
    @property
    def min_box_share(self) -> float: ...
    @property
    def min_box_side(self) -> int: ...
    @property
    def min_colour_difference(self) -> float: ...
    @property
    def max_face_share(self) -> float: ...


@dataclass(frozen=True)
class Edit:
    """What is screened. size: (width, height) of the photograph. boxes: the edit's targets, pixels.

    params: None for an edit that is known by its words and boxes alone.
    operations: (task, params) of the edit itself, or of the two parts of a hybrid; none without params.
    """

    row: Row
    task: str
    params: dict[str, Any] | None
    instruction: str
    size: tuple[int, int]
    objects: Sequence[Mapping[str, Any]]
    boxes: tuple[Box, ...]
    operations: tuple[tuple[str, dict[str, Any]], ...]

    def box(self, position: int) -> Box:
        x1, y1, x2, y2 = self.objects[position]["box"]
        return int(x1), int(y1), int(x2), int(y2)

    def share(self, box: Sequence[int]) -> float:
        return boxes.area(box) / (self.size[0] * self.size[1])

    @property
    def regions(self) -> list[Box]:
        """Boxes that a local edit changes."""
        if self.params is None:
            return list(self.boxes)
        found = [self.box(int(p["object"])) for task, p in self.operations if task in params.LOCAL]
        for task, p in self.operations:
            if task == "text":
                x1, y1, x2, y2 = p["box"]
                found.append((x1, y1, x2, y2))
        return found

    @property
    def photo_id(self) -> str:
        return self.row.parent.id if self.row.parent is not None else self.row.id


def read(row: Row) -> Edit:
    """The edit of a row. Raises RowError where its params are not JSON."""
    text = row["params"]
    try:
        values = json.loads(text) if text else None
    except json.JSONDecodeError as error:
        raise RowError(f"params of edit {row.id} is not JSON: {error}") from error
    task = row["task"] or ""
    operations = [] if values is None else [(task, values)]
    if task == "hybrid" and isinstance(values, dict):
        operations = [(op.get("task"), op) for op in values.get("operations", []) if isinstance(op, dict)]
    targets = tuple((int(x1), int(y1), int(x2), int(y2)) for x1, y1, x2, y2 in row["boxes"] or ())
    size = (int(row["width"]), int(row["height"]))
    objects = row["objects"] or []
    return Edit(row, task, values, row["instruction"] or "", size, objects, targets, tuple(operations))


class Rules:
    """limits: see the settings of `annotation.screen`. faces: None where they are not looked for."""

    def __init__(self, limits: Limits, faces: Faces | None) -> None:
        self._limits = limits
        self._faces = faces

    def broken(self, edit: Edit) -> Found | None:
        """The first rule that the edit breaks, or None. The cheap ones come first."""
        return _malformed(edit) or _unsafe_text(edit) or self._size(edit) or self._no_op(edit) or self._face(edit)

    def _size(self, edit: Edit) -> Found | None:
        limits = self._limits
        for box in edit.regions:
            share = edit.share(box)
            if share > limits.max_box_share:
                return "whole_image", f"box covers {share:.2f} of the image > {limits.max_box_share:g}"
            if share < limits.min_box_share:
                return "too_small", f"box covers {share:.4f} of the image < {limits.min_box_share:g}"
            side = min(box[2] - box[0], box[3] - box[1])
            if side < limits.min_box_side:
                return "too_small", f"box is {side} pixels narrow < {limits.min_box_side}"
        return None

    def _no_op(self, edit: Edit) -> Found | None:
        for task, values in edit.operations:
            detail = self._changes_nothing(edit, task, values)
            if detail:
                return "no_op", detail
        targets = [int(values["object"]) for task, values in edit.operations if task in params.LOCAL]
        if len(set(targets)) < len(targets):
            return "no_op", "both operations are on the same object"
        return None

    def _changes_nothing(self, edit: Edit, task: str, values: dict[str, Any]) -> str | None:
        if task == "recolor":
            mean = _mean_colour(edit, int(values["object"]))
            red, green, blue = values["rgb"]
            difference = colours.difference(mean, (red, green, blue))
            limit = self._limits.min_colour_difference
            if difference < limit:
                return f"new colour is {difference:.0f} from the object's mean {list(mean)} < {limit:g}"
        if task == "text" and values["operation"] == "replace" and values.get("old") == values["text"]:
            return f"text {values['text']!r} replaced by itself"
        if task == "tone":
            return tones.already(edit.row.photo(SIDE)).get(values["tone"])
        if task == "restore":
            if values["strength"] < 0.05:
                return f"strength {values['strength']:g} degrades nothing"
            return tones.unrestorable(edit.row.photo(tones.SIDE)).get(values["degradation"])
        if task == "background" and values["background"] == "greyscale":
            return tones.already(edit.row.photo(SIDE)).get("black and white")
        if task == "replace" and edit.row.get("donor") == edit.photo_id:
            return "the object is replaced by one of its own photograph"
        return None

    def _face(self, edit: Edit) -> Found | None:
        if self._faces is None:
            return None
        if edit.params is None:
            return self._face_in_box(edit) if edit.boxes else None
        for task, values in edit.operations:
            if task in ("tone", "restore"):
                continue
            for face in self._faces.of(edit.photo_id, edit.row.photo(SIDE), edit.size):
                detail = self._harms(edit, task, values, face)
                if detail:
                    return "face", detail
        return self._donor_face(edit)

    def _face_in_box(self, edit: Edit) -> Found | None:
        """Whether a target's box is about a face; what the edit does inside of its box is not known."""
        assert self._faces is not None
        for face in self._faces.of(edit.photo_id, edit.row.photo(SIDE), edit.size):
            for box in edit.boxes:
                covered = boxes.intersection(box, face) / boxes.area(face)
                if covered <= self._limits.max_face_share:
                    continue
                if tasks.of(edit.task).face == "repainted":
                    return "face", f"{edit.task} alters {covered:.2f} of the face {list(face)}"
                if boxes.area(face) > FACE_OF_BOX * boxes.area(box):
                    return "face", f"{edit.task} concerns the face {list(face)}, not a person"
        return None

    def _harms(self, edit: Edit, task: str, values: dict[str, Any], face: Box) -> str | None:
        limit = self._limits.max_face_share
        if task == "text":
            covered = boxes.intersection(values["box"], face) / boxes.area(face)
            return f"text covers {covered:.2f} of the face {list(face)} > {limit:g}" if covered > limit else None
        position = int(values["object"])
        covered, face_is = _covered(edit, position, face), tasks.of(task).face
        if face_is in ("altered", "repainted") and covered > limit:
            return f"{task} alters {covered:.2f} of the face {list(face)} > {limit:g}"
        if face_is == "erased" and covered > limit and boxes.area(face) > FACE_OF_BOX * boxes.area(edit.box(position)):
            return f"{task} concerns the face {list(face)}, not a person"
        if task == "background" and values["background"] in NEW_SURROUNDINGS and 1 - covered > max(limit, 0.3):
            return f"the new background covers {1 - covered:.2f} of the face {list(face)}"
        return None

    def _donor_face(self, edit: Edit) -> Found | None:
        """A face that a replacement would put in: whoever it is, it would be on somebody else's picture."""
        donor = edit.row.refs.get("donor")
        for task, values in edit.operations:
            if task != "replace" or donor is None:
                continue
            assert self._faces is not None
            size = (donor["width"], donor["height"])
            box = donor["objects"][int(values["donor_object"])]["box"]
            for face in self._faces.of(donor.id, donor.photo(SIDE), size):
                covered = boxes.intersection(box, face) / boxes.area(face)
                if covered > self._limits.max_face_share:
                    return "face", f"the donor's object holds {covered:.2f} of the face {list(face)} in {donor.id}"
        return None


def _malformed(edit: Edit) -> Found | None:
    """What the editor could not carry out."""
    found = _unknown(edit) if edit.params is None else _bad_params(edit, edit.params)
    if found:
        return "malformed", found
    if re.search(r"[{}]", edit.instruction) or not edit.instruction.strip():
        return "malformed", f"instruction {edit.instruction!r}"
    return None


def _bad_params(edit: Edit, values: dict[str, Any]) -> str | None:
    if edit.task not in params.MODELS:
        return f"unknown task {edit.task!r}"
    try:
        params.validate(edit.task, values)
    except (ValidationError, KeyError, TypeError) as error:
        return f"params of {edit.task}: {' '.join(str(error).split())[:200]}"
    for position in params.objects_of(edit.task, values):
        if position >= len(edit.objects):
            return f"object {position} of {len(edit.objects)}"
    return None


def _unknown(edit: Edit) -> str | None:
    if edit.task not in tasks.TASKS:
        return f"unknown task {edit.task!r}"
    for box in edit.boxes:
        if boxes.clip(box, *edit.size) != box or not boxes.area(box):
            return f"box {list(box)} is not in the image of {edit.size[0]} x {edit.size[1]}"
    return None


def _unsafe_text(edit: Edit) -> Found | None:
    texts = [edit.instruction, *(str(values.get("text", "")) for _, values in edit.operations)]
    words = set(re.findall(r"[^\W\d_]+", " ".join(texts).lower()))
    bad = sorted(words & UNSAFE)
    return ("unsafe_text", f"contains {', '.join(bad)}") if bad else None


def _mask(edit: Edit, position: int) -> np.ndarray | None:
    data = edit.objects[position].get("mask")
    return images.decode_mask(data) if data else None


def _covered(edit: Edit, position: int, face: Box) -> float:
    """Share (0..1) of a face that lies in the object: in its mask where it has one, else in its box."""
    box, mask = edit.box(position), _mask(edit, position)
    if mask is None or mask.shape != (box[3] - box[1], box[2] - box[0]):
        return boxes.intersection(box, face) / boxes.area(face)
    x1, y1 = max(face[0] - box[0], 0), max(face[1] - box[1], 0)
    x2, y2 = min(face[2], box[2]) - box[0], min(face[3], box[3]) - box[1]
    if x2 <= x1 or y2 <= y1:
        return 0.0
    return float(mask[y1:y2, x1:x2].sum()) / boxes.area(face)


def _mean_colour(edit: Edit, position: int) -> tuple[int, int, int]:
    """The object's colour as `instruct` measures it (`colours.describe`)."""
    photo = edit.row.photo(SIDE)
    box, mask = edit.box(position), _mask(edit, position)
    scale = photo.shape[1] / edit.size[0]
    small = boxes.clip([v * scale for v in box], photo.shape[1], photo.shape[0])
    region = boxes.crop(photo, small)
    if mask is None or not mask.any():
        return colours.describe(region.reshape(-1, 3)).mean
    inside = cv2.resize(mask.astype(np.uint8), (region.shape[1], region.shape[0]), interpolation=cv2.INTER_NEAREST) > 0
    return colours.describe(region[inside] if inside.any() else region.reshape(-1, 3)).mean
