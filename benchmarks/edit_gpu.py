"""Editing on a GPU: the engine `diffusers` against diffusers called picture by picture, on the full Qwen-Image-Edit.

    python benchmarks/edit_gpu.py [--images 4] [--batch 4] [--steps 8 30] [--only NAME ...] [--peak TFLOPS]

The architecture is the released one (transformer of 60 blocks and 20 billion parameters, Qwen2.5-VL-7B, VAE), in
bfloat16 at 1024 x 1024 pixels, with random weights made on the GPU: no download, and a GPU of 80 GB. Without a GPU all
runs at tiny size on the CPU; then the numbers say that it works, not how fast.

Side by side in one process, on the same pictures, prompts and seeds: batching, compilation and caches, each by itself
and together. Printed as a Markdown table:

- images/s, over all of an edit: text encoder, transformer, VAE, resizing to and from the photograph;
- MFU, model FLOP utilisation: FLOPs of the transformer's plain computation (counted from its sizes, and checked against
  torch's counter) / time / the GPU's dense peak. Text encoder and VAE count as time but not as work; what a cache
  skips counts as done, so that with one it is the speed-up rather than the hardware's use;
- the error against the engine's plain result: PSNR in dB over all pictures, and the largest difference of a value, of
  255. With random weights it shows the rounding, but tells little of how a cache treats a photograph.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

PROMPTS = (
    "Replace the wooden boat in the middle of the lake with a small white sailing boat.",
    "Remove the person on the left.",
    "Make the red car on the street dark blue and leave everything else as it is.",
    "Add a brown dog that sits on the grass in front of the bench, in the same evening light as the scene.",
)
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "B200": 2250.0}
"""Dense bfloat16 TFLOP/s, by a part of the GPU's name (the makers' data sheets; H100 as SXM)."""

FULL_TRANSFORMER = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "axes_dims_rope": (16, 56, 56),
}
FULL_VAE = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
}
FULL_TEXT = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_theta": 1e6,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
}
FULL_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
FULL_VOCABULARY = 152064

TAYLORSEER, FIRST_BLOCK = {"kind": "taylorseer"}, {"kind": "first_block"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"batch_size": 1},
    "batching": {},
    "cache-taylorseer": {"batch_size": 1, "cache": TAYLORSEER},
    "cache-first-block": {"batch_size": 1, "cache": FIRST_BLOCK},
    "batching+cache-taylorseer": {"cache": TAYLORSEER},
    "compile": {"batch_size": 1, "compile": True},
    "batching+compile": {"compile": True},
    "batching+compile+cache-taylorseer": {"compile": True, "cache": TAYLORSEER},
}


@dataclass(frozen=True)
class Run:
    """What one variant gave. work: FLOPs of the transformer's plain computation."""

    seconds: float
    work: float
    edits: list[np.ndarray]


def main() -> None:
    options = _options()
    import diffusers
    import torch

    diffusers.utils.logging.disable_progress_bar()
    gpu = torch.cuda.is_available()
    side = 1024 if gpu else 64
    pipeline = build(gpu)
    name = torch.cuda.get_device_name() if gpu else "CPU, tiny size: these numbers only say that it works"
    peak = options.peak or next((tera for part, tera in PEAKS.items() if part in name), 0.0)
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}; {name}; {side} x {side} pixels", flush=True)
    print(f"FLOPs counted from the sizes / by torch's counter, at tiny size: {_check_flops():.4f}\n", flush=True)
    print("| | steps | images/s | times plain | MFU | PSNR, dB | largest difference |")
    print("|---|---|---|---|---|---|---|", flush=True)
    requests = make_requests(options.images, side)
    for steps in options.steps:
        _compare(pipeline, requests, {"steps": steps, "max_area": side * side}, options, peak)
    if not peak:
        print("\nMFU needs the device's peak: --peak TFLOPS")


