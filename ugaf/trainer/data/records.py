"""From a chunk's bytes to examples: a sample as it is stored (`Record`), and as its bucket shows it (`Example`).

Reading and decoding are apart, so that one process may read and others decode. Whatever is wrong with one sample is a
`CorruptSampleError` that says what, and costs no other; a chunk that cannot be read is wrong in each of its samples.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ugaf.imaging import images
from ugaf.imaging.boxes import Box
from ugaf.trainer.data import draws, light, wording
from ugaf.trainer.data.geometry import Bucket, Fit, UnsuitableError
from ugaf.trainer.data.index import Index
from ugaf.trainer.data.settings import DataSettings
from ugaf.trainer.data.shards import Chunk


class CorruptSampleError(Exception):
    """A sample that cannot be used; the message says why."""


@dataclass(frozen=True)
class Record:
    """A sample as it is stored. source, edited, references: files of images, None where they are missing.

    texts: instructions by column. boxes: in pixels of the source, none for a global edit. where: its place, for
    messages. width, height: pixels of the source, as the row says.
    """

    id: str
    where: str
    width: int
    height: int
    source: bytes | None
    edited: bytes | None
    references: tuple[bytes | None, ...]
    boxes: tuple[Box, ...]
    texts: Mapping[str, str | None]
    register: str | None


@dataclass(frozen=True)
class Example:
    """A sample in its bucket. source, edited: RGB uint8 (H, W, 3). references: uint8 (R, H, W, 3).

    boxes: in the bucket's pixels. column: of the instruction that was drawn.
    """

    id: str
    source: np.ndarray
    edited: np.ndarray
    references: np.ndarray
    boxes: list[Box]
    instruction: str
    column: str


@dataclass(frozen=True)
class Draw:
    """The random choices of one sample in one epoch. bits: references that are shown."""

    key: int
    seed: int
    epoch: int
    bits: int = 0

    def u(self, purpose: int) -> float:
        """A number of 0 <= u < 1."""
        return float(draws.uniform(np.array([self.key], dtype=np.uint64), self.seed, self.epoch, purpose)[0])


class ChunkRecords(Protocol):
    """A chunk that was read."""

    def record(self, local: int, where: str) -> Record:
        """The sample at a place in the chunk. Raises CorruptSampleError."""
        ...


def read_chunk(index: Index, chunk: Chunk, settings: DataSettings) -> ChunkRecords:
    """Read a chunk; where that cannot be done, every record of it is corrupt for that reason."""
    shard = index.shards[chunk.shard]
    try:
        with shard.open() as stream:
            if shard.name.endswith(".parquet"):
                return _ParquetChunk(stream, chunk, settings)
            stream.seek(chunk.start)
            return _TarChunk(stream.read(chunk.length), settings)
    except (OSError, pa.ArrowException) as error:
        return _FailedChunk(f"its chunk cannot be read: {error}")


class _FailedChunk:
    def __init__(self, why: str) -> None:
        self.why = why

    def record(self, local: int, where: str) -> Record:  # noqa: ARG002
        raise CorruptSampleError(self.why)


class _ParquetChunk:
    def __init__(self, stream: pa.NativeFile, chunk: Chunk, settings: DataSettings) -> None:
        with pq.ParquetFile(stream, pre_buffer=True) as file:
            names = light.heavy_leaves(file.schema_arrow, settings)
            table = file.read_row_group(chunk.number, columns=names, use_threads=False)
        self.columns: dict[str, pa.ChunkedArray] = {name: table.column(name) for name in table.column_names}
        self.settings = settings

    def record(self, local: int, where: str) -> Record:
        row = {name: column[local].as_py() for name, column in self.columns.items() if name != self.settings.references}
        references: list[Any] = []
        if self.settings.references in self.columns:
            # Those that are not used are not copied.
            found = self.columns[self.settings.references][local].values
            references = [] if found is None else found[: self.settings.max_references].to_pylist()
        return _record(row, where, _data(row["source"]), _data(row["edited"]), map(_data, references), self.settings)


def _data(image: Any) -> bytes | None:
    """An image's file, from a column of bytes or of {bytes, path}."""
    return image.get("bytes") if isinstance(image, dict) else image


