"""Tiny vision-language models with random weights, in the files of real checkpoints: Qwen2.5-VL and Qwen3-VL.

Configuration, safetensors, byte-level tokenizer, chat template, image and video processor are what `transformers` and
vLLM load for the real ones, made here without a hub. What the model says is noise; what a server makes of its formats,
schemas, log-probabilities and images is real.

    python tiny_vlm.py qwen3_vl FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

KINDS = ("qwen2_5_vl", "qwen3_vl")
CONTEXT = 16384
"""Tokens of a conversation. The vocabulary is small, so that a prompt has about a token for two letters."""
VOCABULARY = 1024
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
THINKING = ("<think>", "</think>")
"""Tokens of the vocabulary, but not special ones: as in Qwen3, they stand in the text until a parser takes them out."""

LOUDER, CONSTANT = 10.0, 4.0
"""Embeddings against their usual size, so that what was said last matters; and the number that all of them share."""
INCLINATIONS = {
    # A grammar for JSON strings lets the letters of the chat format pass; a trained model never says them there.
    **dict.fromkeys((*SPECIAL, *THINKING), -20.0),
    # Strings end before their longest and hold no brackets, lists do not end at once, and what is asked for is more
    # often true than false.
    **dict.fromkeys(('"}', '":', '",', '{"', '\u0120{"', "{", "}", "["), -2.0),
    "]": -4.0,
    '"': 1.0,
    "t": 0.5,
    "f": -0.5,
}
"""Token -> its output weight; about 2.8 times as much is added to its logit."""

# Words of our prompts and answers. Without digits: each digit stays a token, as in Qwen's own vocabulary.
TEXT = """
You are given a photograph and an instruction to edit it. Look at the object in the marked box. Write the instruction in
plain English, first with all details, then in few words, as a user would ask for it. Do not mention the box. Give your
answer as JSON with the fields that the schema names. First give the reason, then the score. The score is an integer.
Is the edit what was asked for? Was anything else changed? Are there artifacts, seams, wrong shadows or lost details?
add remove replace recolor material style text background motion hybrid object target region position left right upper
lower middle image source edited before after colour person face hand animal car building table cup plate window sky
{"reason": "the object is not visible", "verdict": "ok"} {"instruction": "Make the cup red.", "target": "cup"}
unreasonable human centric unsafe ambiguous visible natural realistic quality consistency instruction following
"""

TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for part in message['content'] -%}
{%- if part['type'] in ('image', 'image_url') -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in part %}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined -%}
<think>
{% if not enable_thinking %}
</think>

{% endif -%}
{%- endif -%}
{%- endif -%}"""
"""Qwen's turns. `enable_thinking` opens the thinking, as in Qwen3.5, or closes it before it begins, as in Qwen3."""


def build(folder: Path, kind: str = "qwen3_vl", seed: int = 0) -> Path:
    """Writes the checkpoint. The same kind and seed give the same weights and tokenizer."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    if kind not in KINDS:
        raise ValueError(f"no tiny model {kind!r}: there are {', '.join(KINDS)}")
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    model, processor = (_qwen2_5 if kind == "qwen2_5_vl" else _qwen3)(tokenizer)
    _incline(model, tokenizer)
    model.generation_config = _generation(tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(THINKING),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(TEXT.splitlines(), trainer)
    learnt = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        model_max_length=CONTEXT,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.add_tokens(list(THINKING))
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _text(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "rope_theta": 10000.0,
        # Five times the usual: the answers then differ from one question to another.
        "initializer_range": 0.1,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    }


def _vision_tokens(tokenizer: Any) -> dict[str, int]:
    names = ("image", "video")
    found = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in names}
    for end in ("start", "end"):
        found[f"vision_{end}_token_id"] = tokenizer.convert_tokens_to_ids(f"<|vision_{end}|>")
    return found


def _qwen2_5(tokenizer: Any) -> tuple[Any, Any]:
    import transformers

    rope = {"mrope_section": [4, 6, 6], "rope_type": "default", "type": "default"}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**_text(tokenizer), "rope_scaling": rope},
        vision_config={
            "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 64,
            "fullatt_block_indexes": [1], "patch_size": 14, "window_size": 112, "initializer_range": 0.1,
        },
        **_vision_tokens(tokenizer),
    )  # fmt: skip
    processor = transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(patch_size=14, size=_pixels(14)),
        video_processor=transformers.Qwen2VLVideoProcessor(patch_size=14, size=_pixels(14)),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3(tokenizer: Any) -> tuple[Any, Any]:
    import transformers

    rope = {"mrope_section": [4, 6, 6], "rope_type": "default", "mrope_interleaved": True}
    config = transformers.Qwen3VLConfig(
        text_config={**_text(tokenizer), "head_dim": 32, "rope_scaling": rope},
        vision_config={
            "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 64,
            "patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 64,
            "initializer_range": 0.1,
        },
        **_vision_tokens(tokenizer),
    )  # fmt: skip
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(patch_size=16, size=_pixels(16)),
        video_processor=transformers.Qwen3VLVideoProcessor(patch_size=16),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )
    return transformers.Qwen3VLForConditionalGeneration(config), processor


def _incline(model: Any, tokenizer: Any) -> None:
    """Makes the noise a little more like an answer, by adding to the log-probability of some tokens.

    One number of each embedding is the same for all tokens, and stays about the same up to the output: an output
    weight that multiplies it is a bias, which these models do not have otherwise.
    """
    import torch

    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings *= LOUDER
        embeddings[:, 0] = CONSTANT
        output = model.get_output_embeddings().weight
        output[:, 0] = 0
        for text, number in tokenizer.get_vocab().items():
            output[number, 0] = INCLINATIONS.get(text, 0)


def _pixels(patch: int) -> dict[str, int]:
    """Limits of an image's area: 4 to 16 tokens, each of two by two patches."""
    return {"shortest_edge": (4 * patch) ** 2, "longest_edge": (8 * patch) ** 2}


def _generation(tokenizer: Any) -> Any:
    from transformers import GenerationConfig

    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return GenerationConfig(eos_token_id=ends, pad_token_id=ends[1])


if __name__ == "__main__":
    print(build(Path(sys.argv[2]), sys.argv[1]))
