"""What a run that makes no pairs exports: its kept photographs, read by the libraries that trainers use."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from ugaf import cli
from ugaf.columns.view import RunView
from ugaf.engine import runner
from ugaf.export import ExportSettings, export, split
from ugaf.imaging import images
from ugaf.pipeline import config

datasets = pytest.importorskip("datasets")
webdataset = pytest.importorskip("webdataset")

STAGES: list[Any] = [
    {"curation.resolution": {"keep": {"short_side": {"min": 64}}}},
    "curation.provenance",
    {"curation.photometric": {"keep": dict.fromkeys(("saturation", "clarity", "rgb_entropy"))}},
]


def _saved(photo: np.ndarray, path: Path, **options: Any) -> None:
    Image.fromarray(photo).save(path, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, np.ndarray]) -> Path:
    """Photographs in several formats, one turned by EXIF, one too small, one that is none."""
    root = tmp_path_factory.mktemp("pictures") / "album"
    root.mkdir()
    small = {name: images.decode(images.encode(photo), 160) for name, photo in photos.items()}
    for number, (name, photo) in enumerate(small.items()):
        _saved(photo, root / f"{name}.{('jpg', 'webp', 'png')[number % 3]}")
        _saved(photo[:, ::-1], root / f"{name} mirrored.jpg", quality=90)
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    _saved(small["coffee"], root / "turned.jpg", exif=exif)
    _saved(small["coffee"][:40, :40], root / "tiny.png")
    (root / "broken.jpg").write_bytes(b"no picture")
    return root


def _run(folder: Path, output: Path, **export_settings: Any) -> RunView:
    pipeline = config.parse(
        {
            "name": "look",
            "inputs": [str(folder)],
            "output": str(output),
            "engine": {"executor": "inline"},
            "export": {"validation": 0.4, **export_settings},
            "stages": STAGES,
        }
    )
    runner.run(pipeline, runner.RunOptions(), lambda _: None, lambda _: None)
    return RunView(str(output), pipeline)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its export."""
    output = tmp_path_factory.mktemp("run")
    export(_run(folder, output))
    return output


@pytest.fixture(scope="module")
def kept(run: Path) -> dict[str, dict[str, Any]]:
    """Rows of the run by id, as its reader gives them."""
    columns = ["sources", "caption", "rgb_entropy", "short_side", "format"]
    tables = RunView(str(run)).rows("image", columns, kept=True)
    return {row["id"]: row for table in tables for row in table.to_pylist()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return str(tmp_path / "cache")


def _pixels(folder: Path, row: dict[str, Any]) -> np.ndarray:
    return images.decode((folder / Path(row["sources"][0]).name).read_bytes())


def test_datasets_loads_the_photographs_by_the_card(
    run: Path, kept: dict[str, dict[str, Any]], folder: Path, cache: str
) -> None:
    loaded = datasets.load_dataset(str(run), cache_dir=cache)
    assert set(loaded) == {"train", "validation"}
    rows = [row for part in loaded.values() for row in part]
    assert sorted(row["id"] for row in rows) == sorted(kept)
    for name, part in loaded.items():
        for row in part:
            truth = kept[row["id"]]
            assert row["split"] == name == split.of_photograph(row["id"], 0.4)
            np.testing.assert_array_equal(np.asarray(row["image"].convert("RGB")), _pixels(folder, truth))
            assert (row["image"].width, row["image"].height) == (row["width"], row["height"])
            assert row["image_reencoded"] == truth["sources"][0].endswith("turned.jpg")
            assert row["sources"] == [f"album/{Path(truth['sources'][0]).name}"]
            for column in ("caption", "rgb_entropy", "short_side", "format"):
                assert row[column] == truth[column]


def test_pandas_reads_every_measure_of_the_stages(run: Path, kept: dict[str, dict[str, Any]], folder: Path) -> None:
    frame = pd.read_parquet(run / "photographs" / "parquet")
    view = RunView(str(run))
    measures = {name for stage in view.stages for name in stage.measures}
    assert measures | {"camera", "image", "sources", "caption"} <= set(frame.columns)
    for row in frame.to_dict("records"):
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        np.testing.assert_array_equal(pixels, _pixels(folder, kept[row["id"]]))


def test_webdataset_decodes_every_sample(run: Path, kept: dict[str, dict[str, Any]], folder: Path) -> None:
    tars = sorted(str(path) for path in (run / "photographs" / "webdataset").iterdir())
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode("pil"))
    assert sorted(sample["__key__"] for sample in samples) == sorted(kept)
    for sample in samples:
        assert {"jpg", "png"} & set(sample)
        picture = sample.get("jpg") or sample["png"]
        truth = kept[sample["__key__"]]
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), _pixels(folder, truth))
        assert sample["json"]["rgb_entropy"] == truth["rgb_entropy"]


