"""What early and deep fusion are worth: a small instance of the model, trained from nothing on edits that are exact.

    python benchmarks/learn.py [--steps 600] [--seeds 3] [--variants text-only,early,deep,early+deep] [--device cpu]

Scenes are a shaded, textured ground with three to five shapes in different colours. An edit recolours one of them,
removes it or covers it with stripes; its instruction names the kind of shape ("Make the circle red."), and where there
are several of a kind only the box says which. Pairs are exact: outside of the box nothing differs.

Shown on scenes that were not trained on, after the same number of steps on the same samples: how well the background
is kept (PSNR outside of the box against the source, in dB), how near the box is to its target, and the share of edits
that were made (the box is nearer to its target than half the way from the source). The order of FineEdit's ablation
(arXiv 2604.10954, table 4) is what it should show; its numbers are of another model and other data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from ugaf.fineedit.latents import roi_mask, to_float  # noqa: E402
from ugaf.fineedit.pipeline import FineEditPipeline, padded, predict  # noqa: E402
from ugaf.fineedit.transformer import FineEditTransformer2DModel  # noqa: E402
from ugaf.imaging.boxes import Box, to_mask  # noqa: E402
from ugaf.measures import quality  # noqa: E402
from ugaf.trainer import flow  # noqa: E402
from ugaf.trainer.rl.sampling import pictures_of  # noqa: E402
from ugaf.trainer.seeds import seed_of  # noqa: E402
from ugaf.trainer.settings import FlowSettings, TinySettings  # noqa: E402
from ugaf.trainer.tiny import tiny_components  # noqa: E402

SIDE = 32
CELL = 10
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 220),
    "yellow": (230, 210, 50),
    "purple": (150, 60, 190),
    "white": (240, 240, 240),
}
KINDS = ("circle", "square", "triangle")
VARIANTS = {"text-only": (False, 0), "early": (True, 0), "deep": (False, 2), "early+deep": (True, 2)}
SIZES = TinySettings(layers=4, heads=4, head_dim=16, text_dim=32, factor=2)


@dataclass(frozen=True)
class Pair:
    """source, edited: RGB uint8 (SIDE, SIDE, 3), equal outside of the box."""

    source: np.ndarray
    edited: np.ndarray
    box: Box
    instruction: str


def pair(rng: np.random.Generator) -> Pair:
    """A scene and an edit of one of its shapes."""
    ground = shaded(rng)
    cells = rng.permutation(9)[: rng.integers(3, 6)]
    shapes = []
    for cell in cells:
        size = int(rng.integers(7, CELL + 1))
        x = int(cell % 3) * CELL + 1 + int(rng.integers(0, CELL + 1 - size))
        y = int(cell // 3) * CELL + 1 + int(rng.integers(0, CELL + 1 - size))
        kind, colour = str(rng.choice(KINDS)), str(rng.choice(list(COLOURS)))
        shapes.append((kind, colour, (x, y, x + size, y + size)))
    source = ground.copy()
    for shape in shapes:
        draw(source, *shape)
    kind, colour, box = shapes[int(rng.integers(len(shapes)))]
    edited = source.copy()
    x1, y1, x2, y2 = box
    task = str(rng.choice(["recolor", "remove", "style"]))
    if task == "recolor":
        other = str(rng.choice([name for name in COLOURS if name != colour]))
        draw(edited, kind, other, box)
        text = f"Make the {kind} {other}."
    else:
        edited[y1:y2, x1:x2] = ground[y1:y2, x1:x2]
        text = f"Remove the {kind}."
        if task == "style":
            draw(edited, kind, colour, box, striped=True)
            text = f"Cover the {kind} with stripes."
    return Pair(source, edited, box, text)


def held_out(number: int) -> Pair:
    """One that no training sees."""
    return pair(np.random.default_rng(seed_of("held out", number)))


def shaded(rng: np.random.Generator) -> np.ndarray:
    """A ground between two colours, with a texture of its own."""
    a, b = rng.integers(30, 226, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
    share = np.clip(0.5 + np.cos(angle) * rows + np.sin(angle) * columns, 0, 1)[..., None]
    waves = 12 * np.sin(rng.uniform(4, 25) * rows + rng.uniform(4, 25) * columns + angle)[..., None]
    return np.clip(a + (b - a) * share + waves, 0, 255).astype(np.uint8)


def draw(image: np.ndarray, kind: str, colour: str, box: Box, striped: bool = False) -> None:
    x1, y1, x2, y2 = box
    size = x2 - x1
    rows, columns = (np.mgrid[0:size, 0:size] + 0.5) / size
    if kind == "circle":
        inside = (rows - 0.5) ** 2 + (columns - 0.5) ** 2 <= 0.25
    elif kind == "triangle":
        inside = np.abs(columns - 0.5) <= rows / 2
    else:
        inside = np.ones((size, size), bool)
    paint = np.empty((size, size, 3), np.uint8)
    paint[:] = COLOURS[colour]
    if striped:
        paint[np.arange(size) // 2 % 2 == 1] = (20, 20, 20)
    image[y1:y2, x1:x2][inside] = paint[inside]


class Learner:
    """One variant with one seed."""

    def __init__(self, variant: str, seed: int, device: torch.device) -> None:
        early, layers = VARIANTS[variant]
        components = tiny_components(SIZES, seed)
        model = FineEditTransformer2DModel.from_base(components["transformer"], early, layers)
        self.pipeline = FineEditPipeline(**{**components, "transformer": model}).to(device)
        self.model = self.pipeline.transformer
        self.seed = seed
        self.device = device
        self.flow = FlowSettings()
        self.told: dict[str, torch.Tensor] = {}

    def train(self, steps: int, batch: int, lr: float) -> float:
        """The mean loss of the last tenth of the steps."""
        self.model.train()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=0.0)
        warm = min(50, steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min(1, (s + 1) / warm) * 0.5 * (1 + np.cos(np.pi * s / steps))
        )
        last = []
        for step in range(steps):
            pairs = [pair(np.random.default_rng(seed_of(self.seed, "train", step, place))) for place in range(batch)]
            clean, conditions, text = self.encoded(pairs)
            noise = flow.noise_of(clean.shape[1:], self.seed, step, range(batch)).to(self.device)
            t = flow.timesteps(self.flow, self.seed, step, range(batch), batch).to(self.device)
            predicted = predict(self.model, flow.noisy(clean, noise, t), t, conditions, text)
            loss = flow.losses(predicted, clean, noise, t, self.flow).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            last.append(loss.detach())
        return float(torch.stack(last[-max(1, steps // 10) :]).mean())

    @torch.no_grad()
    def evaluate(self, count: int, denoising: int, shown: int = 0) -> tuple[dict[str, float], np.ndarray]:
        """Numbers over `count` pairs that no training sees, and a picture of some: source, target, output."""
        self.model.eval()
        background, inside, made, rows = [], [], [], []
        for first in range(0, count, 50):
            numbers = range(first, min(count, first + 50))
            pairs = [held_out(number) for number in numbers]
            outputs = self.edits(pairs, numbers, denoising)
            for one, output in zip(pairs, outputs, strict=True):
                roi = to_mask([one.box], SIDE, SIDE)
                background.append(quality.psnr(one.source, output, ~roi))
                inside.append(quality.psnr(one.edited, output, roi))
                to_target, to_source = (
                    np.abs(output[roi].astype(float) - x[roi]).mean() for x in (one.edited, one.source)
                )
                made.append(to_target < to_source)
                if len(rows) < shown:
                    rows.append(np.hstack([boxed(one), one.edited, output]))
        numbers_ = {
            "background_psnr": float(np.mean(background)),
            "box_psnr": float(np.mean(inside)),
            "box_accuracy": float(np.mean(made)),
        }
        return numbers_, np.vstack(rows) if rows else np.zeros((1, 1, 3), np.uint8)

    @torch.no_grad()
    def edits(self, pairs: list[Pair], numbers: Sequence[int], denoising: int, draw: int = 0) -> np.ndarray:
        """RGB uint8 (n, SIDE, SIDE, 3); the noise follows from each pair's number and the draw."""
        clean, conditions, text = self.encoded(pairs)
        latents = flow.noise_of(clean.shape[1:], 0, draw, numbers).to(self.device)
        times = torch.linspace(1, 0, denoising + 1, device=self.device)
        for now, after in pairwise(times):
            said = predict(self.model, latents, now.expand(len(pairs)), conditions, text)
            latents = latents + (after - now) * said
        return np.stack(pictures_of(self.pipeline, latents))

    def encoded(
        self, pairs: list[Pair]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        sources, edited = (
            torch.from_numpy(np.stack([getattr(one, name) for one in pairs])).permute(0, 3, 1, 2)
            for name in ("source", "edited")
        )
        mask = roi_mask([[one.box] for one in pairs], SIDE, SIDE)
        references = torch.zeros(len(pairs), 0, 3, SIDE, SIDE, dtype=torch.uint8)
        clean = self.pipeline.codec.encode(to_float(edited.to(self.device)))
        text = padded([self.embedding(one.instruction) for one in pairs])
        return clean, self.pipeline.conditions(sources, references, mask), text

    @torch.no_grad()
    def embedding(self, instruction: str) -> torch.Tensor:
        """Of the instruction's own words: what stands before them in every prompt is most of the tokens and the same
        for all, and a picture of the scene would only add noise, for the text encoder here is random."""
        if instruction not in self.told:
            grey = [Image.new("RGB", (SIDE, SIDE), (127, 127, 127))]
            (whole, other), _ = self.pipeline.encode([instruction, f"not {instruction}"], [grey, grey])
            same = (whole - other).abs().amax(1) < 1e-4
            real = whole.abs().amax(1) > 0
            self.told[instruction] = whole[real][int(same.long().cumprod(0).sum()) :]
        return self.told[instruction]

    @classmethod
    def of(cls, pipeline: FineEditPipeline, device: torch.device) -> Learner:
        """For a pipeline that is there already."""
        made = cls.__new__(cls)
        made.pipeline, made.model, made.device, made.told = pipeline, pipeline.transformer, device, {}
        return made


def boxed(one: Pair) -> np.ndarray:
    shown = one.source.copy()
    x1, y1, x2, y2 = one.box
    shown[[y1, y2 - 1], x1:x2] = shown[y1:y2, [x1, x2 - 1]] = (255, 0, 0)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", type=lambda text: text.split(","), default=list(VARIANTS))
    parser.add_argument("--held-out", type=int, default=200, help="pairs of the evaluation")
    parser.add_argument("--denoising", type=int, default=12, help="steps of a picture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="folder for the numbers and pictures")
    options = parser.parse_args()
    unknown = set(options.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"--variants: no {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    folder = Path(options.output) if options.output else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in options.variants}
    for seed in range(options.seeds):
        for variant in options.variants:
            began = time.monotonic()
            learner = Learner(variant, seed, torch.device(options.device))
            loss = learner.train(options.steps, options.batch, options.lr)
            numbers, picture = learner.evaluate(options.held_out, options.denoising, shown=8)
            found[variant].append({"seed": seed, "loss": loss, **numbers, "seconds": time.monotonic() - began})
            print(
                f"seed {seed}, {variant}: {json.dumps({k: round(v, 3) for k, v in found[variant][-1].items()})}",
                flush=True,
            )
            if folder:
                Image.fromarray(picture).resize((picture.shape[1] * 4, picture.shape[0] * 4), 0).save(
                    folder / f"{variant}-{seed}.png"
                )
                (folder / "numbers.json").write_text(json.dumps(found, indent=1))
    print(f"\n{options.steps} steps of {options.batch}, {options.seeds} seeds: mean (least and greatest)")
    for variant, runs in found.items():
        cells = [spread([run[name] for run in runs]) for name in ("background_psnr", "box_psnr", "box_accuracy")]
        print(f"  {variant:12} background {cells[0]} dB   box {cells[1]} dB   edits made {cells[2]}")


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
