"""FineEditPipeline: a trained model as diffusers users know pipelines, and what training and validation share with it.

pipeline = FineEditPipeline.from_pretrained("runs/train/editor", torch_dtype=torch.bfloat16).to("cuda")
edited = pipeline(image, "Make the car red.", boxes=[(120, 80, 400, 300)]).images[0]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, QwenImageEditPipeline, QwenImageEditPlusPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.qwenimage.pipeline_output import QwenImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from ugaf.fineedit import exact_vae, transformer
from ugaf.fineedit.exact_vae import CosineVAE
from ugaf.fineedit.latents import Codec, pack, roi_mask, shape_of, to_float, unpack, without
from ugaf.fineedit.transformer import FineEditTransformer2DModel
from ugaf.imaging import boxes as box_tools
from ugaf.imaging.boxes import Box

AREA = 1024 * 1024
MULTIPLE = 32
SEEN_AREA = {"edit": AREA, "edit_plus": 384 * 384}
"""Pixels of a picture that the text encoder sees, by the base model's prompt format."""
PARTS = (CosineVAE, FineEditTransformer2DModel)
"""Classes of ours in a saved pipeline: diffusers loads only what has been imported."""
EARLIER = {"ugaf.trainer.model.exact_vae": exact_vae, "ugaf.trainer.model.fineedit": transformer}
"""The modules in which an editor that was exported by the first version looks for them: they count as imported."""
for _name, _module in EARLIER.items():
    sys.modules.setdefault(_name, _module)
BASES: dict[str, Any] = {"edit": QwenImageEditPipeline, "edit_plus": QwenImageEditPlusPipeline}


