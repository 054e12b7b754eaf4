"""Tiny detectors with random weights, saved in their libraries' real formats: what a checkpoint on a hub looks like.

Each is well below a megabyte and looks at a picture in some hundredths of a second. The weights come from a fixed seed:
what they find means nothing, but is always the same.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers as hf

if TYPE_CHECKING:
    import pytest

CLASSES = ("cat", "dog", "person", "bus", "mug")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "a", "red", "##s", *CLASSES)

_STAGES = ["stage2", "stage3", "stage4"]
_ENCODER = {
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [8, 16, 16],
    "encoder_layers": 1,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "d_model": 16,
    "num_queries": 12,
    "decoder_in_channels": [16, 16, 16],
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_denoising": 0,
    "feat_strides": [8, 16, 32],
}


def build_rtdetr(folder: Path, side: int = 64) -> Path:
    """RT-DETR v2 with 12 queries and CLASSES; every picture is stretched to `side` squared."""
    backbone = hf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        hidden_act="relu",
        out_features=_STAGES,
    )
    config = hf.RTDetrV2Config(backbone_config=backbone, **_ENCODER, decoder_n_points=2, **_labels())
    return _saved(folder, hf.RTDetrV2ForObjectDetection, config, _square(side))


def build_dfine(folder: Path, side: int = 64) -> Path:
    """D-FINE with 12 queries and CLASSES; every picture is stretched to `side` squared."""
    backbone = hf.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, False, False],
        stage_kernel_size=[3, 3, 3, 3],
        stage_numb_of_layers=[1, 1, 1, 1],
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        out_features=_STAGES,
    )
    config = hf.DFineConfig(backbone_config=backbone, **_ENCODER, decoder_n_points=[2, 2, 2], **_labels())
    return _saved(folder, hf.DFineForObjectDetection, config, _square(side))


def build_detr(folder: Path, side: int = 64) -> Path:
    """DETR with 12 queries and CLASSES; pictures keep their shape, with sides from `side` to 1.5 times it."""
    backbone = hf.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = hf.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        num_queries=12,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=1,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        **_labels(),
    )
    images = _image_processor("DetrImageProcessor")(size={"shortest_edge": side, "longest_edge": side * 3 // 2})
    return _saved(folder, hf.DetrForObjectDetection, config, images)


def build_grounding_dino(folder: Path, side: int = 128, tokens: int = 32) -> Path:
    """Grounding DINO with 10 queries, which knows WORDS and takes `tokens` of them at once."""
    config = hf.GroundingDinoConfig(
        backbone_config=hf.SwinConfig(
            image_size=64,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=4,
            out_features=_STAGES,
        ),
        text_config={
            "model_type": "bert",
            "vocab_size": 128,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        num_queries=10,
        num_feature_levels=4,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=tokens,
    )
    images = _image_processor("GroundingDinoImageProcessor")(
        size={"shortest_edge": side, "longest_edge": side * 3 // 2}
    )
    tokenizer = hf.BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    processor = hf.GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer)
    # As they are, random features are so large that every score is 0 or 1.
    return _saved(
        folder, hf.GroundingDinoForObjectDetection, config, processor, quieter="text_enhancer_layer.layer_norm_after"
    )


def build_owlv2(folder: Path, side: int = 64) -> Path:
    """OWLv2 with 16 boxes a picture, which is padded to a square of `side`."""
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    characters = [*"abcdefghijklmnopqrstuvwxyz0123456789 -"]
    # The model takes a first token of 0 for padding.
    vocab = [*characters, *(f"{letter}</w>" for letter in characters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = hf.CLIPTokenizer(vocab={token: number for number, token in enumerate(vocab)}, merges=[])
    tokenizer.model_max_length = 32
    config = hf.Owlv2Config(
        text_config={
            **shared,
            "vocab_size": len(vocab),
            "max_position_embeddings": 32,
            "bos_token_id": len(vocab) - 2,
            "eos_token_id": len(vocab) - 1,
            "pad_token_id": len(vocab) - 1,
        },
        vision_config={**shared, "image_size": side, "patch_size": side // 4},
        projection_dim=16,
    )
    images = _image_processor("Owlv2ImageProcessor")(size={"height": side, "width": side})
    processor = hf.Owlv2Processor(image_processor=images, tokenizer=tokenizer)
    # As it is, the box head gives boxes without area.
    return _saved(folder, hf.Owlv2ForObjectDetection, config, processor, quieter="box_head.dense2")


def _labels() -> dict[str, dict[object, object]]:
    return {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}


def _square(side: int) -> object:
    return _image_processor("RTDetrImageProcessor")(size={"height": side, "width": side})


def _image_processor(name: str) -> type:
    """The variant that needs no torchvision, where there is one."""
    return getattr(hf, f"{name}Pil", None) or getattr(hf, name)


def _saved(folder: Path, cls: type, config: object, processor: object, quieter: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = cls(config)
    for name, weights in model.named_parameters():
        if quieter and quieter in name:
            weights.data /= 20
    model.save_pretrained(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def build_yolo(folder: Path, name: str = "yolo26", task: str = "detect") -> Path:
    """A YOLO of ultralytics with 80 classes, saved as `folder/tiny.pt`; with these biases it finds things.

    name: yolo26 (without NMS), yolo11, yolov8-worldv2, yoloe-11. task: "segment" for one that gives masks.
    """
    from ultralytics import YOLO
    from ultralytics.utils import ROOT, YAML

    version = {"yolo26": "26", "yolo11": "11", "yolov8-worldv2": "v8", "yoloe-11": "11"}[name]
    suffix = "-seg" if task == "segment" else ""
    description = YAML.load(ROOT / "cfg" / "models" / version / f"{name}{suffix}.yaml")
    # Depth, width and most channels: an eighth of the smallest published one.
    description["scales"] = {"n": [0.33, 0.125, 1024]}
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f"{name}n{suffix}.yaml"
    YAML.save(written, description)
    torch.manual_seed(0)
    model = YOLO(str(written), task=task)
    _wake(model.model)
    for layer_name, layer in model.model.model[-1].named_modules():
        if isinstance(layer, torch.nn.Conv2d) and "cv3" in layer_name and layer.bias is not None:
            layer.weight.data /= 8
            layer.bias.data[:] = 0
        if isinstance(layer, torch.nn.Conv2d) and "cv2" in layer_name and name == "yolo26" and layer.bias is not None:
            layer.weight.data /= 8  # distances from the centre, which must not be negative
            layer.bias.data[:] = 2
        if hasattr(layer, "logit_scale"):  # compares with text
            layer.bias.data[:] = 0
    model.save(str(folder / "tiny.pt"))
    return folder / "tiny.pt"


def _wake(model: torch.nn.Module) -> None:
    """Set the statistics of batch normalisation from noise: with random weights and none, all features fade to zero."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(torch.rand(4, 3, 8, 8).repeat_interleave(20, 2).repeat_interleave(20, 3))
    model.eval()
    for norm in norms:
        norm.momentum = 0.03


