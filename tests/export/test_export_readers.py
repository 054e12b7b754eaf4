"""The exported shards, read by the libraries that trainers use."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from export_fakes import FakeView, two_fragments
from PIL import Image

from ugaf.export import ExportSettings, export
from ugaf.export.adapters.instruct_pix2pix import COLUMN_MAP
from ugaf.imaging import images
from ugaf.storage import Storage

datasets = pytest.importorskip("datasets")
webdataset = pytest.importorskip("webdataset")


@pytest.fixture(scope="module")
def kept(photos: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The kept edits by id."""
    rows = [row for table in two_fragments(photos) for row in table.to_pylist()]
    return {row["id"]: row for row in rows if row["status"] == "kept"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, np.ndarray]) -> Path:
    """A run's folder after an export with several shards of each kind, and other files of a run beside them."""
    root = tmp_path_factory.mktemp("run")
    view = FakeView(Storage(str(root)), two_fragments(photos))
    view.storage.write("ingest@f00d/000000/part-000-a.parquet", b"not for readers of the shards")
    export(view, ExportSettings(validation=0.5, shard_mb=0.15, adapters=["instruct_pix2pix"]))
    return root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    yield str(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def _check_pair(row: dict[str, Any], truth: dict[str, Any]) -> None:
    np.testing.assert_array_equal(np.asarray(row["source"].convert("RGB")), images.decode(truth["image"]))
    np.testing.assert_array_equal(np.asarray(row["edited"].convert("RGB")), images.decode(truth["edited_image"]))
    np.testing.assert_array_equal(np.asarray(row["edit_mask"]), images.decode_mask(truth["edit_mask"]))
    assert row["change_mask"] is None
    for name in ("instruction", "task", "boxes", "bbox_edit", "rgb_entropy", "n_objects", "quality", "sources"):
        assert row[name] == truth[name]
    assert row["bbox"] == truth["boxes"][0]


@pytest.mark.parametrize("where", ["run", "parquet"])
def test_datasets_shows_images_and_the_right_pixels(
    run: Path, kept: dict[str, dict[str, Any]], cache: str, where: str
) -> None:
    if where == "run":  # by the dataset card, as on the Hub
        loaded = datasets.load_dataset(str(run), cache_dir=cache)
    else:
        loaded = datasets.load_dataset("parquet", data_dir=str(run / "shards" / "parquet"), cache_dir=cache)
    assert set(loaded) == {"train", "validation"}
    assert loaded["train"].features["source"] == datasets.Image()
    assert sum(len(part) for part in loaded.values()) == len(kept)
    for name, part in loaded.items():
        for row in part:
            assert row["split"] == name
            _check_pair(row, kept[row["id"]])


def test_datasets_streams_the_same_rows(run: Path, kept: dict[str, dict[str, Any]], cache: str) -> None:
    files = {"train": str(run / "shards" / "parquet" / "train-*.parquet")}
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=cache)
    rows = list(stream)
    assert [row["split"] for row in rows] == ["train"] * len(rows)
    assert len(rows) > 0
    for row in rows:
        _check_pair(row, kept[row["id"]])


def test_features_are_readable_by_old_releases_of_datasets(run: Path) -> None:
    first = next((run / "shards" / "parquet").iterdir())
    features = pq.read_schema(first).metadata[b"huggingface"].decode()
    assert set(re.findall(r'"_type": "(\w+)"', features)) == {"Value", "Sequence", "Image"}
    assert datasets.Features.from_arrow_schema(pq.read_schema(first))["boxes"] is not None


def test_pandas_and_pyarrow_read_the_folder(run: Path, kept: dict[str, dict[str, Any]]) -> None:
    frame = pd.read_parquet(run / "shards" / "parquet")
    assert sorted(frame["id"]) == sorted(kept)
    train = pd.read_parquet(run / "shards" / "parquet", filters=[("split", "==", "train")])
    assert 0 < len(train) < len(frame)
    for row in frame.to_dict("records"):
        pixels = np.asarray(Image.open(io.BytesIO(row["edited"]["bytes"])).convert("RGB"))
        np.testing.assert_array_equal(pixels, images.decode(kept[row["id"]]["edited_image"]))
        assert row["quality"] == 8.25
    table = pq.read_table(run / "shards" / "parquet", columns=["id", "bbox", "iou"])
    assert table.schema.field("bbox").type == pa.list_(pa.int32())
    assert len(table) == len(kept)


def test_webdataset_gives_whole_samples(run: Path, kept: dict[str, dict[str, Any]]) -> None:
    seen = []
    for split in ("train", "validation"):
        shards = sorted(str(path) for path in (run / "shards" / "webdataset").glob(f"{split}-*.tar"))
        samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode("pil"))
        for sample in samples:
            truth, described = kept[sample["__key__"]], sample["json"]
            assert (described["id"], described["split"]) == (sample["__key__"], split)
            np.testing.assert_array_equal(np.asarray(sample["source.jpg"]), images.decode(truth["image"]))
            np.testing.assert_array_equal(np.asarray(sample["edited.png"]), images.decode(truth["edited_image"]))
            mask = np.asarray(sample["edit_mask.png"].convert("L")) > 127
            np.testing.assert_array_equal(mask, images.decode_mask(truth["edit_mask"]))
            assert described["boxes"] == truth["boxes"]
            seen.append(sample["__key__"])
    assert sorted(seen) == sorted(kept)


def test_the_hub_accepts_the_card(run: Path) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(run / "README.md")
    assert card.data.license == "unknown"
    assert card.data.task_categories == ["image-to-image"]
    assert card.data.size_categories == ["n<1K"]
    assert yaml.safe_load(card.data.to_yaml())["configs"][0]["config_name"] == "default"


def test_the_options_for_instruct_pix2pix_name_columns_that_its_script_can_use(run: Path, cache: str) -> None:
    lines = (run / "shards" / "instruct_pix2pix" / "arguments.txt").read_text().split()
    options = dict(line.removeprefix("--").split("=") for line in lines)
    assert options == COLUMN_MAP
    row = datasets.load_dataset(str(run), cache_dir=cache)["train"][0]  # what the script does with --dataset_name
    for option in ("original_image_column", "edited_image_column"):
        resized = row[options[option]].convert("RGB").resize((64, 64))
        assert np.array(resized).transpose(2, 0, 1).shape == (3, 64, 64)
    assert row[options["edit_prompt_column"]].startswith("Darken")
