"""Tiny editing pipelines with random weights, saved in diffusers' real format: what a checkpoint on a hub looks like.

Each is about a megabyte, loads in a second and edits a picture of 64 pixels in a tenth of one. The weights come from a
fixed seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from ugaf.trainer.tiny import qwen_processor, qwen_tokenizer, text_encoder_config

CORPUS = [
    "make the sky red",
    "remove the person on the left",
    "change the cat into a dog",
    "a small boat on the lake",
] * 4

TRANSFORMER: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "axes_dims_rope": (8, 4, 4),
}
VAE: dict[str, Any] = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}
SCHEDULER: dict[str, Any] = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
}
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rope_theta": 1e6,
    "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
}
VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 16,
    "fullatt_block_indexes": [1],
}
WORDS = r"[^\s]+|\s+"


def build_qwen_edit(folder: Path) -> Path:
    """Qwen-Image-Edit: two blocks of two heads, a VAE of factor 8. Returns the folder."""
    QwenImageEditPipeline(**_qwen()).save_pretrained(folder)
    return folder


def build_qwen_edit_plus(folder: Path) -> Path:
    """Qwen-Image-Edit-2509 and 2511: the same parts under the other pipeline."""
    QwenImageEditPlusPipeline(**_qwen()).save_pretrained(folder)
    return folder


def build_kontext(folder: Path) -> Path:
    """FLUX.1-Kontext: one double and one single block, guidance-distilled as the real one is; a VAE of factor 8."""
    FluxKontextPipeline(**_kontext()).save_pretrained(folder)
    return folder


def _qwen() -> dict[str, Any]:
    torch.manual_seed(0)
    tokenizer = qwen_tokenizer(CORPUS)
    transformer = QwenImageTransformer2DModel(**TRANSFORMER)
    vae = AutoencoderKLQwenImage(**VAE)
    with torch.no_grad():
        # Fresh weights hardly listen to the prompt, and paint in greys: nothing would show in a test.
        for block in transformer.transformer_blocks:
            for layer in (block.attn.add_k_proj, block.attn.add_v_proj, block.attn.to_q, block.attn.to_out[0]):
                layer.weight *= 6
        vae.decoder.conv_out.weight *= 6
    return {
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        "text_encoder": Qwen2_5_VLForConditionalGeneration(text_encoder_config(tokenizer, TEXT, VISION)).eval(),
        "tokenizer": tokenizer,
        "processor": qwen_processor(tokenizer, max_pixels=112 * 112),
    }


def _kontext() -> dict[str, Any]:
    torch.manual_seed(0)
    clip, t5 = _clip_tokenizer(), _t5_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip),
            hidden_size=32,
            intermediate_size=32,
            num_attention_heads=2,
            num_hidden_layers=2,
            projection_dim=32,
            bos_token_id=clip.bos_token_id,
            eos_token_id=clip.eos_token_id,
            pad_token_id=clip.pad_token_id,
        )
    )
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    vae = AutoencoderKL(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        "text_encoder": text_encoder.eval(),
        "text_encoder_2": T5EncoderModel(
            T5Config(vocab_size=max(len(t5), 128), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)
        ).eval(),
        "tokenizer": clip,
        "tokenizer_2": t5,
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "image_encoder": None,
        "feature_extractor": None,
    }


def _clip_tokenizer() -> CLIPTokenizer:
    special = ["<|startoftext|>", "<|endoftext|>"]
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "removed"), pre_tokenizers.ByteLevel(False)])
    model = _trained(models.BPE(end_of_word_suffix="</w>"), trainers.BpeTrainer, 900, special, splitter, suffix="</w>")
    vocabulary = dict(model["vocab"])
    for letter in pre_tokenizers.ByteLevel.alphabet():
        vocabulary.setdefault(letter, len(vocabulary))
        vocabulary.setdefault(f"{letter}</w>", len(vocabulary))
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(chr(code), -3.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=None, model_max_length=512)


def _trained(
    model: Any,
    trainer: Any,
    size: int,
    special: list[str],
    splitter: Any,
    corpus: Sequence[str] = CORPUS,
    suffix: str | None = None,
) -> dict[str, Any]:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    options = {"end_of_word_suffix": suffix} if suffix else {}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus,
        trainer(vocab_size=size, show_progress=False, special_tokens=special, initial_alphabet=alphabet, **options),
    )
    trained: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return trained
