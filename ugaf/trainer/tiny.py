"""A small Qwen-Image-Edit with random weights: every part of the real one, to try the trainer where there is none.

Its autoencoder is exact (`ugaf.fineedit.exact_vae`), so that what it learns can be seen. Its text encoder is
random and stays so: different words give different embeddings, which is enough to learn a few instructions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from ugaf.fineedit.exact_vae import CosineVAE
from ugaf.trainer.settings import TinySettings

NAMES = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
SPECIAL = tuple(f"<|{name}|>" for name in NAMES)
WORDS = (
    "make the sky red and the car blue",
    "remove the person on the left",
    "change the cat into a dog",
    "replace the background with a beach",
    "add a small boat to the lake",
    "turn the green leaves yellow",
) * 4
SEEN_PIXELS = 112 * 112
"""What the text encoder sees of a picture, at most."""


def tiny_components(sizes: TinySettings, seed: int = 0) -> dict[str, Any]:
    """The parts of a `QwenImageEditPlusPipeline`, on the CPU in float32; the same for the same sizes and seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = CosineVAE(sizes.factor)
        channels = vae.config.z_dim
        quarter = sizes.head_dim // 8 * 2
        transformer = QwenImageTransformer2DModel(
            in_channels=4 * channels,
            out_channels=channels,
            num_layers=sizes.layers,
            attention_head_dim=sizes.head_dim,
            num_attention_heads=sizes.heads,
            joint_attention_dim=sizes.text_dim,
            axes_dims_rope=(sizes.head_dim - 3 * quarter, *(2 * [3 * quarter // 2])),
        )
        tokenizer = qwen_tokenizer()
        text_encoder = Qwen2_5_VLForConditionalGeneration(
            text_encoder_config(tokenizer, _text(sizes.text_dim), _vision(sizes.text_dim))
        )
    return {
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": text_encoder.eval(),
        "tokenizer": tokenizer,
        "processor": qwen_processor(tokenizer, max_pixels=SEEN_PIXELS),
    }


def qwen_tokenizer(corpus: Sequence[str] = WORDS, size: int = 512) -> Qwen2Tokenizer:
    """Qwen's tokenizer with its special tokens, trained on `corpus`; every byte has a token."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=size - len(SPECIAL), show_progress=False, initial_alphabet=alphabet),
    )
    model = json.loads(raw.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=merges, model_max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    return tokenizer


def qwen_processor(tokenizer: Qwen2Tokenizer, max_pixels: int, min_pixels: int = 56 * 56) -> Qwen2VLProcessor:
    """What the text encoder sees of a picture: between these numbers of pixels."""
    limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**limits, patch_size=14),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**limits),
    )


def text_encoder_config(
    tokenizer: Qwen2Tokenizer, text: dict[str, Any], vision: dict[str, Any], vocabulary: int | None = None
) -> Qwen2_5_VLConfig:
    """The sizes given, and the tokenizer's special tokens. `vocabulary`: rows of the embedding, if more than it has."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in NAMES}
    ends = {"bos_token_id": ids["endoftext"], "eos_token_id": ids["im_end"], "vocab_size": vocabulary or len(tokenizer)}
    return Qwen2_5_VLConfig(
        text_config={**text, **ends},
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )


def _text(width: int) -> dict[str, Any]:
    # Position dimensions of a head are split in three: time, rows, columns.
    half = width // 4
    section = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    return {
        "hidden_size": width,
        "intermediate_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_theta": 1e6,
        "rope_scaling": {"mrope_section": section, "rope_type": "default", "type": "default"},
    }


def _vision(width: int) -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": width,
        "fullatt_block_indexes": [1],
    }
