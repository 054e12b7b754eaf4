"""Drops edits that no sensible person would ask for, each with its reason, before anything is paid for.

FineEdit (section 3.1) lets a language model screen the instructions for unreasonable edits, inappropriate manipulation
of people and safety violations. These are the rules that need no model: an edit that would change nothing, a local
edit of nearly the whole image, a target too small to see, a face that would be altered, words that do not belong in
a training set. The stage labels; the keep rule `screen: {one_of: [ok]}` drops.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationError

from ugaf import boxes, images, stage
from ugaf.boxes import Box
from ugaf.stage import Outcome, Row, RowError
from ugaf.wording import colours, params, tones

SIDE = 480
"""Longer side, pixels, at which faces are looked for."""

ALTERING = frozenset({"recolor", "replace", "style", "material"})
"""Tasks that make another face of a face."""
ERASING = frozenset({"remove", "add"})
"""Tasks that take a person away as a whole (fine), or a head from its body (not)."""
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


@dataclass(frozen=True)
class Edit:
    """What the rules look at. size: (width, height).

    operations: (task, params) of the edit itself, or of the two parts of a hybrid.
    """

    row: Row
    task: str
    params: dict[str, Any]
    instruction: str
    size: tuple[int, int]
    objects: Sequence[Mapping[str, Any]]
    operations: list[tuple[str, dict[str, Any]]]

    def box(self, position: int) -> Box:
        x1, y1, x2, y2 = self.objects[position]["box"]
        return int(x1), int(y1), int(x2), int(y2)

    def share(self, box: Sequence[int]) -> float:
        return boxes.area(box) / (self.size[0] * self.size[1])

    @property
    def regions(self) -> list[Box]:
        """Boxes that a local edit changes."""
        found = [self.box(int(p["object"])) for task, p in self.operations if task in params.LOCAL]
        for task, p in self.operations:
            if task == "text":
                x1, y1, x2, y2 = p["box"]
                found.append((x1, y1, x2, y2))
        return found


class Screen(stage.Stage):
    """Writes `screen` ("ok" or the first reason that applies) and `screen_detail` (with the numbers)."""

    version = 1
    reads = ("image", "width", "height", "objects", "task", "instruction", "boxes", "params")
    refs = {"donor": ("image", "width", "height", "objects")}  # noqa: RUF012
    writes = pa.schema([("screen", pa.string()), ("screen_detail", pa.string())])
    keep: ClassVar[Mapping[str, Mapping[str, Any]]] = {"screen": {"one_of": ["ok"]}}

    class Settings(stage.Settings):
        max_box_share: float = Field(
            0.7, gt=0, le=1, description="A local edit whose box covers more of the image is `whole_image`."
        )
        min_box_share: float = Field(
            0.002, ge=0, le=1, description="A target box that covers less of the image is `too_small`."
        )
        min_box_side: int = Field(16, ge=1, description="A target box narrower or lower, in pixels, is `too_small`.")
        min_colour_difference: float = Field(
            20, ge=0, description="A recolouring by less (CIE76) of an object's mean colour is `no_op`."
        )
        max_face_share: float = Field(
            0.15, ge=0, le=1, description="An edit that alters more of a detected face's area is `face`."
        )
        faces: bool = Field(True, description="Look for faces; false for sets in which no people occur.")

    settings: Settings

    def setup(self) -> None:
        self._finder = FaceFinder() if self.settings.faces else None
        self._faces: OrderedDict[str, list[Box]] = OrderedDict()

    def process(self, row: Row) -> Outcome:
        edit = _read(row)
        rules: list[Callable[[Edit], tuple[str, str] | None]] = [
            _malformed, _unsafe_text, self._size, self._no_op, self._face
        ]  # fmt: skip
        for rule in rules:
            found = rule(edit)
            if found:
                return {"screen": found[0], "screen_detail": found[1]}
        return {"screen": "ok", "screen_detail": None}

    def _size(self, edit: Edit) -> tuple[str, str] | None:
        limits = self.settings
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

    def _no_op(self, edit: Edit) -> tuple[str, str] | None:
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
            if difference < self.settings.min_colour_difference:
                limit = self.settings.min_colour_difference
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
        if task == "replace" and edit.row.get("donor") == _photo_id(edit.row):
            return "the object is replaced by one of its own photograph"
        return None

    def _face(self, edit: Edit) -> tuple[str, str] | None:
        if self._finder is None:
            return None
        for task, values in edit.operations:
            if task in ("tone", "restore"):
                continue
            for face in self._faces_of(_photo_id(edit.row), edit.row.photo(SIDE), edit.size):
                detail = self._harms(edit, task, values, face)
                if detail:
                    return "face", detail
        return self._donor_face(edit)

    def _harms(self, edit: Edit, task: str, values: dict[str, Any], face: Box) -> str | None:
        limit = self.settings.max_face_share
        if task == "text":
            covered = boxes.intersection(values["box"], face) / boxes.area(face)
            return f"text covers {covered:.2f} of the face {list(face)} > {limit:g}" if covered > limit else None
        position = int(values["object"])
        covered = _covered(edit, position, face)
        if task in ALTERING and covered > limit:
            return f"{task} alters {covered:.2f} of the face {list(face)} > {limit:g}"
        if task in ERASING and covered > limit and boxes.area(face) > 0.2 * boxes.area(edit.box(position)):
            return f"{task} concerns the face {list(face)}, not a person"
        if task == "background" and values["background"] in NEW_SURROUNDINGS and 1 - covered > max(limit, 0.3):
            return f"the new background covers {1 - covered:.2f} of the face {list(face)}"
        return None

    def _donor_face(self, edit: Edit) -> tuple[str, str] | None:
        """A face that a replacement would put in: whoever it is, it would be on somebody else's picture."""
        donor = edit.row.refs.get("donor")
        for task, values in edit.operations:
            if task != "replace" or donor is None:
                continue
            size = (donor["width"], donor["height"])
            box = donor["objects"][int(values["donor_object"])]["box"]
            for face in self._faces_of(donor.id, donor.photo(SIDE), size):
                covered = boxes.intersection(box, face) / boxes.area(face)
                if covered > self.settings.max_face_share:
                    return "face", f"the donor's object holds {covered:.2f} of the face {list(face)} in {donor.id}"
        return None

    def _faces_of(self, id: str, photo: np.ndarray, size: tuple[int, int]) -> list[Box]:
        """Faces in pixels of the full image, looked for once for all edits of a photograph."""
        if id not in self._faces:
            assert self._finder is not None
            scale = size[0] / photo.shape[1]
            found = [boxes.clip([v * scale for v in face], *size) for face in self._finder.find(photo)]
            self._faces[id] = [face for face in found if boxes.area(face)]
            while len(self._faces) > 256:
                self._faces.popitem(last=False)
        return self._faces[id]


