"""The feature cache: what the autoencoder and the text encoder make of each sample, computed once.

A cache is a folder with `cache.yaml`, which says for which pixels and words it was made, and one Arrow IPC file for
each chunk of the shards, of one record batch a sample: `id`, `error`, `boxes`, `register`, every instruction, and each
tensor as {data, dtype, shape}. Arrow IPC rather than Parquet, because a step needs single samples of 5 MB: a record
batch is found by the footer and is the tensor's bytes, so a local file is mapped and copied once, where Parquet
reads the pages of a whole column chunk into buffers first; and a remote store is asked for these bytes alone.

`ugaf.trainer.data.cache_writer` makes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import torch

from ugaf.base import yaml_files
from ugaf.base.errors import ConfigError
from ugaf.imaging.boxes import Box
from ugaf.storage import Storage
from ugaf.trainer.data import draws, wording
from ugaf.trainer.data.buffers import Buffers
from ugaf.trainer.data.geometry import Bucket
from ugaf.trainer.data.index import Index
from ugaf.trainer.data.records import Draw
from ugaf.trainer.data.settings import DataSettings

VERSION = 1
FILE = "cache.yaml"
TEXT, EMPTY_TEXT = "text", "empty_text"
"""Names of the text encoder's tensors: of the instruction (in the parts `text.COLUMN`, one for each), and of none."""
_OPEN_PARTS = 64


@dataclass(frozen=True)
class CachedSample:
    """A sample as the cache has it. error: why it could not be encoded; its tensors then stand for nothing."""

    id: str
    instruction: str
    boxes: list[Box]
    error: str | None
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Tensor:
    """A tensor's bytes, where they lie."""

    data: pa.Buffer
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Tensor:
        values = tensor.detach().cpu().contiguous()
        flat = values.reshape(-1).view(torch.uint8).numpy()
        return cls(pa.py_buffer(flat), values.dtype, tuple(values.shape))

    @classmethod
    def within(cls, column: pa.StructArray) -> Tensor:
        """The one tensor of a column, not copied: a scalar of it would be."""
        data = column.field("data")
        first, last = np.frombuffer(data.buffers()[1], dtype=np.int64, count=2).tolist()
        dtype, shape = column.field("dtype")[0].as_py(), column.field("shape")[0].as_py()
        return cls(data.buffers()[2].slice(first, last - first), getattr(torch, dtype), tuple(shape))

    def column(self) -> pa.StructArray:
        """A column of this one tensor, not copied either."""
        offsets = pa.py_buffer(np.array([0, self.data.size], dtype=np.int64))
        data = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, self.data])
        dtype = pa.array([str(self.dtype).removeprefix("torch.")], pa.string())
        shape = pa.array([list(self.shape)], pa.list_(pa.int64()))
        return pa.StructArray.from_arrays([data, dtype, shape], names=["data", "dtype", "shape"])


def part_name(index: Index, chunk: int) -> str:
    """The file of a chunk: by its shard and by which samples of it are used."""
    first, rows = int(index.chunk_firsts[chunk]), int(index.chunk_rows[chunk])
    entry = index.chunks[chunk]
    shard = index.shards[entry.shard].name
    digest = hashlib.sha256(f"{shard}/{entry.number}/".encode())
    digest.update(index.keys[first : first + rows].tobytes())
    return f"parts/{shard.rpartition('.')[0]}-{entry.number:05d}-{digest.hexdigest()[:12]}.arrow"


def describe(folder: str) -> dict[str, Any]:
    """The cache's `cache.yaml`. Raises ConfigError where there is none."""
    try:
        document = yaml_files.load(Storage(folder).read(FILE))
    except FileNotFoundError as error:
        raise ConfigError(f"data.cache: {folder} is no feature cache: it has no {FILE}") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ConfigError(f"data.cache: {folder}/{FILE} is not of version {VERSION}: write the cache again")
    return document


def check(document: Mapping[str, Any], settings: DataSettings, folder: str) -> None:
    """Raises ConfigError naming what a cache was made with, where it is not what the settings say."""
    for name, value in settings.geometry().items():
        if document["geometry"].get(name) != value:
            raise ConfigError(
                f"data.cache: {folder} was made with {name}: {document['geometry'].get(name)}, but data.{name} is "
                f"{value}: change that, or write the cache again in another folder"
            )
    missing = set(settings.instructions.usable()) - set(document["instructions"])
    if missing:
        raise ConfigError(
            f"data.cache: {folder} has no text of {', '.join(sorted(missing))} (it has "
            f"{', '.join(document['instructions'])}): give their language or register the weight 0, or write it again"
        )