def build_ultralytics_rtdetr(folder: Path) -> Path:
    """RT-DETR of ultralytics with its published layers, cut to few queries; saved as `folder/tiny.pt`."""
    from ultralytics import RTDETR
    from ultralytics.utils import ROOT, YAML

    description = YAML.load(ROOT / "cfg" / "models" / "rt-detr" / "rtdetr-l.yaml")
    description["scales"] = {"l": [0.33, 0.125, 1024]}
    folder.mkdir(parents=True, exist_ok=True)
    YAML.save(folder / "rtdetr-l.yaml", description)
    torch.manual_seed(0)
    model = RTDETR(str(folder / "rtdetr-l.yaml"))
    model.save(str(folder / "tiny.pt"))
    return folder / "tiny.pt"


def build_sam2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SAM2 as `folder/sam2_t.pt`. ultralytics knows only its published sizes: this one takes the place of `sam2_t`."""
    from ultralytics.models.sam import build

    tiny = functools.partial(
        build._build_sam2,
        encoder_embed_dim=16,
        encoder_stages=[1, 1, 1, 1],
        encoder_num_heads=1,
        encoder_global_att_blocks=[],
        encoder_window_spec=[8, 4, 14, 7],
        encoder_backbone_channel_list=[128, 64, 32, 16],
    )
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": tiny(checkpoint=None).state_dict()}, folder / "sam2_t.pt")
    monkeypatch.setitem(build.sam_model_map, "sam2_t.pt", lambda path: tiny(checkpoint=path))
    return folder / "sam2_t.pt"