class FaceFinder:
    """Frontal faces by Viola and Jones's cascade (CVPR 2001), as OpenCV ships it, confirmed by the eyes.

    A cascade alone calls a wheel's or a fur's pattern a face now and then; a second one has to agree, and to see eyes.
    Profiles and faces under about 4 % of the image are missed: this is a filter, not a guarantee.
    """

    def __init__(self) -> None:
        self._first = _cascade("haarcascade_frontalface_alt2.xml")
        self._second = _cascade("haarcascade_frontalface_default.xml")
        self._eye = _cascade("haarcascade_eye.xml")
        self._eye_behind_glass = _cascade("haarcascade_eye_tree_eyeglasses.xml")

    def find(self, photo: np.ndarray) -> list[Box]:
        """Faces in RGB uint8 (h, w, 3): boxes in its pixels, from the upper left."""
        grey = cv2.equalizeHist(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))
        least = max(20, round(0.035 * max(grey.shape)))
        found = self._first.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=4, minSize=(least, least))
        faces = [(int(x), int(y), int(x + w), int(y + h)) for x, y, w, h in found]
        return sorted(face for face in faces if self._agrees(grey, face))

    def _agrees(self, grey: np.ndarray, face: Box) -> bool:
        around = boxes.grow(face, 0.25, grey.shape[1], grey.shape[0])
        crop = np.ascontiguousarray(boxes.crop(grey, around))
        if min(crop.shape) < 160:
            crop = cv2.resize(crop, (160, 160), interpolation=cv2.INTER_CUBIC)
        side = int(0.36 * min(crop.shape))
        if not len(self._second.detectMultiScale(crop, scaleFactor=1.05, minNeighbors=2, minSize=(side, side))):
            return False
        upper = np.ascontiguousarray(crop[: int(0.62 * crop.shape[0])])
        least = (crop.shape[0] // 12,) * 2
        if len(self._eye_behind_glass.detectMultiScale(upper, scaleFactor=1.05, minNeighbors=3, minSize=least)):
            return True
        return len(self._eye.detectMultiScale(upper, scaleFactor=1.05, minNeighbors=3, minSize=least)) >= 2


def _cascade(name: str) -> cv2.CascadeClassifier:
    path = Path(cv2.__file__).parent / "data" / name
    cascade = cv2.CascadeClassifier(str(path))
    if cascade.empty():
        raise RuntimeError(f"OpenCV's face cascade {path} cannot be read: install opencv-python-headless again")
    return cascade


def _photo_id(row: Row) -> str:
    return row.parent.id if row.parent is not None else row.id


def _read(row: Row) -> Edit:
    try:
        values = json.loads(row["params"] or "{}")
    except json.JSONDecodeError as error:
        raise RowError(f"params of edit {row.id} is not JSON: {error}") from error
    task = row["task"]
    operations = [(task, values)]
    if task == "hybrid" and isinstance(values, dict):
        operations = [(op.get("task"), op) for op in values.get("operations", []) if isinstance(op, dict)]
    size = (int(row["width"]), int(row["height"]))
    return Edit(row, task, values, row["instruction"] or "", size, row["objects"] or [], operations)


def _malformed(edit: Edit) -> tuple[str, str] | None:
    """Parameters that the editor could not carry out."""
    if edit.task not in params.MODELS:
        return "malformed", f"unknown task {edit.task!r}"
    try:
        params.validate(edit.task, edit.params)
    except (ValidationError, KeyError, TypeError) as error:
        return "malformed", f"params of {edit.task}: {' '.join(str(error).split())[:200]}"
    for position in params.objects_of(edit.task, edit.params):
        if position >= len(edit.objects):
            return "malformed", f"object {position} of {len(edit.objects)}"
    if re.search(r"[{}]", edit.instruction) or not edit.instruction.strip():
        return "malformed", f"instruction {edit.instruction!r}"
    return None


def _unsafe_text(edit: Edit) -> tuple[str, str] | None:
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
