"""From settings to the model: the base checkpoint, FineEdit's additions, adapters, and what of it is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline, QwenImageEditPipeline, QwenImageTransformer2DModel
from transformers.utils import logging as transformers_logging

from ugaf.base.errors import ConfigError
from ugaf.fineedit.pipeline import FineEditPipeline
from ugaf.fineedit.transformer import FineEditTransformer2DModel, is_added
from ugaf.trainer.settings import TINY, ModelSettings
from ugaf.trainer.tiny import tiny_components

ADAPTER = "edit"
"""Name of the low-rank adapters."""


def dtype_of(model: ModelSettings, device: torch.device) -> torch.dtype:
    """Of the computation."""
    if model.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return torch.bfloat16 if model.dtype == "bfloat16" else torch.float32


def build(
    model: ModelSettings, seed: int, device: torch.device, parts: bool = True, weights: bool = True
) -> FineEditPipeline:
    """The pipeline with the model to train, its weights in main memory, its other parts frozen on `device`.

    What is trained is float32 and requires a gradient; the rest is of the computation's type. With parts=False the
    frozen parts stay in main memory (a feature cache takes their place). With weights=False the transformer's are on
    torch's `meta` device, and take no memory: `ugaf.trainer.distributed.split` has them from the leading process.

    Raises ConfigError naming a checkpoint that cannot be had or a number of layers that does not fit.
    """
    dtype = dtype_of(model, device)
    components, prompt_format = _base(model, dtype, seed, transformer=weights)
    if not weights:
        components = {**components, "transformer": without_weights(model, dtype)}
    return assemble(components, prompt_format, model, seed, device, parts)


def assemble(
    components: Mapping[str, Any],
    prompt_format: str,
    model: ModelSettings,
    seed: int,
    device: torch.device,
    parts: bool = True,
) -> FineEditPipeline:
    """As `build`, of the parts of a pipeline that are there already; model.base does not count."""
    transformer = components["transformer"]
    if not isinstance(transformer, FineEditTransformer2DModel):
        layers = model.adapter_layers if model.deep_fusion else 0
        try:
            transformer = FineEditTransformer2DModel.from_base(transformer, model.early_fusion, layers)
        except ValueError as error:
            raise ConfigError(f"model.{error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mark_trained(transformer, model)
    if model.checkpointing:
        transformer.enable_gradient_checkpointing()
    if model.compile:
        transformer.compile_repeated_blocks(dynamic=True)
    pipeline = FineEditPipeline(**{**components, "transformer": transformer}, prompt_format=prompt_format)
    for name in ("vae", "text_encoder"):
        part = getattr(pipeline, name).requires_grad_(False).eval()
        if parts:
            part.to(device)
    return pipeline


def build_frozen(model: ModelSettings, seed: int, device: torch.device) -> FineEditPipeline:
    """The pipeline without its transformer, ready on `device`: what a feature cache is made with."""
    components, prompt_format = _base(model, dtype_of(model, device), seed, transformer=False)
    pipeline = FineEditPipeline(**{**components, "transformer": None}, prompt_format=prompt_format)
    for part in (pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False).eval().to(device)
    return pipeline


def mark_trained(transformer: FineEditTransformer2DModel, model: ModelSettings) -> None:
    """Says which weights are trained, as `model.train` wants, and makes those float32."""
    if model.train == "lora":
        from peft import LoraConfig

        ends = "|".join(re.escape(end) for end in model.lora.targets)
        # A whole name: endings alone would match the side adapter's blocks, which are trained as they are.
        targets = rf"transformer_blocks\.\d+\.(.+\.)?({ends})"
        if not any(re.fullmatch(targets, name) for name, _ in transformer.named_modules()):
            raise ConfigError(f"model.lora.targets: no layer's name ends in {', '.join(model.lora.targets)}")
        lora = model.lora
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, init_lora_weights="gaussian", target_modules=targets)
        transformer.add_adapter(config, adapter_name=ADAPTER)
    for name, parameter in transformer.named_parameters():
        trained = model.train == "full" or is_added(name, transformer.config.early_fusion) or ".lora_" in name
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()


def trained(transformer: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: value for name, value in transformer.named_parameters() if value.requires_grad}


def without_weights(model: ModelSettings, dtype: torch.dtype) -> Any:
    """The base model's transformer on the meta device."""
    if model.base == TINY:
        return tiny_components(model.tiny)["transformer"].to("meta")
    config = FineEditTransformer2DModel.load_config(model.base, subfolder="transformer", revision=model.revision)
    kinds = (FineEditTransformer2DModel, QwenImageTransformer2DModel)
    kind: Any = next(kind for kind in kinds if kind.__name__ == config["_class_name"])
    # The tables of positions are no parameters, and stay real.
    with init_empty_weights(include_buffers=False):
        return kind.from_config(config).to(dtype).eval()


def _base(model: ModelSettings, dtype: torch.dtype, seed: int, transformer: bool = True) -> tuple[dict[str, Any], str]:
    if model.base == TINY:
        return tiny_components(model.tiny, seed), "edit_plus"
    folder = Path(model.base).expanduser()
    if not folder.is_dir() and (model.base.count("/") != 1 or model.base[0] in "./~"):
        raise ConfigError(f"model.base: there is no folder {folder}")
    transformers_logging.disable_progress_bar()
    index = folder / "model_index.json"
    own = index.is_file() and f'"{FineEditPipeline.__name__}"' in index.read_text("utf-8")
    try:
        pipeline = (FineEditPipeline if own else DiffusionPipeline).from_pretrained(
            str(folder) if folder.is_dir() else model.base,
            revision=model.revision,
            torch_dtype=dtype,
            **({} if transformer else {"transformer": None}),
        )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"model.base: {model.base!r} cannot be loaded: {error}") from error
    if isinstance(pipeline, FineEditPipeline):
        return pipeline.components, pipeline.config.prompt_format
    if not type(pipeline).__name__.startswith("QwenImageEdit"):
        raise ConfigError(f"model.base: {model.base!r} is a {type(pipeline).__name__}, not a Qwen-Image-Edit pipeline")
    return pipeline.components, "edit" if isinstance(pipeline, QwenImageEditPipeline) else "edit_plus"