def _compare(pipeline: Any, requests: Sequence[Any], shared: dict[str, Any], options: Any, peak: float) -> None:
    steps = shared["steps"]
    runs = {"plain": _variant(pipeline, requests, {**shared, **VARIANTS["plain"]}, options)}
    runs["diffusers, one by one"] = _one_by_one(pipeline, requests, steps)
    for name, settings in VARIANTS.items():
        if name != "plain" and (not options.only or name in options.only):
            runs[name] = _variant(pipeline, requests, {**shared, **settings}, options)
    plain = runs["plain"]
    for name, run in runs.items():
        rate = len(requests) / run.seconds
        # What a cache skips is no call of the hooks: the plain run's work is what all of them did.
        mfu = f"{plain.work / run.seconds / peak / 1e12:.1%}" if peak else "–"
        error = np.concatenate([(a - b).ravel() for a, b in zip(plain.edits, run.edits, strict=True)])
        square = float(np.mean(error**2))
        psnr = f"{10 * np.log10(255**2 / square):.1f}" if square else "same"
        faster = f"{plain.seconds / run.seconds:.2f}"
        print(f"| {name} | {steps} | {rate:.4g} | {faster} | {mfu} | {psnr} | {np.abs(error).max():.0f} |", flush=True)


def _variant(pipeline: Any, requests: Sequence[Any], settings: dict[str, Any], options: Any) -> Run:
    """The engine with these settings; loading and compiling are not timed."""
    from ugaf.models.editors.diffusion.engine import DiffusersEditor
    from ugaf.models.editors.diffusion.settings import DiffusersSettings

    device = {"device": pipeline.transformer.device.type, "batch_size": options.batch}
    editor = DiffusersEditor(
        DiffusersSettings(model="random", placement={"way": "whole"}, **{**device, **settings}), pipeline
    )
    try:
        sampling = editor.sampling
        # Long enough that the caches' other path is compiled too.
        editor.sampling = replace(sampling, steps=min(6, sampling.steps))
        _edited(editor, requests[: editor.batches.size])
        editor.sampling = sampling
        return _timed(pipeline, lambda: _edited(editor, requests))
    finally:
        _undo(pipeline)


def _edited(editor: Any, requests: Sequence[Any]) -> list[np.ndarray]:
    answers = editor.edit(requests)
    for answer in answers:
        if getattr(answer, "edited", None) is None:
            raise SystemExit(f"an edit failed: {answer}")
    return [answer.edited.astype(np.float64) for answer in answers]


def _one_by_one(pipeline: Any, requests: Sequence[Any], steps: int) -> Run:
    """The plain call of diffusers' documentation, in a loop."""
    import torch
    from PIL import Image

    from ugaf.models.editors.diffusion import families

    pipeline.vae.disable_slicing()

    def edit(request: Any, steps: int) -> np.ndarray:
        size = request.photo.shape[1], request.photo.shape[0]
        # Does nothing at 1024 x 1024; the tiny size is not one that the pipeline takes by itself.
        with families.exactly(pipeline, size), torch.inference_mode():
            answer = pipeline(
                image=Image.fromarray(request.photo),
                prompt=request.instruction,
                negative_prompt=" ",
                true_cfg_scale=4.0,
                num_inference_steps=steps,
                generator=torch.Generator("cpu").manual_seed(request.seed),
            )
        return np.asarray(answer.images[0]).astype(np.float64)

    edit(requests[0], 2)
    return _timed(pipeline, lambda: [edit(request, steps) for request in requests])


def _timed(pipeline: Any, work: Callable[[], list[np.ndarray]]) -> Run:
    with counted(pipeline.transformer) as calls:
        began = time.perf_counter()
        edits = work()
        return Run(time.perf_counter() - began, sum(calls), edits)


def _undo(pipeline: Any) -> None:
    transformer = pipeline.transformer
    if transformer.is_cache_enabled:
        transformer.disable_cache()
    for module in transformer.modules():
        module._compiled_call_impl = None


