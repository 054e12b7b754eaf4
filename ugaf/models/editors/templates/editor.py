"""The embedded editor: exact pairs by algorithm, with no model, no weights and no network.

The task and its parameters fix an edit completely; words are only for the reader. Every operation answers with a layer
and a matte, and one function lays it over the picture, so outside the returned mask source and target are equal,
whatever the operation does. An edit that nobody would see, or that cannot be made, is a `Failure` with its reason,
never a copy of the photograph.

After the model-free template synthesis and the task inversion of the FireRed-Image-Edit technical report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ugaf.base import tasks
from ugaf.base.errors import nearest
from ugaf.base.failure import Failure, attempt
from ugaf.imaging import blending
from ugaf.imaging.blending import Layer
from ugaf.models.editors.interface import Edit, EditError, EditRequest
from ugaf.models.editors.templates.background import background
from ugaf.models.editors.templates.compose import remove, replace
from ugaf.models.editors.templates.material import material
from ugaf.models.editors.templates.recolor import recolor
from ugaf.models.editors.templates.restore import degrade
from ugaf.models.editors.templates.scene import Scene
from ugaf.models.editors.templates.style import style
from ugaf.models.editors.templates.text import add_text, replace_text
from ugaf.models.editors.templates.tone import tone

OPERATIONS: dict[str, Callable[[Scene, Mapping[str, Any]], Layer]] = {
    "recolor": recolor,
    "remove": remove,
    "add": remove,
    "replace": replace,
    "style": style,
    "material": material,
    "background": background,
    "tone": tone,
    "text": add_text,
    "restore": degrade,
}
"""What paints each task. `text` with operation "replace" and `hybrid` are put together in `TemplateEditor`."""

UNBOUNDED = frozenset({"tone", "restore"})
"""Tasks that may change any pixel: their mask is None."""

TASKS = (*OPERATIONS, "hybrid")


class TemplateEditor:
    """See the module. Thread-safe: it holds nothing but its settings."""

    name = "templates"
    version = 1

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)

        min_change: float = Field(
            6.0,
            ge=0,
            le=255,
            description="fail an edit whose most changed quarter changes by less (mean levels of 255)",
        )
        largest_fill: float = Field(
            0.35, gt=0, le=0.6, description="fail a removal that would have to fill more than this share of the picture"
        )

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or self.Settings.model_validate({})

    def edit(self, requests: Sequence[EditRequest]) -> list[Edit | Failure]:
        """One answer a request, in order. A request's result depends on nothing but itself."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: EditRequest) -> Edit | Failure:
        edit = attempt(self._make, request)
        if isinstance(edit, Failure) and not edit.foreseen:
            return dataclasses.replace(edit, message=f"{request.task} failed: {edit.message}")
        return edit

    def _make(self, request: EditRequest) -> Edit:
        scene = Scene.of(request, self.settings.largest_fill)
        source: np.ndarray | None
        if request.task == "text" and request.params.get("operation") == "replace":
            old, new = replace_text(scene, request.params)
            source, changed_old = blending.overlay(request.photo, old)
            edited, changed_new = blending.overlay(request.photo, new)
            mask = changed_old | changed_new
        elif request.task == "hybrid":
            edited, mask = self._chain(scene, request)
            source = None
        else:
            edited, mask = self._paint(scene, request.task, request.params)
            source = None
        self._check_visible(source if source is not None else request.photo, edited, mask, request.task)
        limits = None if request.task in UNBOUNDED else mask
        steps = {str(step.get("task")) for step in request.params.get("operations", ())} or {request.task}
        if request.task == "hybrid" and steps & UNBOUNDED:
            limits = None
        if all(tasks.of(task).inverted for task in steps):
            return Edit(edited, None, limits)
        return Edit(source, edited, limits)

    def _paint(self, scene: Scene, task: str, params: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        operation = OPERATIONS.get(task)
        if operation is None:
            raise EditError("BadParams", f"unknown task {task!r}{nearest(task, TASKS)}")
        return blending.overlay(scene.picture, operation(scene, params))

    def _chain(self, scene: Scene, request: EditRequest) -> tuple[np.ndarray, np.ndarray]:
        """A hybrid's operations one after another; objects keep the masks that they have in the photograph."""
        steps = request.params.get("operations")
        if not isinstance(steps, list) or len(steps) < 2:
            raise EditError("BadParams", "hybrid needs `operations`: a list of two or more edits")
        names = [str(step.get("task")) for step in steps]
        if len({tasks.of(task).inverted for task in names}) > 1:
            raise EditError("BadParams", f"hybrid cannot mix inverted and direct edits: {', '.join(names)}")
        picture, mask = request.photo, np.zeros(request.photo.shape[:2], dtype=bool)
        for task, step in zip(names, steps, strict=True):
            after, changed = self._paint(scene.on(picture), task, step)
            self._check_visible(picture, after, changed, task)
            picture, mask = after, mask | changed
        return picture, mask

    def _check_visible(self, before: np.ndarray, after: np.ndarray, mask: np.ndarray, task: str) -> None:
        change = np.abs(before[mask].astype(np.int16) - after[mask]).mean(axis=-1)
        quarter = len(change) * 3 // 4
        seen = float(np.partition(change, quarter)[quarter:].mean()) if len(change) else 0.0
        least = self.settings.min_change
        if seen < least:
            reason = f"{task} changes even the most changed quarter of its region by only {seen:.1f} levels of 255"
            raise EditError("NoVisibleChange", f"{reason} on average (least: {least:g})")