class CacheReader:
    """Reads single samples; may be used by several threads at once.

    Raises ConfigError where the cache does not fit the settings, or has not all the chunks.
    """

    def __init__(self, folder: str, index: Index, settings: DataSettings) -> None:
        check(describe(folder), settings, folder)
        self.storage = Storage(folder)
        self.index = index
        self.settings = settings
        self.names = [part_name(index, chunk) for chunk in range(len(index.chunks))]
        there = {f"parts/{name}" for name in self.storage.list("parts")}
        missing = [name for name in self.names if name not in there]
        if missing:
            raise ConfigError(
                f"data.cache: {folder} lacks {len(missing)} of {len(self.names)} parts (the first is {missing[0]}): "
                "go on writing it with these shards, data.split and data.where"
            )
        self.buffers = Buffers()
        self._local = threading.local()

    def sample(self, row: int, bucket: Bucket, draw: Draw) -> CachedSample:
        """One sample of the index, with the instruction that is drawn for it; its tensors are not copied yet."""
        chunk = self.index.chunk_of(row)
        reader, places = self._part(chunk)
        batch = reader.get_batch(places[row - int(self.index.chunk_firsts[chunk])])
        features = [name for name in batch.schema.names if pa.types.is_struct(batch.schema.field(name).type)]
        values = {name: batch.column(name)[0].as_py() for name in batch.schema.names if name not in features}
        if (values["width"], values["height"]) != (bucket.width, bucket.height):
            size = f"{values['width']} x {values['height']} pixels, planned for the bucket {bucket}"
            raise ConfigError(f"data.cache: {self.names[chunk]}: {values['id']} is of {size}: write the cache again")
        error = values["error"]
        texts = {name: values[name] for name in self.settings.instructions.usable()}
        column = wording.choose(texts, values["register"], self.settings.instructions, draw.u(draws.WORDING))
        if column is None:
            error = error or "no instruction: those that it has are of weight 0"
            column = next(iter(texts))
        tensors = {name: Tensor.within(batch.column(name)) for name in features if not name.startswith(f"{TEXT}.")}
        tensors[TEXT] = Tensor.within(batch.column(f"{TEXT}.{column}"))
        boxes: list[Box] = [tuple(box) for box in values["boxes"]]
        return CachedSample(values["id"], texts[column] or "", boxes, error, tensors)

    def _part(self, chunk: int) -> tuple[pa.ipc.RecordBatchFileReader, list[int]]:
        """A thread's own open file of a chunk, and the record batch of each of its samples."""
        parts: OrderedDict[int, Any] = self._local.__dict__.setdefault("parts", OrderedDict())
        if chunk not in parts:
            path = self.storage.path(self.names[chunk])
            local = isinstance(self.storage.filesystem, pafs.LocalFileSystem)
            source = pa.memory_map(path) if local else self.storage.open(self.names[chunk])
            reader = pa.ipc.open_file(source)
            parts[chunk] = reader, json.loads(reader.schema.metadata[b"places"])
            if len(parts) > _OPEN_PARTS:
                parts.popitem(last=False)
        parts.move_to_end(chunk)
        return parts[chunk]


def stacked(samples: Sequence[Mapping[str, Tensor]], buffers: Buffers) -> dict[str, torch.Tensor]:
    """Features of a batch, each (n, ...); texts (n, L, D), padded with zeros to the longest, with their `..._mask`
    (n, L), bool."""
    names = dict.fromkeys(name for sample in samples for name in sample)
    features: dict[str, torch.Tensor] = {}
    for name in names:
        tensors = [sample.get(name) for sample in samples]
        known = next(tensor for tensor in tensors if tensor is not None)
        if not name.endswith(TEXT):
            features[name] = _filled(tensors, known.dtype, known.shape, buffers)
        else:
            longest = max(tensor.shape[0] for tensor in tensors if tensor is not None)
            features[name] = _filled(tensors, known.dtype, (longest, *known.shape[1:]), buffers)
            lengths = torch.tensor([0 if tensor is None else tensor.shape[0] for tensor in tensors])
            features[f"{name}_mask"] = torch.arange(longest)[None] < lengths[:, None]
    return features


def _filled(
    tensors: Sequence[Tensor | None], dtype: torch.dtype, shape: tuple[int, ...], buffers: Buffers
) -> torch.Tensor:
    """One copy of the bytes, into a tensor (n, *shape), zeros behind them."""
    each = math.prod(shape) * dtype.itemsize
    flat = buffers.take(len(tensors) * each)
    for place, tensor in enumerate(tensors):
        data = np.frombuffer(tensor.data, dtype=np.uint8) if tensor is not None else np.empty(0, np.uint8)
        if len(data) > each:
            raise ValueError(f"tensors of one batch differ in shape: {tensor.shape if tensor else ()} and {shape}")
        flat[place * each : place * each + len(data)] = data
        flat[place * each + len(data) : (place + 1) * each] = 0
    return torch.from_numpy(flat).view(dtype).view(len(tensors), *shape)
