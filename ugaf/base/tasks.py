"""The edit tasks: what every part of ugaf has to know of one, said here once.

Twelve: ten whose edits belong to a box, as FineEdit's do, and two of the whole picture (tone, restore). Of what
published sets call theirs, only names that mean one of ours are mapped. A reference edit, a change of number or
viewpoint, or "change an attribute" (a colour, a material, an age) is none of them, and a pair of it is judged like one
without a task.

A new task is an entry here and, where it has a weight, a prompt `stages/annotation/prompts/instruct/<name>.md`; beside
them it needs an editor that makes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EditTask:
    """
    Attributes:
        scope: where an edit without a target box may change the picture. local: in one region; a colour change of the
            whole picture is the editor's drift. global: everywhere. open: as its instruction says.
        whole: it changes the picture as a whole: a box of its says what it is about, not where it ends.
        inverted: the photograph is its target, and the editor makes the source.
        smooth: its result may rightly be smoother than its source inside of the change (oil paint, a blurred backdrop).
        denoises: fine detail that goes is no loss, since noise that goes is measured as that.
        seamless: its change has no border (the whole picture), or rightly a hard one (lettering).
        face: what it makes of a face in its box: "altered" (maybe: a new colour may be the shirt's), "repainted" or
            "erased" (a whole person may go, a head from its body not).
        one_result: it can be done to an object in one way only: two instructions would ask for the same picture.
        weight: share of a vision-language writer's edits, against the other tasks'; 0 for a task whose edit belongs to
            no box, or that no instruction can make.
        aliases: what published sets call it, in lower case, words joined by "_".
    """

    name: str
    scope: Literal["local", "global", "open"] = "open"
    whole: bool = False
    inverted: bool = False
    smooth: bool = False
    denoises: bool = False
    seamless: bool = False
    face: Literal["", "altered", "repainted", "erased"] = ""
    one_result: bool = False
    weight: float = 0.0
    aliases: tuple[str, ...] = ()


_ALL = (
    EditTask("add", "local", inverted=True, face="erased", weight=14, aliases=(
        "addition", "object_add", "object_addition", "obj_add", "subject_add", "subject_addition", "insert",
        "insertion", "object_insertion", "add_object", "adding",
    )),
    EditTask("remove", "local", face="erased", one_result=True, weight=14, aliases=(
        "removal", "object_remove", "object_removal", "obj_remove", "subject_remove", "subject_removal", "delete",
        "deletion", "erase", "remove_object", "removing",
    )),
    EditTask("replace", "local", face="repainted", weight=14, aliases=(
        "replacement", "swap", "object_swap", "obj_swap", "object_replace", "object_replacement", "obj_replace",
        "subject_replace", "subject_replacement", "replace_object",
    )),
    EditTask("recolor", "local", face="altered", weight=12, aliases=(
        "color", "colour", "recolour", "color_alter", "color_change", "colour_change", "color_alteration",
        "colour_alteration", "change_color", "color_modification",
    )),
    EditTask("material", "local", face="repainted", weight=9, aliases=(
        "material_alter", "material_change", "material_modification", "material_alteration", "texture_change",
        "change_material",
    )),
    EditTask("style", "global", smooth=True, face="repainted", weight=7, aliases=(
        "style_change", "style_transfer", "stylization", "stylize", "global_style", "style_alter", "change_style",
        "artistic_style_transfer",
    )),
    EditTask("text", "local", seamless=True, weight=8, aliases=(
        "text_change", "textual_change", "text_edit", "text_editing", "text_modification", "text_replace", "ocr",
        "poster_text_editing", "interface_text_editing", "object_text_editing", "building_text_editing",
        "text_editing_poster", "text_editing_interface", "text_editing_object", "text_editing_building",
    )),
    EditTask("background", "global", whole=True, smooth=True, weight=8, aliases=(
        "background_change", "background_swap", "background_replacement", "background_alter", "bg", "bg_change",
        "change_background", "background_replace", "background_alteration",
    )),
    EditTask("motion", weight=6, aliases=(
        "motion_change", "action", "action_change", "action_editing", "action_edit", "motion_alter", "pose_change",
        "subject_motion_change",
    )),
    EditTask("tone", "global", whole=True, smooth=True, seamless=True, aliases=(
        "tone_transfer", "tone_adjustment", "tone_transformation", "tone_change", "env", "environment", "lighting",
        "environment_change", "relight", "relighting", "lighting_change", "season", "weather", "weather_change",
    )),
    EditTask("restore", "global", whole=True, inverted=True, denoises=True, seamless=True, aliases=(
        "restoration", "image_restoration", "low_level", "low_level_restoration", "deblur", "deblurring", "denoise",
        "denoising", "derain", "deraining", "dehaze", "dehazing", "low_light_enhancement", "super_resolution",
    )),
    EditTask("hybrid", "local", weight=8, aliases=(
        "compose", "composite", "compositional_editing", "hybrid_edit", "complex", "multiple",
    )),
)  # fmt: skip
"""Weights are ours: FineEdit publishes none. Its benchmark's tasks (add, remove, replace) get the most."""

TASKS: dict[str, EditTask] = {task.name: task for task in _ALL}
"""By our own names."""


def of(name: str | None) -> EditTask:
    """The task of our name for it; one of which nothing is known for any other name, and for None."""
    return TASKS.get(name or "") or EditTask(name or "")


def ours(given: str | None) -> str | None:
    """Our name of what a set calls its task, whatever its case, blanks and hyphens; None where we have none."""
    key = re.sub(r"[^a-z0-9]+", "_", (given or "").lower()).strip("_")
    return next((task.name for task in TASKS.values() if key == task.name or key in task.aliases), None)