class _TarChunk:
    def __init__(self, data: bytes, settings: DataSettings) -> None:
        self.data = data
        self.settings = settings
        self.samples: list[light.Sample] = []
        self.damage = "the run of tar members has fewer samples than when it was indexed"
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                self.samples.extend(light.tar_samples(tar))
        except tarfile.TarError as error:
            self.damage = f"its run of tar members is damaged: {error}"

    def record(self, local: int, where: str) -> Record:
        if local >= len(self.samples):
            raise CorruptSampleError(self.damage)
        sample = self.samples[local]
        try:
            row = json.loads(self._member(sample, "json") or b"null")
        except ValueError as error:
            raise CorruptSampleError(f"its json cannot be read: {error}") from error
        if not isinstance(row, dict):
            raise CorruptSampleError("it has no json with its values")
        references = [self._member(sample, suffix) for suffix in light.reference_members(sample, self.settings)]
        source, edited = (self._image(sample, name) for name in ("source", "edited"))
        return _record({"id": sample.key, **row}, where, source, edited, references, self.settings)

    def _image(self, sample: light.Sample, name: str) -> bytes | None:
        suffix = next((suffix for suffix in sample.members if suffix.split(".")[0] == name), None)
        return None if suffix is None else self._member(sample, suffix)

    def _member(self, sample: light.Sample, suffix: str) -> bytes | None:
        if suffix not in sample.members:
            return None
        start, size = sample.members[suffix]
        return self.data[start : start + size]


def _record(
    row: Mapping[str, Any],
    where: str,
    source: bytes | None,
    edited: bytes | None,
    references: Iterable[bytes | None],
    settings: DataSettings,
) -> Record:
    boxes = row.get("boxes")
    if boxes is None:
        boxes = [row["bbox"]] if row.get("bbox") is not None else []
    try:
        return Record(
            id=str(row["id"]),
            where=where,
            width=int(row["width"]),
            height=int(row["height"]),
            source=source,
            edited=edited,
            references=tuple(references),
            boxes=tuple(_box(box) for box in boxes),
            texts={name: row.get(name) for name in settings.instructions.columns},
            register=row.get("register"),
        )
    except (TypeError, ValueError, KeyError) as error:
        raise CorruptSampleError(f"its values cannot be read: {type(error).__name__}: {error}") from error


def _box(box: Sequence[Any]) -> Box:
    x1, y1, x2, y2 = (int(edge) for edge in box)
    return x1, y1, x2, y2


def say(record: Record, draw: Draw, settings: DataSettings) -> tuple[str, str, list[int]]:
    """The instruction drawn for a sample, its column, and the references that are shown, in their order.

    Raises CorruptSampleError where no instruction of the row may be drawn.
    """
    column = wording.choose(record.texts, record.register, settings.instructions, draw.u(draws.WORDING))
    if column is None:
        having = ", ".join(name for name, text in record.texts.items() if (text or "").strip()) or "none"
        raise CorruptSampleError(
            f"no instruction: of data.instructions it has {having} (register {record.register}), of weight 0"
        )
    shown = wording.order(draw.key, draw.bits, settings.alignment, draw.seed, draw.epoch)
    text = str(record.texts[column])
    if shown != list(range(len(shown))):
        text = wording.renumber(text, shown, settings.alignment.first)
    return text, column, shown


def example(record: Record, bucket: Bucket, draw: Draw, settings: DataSettings) -> Example:
    """Decode a sample and fit it into its bucket. Raises CorruptSampleError."""
    try:
        instruction, column, shown = say(record, draw, settings)
        fit = fit_of(record, bucket)
        boxes = fit.boxes(record.boxes)
        source = fit.image(_decoded(record.source, "source"))
        try:
            edited = fit.image(_decoded(record.edited, "edited"))
        except UnsuitableError as error:
            raise CorruptSampleError(f"edited is {error}, the size of its source") from error
        references = np.empty((bucket.conditions - 1, bucket.height, bucket.width, 3), dtype=np.uint8)
        for place, number in enumerate(shown):
            if number >= len(record.references):
                raise CorruptSampleError(f"reference {number} is missing")
            pixels = _decoded(record.references[number], f"reference {number}")
            references[place] = Fit.of(pixels.shape[1], pixels.shape[0], bucket).image(pixels)
    except UnsuitableError as error:
        raise CorruptSampleError(str(error)) from error
    return Example(record.id, source, edited, references, boxes, instruction, column)


def fit_of(record: Record, bucket: Bucket) -> Fit:
    """How the source and the edited image of a record go into a bucket."""
    return Fit.of(record.width, record.height, bucket, record.boxes)


def _decoded(data: bytes | None, name: str) -> np.ndarray:
    if data is None:
        raise CorruptSampleError(f"{name} is missing")
    try:
        return images.decode(data)
    except images.ImageError as error:
        raise CorruptSampleError(f"{name}: {error}") from error
