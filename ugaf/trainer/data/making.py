"""Making a batch: records are decoded, or features found, and put together as tensors.

A sample that cannot be used keeps its slot, with what another sample of the batch has and the weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ugaf.fineedit.latents import roi_mask
from ugaf.imaging.boxes import Box
from ugaf.trainer.data.batch import Batch, pixels_of
from ugaf.trainer.data.cache import CachedSample, CacheReader, stacked
from ugaf.trainer.data.plan import Microbatch
from ugaf.trainer.data.reading import Found
from ugaf.trainer.data.records import CorruptSampleError, Draw, Example, example
from ugaf.trainer.data.settings import DataSettings


@dataclass(frozen=True)
class Job:
    """A microbatch to be made.

    samples: of the whole step, over all lanes. places: of its samples, for messages. found: their records; none with a
    cache.
    """

    microbatch: Microbatch
    samples: int
    draws: list[Draw]
    places: list[str]
    found: list[Found]


def image_batch(job: Job, settings: DataSettings) -> Batch:
    """Decode the records of a job."""
    bucket = job.microbatch.bucket
    examples: list[Example | None] = []
    corrupt: list[tuple[str, str]] = []
    for place, draw, found in zip(job.places, job.draws, job.found, strict=True):
        try:
            if isinstance(found, CorruptSampleError):
                raise found
            examples.append(example(found, bucket, draw, settings))
        except CorruptSampleError as error:
            name = "" if isinstance(found, CorruptSampleError) else f" ({found.id})"
            corrupt.append((place + name, str(error)))
            examples.append(None)
    donor = next((one for one in examples if one is not None), None)
    shown = [one if one is not None else donor for one in examples]
    weights = [float(one is not None) for one in examples]
    texts = [("", "", []) if one is None else (one.id, one.instruction, one.boxes) for one in shown]
    return _batch(job, texts, weights, corrupt, pixels_of(shown, bucket))


def cached_batch(job: Job, cache: CacheReader) -> Batch:
    """The features of a job's samples."""
    microbatch, bucket = job.microbatch, job.microbatch.bucket
    found: list[CachedSample] = []
    corrupt: list[tuple[str, str]] = []
    for row, place, draw in zip(microbatch.rows.tolist(), job.places, job.draws, strict=True):
        found.append(cache.sample(row, bucket, draw))
        if found[-1].error is not None:
            corrupt.append((f"{place} ({found[-1].id})", found[-1].error))
    donor = next((one for one in found if one.error is None), found[0])
    shown = [one if one.error is None else donor for one in found]
    weights = [float(one.error is None) for one in found]
    texts = [(one.id, one.instruction, one.boxes) for one in shown]
    count = len(found)
    nothing = torch.zeros((count, 3, 0, 0), dtype=torch.uint8)
    references = torch.zeros((count, bucket.conditions - 1, 3, 0, 0), dtype=torch.uint8)
    batch = _batch(job, texts, weights, corrupt, (nothing, nothing, references))
    batch.features = stacked([one.tensors for one in shown], cache.buffers)
    return batch


def _batch(
    job: Job,
    texts: Sequence[tuple[str, str, list[Box]]],
    weights: Sequence[float],
    corrupt: list[tuple[str, str]],
    pixels: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> Batch:
    microbatch, bucket = job.microbatch, job.microbatch.bucket
    boxes = [list(own) for _, _, own in texts]
    return Batch(
        ids=[name for name, _, _ in texts],
        bucket=bucket,
        instructions=[text for _, text, _ in texts],
        source=pixels[0],
        edited=pixels[1],
        references=pixels[2],
        roi_mask=roi_mask(boxes, bucket.height, bucket.width),
        boxes=boxes,
        positions=torch.arange(microbatch.first, microbatch.first + len(texts)),
        step=microbatch.step,
        planned=job.samples,
        lane=microbatch.lane,
        epochs=torch.tensor(microbatch.epochs.tolist()),
        weights=torch.tensor(weights, dtype=torch.float32),
        corrupt=corrupt,
    )