@contextmanager
def counted(transformer: Any) -> Iterator[list[float]]:
    """Within it, each call of the transformer adds the FLOPs of its plain computation to the list."""
    calls: list[float] = []

    def count(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        batch, image_tokens, _ = given["hidden_states"].shape
        calls.append(batch * flops(transformer.config, image_tokens, given["encoder_hidden_states"].shape[1]))

    handle = transformer.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def flops(config: Any, image_tokens: int, text_tokens: int) -> float:
    """FLOPs of a forward pass of QwenImageTransformer2DModel for one picture: 2 for each multiply-add of its matrices.

    image_tokens: of target and reference together.
    """
    width = config.num_attention_heads * config.attention_head_dim
    tokens = image_tokens + text_tokens
    # Of each stream: query, key, value and output (4), and a perceptron of four times the width (8).
    block = 12 * width**2 * tokens + 2 * 6 * width**2 + 2 * width * tokens**2
    ends = image_tokens * width * (config.in_channels + config.patch_size**2 * config.out_channels)
    ends += text_tokens * width * config.joint_attention_dim
    time_and_norm = 256 * width + width**2 + 2 * width**2
    return 2.0 * (config.num_layers * block + ends + time_and_norm)


def _check_flops() -> float:
    """The count of `flops` over that of torch's counter, for one call of a tiny transformer."""
    import tiny_editors
    import torch
    from diffusers import QwenImageTransformer2DModel
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    transformer = QwenImageTransformer2DModel(**tiny_editors.TRANSFORMER)
    shape = (1, 8, 8)
    given = {
        "hidden_states": torch.zeros(1, 128, 16),
        "encoder_hidden_states": torch.zeros(1, 37, 16),
        "timestep": torch.ones(1),
        "img_shapes": [[shape, shape]],
    }
    # The counter knows the parts of attention, not every fused kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        transformer(**given)
    ratio = flops(transformer.config, 128, 37) / counter.get_total_flops()
    if abs(ratio - 1) > 0.01:
        raise SystemExit(f"the FLOPs counted from the sizes are {ratio:.3f} of those that torch counts")
    return ratio


def build(gpu: bool) -> Any:
    """QwenImageEditPipeline with random weights: of the released size in bfloat16 on a GPU, or tiny on the CPU."""
    import tiny_editors
    import torch
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    if gpu:
        transformer, vae, text, vision = FULL_TRANSFORMER, FULL_VAE, FULL_TEXT, FULL_VISION
    else:
        torch.set_num_threads(1)
        transformer, vae, text, vision = (
            tiny_editors.TRANSFORMER,
            tiny_editors.VAE,
            tiny_editors.TEXT,
            tiny_editors.VISION,
        )
    # Words of prompt and template are single tokens, as in the real vocabulary.
    corpus = [*PROMPTS, *_template_words()] * 4
    tokenizer = tiny_editors.qwen_tokenizer(corpus, 1500)
    config = tiny_editors.text_encoder_config(tokenizer, text, vision, FULL_VOCABULARY if gpu else None)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if gpu else torch.float32)
    try:
        with torch.device("cuda" if gpu else "cpu"):
            parts = {
                "transformer": QwenImageTransformer2DModel(**transformer).eval(),
                "vae": AutoencoderKLQwenImage(**vae).eval(),
                "text_encoder": Qwen2_5_VLForConditionalGeneration(config).eval(),
            }
    finally:
        torch.set_default_dtype(before)
    return QwenImageEditPipeline(
        **parts,
        scheduler=FlowMatchEulerDiscreteScheduler(**tiny_editors.SCHEDULER),
        tokenizer=tokenizer,
        processor=tiny_editors.qwen_processor(tokenizer, max_pixels=12845056 if gpu else 112 * 112),
    )


def _template_words() -> list[str]:
    """The words that the pipeline puts around every prompt."""
    import inspect
    import re

    from diffusers import QwenImageEditPipeline

    return re.findall(r"[A-Za-z']+", inspect.getsource(QwenImageEditPipeline.__init__))


def make_requests(count: int, side: int) -> list[Any]:
    """Edits of photographs of side x side pixels, crops of scikit-image's."""
    import cv2
    from skimage import data

    from ugaf.models.editors.interface import EditRequest

    photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    requests = []
    for number in range(count):
        photo = photos[number % len(photos)]
        square = photo[: min(photo.shape[:2]), : min(photo.shape[:2])]
        photo = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
        requests.append(EditRequest(photo, "style", PROMPTS[number % len(PROMPTS)], seed=number))
    return requests


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=4, help="edits a variant makes")
    parser.add_argument("--batch", type=int, default=4, help="pictures at once, where a variant batches")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 30])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=[], help="these variants (and plain)")
    parser.add_argument("--peak", type=float, default=0.0, help="the device's dense TFLOP/s, if it is not known")
    return parser.parse_args()


if __name__ == "__main__":
    main()