def test_the_card_speaks_of_photographs(run: Path, kept: dict[str, dict[str, Any]]) -> None:
    _, front, body = (run / "README.md").read_text().split("---\n", 2)
    assert "pairs" not in body.replace("Pairs", "pairs").partition("## Funnel")[0]
    assert f"| all | {len(kept)} |" in body
    meta = yaml.safe_load(front)
    assert "task_categories" not in meta
    assert meta["configs"][0]["data_files"][0]["path"] == "photographs/parquet/train-*.parquet"
    for name in pd.read_parquet(run / "photographs" / "parquet").columns:
        assert f"| `{name}` |" in body


def test_an_export_with_nothing_new_writes_nothing_and_references_leave_the_bytes_out(
    folder: Path, tmp_path: Path
) -> None:
    view = _run(folder, tmp_path / "run")
    first = export(view)
    assert (first.noun, first.root, first.written) == ("photographs", "photographs", True)
    assert str(first).startswith(f"{first.total} photographs (")
    assert not export(view).written
    view = _run(folder, tmp_path / "run", photographs="references")
    second = export(view)
    assert second.written
    names = [path.name for path in (tmp_path / "run" / "photographs").iterdir()]
    assert sorted(names) == ["manifest.json", "parquet"]
    frame = pd.read_parquet(tmp_path / "run" / "photographs" / "parquet")
    assert len(frame) == first.total
    assert "image" not in frame.columns
    assert frame["rgb_entropy"].notna().all()
    assert second.bytes < 60_000 < first.bytes


def test_a_run_that_keeps_no_photograph_leaves_those_that_were_there(folder: Path, tmp_path: Path) -> None:
    first = export(_run(folder, tmp_path))
    before = {str(path): path.stat().st_mtime_ns for path in (tmp_path / "photographs").rglob("*")}
    document = RunView(str(tmp_path)).pipeline.document
    pipeline = config.parse(document, ["curation.resolution.keep.short_side.min=5000"])
    summary = export(RunView(str(tmp_path), pipeline))
    assert summary.total == 0
    assert "no photograph was kept" in str(summary)
    assert f"{first.total} photographs (were:" in str(summary)
    assert {str(path): path.stat().st_mtime_ns for path in (tmp_path / "photographs").rglob("*")} == before
    assert export(RunView(str(tmp_path), pipeline), replace=True).written
    card = (tmp_path / "README.md").read_text()
    assert "**No photograph was kept**" in card


def test_photographs_beside_pairs(photos: dict[str, np.ndarray], tmp_path: Path, cache: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("coffee", "chelsea"):
        _saved(images.decode(images.encode(photos[name]), 256), folder / f"{name}.png")
    stages = ["annotation.detect", {"annotation.instruct": {"edits_per_image": 2}}, "generation.edit"]
    pipeline = config.parse(
        {
            "name": "pairs",
            "inputs": [str(folder)],
            "output": str(tmp_path / "run"),
            "engine": {"executor": "inline"},
            "export": {"validation": 0, "photographs": "images"},
            "stages": stages,
        }
    )
    runner.run(pipeline, runner.RunOptions(), lambda _: None, lambda _: None)
    view = RunView(str(tmp_path / "run"), pipeline)
    summary = export(view)
    assert summary.noun == "pairs"
    run = str(tmp_path / "run")
    pairs = datasets.load_dataset(run, "default", split="train", cache_dir=cache)
    photographs = datasets.load_dataset(run, "photographs", split="train", cache_dir=cache)
    assert len(pairs) == summary.total > 0
    assert {row["image_id"] for row in pairs} <= {row["id"] for row in photographs}
    assert "Beside these, `photographs/` holds" in (tmp_path / "run" / "README.md").read_text()
    # Not asked for any more, they are brought up to date all the same.
    assert not export(view, ExportSettings(validation=0)).written
    assert datasets.load_dataset(run, "photographs", split="train", cache_dir=cache).num_rows == len(photographs)


def test_the_command_says_what_it_wrote(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "look.yaml").write_text(json.dumps({"name": "look", "inputs": [str(folder)], "stages": STAGES}))
    options = ["--output", str(tmp_path / "run"), "--set", "engine.executor=inline", "--max-failed", "1"]
    assert cli.main(["run", str(tmp_path / "look.yaml"), *options]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}/run/photographs" in said
    assert "11 photographs (" in said
