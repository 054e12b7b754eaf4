"""Images that changed in the run's store are a damaged part: the run stops and names it; no row is judged by them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_tools import go, make_photos, table

from ugaf.base.errors import STOPPED
from ugaf.cli import main
from ugaf.columns.view import RunView
from ugaf.imaging import images
from ugaf.pipeline import config


def pairs(folder: Path) -> Path:
    """Two pairs in a list."""
    lines = []
    for number in range(2):
        rgb = np.random.default_rng(number).integers(0, 256, (64, 80, 3), dtype=np.uint8)
        changed = rgb.copy()
        changed[10:40, 10:50] //= 2
        for name, pixels in ((f"s{number}.png", rgb), (f"e{number}.png", changed)):
            (folder / name).write_bytes(images.encode(pixels))
        lines.append({"source": f"s{number}.png", "edited": f"e{number}.png", "instruction": f"darken it {number}"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "pairs.jsonl"


def flip(part: Path, inside: bytes) -> None:
    """One bit in the middle of an image as it lies in a part."""
    data = bytearray(part.read_bytes())
    at = data.find(inside[: len(inside) // 2]) + len(inside) // 2
    assert at > len(inside) // 2
    data[at] ^= 4
    part.write_bytes(data)


def without_checksums(part: Path) -> None:
    """The same part as one written before pages had checksums."""
    with pq.ParquetFile(part) as file:
        groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
        light, facts = file.metadata.metadata[b"ugaf.light"], file.schema_arrow.metadata or {}
    table = pa.concat_tables(groups)
    with pq.ParquetWriter(
        part, table.schema.with_metadata(facts), compression="NONE", use_dictionary=False, write_statistics=False
    ) as writer:
        writer.write_table(table, row_group_size=8)
        writer.add_key_value_metadata({"ugaf.light": light})


def asked(kind: str, folder: Path) -> list[str]:
    given = folder / ("photos" if kind == "curate" else "pairs.jsonl")
    return [f"inputs=[{json.dumps(str(given))}]", "engine.executor=inline", "fragment_rows=4"]


def run(kind: str, folder: Path) -> int:
    """The whole pipeline by the command."""
    options = [part for setting in asked(kind, folder) for part in ("--set", setting)]
    return main(["run", kind, f"--output={folder / 'run'}", "--no-export", *options])


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("kind", ["curate", "refine"])
def test_a_stored_image_that_changed_stops_the_run_and_names_its_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, checksums: bool
) -> None:
    if kind == "curate":
        files = make_photos(tmp_path / "photos", 6)
    else:
        pairs(tmp_path)
        files = [tmp_path / "e0.png", tmp_path / "s1.png"]
    go(config.load(kind, [*asked(kind, tmp_path), f"output={tmp_path / 'run'}"]), last="ingest")
    parts = sorted((tmp_path / "run").glob("ingest@*/*/*.parquet"))
    damaged = next(part for part in parts if files[0].read_bytes() in part.read_bytes())
    if not checksums:
        without_checksums(damaged)
    flip(damaged, files[0].read_bytes())
    capsys.readouterr()

    assert run(kind, tmp_path) == STOPPED
    said = capsys.readouterr().err
    assert str(damaged) in said
    assert "elete" in said
    view = RunView(str(tmp_path / "run"))
    level = "image" if kind == "curate" else "edit"
    assert "failed" not in {row["status"] for row in table(view, level, ["width"]).values()}

    damaged.unlink()
    run(kind, tmp_path)
    rows = table(RunView(str(tmp_path / "run")), level, ["width"])
    assert len(rows) == (6 if kind == "curate" else 2)
    assert not {"failed", "pending"} & {row["status"] for row in rows.values()}


def test_a_made_image_that_changed_is_no_verdict_on_its_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Edited images have no id of their own: the checksums of their part tell."""
    settings = ["engine.executor=inline", "inputs=[{path: 'sample://', limit: 2}]"]
    go(config.load("demo", [*settings, f"output={tmp_path / 'run'}"]), last="generation.edit")
    command = ["run", "demo", f"--output={tmp_path / 'run'}", "--no-export", "--set", settings[0], "--set", settings[1]]
    view = RunView(str(tmp_path / "run"))
    made = [row["edited_image"] for row in table(view, "edit", ["edited_image"]).values() if row["edited_image"]]
    part = next(p for p in (tmp_path / "run").glob("generation.edit@*/*/*.parquet") if made[0] in p.read_bytes())
    flip(part, made[0])
    capsys.readouterr()
    assert main(command) == STOPPED
    assert str(part) in capsys.readouterr().err
    assert "failed" not in {row["status"] for row in table(RunView(str(tmp_path / "run")), "edit", ["width"]).values()}


def test_every_page_of_a_part_has_a_checksum(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    go(config.load("curate", [*asked("curate", tmp_path), f"output={tmp_path / 'run'}"]), last="curation.resolution")
    for part in (tmp_path / "run").rglob("*.parquet"):
        whole, found = part.read_bytes(), []
        for share in range(1, 12):  # some of the bytes are those of a page's header
            data = bytearray(whole)
            data[len(data) * share // 24] ^= 1
            try:
                pq.read_table(pa.BufferReader(bytes(data)), page_checksum_verification=True)
            except (OSError, pa.ArrowInvalid) as error:
                found.append(str(error))
        assert any(re.search("CRC|checksum", text) for text in found), (part.name, found)
