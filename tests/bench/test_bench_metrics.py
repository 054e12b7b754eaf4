"""LPIPS and CLIP of `ugaf.bench` through the real libraries, on random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from ugaf.base.errors import ConfigError
from ugaf.bench.metrics import Clip, Lpips, load_clip

pytestmark = pytest.mark.torch

BOX = (30, 20, 70, 60)


@pytest.fixture(scope="module")
def lpips_metric() -> Lpips:
    lpips = pytest.importorskip("lpips", reason="pip install lpips")
    torch.manual_seed(0)
    # The linear weights come with the package; the AlexNet under them would be downloaded, and is random here.
    return Lpips(lpips.LPIPS(net="alex", spatial=True, pnet_rand=True, verbose=False))


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (96, 128, 3)).astype(np.uint8)


def test_without_boxes_lpips_is_the_librarys_mean_map(lpips_metric: Lpips) -> None:
    first, second = picture(0), picture(1)
    given = [torch.from_numpy(p).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in (first, second)]
    with torch.no_grad():
        expected = float(lpips_metric._network(*given).mean())
    assert lpips_metric.outside(first, second, []) == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def test_what_is_inside_the_box_does_not_enter_lpips(lpips_metric: Lpips) -> None:
    source, edited = picture(0), picture(0)
    edited[20:60, 30:70] = 255
    assert lpips_metric.outside(source, edited, [BOX]) == pytest.approx(0, abs=1e-7)
    assert lpips_metric.outside(source, edited, []) > 0  # type: ignore[operator]
    edited[0:10] = 0
    assert lpips_metric.outside(source, edited, [BOX]) > 0  # type: ignore[operator]
    assert lpips_metric.outside(source, edited, [(0, 0, 128, 96)]) is None


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_encoders.build_clip(tmp_path_factory.mktemp("clip"))
    words = ["[PAD]", "[UNK]", "<s>", "</s>", "make", "the", "cup", "red", "blue"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token="<s>", eos_token="</s>",
        model_max_length=77,
    )  # fmt: skip
    fast.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"processor_class": "CLIPProcessor"}))
    return folder


def test_clip_is_the_cosine_of_the_models_embeddings(clip_folder: Path) -> None:
    metric = load_clip(str(clip_folder), "cpu")
    assert isinstance(metric, Clip), metric
    shown, text = picture(3), "make the cup red"
    found = metric.score(shown, text)
    processor = transformers.AutoProcessor.from_pretrained(clip_folder)
    given = processor(text=[text], images=[shown], return_tensors="pt", padding=True)
    with torch.no_grad():
        outputs = transformers.CLIPModel.from_pretrained(clip_folder).eval()(**given)
    expected = float((outputs.image_embeds * outputs.text_embeds).sum())
    assert found == pytest.approx(expected, abs=1e-5)
    assert -1 <= found <= 1
    # This tiny model pools a text's first token.
    assert metric.score(shown, "blue cup") != pytest.approx(found, abs=1e-4)


def test_a_text_longer_than_the_context_is_cut(clip_folder: Path) -> None:
    metric = load_clip(str(clip_folder), "cpu")
    assert isinstance(metric, Clip), metric
    assert -1 <= metric.score(picture(3), "make the cup red " * 60) <= 1


def test_a_checkpoint_without_texts_is_refused(tmp_path: Path) -> None:
    folder = tiny_encoders.build_dinov2(tmp_path / "dino")
    with pytest.raises(ConfigError, match="embeds no texts"):
        load_clip(str(folder), "cpu")


def test_a_checkpoint_that_is_not_there_is_told_and_not_raised(tmp_path: Path) -> None:
    found = load_clip(str(tmp_path / "none"), "cpu")
    assert isinstance(found, str)
    assert "cannot be loaded" in found
