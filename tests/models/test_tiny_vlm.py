"""The tiny vision-language checkpoints load as the real ones do, and the torchvision that their processors need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlm
import torch
import torchvision_on_cpu

pytestmark = pytest.mark.torch

CONVERSATION = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Rate it: 1, 2, 3, 4 or 5."}]},
]


@pytest.fixture(scope="module", params=tiny_vlm.KINDS)
def checkpoint(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm.build(tmp_path_factory.mktemp(request.param), request.param)


def test_processor_and_model_load_by_their_configuration_and_answer(checkpoint: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor, model = (
        AutoProcessor.from_pretrained(checkpoint),
        AutoModelForImageTextToText.from_pretrained(checkpoint),
    )
    text = processor.apply_chat_template(CONVERSATION, add_generation_prompt=True)
    logits = []
    for level in (0, 255):
        photo = np.full((90, 130, 3), level, np.uint8)
        inputs = processor(text=[text], images=[photo], return_tensors="pt")
        image_tokens = int((inputs["input_ids"] == model.config.image_token_id).sum())
        assert 4 <= image_tokens <= 16
        with torch.inference_mode():
            logits.append(model(**inputs).logits[0, -1])
    assert not torch.allclose(*logits)
    never = processor.tokenizer.convert_tokens_to_ids([*tiny_vlm.SPECIAL, *tiny_vlm.THINKING])
    assert logits[0].log_softmax(-1)[never].max() < -15


def test_each_digit_is_a_token_and_thinking_is_switched_by_the_template(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert [token for token in tokenizer.tokenize('"score": 25}') if token.isdigit()] == ["2", "5"]
    text = "Schöne Grüße 你好\n\t{}"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    ends = [
        tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True, **switch)
        for switch in ({}, {"enable_thinking": True}, {"enable_thinking": False})
    ]
    assert [end.split("assistant\n")[1].split() for end in ends] == [[], ["<think>"], ["<think>", "</think>"]]


def test_the_same_seed_builds_the_same_files(checkpoint: Path, tmp_path: Path) -> None:
    kind = "qwen3_vl" if "qwen3" in checkpoint.name else "qwen2_5_vl"
    again = tiny_vlm.build(tmp_path, kind)
    files = sorted(path.name for path in checkpoint.iterdir())
    assert sorted(path.name for path in again.iterdir()) == files
    assert all((again / name).read_bytes() == (checkpoint / name).read_bytes() for name in files)


def test_nms_keeps_what_overlaps_no_better_box() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((60, 2), generator=generator) * 50
    boxes = torch.cat([corners, corners + 5 + torch.rand((60, 2), generator=generator) * 30], dim=1)
    scores = torch.rand(60, generator=generator)
    kept: list[int] = []
    for index in sorted(range(60), key=lambda i: -float(scores[i])):
        if all(_iou(boxes[index], boxes[other]) <= 0.4 for other in kept):
            kept.append(index)
    assert torchvision_on_cpu.nms(boxes, scores, 0.4).tolist() == kept
    assert 5 < len(kept) < 60
    assert torchvision_on_cpu.nms(boxes[:0], scores[:0], 0.4).tolist() == []


def _iou(a: torch.Tensor, b: torch.Tensor) -> float:
    width = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
    height = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
    area = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return width * height / (sum(area) - width * height)
