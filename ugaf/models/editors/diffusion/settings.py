"""Settings of the engine `diffusers`."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ugaf.models.editors import placement
from ugaf.models.editors.diffusion.families import TRAINED_AREA, family_of
from ugaf.models.editors.placement import PlacementSettings
from ugaf.stage import Settings, operational

LIGHTNING = {
    "use_dynamic_shifting": True,
    "time_shift_type": "exponential",
    "base_shift": math.log(3),
    "max_shift": math.log(3),
    "shift_terminal": None,
}
"""The timesteps that the Lightning LoRAs of Qwen-Image-Edit were distilled with: a shift of 3 at every size, down to 0
(ModelTC/Qwen-Image-Lightning, `generate_with_diffusers.py`)."""


class Lora(Settings):
    """A LoRA that is merged into the transformer's weights."""

    path: str = Field(description="a folder, a .safetensors file, or a repository of the hub")
    weight_name: str | None = Field(None, description="the file in a folder or repository that has several")
    revision: str | None = Field(None, description="branch, tag or commit of a repository")
    scale: float = Field(1.0, description="how much of it is added")


class Cache(Settings):
    """Computing less in a step by reusing the steps before it (diffusers' cache hooks)."""

    kind: Literal["first_block", "taylorseer"] = Field(
        description="first_block: skips a step's rest where its first block changed little; pictures then run one by "
        "one, for the decision is one for the whole batch. taylorseer: extrapolates in fixed steps"
    )
    threshold: float = Field(0.08, gt=0, description="first_block: relative change under which the rest is skipped")
    interval: int = Field(3, ge=2, description="taylorseer: every so manieth step is computed")
    warmup: int = Field(3, ge=1, description="taylorseer: first steps that are all computed")
    order: int = Field(1, ge=1, le=3, description="taylorseer: highest derivative used")


class DiffusersSettings(Settings):
    """Options of the engine `diffusers`."""

    model: str = Field(description="a folder in diffusers' format, or a repository of the hub")
    revision: str | None = Field(None, description="branch, tag or commit of the repository")
    pipeline: Literal[
        "auto",
        "QwenImageEditPipeline",
        "QwenImageEditPlusPipeline",
        "QwenImageEditInpaintPipeline",
        "FluxKontextPipeline",
        "FluxKontextInpaintPipeline",
        "FineEditPipeline",
    ] = Field("auto", description="auto: the checkpoint's own, or its inpainting one if placement.way is inpaint")
    placement: PlacementSettings = Field(PlacementSettings(), description="how the target box reaches the model")
    steps: int = Field(30, ge=1, description="denoising steps (a Lightning LoRA: the 4 or 8 that it is made for)")
    true_cfg_scale: float | None = Field(
        None,
        ge=1,
        description="classifier-free guidance; 1 is none and halves the time; null: 4 for Qwen, 1 for Kontext",
    )
    negative_prompt: str = Field(" ", description="what to steer away from, where true_cfg_scale is above 1")
    guidance: float | None = Field(
        None, ge=0, description="Kontext's distilled guidance (guidance_scale); null: the pipeline's own"
    )
    max_area: int = Field(
        TRAINED_AREA, ge=32 * 32, description="pixels that the model works at, about; the aspect ratio stays"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="of the computation; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    weights: Literal["full", "float8"] = Field(
        "full", description="float8 stores the transformer's weights in 8 bits: half the memory, a little less exact"
    )
    lora: Lora | None = Field(None, description="a LoRA to merge in")
    scheduler: Literal["lightning"] | dict[str, Any] = Field(
        {}, description="options of the scheduler to change; lightning: those that the Lightning LoRAs need"
    )
    cache: Cache | None = Field(None, description="reuse of earlier steps; faster, less exact")
    vae_tiling: bool = Field(False, description="decode in tiles: for working sizes far above a megapixel")
    device: str = operational(
        "cuda", description="cuda: the GPU that the worker was given; or cpu", pattern=r"^(cuda|cpu)$"
    )
    batch_size: int = operational(4, ge=1, description="pictures of one size at once; halved where memory runs out")
    compile: bool = operational(
        False, description="torch.compile of the transformer's blocks: minutes first, then faster"
    )
    offload: Literal["none", "model", "sequential"] = operational(
        "none", description="keep parts in main memory: model swaps whole models, sequential single layers (slow)"
    )

    @field_validator("model")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("name a folder or a repository")
        return value

    @model_validator(mode="after")
    def _fits_the_pipeline(self) -> DiffusersSettings:
        if self.pipeline != "auto":
            family = family_of(self.pipeline, "pipeline")
            placement.check_way(self.placement, self.can_inpaint, family.takes_boxes)
            if self.guidance is not None and not family.guided:
                raise ValueError(f"guidance: {self.pipeline} ignores it; set true_cfg_scale")
        return self

    @model_validator(mode="after")
    def _fits_the_device(self) -> DiffusersSettings:
        if self.offload != "none" and self.device == "cpu":
            raise ValueError("offload: there is no GPU memory to spare with device: cpu")
        return self

    @property
    def can_inpaint(self) -> bool:
        """Whether the inpainting pipeline is wanted."""
        return self.pipeline.endswith("InpaintPipeline") or (
            self.pipeline == "auto" and self.placement.way == "inpaint"
        )

    @property
    def scheduler_options(self) -> dict[str, Any]:
        return dict(LIGHTNING) if self.scheduler == "lightning" else dict(self.scheduler)
