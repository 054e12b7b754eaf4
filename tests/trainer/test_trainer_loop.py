"""Whole trainings of a tiny model: what they learn, write, export and refuse."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_tools import config, losses, make_shards, run, weights

from ugaf.base.errors import ConfigError
from ugaf.fineedit.pipeline import FineEditPipeline
from ugaf.trainer import __main__ as command
from ugaf.trainer.build import build
from ugaf.trainer.distributed import join, leave
from ugaf.trainer.loop import Training, train
from ugaf.trainer.settings import ScaleSettings, load

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("no_group")]

TOLERANCE = 2e-5
"""Relative difference of losses: sums of float32 in another order."""


def test_the_same_training_twice_gives_the_same_numbers_and_learns(tmp_path: Path, shards: Path) -> None:
    first = run(config(tmp_path / "a", shards, steps=16))
    second = run(config(tmp_path / "b", shards, steps=16))
    assert first == second
    assert np.mean(first[-5:]) < 0.9 * np.mean(first[:5])


@pytest.mark.parametrize(("train", "passes"), [("full", 3.0), ("lora", 2.0)])
def test_a_step_counts_the_operations_of_the_gradients_that_are_wanted(
    tmp_path: Path, shards: Path, train: str, passes: float
) -> None:
    model = {"train": train, "lora": {"rank": 1}, "early_fusion": False, "deep_fusion": False}
    training = Training(load(str(config(tmp_path / "a", shards, model=model))), join(ScaleSettings(device="cpu")))
    assert training.passes == pytest.approx(passes, abs=0.05)


def test_a_corrupt_sample_is_skipped_and_named(tmp_path: Path, shards: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = next(shards.glob("*.parquet"))
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[5]["edited"]["bytes"] = rows[5]["edited"]["bytes"][:40]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file, row_group_size=3)
    path = config(tmp_path / "a", shards, steps=8)
    found = run(path)
    assert len(found) == 8
    assert np.isfinite(found).all()
    assert "train0005" in (tmp_path / "a" / "out" / "corrupt-0.jsonl").read_text()


def test_validation_writes_numbers_and_pictures(tmp_path: Path, shards: Path) -> None:
    make_shards(shards, 3, seed=5, split="validation")
    path = config(tmp_path / "a", shards, steps=2, validation={"every": 2, "samples": 2, "steps": 2})
    run(path)
    output = tmp_path / "a" / "out"
    text = (output / "metrics.jsonl").read_text()
    assert all(name in text for name in ("val_loss", "val_psnr_background", "val_psnr_roi"))
    shown = np.array(Image.open(output / "validation" / "step-00000002.png"))
    assert (shown == (255, 40, 40)).all(-1).sum() > 50


@pytest.mark.parametrize("model", [{}, {"train": "lora", "lora": {"rank": 4}}, {"train": "fusion"}])
def test_the_exported_editor_says_what_the_trained_model_says(
    tmp_path: Path, shards: Path, model: dict[str, object]
) -> None:
    path = config(tmp_path / "a", shards, model=model, steps=3, optimizer={"ema": 0.5, "lr": 1e-2})
    assert command.main([str(path)]) == 0
    output = tmp_path / "a" / "out"
    pipeline = FineEditPipeline.from_pretrained(output / "editor")
    pipeline.set_progress_bar_config(disable=True)
    values = dict(pipeline.transformer.named_parameters())
    saved = weights(output)
    plain = [name.removeprefix("average.") for name in saved if name.startswith("average.") and ".lora_" not in name]
    assert plain
    for name in plain:
        assert torch.equal(values[name], saved[f"average.{name}"]), name
    assert not any("lora" in name for name in values)
    lora = [name for name in saved if name.startswith("average.") and ".lora_A." in name]
    assert bool(lora) == (model.get("train") == "lora")
    assert not any("adapter" in name for name in lora)
    for name in lora:
        layer = name.removeprefix("average.").removesuffix(".lora_A.edit.weight")
        down, up = saved[name], saved[name.replace("lora_A", "lora_B")]
        base = build(load(str(path)).model, 0, torch.device("cpu"), parts=False).transformer.get_submodule(layer)
        scale = 64 / 4
        torch.testing.assert_close(values[f"{layer}.weight"], base.base_layer.weight + scale * up @ down)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    edited = pipeline(
        picture, "Make it red.", [(8, 8, 24, 24)], num_inference_steps=2, height=64, width=64,
        generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip
    assert edited.size == (64, 64)


def test_the_pipeline_is_where_the_first_guide_imports_it_from() -> None:
    assert importlib.import_module("ugaf.trainer.pipeline").FineEditPipeline is FineEditPipeline


def test_the_exported_editor_is_an_engine_of_the_pipeline(tmp_path: Path, shards: Path) -> None:
    assert command.main([str(config(tmp_path / "a", shards, steps=1))]) == 0
    code = """
