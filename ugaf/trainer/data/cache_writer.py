"""Writing a feature cache with Ray Data: actors that have the encoder take chunk after chunk.

What is encoded is exactly what a training with the same settings would decode: the same buckets, windows and boxes. A
part is written when its chunk is done, and is there completely or not at all, so writing again goes on where it was
left, and adds what is new in the shards. A sample that cannot be read has its reason in its row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
import yaml

from ugaf.base.errors import ConfigError, StopRun, UgafError
from ugaf.engine.session import Session
from ugaf.storage import Storage
from ugaf.trainer.data.batch import Batch
from ugaf.trainer.data.cache import EMPTY_TEXT, FILE, TEXT, VERSION, Tensor, check, describe, part_name
from ugaf.trainer.data.geometry import Bucket
from ugaf.trainer.data.index import Index
from ugaf.trainer.data.making import Job, image_batch
from ugaf.trainer.data.plan import Microbatch, Plan
from ugaf.trainer.data.records import CorruptSampleError, Draw, Record, read_chunk
from ugaf.trainer.data.settings import DataSettings

SPARE_CPUS = 0.5
"""What Ray Data needs besides its actors; without it a plan hangs."""
_BOXES = pa.list_(pa.list_(pa.int32()))


class Encoder(Protocol):
    """What makes the features. It is made in the process that uses it, once."""

    def images(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """By name, tensors (n, ...): `source_latents`, `edited_latents`, `masked_latents`, ..."""
        ...

    def text(self, batch: Batch) -> Sequence[torch.Tensor]:
        """For each sample's instruction, with its images, a tensor (L, D), L as long as it needs."""
        ...


@dataclass(frozen=True)
class Work:
    """What an actor needs. empty: the instruction that `empty_text` is of; None: it is left out."""

    settings: DataSettings
    index: Index
    make_encoder: Callable[[], Encoder]
    folder: str
    batch: int
    empty: str | None


@dataclass(frozen=True)
class Written:
    """parts: written by this call. there: written before. corrupt: samples, as (place, why)."""

    parts: int
    there: int
    corrupt: list[tuple[str, str]]


def write_cache(
    settings: DataSettings,
    index: Index,
    make_encoder: Callable[[], Encoder],
    folder: str,
    *,
    encoder: str,
    batch: int = 4,
    empty: str | None = None,
    actors: int = 1,
    cpus: float = 0.5,
    gpus: float = 0.0,
    address: str | None = None,
    inline: bool = False,
) -> Written:
    """Write what a cache lacks.

    Args:
        settings, index: as the training will have them; `settings.cache` does not count.
        make_encoder: gives the encoder, in the actor's process; it must be possible to pickle it.
        folder: path or URL of the cache.
        encoder: what the encoder is, with its version: a cache has the features of one.
        batch: samples encoded together, of one bucket.
        empty: an instruction that is encoded besides, for samples that are trained without theirs.
        actors, cpus, gpus: how many, and what each reserves.
        address: of a Ray cluster; None starts Ray here, unless it runs or RAY_ADDRESS names one.
        inline: do the work in this process, without Ray.

    Raises:
        ConfigError: the folder has a cache of other settings or of another encoder, or the actors do not fit.
        UgafError: the encoder raised; what is written stays.
    """
    settings = settings.model_copy(update={"cache": None})
    if settings.alignment.shuffle or settings.alignment.drop:
        raise ConfigError("data.alignment cannot be used with a cache: its embeddings see the references in one order")
    _begin(settings, folder, encoder, empty)
    storage = Storage(folder)
    there = {f"parts/{name}" for name in storage.list("parts")}
    pending = [chunk for chunk in range(len(index.chunks)) if part_name(index, chunk) not in there]
    work = Work(settings, index, make_encoder, folder, batch, empty)
    corrupt: list[tuple[str, str]] = []
    if pending and inline:
        writer = Writer(work)
        for chunk in pending:
            corrupt += writer.write(chunk)
    elif pending:
        for found in _with_ray(work, pending, actors, cpus, gpus, address):
            corrupt += found
    return Written(len(pending), len(index.chunks) - len(pending), corrupt)


def _begin(settings: DataSettings, folder: str, encoder: str, empty: str | None) -> None:
    storage = Storage(folder)
    instructions = list(settings.instructions.usable())
    document = {
        "version": VERSION,
        "encoder": encoder,
        "empty": empty,
        "geometry": dict(settings.geometry()),
        "instructions": instructions,
    }
    if not storage.exists(FILE):
        storage.write(FILE, yaml.safe_dump(document, sort_keys=False).encode())
        return
    found = describe(folder)
    check(found, settings, folder)
    for name in ("encoder", "empty", "instructions"):
        if found[name] != document[name]:
            raise ConfigError(
                f"data.cache: {folder} was begun with {name} {found[name]!r}, not {document[name]!r}: "
                "choose another folder"
            )


def _with_ray(
    work: Work, pending: Sequence[int], actors: int, cpus: float, gpus: float, address: str | None
) -> Iterator[list[tuple[str, str]]]:
    import ray

    with Session(address):
        _check_fits(ray.cluster_resources(), actors, cpus, gpus)
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"chunk": chunk} for chunk in pending]
        data = ray.data.from_items(items, override_num_blocks=min(len(items), 2048)).map_batches(
            _RayWriter,
            # In a list, so that it is fetched once in each actor and not before.
            fn_constructor_args=([ray.put(work)],),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(pending))),
            num_cpus=cpus,
            num_gpus=gpus or None,
        )
        for row in data.iter_rows():
            if row["error"]:
                raise UgafError(f"the cache is not complete; part {row['chunk']}: {row['error']}")
            yield [(where, why) for where, why in json.loads(row["corrupt"])]


