"""How the model does on pairs it is not trained on: a loss, how well it keeps the background, and pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from ugaf.base.errors import ConfigError
from ugaf.fineedit.pipeline import FineEditPipeline, predict
from ugaf.imaging.boxes import Box
from ugaf.measures import quality
from ugaf.trainer import flow
from ugaf.trainer.data import Batch, Loader, Plan, open_index
from ugaf.trainer.distributed import World
from ugaf.trainer.encode import Encoder, pictures
from ugaf.trainer.monitor import Monitor
from ugaf.trainer.seeds import seed_of
from ugaf.trainer.settings import TrainSettings

LOG = logging.getLogger(__name__)
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Values of t at which the loss is taken."""
GAP = 8
LETTER, CAPTION = 7, 700
"""Pixels of a letter, and of a sheet that is as wide as it is for its captions."""
BOX = (255, 40, 40)


class Validation:
    """The same samples, noise and noise levels every time, so that numbers of two steps can be compared.

    Processes share out the samples; the leading one writes.
    """

    def __init__(self, settings: TrainSettings, pipeline: FineEditPipeline, encoder: Encoder, world: World) -> None:
        self.settings = settings
        self.pipeline = pipeline
        self.encoder = encoder
        self.world = world
        self.batches = self._samples() if settings.validation.every else []

    def run(self, step: int, monitor: Monitor) -> None:
        """Logs the numbers under val_…, and writes `validation/step-….png`."""
        if not self.batches:
            return
        model = self.pipeline.transformer
        model.eval()
        try:
            found = self.world.gathered(list(self._shown()))
        finally:
            model.train()
        if not self.world.leads:
            return
        measures, rows = zip(*(shown for _, shown in sorted(found, key=itemgetter(0))), strict=True)
        names = dict.fromkeys(name for one in measures for name in one)
        values = {name: [one[name] for one in measures if name in one] for name in names}
        monitor.log(step, {name: float(np.mean(each)) for name, each in values.items()})
        drawn = sheet(rows, [batch.instructions[0] for batch in self.batches])
        folder = Path(self.settings.output).expanduser() / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(folder / f"step-{step:08d}.png")
        monitor.picture(step, "validation", drawn)

    def _shown(self) -> Iterator[tuple[int, tuple[dict[str, float], list[np.ndarray]]]]:
        """This process's samples by number: what was measured; source with boxes, target and output."""
        for first in range(0, len(self.batches), self.world.size):
            # Weights are split over the processes: one without a sample of its own does another's once more.
            number = first + self.world.rank
            batch = self.batches[number % len(self.batches)]
            output = self._edited(batch, number)
            measured = {"val_loss": self._loss(batch, number), **compare(batch, output)}
            if number < len(self.batches):
                yield number, (measured, [boxed(batch.source[0], batch.boxes[0]), picture(batch.edited[0]), output])

    def _samples(self) -> list[Batch]:
        """Batches of one sample each."""
        wanted = self.settings.validation
        changes = {"split": wanted.split, "tokens": None, "lanes": 1, "workers": 0, "cache": None, "on_corrupt": "skip"}
        data = self.settings.data.model_copy(update=changes)
        try:
            index = open_index(data)
        except ConfigError as error:
            raise ConfigError(f"validation.split: {error} (validation.every=0 goes without)") from error
        loader = Loader(Plan(index, data, self.settings.seed), end_step=min(wanted.samples, len(index)))
        with closing(loader):
            found = [batch for _, batches in loader for batch in batches]
        return [batch for batch in found if float(batch.weights.sum())]

    @torch.no_grad()
    def _loss(self, batch: Batch, number: int) -> float:
        encoded = self.encoder.encode(batch)
        seed = seed_of(self.settings.seed, "validation")
        total = 0.0
        for place, level in enumerate(LEVELS):
            noise = flow.noise_of(encoded.clean.shape[1:], seed, number, [place]).to(encoded.clean)
            t = torch.full((1,), level, device=noise.device)
            noisy = flow.noisy(encoded.clean, noise, t)
            predicted = predict(self.pipeline.transformer, noisy, t, encoded.conditions, encoded.text)
            total += float(flow.losses(predicted, encoded.clean, noise, t, self.settings.flow)[0])
        return total / len(LEVELS)

    def _edited(self, batch: Batch, number: int) -> np.ndarray:
        wanted = self.settings.validation
        generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "picture", number))
        self.pipeline.set_progress_bar_config(disable=True)
        images = self.pipeline(
            pictures(batch),
            batch.instructions,
            batch.boxes,
            true_cfg_scale=wanted.true_cfg_scale,
            num_inference_steps=wanted.steps,
            generator=[generator],
            height=batch.bucket.height,
            width=batch.bucket.width,
        ).images
        return np.array(images[0])


def compare(batch: Batch, output: np.ndarray) -> dict[str, float]:
    """PSNR in dB: of the background against the source, and of the boxes against the target; each where it is any."""
    roi = batch.roi_mask[0, 0].numpy()
    found = {
        "val_psnr_background": quality.psnr(picture(batch.source[0]), output, ~roi),
        "val_psnr_roi": quality.psnr(picture(batch.edited[0]), output, roi),
    }
    return {name: value for name, value in found.items() if value is not None}


def picture(planes: torch.Tensor) -> np.ndarray:
    """uint8 (3, h, w) to RGB (h, w, 3)."""
    return np.ascontiguousarray(planes.permute(1, 2, 0).numpy())


def boxed(planes: torch.Tensor, boxes: Sequence[Box]) -> np.ndarray:
    """The picture with its boxes drawn."""
    drawn = Image.fromarray(picture(planes))
    pen = ImageDraw.Draw(drawn)
    for x1, y1, x2, y2 in boxes:
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=BOX, width=max(1, drawn.width // 200))
    return np.array(drawn)


def sheet(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str]) -> Any:
    """One picture: a row a sample with source, target and output side by side, its instruction above it."""
    height = 20
    width = max(sum(one.shape[1] + GAP for one in row) for row in rows) + GAP
    # Small pictures leave no room for words.
    width = max(width, min(LETTER * max(map(len, captions)), CAPTION) + 2 * GAP)
    total = sum(max(one.shape[0] for one in row) + height + GAP for row in rows) + GAP
    canvas = Image.new("RGB", (width, total), "white")
    pen = ImageDraw.Draw(canvas)
    y = GAP
    for row, caption in zip(rows, captions, strict=True):
        pen.text((GAP, y), caption[: (width - 2 * GAP) // LETTER], fill="black")
        y, x = y + height, GAP
        for one in row:
            canvas.paste(Image.fromarray(one), (x, y))
            x += one.shape[1] + GAP
        y += max(one.shape[0] for one in row) + GAP
    return np.array(canvas)
