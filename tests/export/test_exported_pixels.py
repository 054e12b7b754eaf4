"""What a user's reader finds in the shards of pairs of every format, profile and size."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from damage import grey_png_of_16_bits
from engine_tools import table
from icc import ADOBE, P3, matrix_profile, numbers_in
from PIL import Image, ImageCms, features
from places import ROOT

from ugaf.cli import main
from ugaf.columns.view import RunView
from ugaf.imaging import images
from ugaf.ingest.detect import IMAGE_SUFFIXES

webdataset = pytest.importorskip("webdataset")
README = ROOT / "README.md"
BOX = (120, 90, 200, 170)


@pytest.fixture(scope="module")
def source(photos: dict[str, np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(photos["coffee"][:320, :400])


@pytest.fixture(scope="module")
def edited(source: np.ndarray) -> np.ndarray:
    changed = source.copy()
    x1, y1, x2, y2 = BOX
    changed[y1:y2, x1:x2] = changed[y1:y2, x1:x2, ::-1] // 2 + 100
    return changed


def save(pixels: np.ndarray, suffix: str = ".png", **options: Any) -> bytes:
    out = io.BytesIO()
    if suffix == ".webp" and not options:
        options = {"lossless": True}
    Image.fromarray(pixels).save(out, Image.registered_extensions()[suffix], **options)
    return out.getvalue()


def refine(folder: Path, pairs: dict[str, tuple[bytes, bytes]], *settings: str) -> dict[str, dict[str, Any]]:
    """Pairs by name (their instruction) through the command; the exported rows of the Parquet shards by name."""
    lines = []
    for name, (first, second) in pairs.items():
        (folder / f"{name}-s").write_bytes(first)
        (folder / f"{name}-e").write_bytes(second)
        lines.append({"source": f"{name}-s", "edited": f"{name}-e", "instruction": name, "task": "recolor"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    off = ("score.keep.quality", "same_pairs.keep.same_pairs")
    none = [f"refinement.{rule}=null" for rule in off]
    asked = ["engine.executor=inline", "export.validation=0", *none, *settings]
    flags = [part for setting in asked for part in ("--set", setting)]
    assert main(["run", "refine", f"--input={folder / 'pairs.jsonl'}", f"--output={folder / 'run'}", *flags]) == 0
    shards = [pq.read_table(path) for path in sorted((folder / "run").glob("shards/parquet/train-*.parquet"))]
    return {row["instruction"]: row for shard in shards for row in shard.to_pylist()}


def loop_of_the_readme(run: Path) -> list[dict[str, Any]]:
    """The block of README.md that reads tars, on this run."""
    block = next(b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "WebDataset(" in b)
    block = block.replace("runs/demo", str(run))
    last = block.rstrip().splitlines()[-1].strip()
    seen: list[Any] = []
    exec(block.replace(last, f"seen.append(({last}))"), {"seen": seen})  # our own README
    return [dict(zip(("instruction", "source", "edited"), one, strict=True)) for one in seen]


def test_the_readmes_loop_reads_pairs_of_every_suffix(tmp_path: Path, source: np.ndarray, edited: np.ndarray) -> None:
    known = Image.registered_extensions()
    suffixes = [
        suffix for suffix in IMAGE_SUFFIXES if suffix in known and (suffix != ".avif" or features.check("avif"))
    ]
    assert len(suffixes) >= 9
    # A pixel of its own, so that no two pairs are the same.
    pairs = {}
    for number, suffix in enumerate(suffixes):
        first, second = source.copy(), edited.copy()
        first[:8, :8], second[:8, :8] = number * 9, number * 9
        pairs[suffix[1:]] = (save(first, suffix), save(second, suffix))
    pairs["16 bits"] = (grey_png_of_16_bits(source), grey_png_of_16_bits(edited))
    rows = refine(tmp_path, pairs)
    found = {pair["instruction"]: pair for pair in loop_of_the_readme(tmp_path / "run")}
    assert found.keys() == rows.keys() == pairs.keys()
    for name, pair in found.items():
        for role, data in zip(("source", "edited"), pairs[name], strict=True):
            assert isinstance(pair[role], Image.Image)
            assert np.array_equal(np.array(pair[role].convert("RGB")), images.decode(data)), (name, role)


def as_shown(data: bytes) -> np.ndarray:
    """A reader that applies profiles."""
    image = Image.open(io.BytesIO(data))
    profile = image.info.get("icc_profile")
    if profile:
        target = ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), target)
    return np.array(image.convert("RGB")).astype(int)


def as_numbers(data: bytes) -> np.ndarray:
    """A reader that ignores them."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_both_pictures_of_a_pair_agree_outside_the_edit_for_every_reader(
    tmp_path: Path, source: np.ndarray, edited: np.ndarray
) -> None:
    wide = [(name, space, matrix_profile(*space)) for name, space in (("adobe", ADOBE), ("p3", P3))]
    pairs = {}
    for name, space, profile in wide:
        tagged = save(numbers_in(space, source), icc_profile=profile)
        pairs[f"{name} to srgb"] = (tagged, save(edited))
        pairs[f"{name} to {name}"] = (tagged, save(numbers_in(space, edited), icc_profile=profile))
    rows = refine(tmp_path, pairs)
    assert rows.keys() == pairs.keys()
    outside = np.ones(source.shape[:2], bool)
    outside[BOX[1] - 4 : BOX[3] + 4, BOX[0] - 4 : BOX[2] + 4] = False
    for name, row in rows.items():
        assert row["source_reencoded"]
        for read in (as_shown, as_numbers):
            first, second = read(row["source"]["bytes"]), read(row["edited"]["bytes"])
            assert np.abs(first - second)[outside].mean() < 1, (name, read)
            assert np.abs(first - source)[outside].mean() < 1, (name, read)
        assert np.abs(np.array(row["bbox_edit"]) - BOX).max() <= 3, name
        assert row["colour_drift"] < 1


