"""LoRA training of the full-size model on one GPU: what checkpointing, compilation and the feature cache are worth.

    python benchmarks/train_gpu.py [--batch 1] [--steps 12] [--only NAME ...] [--peak TFLOPS]

The architecture is FineEdit's on Qwen-Image-Edit as released (60 blocks, 20 billion parameters, a side adapter of 6),
in bfloat16 with random weights that are made on the GPU, trained at 1024 x 1024 pixels by `ugaf.trainer` itself:
loader, step, AdamW. Without a GPU all runs at tiny size on the CPU; then the numbers say that it works, not how fast.

Each row of the table is a process of its own. Seconds a step are a mean after the first steps, which compile; memory is
the most that torch held on the GPU during the steps (on a CPU: of the process); a row may say "out of memory". MFU
counts the forward pass (by torch's counter) and the gradients that are wanted: with LoRA about twice the forward pass,
for the base model's weights have none. What checkpointing repeats, and autoencoder and text encoder where there is no
cache, count as time and not as work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

VARIANTS: dict[str, dict[str, bool]] = {
    "checkpointing": {"checkpointing": True},
    "plain": {},
    "checkpointing + compile": {"checkpointing": True, "compile": True},
    "checkpointing + cache": {"checkpointing": True, "cache": True},
    "checkpointing + compile + cache": {"checkpointing": True, "compile": True, "cache": True},
}
WARM = 4
"""Steps before the clock starts."""
MEMORY = 3
"""Exit code of a row that does not fit on the GPU."""


def main() -> None:
    options = _options()
    if options.row:
        print(json.dumps(row(options.row, options)))
        return
    print("| | batch | s a step | samples/s | memory, GB | MFU | TFLOP a sample |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    device = ""
    for batch in options.batch:
        for name in options.only or VARIANTS:
            command = [sys.executable, __file__, "--row", name, "--batch", str(batch), "--steps", str(options.steps)]
            command += ["--peak", str(options.peak)] if options.peak else []
            done = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
            if done.returncode == MEMORY:
                print(f"| {name} | {batch} | out of memory | | | | |", flush=True)
                continue
            if done.returncode:
                raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stderr[-4000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            device = found["device"]
            mfu = f"{found['mfu']:.1%}" if "mfu" in found else "–"
            print(
                f"| {name} | {batch} | {found['step_s']:.3g} | {found['samples_per_s']:.3g} | {found['memory']:.1f} | "
                f"{mfu} | {found['tflop']:.4g} |",
                flush=True,
            )
    print(f"\n{device}")


def row(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one variant, in this process."""
    import torch

    from ugaf.trainer.build import assemble
    from ugaf.trainer.data import Loader, open_index, write_cache
    from ugaf.trainer.distributed import join, leave
    from ugaf.trainer.encode import Features, encoder_name
    from ugaf.trainer.loop import Training

    wanted, gpu, [batch] = VARIANTS[name], torch.cuda.is_available(), options.batch
    with tempfile.TemporaryDirectory(prefix="ugaf-train-gpu-") as folder:
        settings = _settings(Path(folder), wanted, batch, options, gpu)
        world = join(settings.scale)
        try:
            pipeline = assemble(_components(gpu), "edit", settings.model, settings.seed, world.device, parts=True)
            if wanted.get("cache"):
                to = str(Path(folder) / "cache")
                index = open_index(settings.data)
                made = {"encoder": encoder_name(settings), "batch": 4, "empty": " ", "inline": True}
                write_cache(settings.data, index, lambda: Features(pipeline, world.device), to, **made)
                data = settings.data.model_copy(update={"cache": to})
                settings = settings.model_copy(update={"data": data})
                for part in ("vae", "text_encoder"):
                    getattr(pipeline, part).to("cpu")
            training = Training(settings, world, pipeline)
            if gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            loader = Loader(training.plan, rank=0, world=1, end_step=WARM + options.steps)
            steps = iter(loader)
            for step, batches in islice(steps, WARM):
                training.one_step(step, batches)
            _finished(gpu)
            training.monitor.rates()
            for step, batches in steps:
                values = training.one_step(step, batches)
            _finished(gpu)
            found = training.monitor.rates()
            loader.close()
        except torch.OutOfMemoryError:
            sys.exit(MEMORY)
        finally:
            leave()
    if not values["loss"] < float("inf"):
        raise SystemExit(f"{name}: the loss is {values['loss']}")
    device = torch.cuda.get_device_name() if gpu else "A CPU and tiny size: these numbers only say that it works"
    [[_, samples], flops] = next(iter(training.flops.items()))
    return {
        **found,
        "memory": _memory(gpu) / 1e9,
        "tflop": training.passes * flops / samples / 1e12,
        "device": f"{device}; torch {torch.__version__}",
    }


def _components(gpu: bool) -> dict[str, Any]:
    """Parts of a QwenImageEditPipeline with random weights: on the GPU in bfloat16, or tiny."""
    from benchmarks.edit_gpu import build

    return dict(build(gpu).components)


def _settings(folder: Path, wanted: dict[str, bool], batch: int, options: argparse.Namespace, gpu: bool) -> Any:
    from benchmarks.feeding import shards
    from ugaf.trainer.settings import TINY, parse

    side = 1024 if gpu else 64
    pairs = shards(folder / "pairs", max(16, 4 * batch), side, side)
    return parse(
        {
            "output": str(folder / "out"),
            "steps": WARM + options.steps,
            "data": {
                "shards": [str(pairs)],
                "area": side * side,
                "lanes": 1,
                "tokens": batch * 2 * (side // 16) ** 2,
            },
            "model": {
                "base": TINY,
                "train": "lora",
                "adapter_layers": 6 if gpu else 2,
                "drop_prompt": 0.0,
                "dtype": "bfloat16",
                "checkpointing": wanted.get("checkpointing", False),
                "compile": wanted.get("compile", False),
            },
            "validation": {"every": 0},
            "peak_tflops": options.peak or None,
        }
    )


def _finished(gpu: bool) -> None:
    import torch

    if gpu:
        torch.cuda.synchronize()


def _memory(gpu: bool) -> float:
    """Bytes, the most so far."""
    import resource

    import torch

    return torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _environment() -> dict[str, str]:
    return {"OMP_NUM_THREADS": "1", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", **os.environ}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="samples a step; several: each in turn")
    parser.add_argument("--steps", type=int, default=12, help="that are timed")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=[], help="these rows")
    parser.add_argument("--peak", type=float, default=0.0, help="the device's dense TFLOP/s, if it is not known")
    parser.add_argument("--row", choices=list(VARIANTS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