import sys, numpy as np
from ugaf.models.editors.interface import EditRequest
from ugaf.stage import engines
spec = {"engine": "diffusers", "model": sys.argv[1], "device": "cpu", "steps": 1, "true_cfg_scale": 1, "max_area": 4096}
editor = engines.build("editor", spec)
photo = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
edits = editor.edit([EditRequest(photo, "recolor", "Make it red.", boxes) for boxes in ([(8, 8, 90, 70)], [])])
print(editor.name, [(edit.way, edit.edited.shape) for edit in edits])
"""
    editor = tmp_path / "a" / "out" / "editor"
    index = (editor / "model_index.json").read_text()
    earlier = index.replace("ugaf.fineedit.transformer", "ugaf.trainer.model.fineedit")
    earlier = earlier.replace("ugaf.fineedit.exact_vae", "ugaf.trainer.model.exact_vae")
    assert earlier.count("ugaf.trainer.model.") == 2
    for names in (index, earlier):  # as it is exported, and as the first version exported it
        (editor / "model_index.json").write_text(names)
        # A process that has not imported the trainer, as a worker is.
        done = subprocess.run([sys.executable, "-c", code, str(editor)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "diffusers:editor [('boxes', (80, 120, 3)), ('whole', (80, 120, 3))]"


def test_wrong_settings_and_other_data_are_told(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path / "a", shards, steps=2)
    assert command.main([str(path), "optimizer.lrr=1"]) == 2
    assert "lr" in capsys.readouterr().err
    assert command.main([str(path), "modl.base=tiny"]) == 2
    assert "model" in capsys.readouterr().err
    assert command.main([str(path), "model.adapter_layers=3"]) == 2
    assert "2 can" in capsys.readouterr().err
    run(path)
    with pytest.raises(ConfigError, match=r"model\.tiny\.heads"):
        train(load(str(path), ["model.tiny.heads=4", "steps=4"]))
    leave()
    make_shards(shards, 25)
    with pytest.raises(ConfigError, match="other shards"):
        train(load(str(path), ["steps=4"]))


def test_a_damaged_checkpoint_is_named(tmp_path: Path, shards: Path) -> None:
    path = config(tmp_path / "a", shards, steps=2)
    run(path)
    damaged = next((tmp_path / "a" / "out" / "checkpoints").glob("*/__0_0.distcp"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"step-00000002.*cannot be loaded"):
        train(load(str(path), ["steps=4"]))


def test_a_feature_cache_gives_the_training_without_one(tmp_path: Path, shards: Path) -> None:
    plain = config(tmp_path / "plain", shards, steps=3)
    whole = run(plain)
    path = config(tmp_path / "cached", shards, steps=3, scale={"cpus_per_worker": 0.4})
    cache = f"data.cache={tmp_path / 'features'}"
    assert command.main([str(path), cache, "--write-cache"]) == 0
    train(load(str(path), [cache]))
    # Features are stored in bfloat16, whose numbers have 8 bits.
    np.testing.assert_allclose(losses(path), whole, rtol=0.01)
