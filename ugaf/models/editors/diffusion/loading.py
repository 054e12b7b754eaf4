"""From settings to a pipeline of diffusers, ready on its device. torch and diffusers are imported in the functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ugaf.base.errors import ConfigError, nearest
from ugaf.base.needs import Needs, install_hint
from ugaf.models.editors.diffusion.families import FINEEDIT, Family, check_known, family_of
from ugaf.models.editors.diffusion.settings import Cache, DiffusersSettings, Lora


def require(needs: Needs) -> None:
    """Raises ConfigError naming the extra to install, if a package is not there."""
    missing = needs.missing()
    if missing:
        raise ConfigError(f"editor engine 'diffusers': {install_hint(missing)}")


def check_device(settings: DiffusersSettings) -> None:
    """Raises ConfigError if the device is not there."""
    import torch

    if settings.device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(
            f"editor: device {settings.device!r}, but torch finds no GPU here; editor.device=cpu works, slowly"
        )


def load(settings: DiffusersSettings) -> Any:
    """The checkpoint's pipeline, in main memory. Raises ConfigError naming the model if it cannot be had."""
    import diffusers

    folder = Path(settings.model).expanduser()
    if folder.is_dir():
        index = folder / "model_index.json"
        if not index.is_file():
            raise ConfigError(f"editor.model: {folder} has no model_index.json: it is no folder in diffusers' format")
        family_of(_class_name(index) if settings.pipeline == "auto" else settings.pipeline, f"editor.model {folder}")
    elif settings.model.count("/") != 1 or settings.model[0] in "./~":
        raise ConfigError(f"editor.model: there is no folder {folder}")
    named = _class_name(folder / "model_index.json") if folder.is_dir() else settings.pipeline
    if named == FINEEDIT.plain:
        from ugaf.fineedit.pipeline import FineEditPipeline

        cls: Any = FineEditPipeline
    else:
        cls = diffusers.DiffusionPipeline if settings.pipeline == "auto" else getattr(diffusers, settings.pipeline)
    source = str(folder) if folder.is_dir() else settings.model
    try:
        pipeline = cls.from_pretrained(source, revision=settings.revision, **{_dtype_name(): dtype_of(settings)})
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"editor.model: {settings.model!r} cannot be loaded: {error}") from error
    return _inpainting(pipeline, settings)


def make_ready(pipeline: Any, settings: DiffusersSettings) -> Family:
    """Applies the settings to a loaded pipeline (scheduler, LoRA, weights, device, cache, compilation): its family.

    Raises ConfigError naming a setting that this model cannot have.
    """
    import torch

    family = family_of(type(pipeline).__name__, f"editor.model {settings.model!r}")
    check_known(pipeline)
    if settings.guidance is not None and not family.guided:
        raise ConfigError(f"editor.guidance: {type(pipeline).__name__} ignores it; set true_cfg_scale")
    pipeline.set_progress_bar_config(disable=True)
    _schedule(pipeline, settings.scheduler_options)
    if settings.lora is not None:
        _merge(pipeline, settings.lora)
    if settings.weights == "float8":
        pipeline.transformer.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype_of(settings)
        )
    # Decoding one by one is exact, and keeps the decoder, not the batch, from setting the peak of memory.
    pipeline.vae.enable_slicing()
    if settings.vae_tiling:
        pipeline.vae.enable_tiling()
    _place(pipeline, settings)
    if settings.cache is not None:
        _check_cache(family, settings)
        pipeline.transformer.enable_cache(cache_config(settings.cache))
    if settings.compile:
        pipeline.transformer.compile_repeated_blocks(dynamic=True)
    return family


def dtype_of(settings: DiffusersSettings) -> Any:
    """The torch dtype of the computation."""
    import torch

    name = settings.dtype
    if name == "auto":
        name = "float32" if settings.device == "cpu" else "bfloat16"
    return getattr(torch, name)


def cache_config(cache: Cache) -> Any:
    """diffusers' configuration of the cache hooks."""
    from diffusers import hooks

    if cache.kind == "first_block":
        return hooks.FirstBlockCacheConfig(threshold=cache.threshold)
    return hooks.TaylorSeerCacheConfig(
        cache_interval=cache.interval, disable_cache_before_step=cache.warmup, max_order=cache.order
    )


def _class_name(index: Path) -> str:
    try:
        return str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"editor.model: {index} names no pipeline ({error!r})") from error


def _dtype_name() -> str:
    """What `from_pretrained` calls it; the old name is deprecated."""
    import diffusers

    major, minor = (int(part) for part in diffusers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 42) else "torch_dtype"


def _inpainting(pipeline: Any, settings: DiffusersSettings) -> Any:
    """The pipeline, or that of the same parts which takes a mask, if that is wanted."""
    import diffusers

    name = type(pipeline).__name__
    family = family_of(name, f"editor.model {settings.model!r}")
    if not settings.can_inpaint or name == family.inpaint:
        return pipeline
    if not family.inpaint:
        raise ConfigError(
            f"editor.placement.way: inpaint, but {name} has no pipeline that takes a mask; use crop or words"
        )
    return getattr(diffusers, family.inpaint)(**pipeline.components)


def _schedule(pipeline: Any, options: dict[str, Any]) -> None:
    if not options:
        return
    known = dict(pipeline.scheduler.config)
    for name in options:
        if name not in known:
            raise ConfigError(
                f"editor.scheduler: {type(pipeline.scheduler).__name__} has no {name!r}{nearest(name, known)}"
            )
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **options)


def _merge(pipeline: Any, lora: Lora) -> None:
    where = f"editor.lora {lora.path!r}"
    try:
        weights = pipeline.lora_state_dict(lora.path, weight_name=lora.weight_name, revision=lora.revision)
        pipeline.load_lora_weights(dict(weights), adapter_name="edit")
    except Exception as error:
        raise ConfigError(f"{where} cannot be loaded: {error}") from error
    # What does not match is only logged: half of another model's LoRA would go in.
    prefix = "transformer."
    layers = {key.removeprefix(prefix).split(".lora_")[0] for key in weights if key.startswith(prefix)}
    strange = layers - {name for name, _ in pipeline.transformer.named_modules()}
    if strange or not layers:
        found = f"{len(strange)} of its {len(layers)} layers are" if layers else "none of its weights are"
        raise ConfigError(f"{where} is for another model: {found} not in {type(pipeline.transformer).__name__}")
    pipeline.fuse_lora(lora_scale=lora.scale, adapter_names=["edit"])
    pipeline.unload_lora_weights()


def _place(pipeline: Any, settings: DiffusersSettings) -> None:
    if settings.offload == "model":
        pipeline.enable_model_cpu_offload(device=settings.device)
    elif settings.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=settings.device)
    else:
        pipeline.to(settings.device)


def _check_cache(family: Family, settings: DiffusersSettings) -> None:
    if family == FINEEDIT:
        raise ConfigError("editor.cache: the hooks do not know FineEditPipeline's side adapter; set cache: null")
    scale = settings.true_cfg_scale or family.true_cfg_scale
    if family.guided and scale > 1:
        raise ConfigError(
            "editor.cache: Kontext's pipeline does not tell the two passes of true_cfg_scale > 1 apart, and a cache "
            "would mix them; use guidance instead"
        )
