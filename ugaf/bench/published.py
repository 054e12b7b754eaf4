"""Item formats of the published benchmarks, as their repositories and data set cards give them.

- ImgEdit-Bench: `Benchmark/Basic/basic_bench_readme.md` of PKU-YuanGroup/ImgEdit. `basic_edit.json` maps a key to
  {id: path of the source below the image root, prompt, edit_type}; outputs are `KEY.png`.
- GEdit-Bench: `GEdit-Bench/generate_image_example.py` of stepfun-ai/Step1X-Edit. Columns task_type, key, instruction,
  instruction_language, input_image, input_image_raw, Intersection_exist; outputs are
  `fullset/TASK/LANGUAGE/KEY.png`. The set on the hub is stored as Arrow files; exports of it as Parquet.
- REDEdit-Bench: the data set card of FireRedTeam/REDEdit-Bench. JSON Lines with id, source (a path that starts at the
  folder of the file), a_to_b_instructions (Chinese), a_to_b_instructions_eng, task; outputs are `TASK/ID.png` by the
  card, `TASK/TASK-ID.png` by the later script, or `ID.png`.

Files are local. An item that lacks a field fails alone where the field is only its own; the message names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ugaf.base.errors import ConfigError, nearest
from ugaf.bench.items import Benchmark, Item, Pictures
from ugaf.ingest.pair_cells import image_cell
from ugaf.ingest.sources import RecordError
from ugaf.stage import Failure


def load_imgedit(data: str, images: str | None) -> Benchmark:
    """ImgEdit-Bench's basic suite. data: `basic_edit.json`, or the folder that holds it. Raises ConfigError."""
    file = _file(data, "basic_edit.json")
    records = _json(file)
    if not isinstance(records, dict):
        raise ConfigError(f"--data: {file}: expected a JSON object of items by key, as in ImgEdit's basic_edit.json")
    items = []
    for key, record in records.items():
        where = f"--data: {file}: item {key!r}"
        path, prompt, kind = (_field(record, name, where) for name in ("id", "prompt", "edit_type"))
        items.append(Item(str(key), kind, prompt, outputs=(str(key),), where=path))
    roots = ("singleturn", "Benchmark/singleturn", "images", "original_images", "")
    return _with_files(items, _roots(file.parent, images, roots), file)


def load_rededit(data: str, images: str | None, language: str) -> Benchmark:
    """REDEdit-Bench. data: its JSON Lines file, or the folder with one such file. language: "en" or "cn"."""
    file = _file(data, "*.jsonl")
    asked = {"en": "a_to_b_instructions_eng", "cn": "a_to_b_instructions"}[language]
    items = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        where = f"--data: {file}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where}: not JSON: {error}") from error
        id, task, source, instruction = (_field(record, name, where) for name in ("id", "task", "source", asked))
        outputs = (f"{task}/{task}-{id}", f"{task}/{id}", id)
        text = record.get("target_text")
        items.append(Item(id, task, instruction, language, outputs, text=text, where=source))
    return _with_files(items, _roots(file.parent, images, ("", "..")), file)


GEDIT_IMAGES = ("input_image_raw", "input_image", "source_image")
"""The source's column: the picture as it came where there is one, else the one that was resized."""


def load_gedit(data: str, language: str) -> Benchmark:
    """GEdit-Bench. data: a Parquet or Arrow file, or the folder with them. language: "en", "cn" or "both"."""
    path = Path(data).expanduser()
    files = [path] if path.is_file() else sorted([*path.rglob("*.parquet"), *path.rglob("*.arrow")])
    if not files:
        raise ConfigError(f"--data: {data}: no .parquet or .arrow file there")
    items = []
    for file in files:
        schema = _schema(file)
        image = next((name for name in GEDIT_IMAGES if name in schema.names), None)
        needed = ("task_type", "key", "instruction", "instruction_language")
        for name in (*needed, *(() if image else GEDIT_IMAGES[1:2])):
            if name not in schema.names:
                raise ConfigError(f"--data: {file}: no column {name!r}{nearest(name, schema.names)}")
        for place, values in zip(_places(file), _light(file, needed), strict=True):
            task, key, instruction, spoken = (str(values[name]) for name in needed)
            if language in ("both", spoken):
                outputs = (f"fullset/{task}/{spoken}/{key}", f"{task}/{spoken}/{key}")
                where = (file, image, *place)
                items.append(Item(f"{spoken}-{key}", task, instruction, spoken, outputs, where=where))
    return Benchmark(tuple(items), _read_cells)