class TestSizes:
    @pytest.fixture(scope="class")
    def pairs(self, source: np.ndarray, edited: np.ndarray) -> dict[str, tuple[bytes, bytes]]:
        exif = Image.Exif()
        exif[images.EXIF_ORIENTATION] = 6
        turned = np.ascontiguousarray(np.rot90(source))
        resized = cv2.resize(edited, (384, 304), interpolation=cv2.INTER_AREA)
        return {
            "same": (save(source), save(edited)),
            "rounded": (save(source), save(resized)),
            "twice": (save(source), save(cv2.resize(edited, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))),
            "unturned": (save(turned, ".jpg", exif=exif, quality=95), save(np.ascontiguousarray(np.rot90(edited)))),
            "extended": (save(source), save(np.pad(edited, ((0, 0), (60, 60), (0, 0)), mode="edge"))),
        }

    def test_sizes_are_measured_ruled_on_and_brought_together(
        self, tmp_path: Path, pairs: dict[str, tuple[bytes, bytes]], edited: np.ndarray
    ) -> None:
        rows = refine(tmp_path, pairs)
        assert rows.keys() == {"same", "rounded", "twice"}
        assert rows["same"]["edited"]["bytes"] == pairs["same"][1]
        for name in ("rounded", "twice"):
            pixels = images.decode(rows[name]["edited"]["bytes"])
            assert pixels.shape == edited.shape
            assert np.abs(pixels.astype(int) - edited).mean() < 4
            assert rows[name]["edited_reencoded"]
        names = ["instruction", "edited_width", "edited_height", "aspect_difference"]
        measured = {row["instruction"]: row for row in table(RunView(str(tmp_path / "run")), "edit", names).values()}
        assert (measured["rounded"]["edited_width"], measured["rounded"]["edited_height"]) == (384, 304)
        assert measured["same"]["aspect_difference"] == 0
        for name in ("unturned", "extended"):
            assert measured[name]["status"] == "rejected"
            assert "aspect_difference" in measured[name]["reason"]
            assert measured[name]["aspect_difference"] > 0.1

    def test_they_stay_as_they_came_on_request(self, tmp_path: Path, pairs: dict[str, tuple[bytes, bytes]]) -> None:
        rows = refine(tmp_path, {name: pairs[name] for name in ("same", "rounded")}, "export.registered=false")
        assert rows["rounded"]["edited"]["bytes"] == pairs["rounded"][1]
        assert not rows["rounded"]["edited_reencoded"]
