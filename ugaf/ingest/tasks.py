"""What published sets call their tasks, in our words.

Only names that mean one of our tasks are mapped: a reference edit, a change of pose, number or viewpoint, or "change an
attribute" (a colour, a material, an age) is none of them, and a pair of it is judged like one without a task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

TASKS = (
    *("add", "remove", "replace", "recolor", "material", "style", "text", "background", "motion", "tone", "restore"),
    "hybrid",
)

_NAMED = 100
_NAMES: dict[str, tuple[str, ...]] = {
    "add": (
        *("addition", "object_add", "object_addition", "obj_add", "subject_add", "subject_addition", "insert"),
        *("insertion", "object_insertion", "add_object", "adding"),
    ),
    "remove": (
        *("removal", "object_remove", "object_removal", "obj_remove", "subject_remove", "subject_removal", "delete"),
        *("deletion", "erase", "remove_object", "removing"),
    ),
    "replace": (
        *("replacement", "swap", "object_swap", "obj_swap", "object_replace", "object_replacement", "obj_replace"),
        *("subject_replace", "subject_replacement", "replace_object"),
    ),
    "recolor": (
        *("color", "colour", "recolour", "color_alter", "color_change", "colour_change", "color_alteration"),
        *("colour_alteration", "change_color", "color_modification"),
    ),
    "material": (
        *("material_alter", "material_change", "material_modification", "material_alteration", "texture_change"),
        "change_material",
    ),
    "style": (
        *("style_change", "style_transfer", "stylization", "stylize", "global_style", "style_alter", "change_style"),
        "artistic_style_transfer",
    ),
    "text": (
        *("text_change", "textual_change", "text_edit", "text_editing", "text_modification", "text_replace", "ocr"),
        *("poster_text_editing", "interface_text_editing", "object_text_editing", "building_text_editing"),
        *("text_editing_poster", "text_editing_interface", "text_editing_object", "text_editing_building"),
    ),
    "background": (
        *("background_change", "background_swap", "background_replacement", "background_alter", "bg", "bg_change"),
        *("change_background", "background_replace", "background_alteration"),
    ),
    "motion": (
        *("motion_change", "action", "action_change", "action_editing", "action_edit", "motion_alter", "pose_change"),
        "subject_motion_change",
    ),
    "tone": (
        *("tone_transfer", "tone_adjustment", "tone_transformation", "tone_change", "env", "environment", "lighting"),
        *("environment_change", "relight", "relighting", "lighting_change", "season", "weather", "weather_change"),
    ),
    "restore": (
        *("restoration", "image_restoration", "low_level", "low_level_restoration", "deblur", "deblurring", "denoise"),
        *("denoising", "derain", "deraining", "dehaze", "dehazing", "low_light_enhancement", "super_resolution"),
    ),
    "hybrid": ("compose", "composite", "compositional_editing", "hybrid_edit", "complex", "multiple"),
}
_OURS = {name: task for task, names in _NAMES.items() for name in (task, *names)}


def ours(given: str | None) -> str | None:
    """Our task of a set's name for it, whatever its case, blanks and hyphens; None for one that we do not have."""
    return _OURS.get(re.sub(r"[^a-z0-9]+", "_", given.lower()).strip("_")) if given else None


def unknown(tasks: Iterable[str | None]) -> dict[str, int]:
    """How often each task that is none of ours comes, the most frequent first; up to a hundred of them."""
    counts: dict[str, int] = {}
    for task in tasks:
        if task and task not in TASKS:
            shown = re.sub(r"[^\w .,:/+-]", "?", task)[:60]
            if shown in counts or len(counts) < _NAMED:
                counts[shown] = counts.get(shown, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