def _read_cells(items: Sequence[Item]) -> Iterator[Pictures | Failure]:
    """Neighbours of one row group are read together."""
    for (file, name, group), members in groupby(items, key=lambda item: item.where[:3]):
        try:
            column = _column(file, group, name)
        except (OSError, pa.ArrowException) as error:
            yield from (Failure.of(error) for _ in members)
            continue
        for item in members:
            try:
                cell = image_cell("source", column[item.where[3]].as_py())
                yield Pictures(cell if isinstance(cell, bytes) else (file.parent / cell).read_bytes())
            except (OSError, IndexError, pa.ArrowException, RecordError) as error:
                yield Failure.of(error)


def _places(file: Path) -> Iterator[tuple[int, int]]:
    """(row group, row in it) of each row; an Arrow file is mapped, and counts as one group."""
    if file.suffix == ".arrow":
        yield from ((0, row) for row in range(_mapped(file).num_rows))
        return
    metadata = pq.read_metadata(file)
    for group in range(metadata.num_row_groups):
        yield from ((group, row) for row in range(metadata.row_group(group).num_rows))


def _light(file: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    table = _mapped(file).select(list(names)) if file.suffix == ".arrow" else pq.read_table(file, columns=list(names))
    return table.to_pylist()


def _column(file: Path, group: int, name: str) -> pa.ChunkedArray:
    if file.suffix == ".arrow":
        return _mapped(file).column(name)
    with pq.ParquetFile(file) as parquet:
        return parquet.read_row_group(group, columns=[name]).column(name)


def _mapped(file: Path) -> pa.Table:
    """The table of an Arrow file, of which only what is looked at is read."""
    with _arrow(file) as reader:
        return reader.read_all()


def _schema(file: Path) -> pa.Schema:
    try:
        if file.suffix == ".parquet":
            return pq.read_schema(file)
        with _arrow(file) as reader:
            return reader.schema
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"--data: {file}: cannot be read: {error}") from error


def _arrow(file: Path) -> Any:
    """`datasets` writes the stream format; other tools the file format."""
    source = pa.memory_map(str(file))
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source)


def _file(data: str, pattern: str) -> Path:
    path = Path(data).expanduser()
    found = [path] if path.is_file() else sorted(path.glob(pattern)) or sorted(path.glob(f"*/{pattern}"))
    if not found:
        raise ConfigError(f"--data: no {pattern} at {data}")
    if len(found) > 1:
        raise ConfigError(f"--data: several files could be it: {', '.join(map(str, found))}: name one")
    return found[0]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"--data: {file}: not JSON: {error}") from error


def _field(record: Any, name: str, where: str) -> str:
    if not isinstance(record, Mapping) or not isinstance(record.get(name), str | int):
        known = record.keys() if isinstance(record, Mapping) else ()
        raise ConfigError(f"{where}: no text {name!r}{nearest(name, known)}")
    return str(record[name])


def _roots(folder: Path, images: str | None, usual: Sequence[str]) -> list[Path]:
    return [Path(images).expanduser()] if images else [folder / name for name in usual]


def _with_files(items: list[Item], roots: Sequence[Path], file: Path) -> Benchmark:
    """The benchmark whose pictures lie below the first of `roots` that has any of the first items'."""

    def at(root: Path, path: str) -> Path:
        # A folder of images may be given with or without the part that every path starts with.
        whole = root / path
        return whole if whole.exists() else root / path.partition("/")[2]

    root = next((root for root in roots if any(at(root, item.where).is_file() for item in items[:20])), None)
    if items and root is None:
        looked = ", ".join(str(root / items[0].where) for root in roots)
        raise ConfigError(f"--data: {file}: its pictures are not there (looked for {looked}): give --images FOLDER")

    def read(wanted: Sequence[Item]) -> Iterator[Pictures | Failure]:
        for item in wanted:
            try:
                yield Pictures(at(root or Path(), item.where).read_bytes())
            except OSError as error:
                yield Failure.of(error)

    return Benchmark(tuple(items), read)