def _check_fits(total: Mapping[str, float], actors: int, cpus: float, gpus: float) -> None:
    """Raises ConfigError for actors that Ray would wait for without end."""
    for name, each, spare in (("CPU", cpus, SPARE_CPUS), ("GPU", gpus, 0.0)):
        if each and actors * each + spare > total.get(name, 0):
            there = f"Ray has {total.get(name, 0):g}" + (f", of which {spare:g} must stay free" if spare else "")
            raise ConfigError(f"{actors} actors of {each:g} {name} do not fit: {there}")


class _RayWriter:
    """The actor: a batch is one chunk's number."""

    def __init__(self, shared: Any) -> None:
        import ray

        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
        self.writer = Writer(ray.get(shared[0]))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        chunk, error, corrupt = int(batch["chunk"][0]), "", []
        try:
            corrupt = self.writer.write(chunk)
        except (Exception, StopRun) as raised:  # as a row: Ray would try the same again, without end
            error = f"{type(raised).__name__}: {raised}"
        return {"chunk": [chunk], "error": [error], "corrupt": [json.dumps(corrupt)]}


class Writer:
    """Encodes chunks, one part each."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.plan = Plan(work.index, work.settings.model_copy(update={"lanes": 1}), 0)
        self.encoder = work.make_encoder()
        self.storage = Storage(work.folder)

    def write(self, chunk: int) -> list[tuple[str, str]]:
        """Write a chunk's part; its corrupt samples, as (place, why)."""
        index, plan = self.work.index, self.plan
        first = int(index.chunk_firsts[chunk])
        rows = np.arange(first, first + int(index.chunk_rows[chunk]), dtype=np.int64)
        codes = plan.codes(rows, 0)
        order = np.argsort(codes, kind="stable")
        places = np.argsort(order, kind="stable").tolist()
        stored = read_chunk(index, index.chunks[chunk], self.work.settings)
        corrupt: list[tuple[str, str]] = []
        with self.storage.open_output(part_name(index, chunk)) as stream:
            sink: pa.ipc.RecordBatchFileWriter | None = None
            for start, stop in _runs(codes[order], self.work.batch):
                some = rows[order[start:stop]]
                bucket = plan.buckets[codes[order[start]]]
                for sample in self._encoded(some, bucket, [self._found(stored, row) for row in some.tolist()], corrupt):
                    if sink is None:
                        schema = sample.schema.with_metadata({"places": json.dumps(places)})
                        sink = pa.ipc.new_file(stream, schema)
                    sink.write_batch(sample)
            assert sink is not None
            sink.close()
        return corrupt

    def _found(self, stored: Any, row: int) -> Record | CorruptSampleError:
        try:
            return stored.record(int(self.work.index.local[row]), self.work.index.where(row))
        except CorruptSampleError as error:
            return error

    def _encoded(
        self, rows: np.ndarray, bucket: Bucket, found: list[Record | CorruptSampleError], corrupt: list[tuple[str, str]]
    ) -> Iterator[pa.RecordBatch]:
        """Samples of one bucket, each of its own, so that it can be read alone."""
        index, settings = self.work.index, self.work.settings
        bits = self.plan.kept_references(rows, 0)
        draws = [Draw(key, 0, 0, shown) for key, shown in zip(index.keys[rows].tolist(), bits.tolist(), strict=True)]
        places = [index.where(row) for row in rows.tolist()]
        microbatch = Microbatch(0, 0, bucket, rows, np.zeros(len(rows), dtype=np.int32))
        batch = image_batch(Job(microbatch, len(rows), draws, places, found), settings)
        corrupt += batch.corrupt
        reasons = _reasons(batch, places)
        columns: dict[str, pa.Array] = {
            "id": pa.array(batch.ids, pa.string()),
            "error": pa.array(reasons, pa.string()),
            "width": pa.array([bucket.width] * len(rows), pa.int32()),
            "height": pa.array([bucket.height] * len(rows), pa.int32()),
            "boxes": pa.array([[list(box) for box in boxes] for boxes in batch.boxes], _BOXES),
            "register": pa.array([getattr(one, "register", None) for one in found], pa.string()),
        }
        with torch.no_grad():
            features: dict[str, Sequence[torch.Tensor]] = {n: list(t) for n, t in self.encoder.images(batch).items()}
            if self.work.empty is not None:
                features[EMPTY_TEXT] = self.encoder.text(replace(batch, instructions=[self.work.empty] * len(batch)))
            for name in settings.instructions.usable():
                texts = [(one.texts.get(name) or "").strip() if isinstance(one, Record) else "" for one in found]
                columns[name] = pa.array([text or None for text in texts], pa.string())
                features[f"{TEXT}.{name}"] = self.encoder.text(replace(batch, instructions=texts))
        for place in range(len(rows)):
            own = {name: column.slice(place, 1) for name, column in columns.items()}
            own |= {name: Tensor.of(tensors[place]).column() for name, tensors in features.items()}
            yield pa.RecordBatch.from_arrays(list(own.values()), names=list(own))


def _reasons(batch: Batch, places: Sequence[str]) -> list[str | None]:
    return [next((why for where, why in batch.corrupt if where.startswith(place)), None) for place in places]


def _runs(codes: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Runs of at most `size` equal codes."""
    start = 0
    for stop in range(1, len(codes) + 1):
        if stop == len(codes) or codes[stop] != codes[start] or stop - start == size:
            yield start, stop
            start = stop
