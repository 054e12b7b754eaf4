"""Tiny image encoders and classifiers with random weights, saved in their libraries' real formats."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as hf

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE, PATCH, SHARED = 32, 8, 12
"""Side of the pictures that they take, of a patch, and the dimension of CLIP's shared space."""
LABELS = ("drawing", "photo", "render")


def build_clip(folder: Path) -> Path:
    """CLIP: the short side to SIDE, the square in the middle; a shared space of SHARED numbers."""
    vision = {**SIZES, "image_size": SIDE, "patch_size": PATCH}
    config = hf.CLIPConfig(
        text_config={**SIZES, "vocab_size": 16}, vision_config=vision, projection_dim=SHARED, initializer_factor=20.0
    )
    processor = _processor("CLIPImageProcessor")(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return _saved(folder, hf.CLIPModel, config, processor)


def build_siglip(folder: Path) -> Path:
    """SigLIP: squashed to SIDE squared, pooled by attention."""
    vision = {**SIZES, "image_size": SIDE, "patch_size": PATCH}
    config = hf.SiglipConfig(text_config={**SIZES, "vocab_size": 16}, vision_config=vision)
    processor = _processor("SiglipImageProcessor")(size={"height": SIDE, "width": SIDE})
    return _saved(folder, hf.SiglipModel, config, processor)


def build_dinov2(folder: Path, crop: bool = True) -> Path:
    """DINOv2; without `crop` its pictures keep their shape, so that they come in several sizes."""
    config = hf.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=1, image_size=SIDE, patch_size=PATCH
    )
    processor = _processor("BitImageProcessor")(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=crop
    )
    return _saved(folder, hf.Dinov2Model, config, processor)


def build_classifier(folder: Path, labels: tuple[str, ...] = LABELS, problem: str | None = None) -> Path:
    """ViTForImageClassification with these labels."""
    config = hf.ViTConfig(
        **SIZES,
        image_size=SIDE,
        patch_size=PATCH,
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
        problem_type=problem,
        initializer_range=0.5,
    )
    processor = _processor("ViTImageProcessor")(size={"height": SIDE, "width": SIDE})
    return _saved(folder, hf.ViTForImageClassification, config, processor)


class Descriptor(torch.nn.Module):
    """A small convolutional network with generalised-mean pooling, as SSCD's ends: (n, 3, h, w) -> (n, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 5, stride=4)
        self.project = torch.nn.Linear(8, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found = self.conv(pixels).clamp(min=1e-6).pow(3.0).mean((2, 3)).pow(1 / 3)
        return self.project(found)


def build_torchscript(file: Path) -> Path:
    """A scripted `Descriptor`."""
    torch.manual_seed(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(Descriptor().eval()).save(str(file))
    return file


def _processor(name: str) -> type:
    """The variant that needs no torchvision, where there is one."""
    return getattr(hf, f"{name}Pil", None) or getattr(hf, name)


def _saved(folder: Path, cls: type, config: object, processor: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    cls(config).save_pretrained(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder
