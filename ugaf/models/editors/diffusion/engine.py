"""The engine `diffusers`: instruction editing with QwenImageEdit, QwenImageEditPlus and FluxKontext on a GPU.

Requests are sorted into buckets of one working size, and each bucket runs in batches, because the pipelines bring all
pictures of a call to one shape. Each row has a random generator of its own, on the CPU, so that its noise follows from
its seed alone and not from the rows beside it. Where memory runs out the batch is halved.

**The same row gives the same edit whatever batch it was in**, up to the rounding of floating point: other batch sizes
use other kernels, which add in another order. In float32 no pixel differs by more than 1 of 255; in bfloat16, whose
rounding is 65,536 times coarser, single pixels may differ by a few. `tests/models/test_diffusers_editor.py` measures
both.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ugaf.base.failure import Failure, attempt
from ugaf.base.needs import Needs
from ugaf.imaging import boxes
from ugaf.models.editors import placement
from ugaf.models.editors.diffusion import families, loading
from ugaf.models.editors.diffusion.batches import Batches
from ugaf.models.editors.diffusion.families import Family, Sampling
from ugaf.models.editors.diffusion.settings import DiffusersSettings
from ugaf.models.editors.interface import Edit, EditError, EditRequest
from ugaf.models.editors.placement import Prepared


class DiffusersEditor:
    """Edits photographs with a diffusion model; implements `ugaf.models.editors.interface.Editor`.

    Failures: OutOfMemory (one picture does not fit), BlankAnswer (one colour all over), BadAnswer (not a number),
    NoInstruction, BadBox, and whatever a pipeline raises.

    Raises ConfigError where package, device, model or LoRA are not there, and StopRun when the GPU is lost.
    """

    name = "diffusers"
    version = 1
    Settings = DiffusersSettings

    @classmethod
    def needs(cls, settings: DiffusersSettings) -> Needs:
        packages = dict.fromkeys(("torch", "diffusers", "transformers", "accelerate"), "diffusers")
        if settings.lora is not None:
            packages["peft"] = "diffusers"
        return Needs(
            own_pool=True,
            cpus=1.0,
            gpus=0.0 if settings.device == "cpu" else 1.0,
            # More than one batch at a time, so that the buckets of mixed shapes are full.
            batch_rows=2 * settings.batch_size,
            packages=packages,
            models=(settings.model, *((settings.lora.path,) if settings.lora else ())),
            without_gpu="editor.device=cpu",
        )

    def __init__(self, settings: DiffusersSettings, pipeline: Any = None) -> None:
        """`pipeline`: one that is loaded already; otherwise `settings.model` is."""
        loading.require(self.needs(settings))
        loading.check_device(settings)
        self.settings = settings
        self.name = f"diffusers:{_model_name(settings.model)}"
        self.pipeline = loading.load(settings) if pipeline is None else pipeline
        self.family: Family = loading.make_ready(self.pipeline, settings)
        self.inpaints = type(self.pipeline).__name__ == self.family.inpaint
        scale = settings.true_cfg_scale
        self.sampling = Sampling(
            steps=settings.steps,
            true_cfg_scale=self.family.true_cfg_scale if scale is None else scale,
            negative_prompt=settings.negative_prompt,
            guidance=settings.guidance,
        )
        # The first block's cache decides for the whole batch, so that rows would depend on their neighbours.
        together = self.family.batches and not (settings.cache and settings.cache.kind == "first_block")
        self.batches = Batches(settings.batch_size if together else 1, _meaning, self._recover)

    def edit(self, requests: Sequence[EditRequest]) -> list[Edit | Failure]:
        """One answer a request, in order. Edits are at the photograph's size; see `placement.finish`."""
        answers: dict[int, Edit | Failure] = {}
        buckets: dict[families.Size, list[tuple[int, Prepared]]] = {}
        for place, request in enumerate(requests):
            prepared = attempt(self._prepare, request)
            if isinstance(prepared, Failure):
                answers[place] = prepared
            else:
                buckets.setdefault(prepared.size, []).append((place, prepared))
        for size, members in buckets.items():
            jobs = [(prepared, requests[place].seed) for place, prepared in members]
            results = self.batches.run(size, jobs, self._generate)
            for (place, prepared), result in zip(members, results, strict=True):
                finish = functools.partial(_finished, prepared)
                answers[place] = result if isinstance(result, Failure) else attempt(finish, result)
        return [answers[place] for place in range(len(requests))]

    def _prepare(self, request: EditRequest) -> Prepared:
        if not request.instruction.strip():
            raise EditError("NoInstruction", "the row has no instruction, and this editor works from nothing else")
        area = self.settings.max_area
        prepared = placement.prepare(
            request, self.settings.placement, self.family.working(area), self.inpaints, self.family.takes_boxes
        )
        return _at_size(prepared, self.family.trained(prepared.size, area))

    def _generate(self, jobs: Sequence[tuple[Prepared, int]]) -> list[np.ndarray]:
        """float (h, w, 3) in 0..1 for each picture; all are of one size."""
        import torch

        prepared = [item for item, _ in jobs]
        generators = [torch.Generator("cpu").manual_seed(seed) for _, seed in jobs]
        given = families.arguments(self.family, prepared, generators, self.sampling, self.inpaints)
        # Kontext's pipeline does not open the context that the cache hooks ask for.
        alone = self.settings.cache is not None and self.family == families.KONTEXT
        context = self.pipeline.transformer.cache_context("cond") if alone else nullcontext()
        with torch.inference_mode(), context, families.exactly(self.pipeline, prepared[0].size):
            return list(self.pipeline(**given).images)

    def _recover(self) -> None:
        """After a call that broke off: forgets what cache hooks keep of it, and gives its memory back."""
        import torch

        self.pipeline.maybe_free_model_hooks()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _at_size(prepared: Prepared, size: families.Size) -> Prepared:
    """The same at another working size, made of the photograph anew so that it is resampled once."""
    if size == prepared.size:
        return prepared
    shown = np.ascontiguousarray(boxes.crop(prepared.photo, prepared.region))
    shrinks = size[0] * size[1] < shown.shape[0] * shown.shape[1]
    image = cv2.resize(shown, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
    mask = prepared.mask
    if mask is not None:
        mask = np.where(cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR) > 0, 255, 0).astype(np.uint8)
    x, y = size[0] / prepared.size[0], size[1] / prepared.size[1]
    told = tuple(boxes.clip((a * x, b * y, c * x, d * y), *size) for a, b, c, d in prepared.boxes)
    return replace(prepared, image=image, mask=mask, boxes=told)


def _finished(prepared: Prepared, image: np.ndarray) -> Edit:
    if not np.isfinite(image).all():
        raise EditError("BadAnswer", "the model gave values that are no numbers; try dtype: bfloat16 or float32")
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    if (np.ptp(pixels, axis=(0, 1)) == 0).all():
        raise EditError("BlankAnswer", f"the model gave a picture of one colour, {tuple(pixels[0, 0].tolist())}")
    return placement.finish(prepared, pixels)


def _meaning(error: BaseException) -> str:
    """What an exception of torch means: see `Batches`."""
    import torch

    text = str(error).lower()
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return "memory"
    if isinstance(error, RuntimeError):
        # cuBLAS and cuDNN say it in their own words, and the CPU's allocator in others.
        if any(words in text for words in ("out of memory", "can't allocate memory", "alloc_failed")):
            return "memory"
        if "cuda error" in text or type(error).__name__ == "AcceleratorError":
            return "device"
    return ""


def _model_name(model: str) -> str:
    """As it stands in rows: a repository as it is, a folder by its last part (the rest is this machine's business)."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model
