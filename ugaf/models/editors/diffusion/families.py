"""What is known of the editing pipelines of diffusers: their sizes, their guidance, and how each is called.

Read from diffusers 0.42. What differs between them, and costs a data set that does not mind it:

- Qwen's classifier-free guidance needs a negative prompt, if only a space: without one `true_cfg_scale` does nothing.
  Its `guidance_scale` does nothing at all. Kontext has the guidance distilled in, and takes `guidance_scale`.
- QwenImageEditPlus takes one prompt a call. The others take lists, but resize every picture to the first one's shape.
- Each chooses its working size itself: see `exactly`.
- FineEditPipeline (`ugaf.fineedit.pipeline`) is our own trainer's: it takes lists, any size, and the boxes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ugaf.base.errors import ConfigError, nearest
from ugaf.models.editors.placement import Prepared, WorkingSize

Size = tuple[int, int]

TRAINED_AREA = 1024 * 1024


@dataclass(frozen=True)
class Family:
    """An editing model's pipelines.

    plain, inpaint: names of diffusers' classes; inpaint is "" where there is none.
    multiple: both sides of the working size are multiples of this many pixels.
    batches: whether a call takes several pictures.
    true_cfg_scale: of classifier-free guidance, as the model's authors run it; 1 is none.
    guided: whether `guidance_scale` reaches the model (distilled guidance).
    trained_sizes: (width, height) the model was trained at, where its authors name them; about TRAINED_AREA pixels.
    takes_boxes: whether a call takes the boxes to edit in.
    """

    plain: str
    inpaint: str
    multiple: int
    batches: bool
    true_cfg_scale: float
    guided: bool = False
    trained_sizes: tuple[Size, ...] = ()
    takes_boxes: bool = False

    def working(self, area: int) -> WorkingSize:
        return WorkingSize(area, self.multiple)

    def trained(self, size: Size, area: int) -> Size:
        """The trained size of the nearest aspect ratio, where the model has some and `area` is theirs; else `size`."""
        if not self.trained_sizes or abs(area - TRAINED_AREA) > 0.1 * TRAINED_AREA:
            return size
        return min(self.trained_sizes, key=lambda other: abs(other[0] / other[1] - size[0] / size[1]))


_WIDE = ((1568, 672), (1504, 688), (1456, 720), (1392, 752), (1328, 800), (1248, 832), (1184, 880), (1104, 944))
QWEN = Family("QwenImageEditPipeline", "QwenImageEditInpaintPipeline", 32, True, 4.0)
QWEN_PLUS = Family("QwenImageEditPlusPipeline", "", 32, False, 4.0)
KONTEXT = Family(
    "FluxKontextPipeline",
    "FluxKontextInpaintPipeline",
    16,
    True,
    1.0,
    guided=True,
    trained_sizes=(*_WIDE, (1024, 1024), *((height, width) for width, height in _WIDE)),
)
FINEEDIT = Family("FineEditPipeline", "", 32, True, 4.0, takes_boxes=True)
FAMILIES = (QWEN, QWEN_PLUS, KONTEXT, FINEEDIT)


def family_of(pipeline: str, where: str) -> Family:
    """The family of a pipeline class. Raises ConfigError for one that is not supported; `where` says who named it."""
    for family in FAMILIES:
        if pipeline in (family.plain, family.inpaint):
            return family
    known = [name for family in FAMILIES for name in (family.plain, family.inpaint) if name]
    raise ConfigError(f"{where}: {pipeline!r} is no editing pipeline that this engine knows{nearest(pipeline, known)}")


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled.

    negative_prompt: used where true_cfg_scale is above 1. guidance: None leaves the pipeline's own.
    """

    steps: int
    true_cfg_scale: float
    negative_prompt: str
    guidance: float | None


def arguments(
    family: Family, prepared: Sequence[Prepared], generators: Sequence[Any], sampling: Sampling, inpaint: bool
) -> dict[str, Any]:
    """What a pipeline is called with for pictures of one size: `prepared` and `generators` go together.

    `inpaint`: the call is to the inpainting pipeline; a picture without a mask is then painted over everywhere, which
    is what the plain pipeline does (strength is 1: the noise is pure, and nothing is kept).
    """
    width, height = prepared[0].size
    count = len(prepared)
    given: dict[str, Any] = {
        "image": [Image.fromarray(item.image) for item in prepared],
        "prompt": [item.prompt for item in prepared],
        "generator": list(generators),
        "num_inference_steps": sampling.steps,
        "true_cfg_scale": sampling.true_cfg_scale,
        "output_type": "np",
    }
    if sampling.true_cfg_scale > 1:
        given["negative_prompt"] = [sampling.negative_prompt or " "] * count
    if sampling.guidance is not None:
        given["guidance_scale"] = sampling.guidance
    if family == KONTEXT:
        given |= {"width": width, "height": height, "max_area": width * height, "_auto_resize": False}
    elif not inpaint:
        given |= {"width": width, "height": height}
    if family.takes_boxes:
        given["boxes"] = [list(item.boxes) for item in prepared]
    if inpaint:
        given["mask_image"] = [_mask(item) for item in prepared]
        given["strength"] = 1.0
    return given


def _mask(item: Prepared) -> Image.Image:
    return Image.new("L", item.size, 255) if item.mask is None else Image.fromarray(item.mask)


_patching = threading.RLock()


@contextmanager
def exactly(pipeline: Any, size: Size) -> Iterator[None]:
    """Within it, a Qwen pipeline works at `size` (width, height): reference picture and answer alike.

    Those pipelines bring the reference to 1024 x 1024 pixels of about its own aspect ratio, whatever height and width
    are asked of them. At another size than the answer's, the two lie on different grids, and the edit comes out shifted
    and stretched against the photograph. No argument says otherwise, so their module's function is replaced meanwhile.
    What the text encoder sees of the 2509 and 2511 models (384 x 384) is left, but never larger than `size`.
    """
    if not _sizes_itself(pipeline):
        yield
        return
    module: Any = sys.modules[type(pipeline).__module__]
    with _patching:
        original = module.calculate_dimensions

        def dimensions(area: int, ratio: float) -> tuple[Any, ...]:
            own = original(min(area, size[0] * size[1]), ratio)
            return own if area < TRAINED_AREA else (*size, *own[2:])

        module.calculate_dimensions = dimensions
        try:
            yield
        finally:
            module.calculate_dimensions = original


def check_known(pipeline: Any) -> None:
    """Raises ConfigError if `exactly` does not know this version of diffusers."""
    if _sizes_itself(pipeline) and not hasattr(sys.modules[type(pipeline).__module__], "calculate_dimensions"):
        name = type(pipeline).__name__
        raise ConfigError(f"editor: {name} of this version of diffusers sizes pictures in a new way; use 0.36 to 0.42")


def _sizes_itself(pipeline: Any) -> bool:
    return type(pipeline).__name__.startswith("QwenImageEdit")