class FineEditPipeline(DiffusionPipeline):
    """Instruction editing inside of boxes.

    Made of the parts of a Qwen-Image-Edit pipeline, with `FineEditTransformer2DModel` as its transformer.
    prompt_format: how the base model was told its instructions: "edit" (Qwen-Image-Edit) or "edit_plus" (2509, 2511).
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(
        self,
        scheduler: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        processor: Any,
        transformer: FineEditTransformer2DModel,
        prompt_format: str = "edit_plus",
    ) -> None:
        super().__init__()
        if prompt_format not in BASES:
            raise ValueError(f"prompt_format: {prompt_format!r} is none of {', '.join(BASES)}")
        self.register_modules(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            processor=processor,
            transformer=transformer,
        )
        self.register_to_config(prompt_format=prompt_format)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.codec.multiple)

    @cached_property
    def codec(self) -> Codec:
        """The autoencoder, on normalised latents."""
        return Codec(self.vae)

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | Sequence[Image.Image | Sequence[Image.Image]],
        prompt: str | Sequence[str],
        boxes: Sequence[Box] | Sequence[Sequence[Box]] = (),
        negative_prompt: str | Sequence[str] = " ",
        true_cfg_scale: float = 4.0,
        num_inference_steps: int = 30,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        height: int | None = None,
        width: int | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> Any:
        """Edits one picture, or a batch.

        Args:
            image: what to edit; a list for a batch. For a picture with references, a list that begins with it.
            prompt: the instruction, or one for each picture.
            boxes: where to edit, absolute pixels of `image` (x1, y1, x2, y2), half-open; for a batch a list of them for
                each picture. Without boxes anything may change.
            negative_prompt, true_cfg_scale: classifier-free guidance; 1 is none and halves the time.
            generator: of the noise; one for each picture makes it independent of the batch.
            height, width: of the answers, multiples of 32; by default about a megapixel of the first picture's shape.
                All pictures of a batch are brought to it.
            latents: the noise, (n, channels, height / factor, width / factor), in place of the generator's.
            output_type: "pil", "np" (float 0..1, (n, h, w, 3)), "pt" or "latent".

        Raises ValueError for numbers of pictures, prompts and boxes that do not go together.
        """
        groups, prompts, targets = _batch(image, prompt, boxes)
        negatives = [negative_prompt] * len(groups) if isinstance(negative_prompt, str) else list(negative_prompt)
        width, height = self._size(groups[0][0], width, height)
        device, dtype = self._execution_device, self.transformer.dtype
        shown = torch.stack([torch.stack([_fit(one, width, height) for one in group]) for group in groups])
        scaled = [_scale(own, group[0], width, height) for own, group in zip(targets, groups, strict=True)]
        conditions = self.conditions(shown[:, 0], shown[:, 1:], roi_mask(scaled, height, width))
        text = self.encode(prompts, groups)
        negative = self.encode(negatives, groups) if true_cfg_scale > 1 else None
        if latents is None:
            shape = (len(groups), self.codec.channels, height // self.codec.factor, width // self.codec.factor)
            generators = generator if generator is None or isinstance(generator, torch.Generator) else list(generator)
            latents = randn_tensor(shape, generator=generators, device=device, dtype=torch.float32)
        latents = latents.to(device, torch.float32)
        for number, time in enumerate(self.schedule(num_inference_steps, latents)):
            t = (time / self.scheduler.config.num_train_timesteps).expand(len(groups)).to(device)
            given = latents.to(dtype)
            predicted = predict(self.transformer, given, t, conditions, text)
            if negative is not None:
                other = predict(self.transformer, given, t, conditions, negative)
                predicted = guided(predicted, other, true_cfg_scale)
            latents = self.scheduler.step(predicted.float(), time, latents, return_dict=False)[0]
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, number, time, {"latents": latents}).get("latents", latents)
        if output_type == "latent":
            images: Any = latents
        else:
            images = self.image_processor.postprocess(self.codec.decode(latents), output_type=output_type)
        self.maybe_free_model_hooks()
        return QwenImagePipelineOutput(images=images) if return_dict else (images,)

    def conditions(
        self, pictures: torch.Tensor, references: torch.Tensor, mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Latents of what the model is shown.

        Args:
            pictures: uint8 (n, 3, h, w), the sources. references: uint8 (n, r, 3, h, w), perhaps r = 0.
            mask: bool (n, 1, h, w), True inside the boxes (`roi_mask`).

        Returns:
            source and background (the source without its boxes), float32 (n, channels, h', w'), and references
            (n, r, channels, h', w').
        """
        device = self._execution_device
        sources = to_float(pictures.to(device))
        background = without(sources, mask.to(device))
        others = references.flatten(0, 1)
        told = self.codec.encode(to_float(others.to(device))) if len(others) else None
        source = self.codec.encode(sources)
        return {
            "source": source,
            "background": self.codec.encode(background),
            "references": source.new_zeros(len(source), 0, *source.shape[1:])
            if told is None
            else told.unflatten(0, references.shape[:2]),
        }

    def encode(
        self, prompts: Sequence[str], groups: Sequence[Sequence[Image.Image]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of instructions with the pictures they are about: (n, length, width), and which are no padding:
        bool (n, length)."""
        # One by one: the encoder's padding would make a prompt depend on its neighbours.
        made = [self._encode_one(prompt, group) for prompt, group in zip(prompts, groups, strict=True)]
        return padded(made)

    def _encode_one(self, prompt: str, group: Sequence[Image.Image]) -> torch.Tensor:
        seen = [_seen(one, SEEN_AREA[self.config.prompt_format]) for one in group]
        given: Any = seen if self.config.prompt_format == "edit_plus" else seen[0]
        embedded: torch.Tensor = self._prompts.encode_prompt(prompt, given, device=self._execution_device)[0]
        return embedded[0]

    @cached_property
    def _prompts(self) -> Any:
        """The base model's own pipeline, for its prompt; it shares our parts."""
        names = ("scheduler", "vae", "text_encoder", "tokenizer", "processor", "transformer")
        return BASES[self.config.prompt_format](**{name: getattr(self, name) for name in names})

    def schedule(self, steps: int, latents: torch.Tensor) -> torch.Tensor:
        """Sets the scheduler's timesteps for pictures of the size of these latents, and returns them."""
        config = self.scheduler.config
        sequence = latents.shape[-1] * latents.shape[-2] // 4
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        first, last = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        slope = (last - first) / (high - low)
        options = {"mu": first + slope * (sequence - low)} if config.get("use_dynamic_shifting") else {}
        sigmas = np.linspace(1.0, 1 / steps, steps)
        self.scheduler.set_timesteps(sigmas=sigmas, device=latents.device, **options)
        self.scheduler.set_begin_index(0)
        times: torch.Tensor = self.scheduler.timesteps
        return times

    def _size(self, first: Image.Image, width: int | None, height: int | None) -> tuple[int, int]:
        multiple = math.lcm(MULTIPLE, self.codec.multiple)
        if width is None or height is None:
            ratio = first.width / first.height
            width, height = (max(1, round(math.sqrt(AREA * r) / multiple)) * multiple for r in (ratio, 1 / ratio))
        if width % self.codec.multiple or height % self.codec.multiple:
            raise ValueError(f"width and height: {width} x {height} are no multiples of {self.codec.multiple}")
        return width, height


def predict(
    transformer: Any,
    latents: torch.Tensor,
    t: torch.Tensor,
    conditions: dict[str, torch.Tensor],
    text: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """The velocity that a model gives for noisy latents (n, c, h, w) at t (n,) in 0..1: (n, c, h, w).

    The target's tokens come first, then the source's, then the references'.
    """
    shown = [conditions["source"], *conditions["references"].unbind(1)]
    tokens = torch.cat([pack(one.to(latents)) for one in (latents, *shown)], dim=1)
    shapes = [[shape_of(latents), *map(shape_of, shown)]] * len(latents)
    fuses = transformer.config.early_fusion or transformer.config.adapter_layers
    embeddings, mask = text
    predicted = transformer(
        hidden_states=tokens,
        encoder_hidden_states=embeddings.to(latents),
        encoder_hidden_states_mask=None if bool(mask.all()) else mask,
        timestep=t.to(latents),
        img_shapes=shapes,
        background_tokens=pack(conditions["background"].to(latents)) if fuses else None,
        return_dict=False,
    )[0]
    target = latents.shape[-1] * latents.shape[-2] // 4
    return unpack(predicted[:, :target], latents.shape[-2], latents.shape[-1])


def guided(predicted: torch.Tensor, other: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance as Qwen-Image does it: each token keeps the length it has without guidance."""
    mixed = other + scale * (predicted - other)
    rows, columns = predicted.shape[-2:]
    tokens, own = pack(mixed), pack(predicted)
    length = own.norm(dim=-1, keepdim=True) / tokens.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return unpack(tokens * length, rows, columns)


def padded(made: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (length, width) of several lengths as (n, longest, width), and bool (n, longest): which are real."""
    embeddings = torch.nn.utils.rnn.pad_sequence(list(made), batch_first=True)
    lengths = torch.tensor([len(one) for one in made], device=embeddings.device)
    return embeddings, torch.arange(embeddings.shape[1], device=embeddings.device)[None] < lengths[:, None]


def _batch(image: Any, prompt: Any, boxes: Any) -> tuple[list[list[Image.Image]], list[str], list[list[Box]]]:
    if isinstance(prompt, str):
        groups = [[image] if isinstance(image, Image.Image) else list(image)]
        return groups, [prompt], [[tuple(box) for box in boxes]]
    groups = [[one] if isinstance(one, Image.Image) else list(one) for one in image]
    targets = [[tuple(box) for box in own] for own in boxes] if len(boxes) else [[] for _ in groups]
    if not len(groups) == len(prompt) == len(targets):
        raise ValueError(f"{len(groups)} pictures, {len(prompt)} prompts and boxes for {len(targets)}: one each")
    if len({len(group) for group in groups}) > 1:
        raise ValueError("image: the pictures of a batch have the same number of references")
    return groups, list(prompt), targets


def _fit(image: Image.Image, width: int, height: int) -> torch.Tensor:
    """uint8 (3, height, width), stretched."""
    rgb = image.convert("RGB")
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _seen(image: Image.Image, area: int) -> Image.Image:
    ratio = image.width / image.height
    width, height = (max(1, round(math.sqrt(area * r) / MULTIPLE)) * MULTIPLE for r in (ratio, 1 / ratio))
    return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def _scale(own: Sequence[Box], image: Image.Image, width: int, height: int) -> list[Box]:
    x, y = width / image.width, height / image.height
    scaled = [box_tools.clip((a * x, b * y, c * x, d * y), width, height) for a, b, c, d in own]
    if own and not any(map(box_tools.area, scaled)):
        raise ValueError(f"boxes: no pixel of the image ({image.width} x {image.height}) lies in {list(own)}")
    return scaled
