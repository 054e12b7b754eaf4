"""Parameters of the edits of engine `templates`: one model for each task, so that what is asked can be checked.

An edit's `params` column is the JSON of one of these. Positions (`object`, `donor_object`) count in the `objects`
of the photograph, or of the donor.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ugaf.base import tasks

Style = Literal["pencil sketch", "oil painting", "watercolour", "cartoon", "pixel art", "pointillism"]
Material = Literal["wood", "marble", "gold", "chrome", "knitted wool", "denim", "brick", "glass mosaic"]
Background = Literal["blurred", "greyscale", "studio white", "studio gradient", "sunset sky", "starry night"]
Tone = Literal[
    "warmer", "cooler", "brighter", "darker", "black and white", "sepia", "faded film", "high contrast",
    "golden hour", "night",
]  # fmt: skip
Degradation = Literal["noise", "blur", "jpeg", "low resolution"]
Font = Literal["simplex", "duplex", "triplex", "complex", "script"]

STYLES: tuple[str, ...] = get_args(Style)
MATERIALS: tuple[str, ...] = get_args(Material)
BACKGROUNDS: tuple[str, ...] = get_args(Background)
TONES: tuple[str, ...] = get_args(Tone)
DEGRADATIONS: tuple[str, ...] = get_args(Degradation)
FONTS: tuple[str, ...] = get_args(Font)

Level = Annotated[int, Field(ge=0, le=255)]
Position = Annotated[int, Field(ge=0)]
Words = Annotated[str, Field(min_length=1, max_length=40)]


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ObjectParams(Params):
    """remove, add: the object alone."""

    object: Position


class RecolorParams(Params):
    """colour: the new colour's name. rgb: the same as RGB 0..255. from: the old colour's name, "" if it has several."""

    object: Position
    colour: Words
    rgb: tuple[Level, Level, Level]
    from_: str = Field("", alias="from")


class ReplaceParams(Params):
    """donor_object: position in the objects of the photograph that the `donor` column names."""

    object: Position
    donor_object: Position


class StyleParams(Params):
    object: Position
    style: Style


class MaterialParams(Params):
    object: Position
    material: Material


class BackgroundParams(Params):
    """object: what stays; everything else is changed."""

    object: Position
    background: Background


class ToneParams(Params):
    tone: Tone


class TextParams(Params):
    """box: pixels of the full image, in which the text is set. old: with `replace`, the text of the source."""

    operation: Literal["add", "replace"]
    text: Words
    old: Words | None = None
    box: tuple[int, int, int, int]
    ink: Words
    font: Font


class RestoreParams(Params):
    """strength: of the degradation in the source, 0 (none) to 1 (severe)."""

    degradation: Degradation
    strength: float = Field(ge=0, le=1)


class HybridParams(Params):
    """operations: two, each with its `task` and that task's parameters, in the order of the row's boxes."""

    operations: tuple[dict[str, Any], dict[str, Any]]


MODELS: dict[str, type[Params]] = {
    "recolor": RecolorParams, "remove": ObjectParams, "add": ObjectParams, "replace": ReplaceParams,
    "style": StyleParams, "material": MaterialParams, "background": BackgroundParams, "tone": ToneParams,
    "text": TextParams, "restore": RestoreParams, "hybrid": HybridParams,
}  # fmt: skip
TASKS: tuple[str, ...] = tuple(MODELS)
LOCAL = frozenset(task for task, model in MODELS.items() if "object" in model.model_fields and not tasks.of(task).whole)
"""Tasks that change one object and nothing else."""


def validate(task: str, params: dict[str, Any]) -> Params:
    """The parameters, checked. Raises pydantic.ValidationError, or KeyError for an unknown task."""
    checked = TypeAdapter(MODELS[task]).validate_python(params)
    if isinstance(checked, HybridParams):
        for operation in checked.operations:
            inner = {key: value for key, value in operation.items() if key != "task"}
            validate(str(operation["task"]), inner)
    return checked


def objects_of(task: str, params: dict[str, Any]) -> list[int]:
    """Positions of the objects that an edit touches, in the order of its boxes; for background, the kept object."""
    if task == "hybrid":
        return [position for op in params["operations"] for position in objects_of(str(op["task"]), op)]
    return [int(params["object"])] if "object" in params else []
