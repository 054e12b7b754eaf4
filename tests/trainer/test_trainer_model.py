"""The trainer's model: equal to its base before training, and told the box to the pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline, QwenImageTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from ugaf.fineedit.exact_vae import CosineVAE
from ugaf.fineedit.latents import Codec, pack, roi_mask, shape_of, to_float, unpack, without
from ugaf.fineedit.transformer import FineEditTransformer2DModel, check_layers
from ugaf.trainer.build import without_weights
from ugaf.trainer.settings import ModelSettings

pytestmark = pytest.mark.torch

SIZES = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 6, 6),
}


@pytest.fixture
def base() -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(**SIZES).eval()


def inputs(n: int = 2, rows: int = 4, columns: int = 6, references: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sequence = rows * columns

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "hidden_states": random(n, sequence * (2 + references), 16),
        "encoder_hidden_states": random(n, 7, 24),
        "encoder_hidden_states_mask": torch.arange(7)[None] < torch.tensor([[7], [5]])[:n],
        "timestep": torch.tensor([0.3, 0.9])[:n],
        "img_shapes": [[(1, rows, columns)] * (2 + references)] * n,
        "background_tokens": random(n, sequence, 16),
    }


@pytest.mark.parametrize(("early", "layers"), [(True, 2), (True, 0), (False, 2), (False, 4), (False, 0)])
@pytest.mark.parametrize("references", [0, 1])
def test_before_training_it_says_what_its_base_says(
    base: QwenImageTransformer2DModel, early: bool, layers: int, references: int
) -> None:
    model = FineEditTransformer2DModel.from_base(base, early, layers)
    given = inputs(references=references)
    with torch.no_grad():
        ours = model(**given, return_dict=False)[0]
        del given["background_tokens"]
        theirs = base(**given, return_dict=False)[0]
    assert (ours - theirs).abs().max() <= 1e-5


def test_a_model_without_weights_is_the_base_model_once_it_gets_them(
    tmp_path: Path, base: QwenImageTransformer2DModel
) -> None:
    base.save_pretrained(tmp_path / "transformer")
    found = without_weights(ModelSettings(base=str(tmp_path)), torch.float32)
    assert all(value.is_meta for value in found.parameters())
    found.to_empty(device="cpu").load_state_dict(base.state_dict())
    given = inputs()
    del given["background_tokens"]
    with torch.no_grad():
        assert torch.equal(found(**given).sample, base(**given).sample)


def test_early_fusion_is_a_projection_widened_by_the_background(base: QwenImageTransformer2DModel) -> None:
    model = FineEditTransformer2DModel.from_base(base, True, 0)
    with torch.no_grad():
        model.img_in.weight[:, 16:].normal_()
    given = inputs()
    seen = []
    model.img_in.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        model(**given)
    tokens, told = given["hidden_states"], given["background_tokens"]
    expected = tokens @ model.img_in.weight[:, :16].T + model.img_in.bias
    expected[:, : told.shape[1]] += told @ model.img_in.weight[:, 16:].T
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("early", "layers"), [(True, 0), (False, 2)])
def test_what_it_adds_can_be_learned(base: QwenImageTransformer2DModel, early: bool, layers: int) -> None:
    model = FineEditTransformer2DModel.from_base(base, early, layers)
    given = inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(**given, return_dict=False)[0].square().mean().backward()
    zeros = [model.img_in.weight[:, 16:]] if early else [out.weight for out in model.adapter.outs]
    assert all(not one.any() for one in zeros)
    optimizer.step()
    assert all(one.abs().sum() > 0 for one in zeros)
    other = {**given, "background_tokens": -given["background_tokens"]}
    with torch.no_grad():
        assert (model(**given, return_dict=False)[0] - model(**other, return_dict=False)[0]).abs().max() > 1e-4


def test_deep_fusion_reaches_an_equal_share_of_the_blocks(base: QwenImageTransformer2DModel) -> None:
    model = FineEditTransformer2DModel.from_base(base, False, 2)
    added = [torch.full((2, 24, 32), value) for value in (1.0, 10.0)]
    model._deep = lambda *_: added  # type: ignore[method-assign]
    entering = []
    for block in model.transformer_blocks:
        block.register_forward_pre_hook(
            lambda _, __, options: entering.append(options["hidden_states"]), with_kwargs=True
        )
        block.forward = lambda hidden_states, encoder_hidden_states, **_: (encoder_hidden_states, hidden_states)
    with torch.no_grad():
        model(**inputs())
    grown = [(after - entering[0]) for after in entering]
    assert [round(float(one[:, :24].mean()), 3) for one in grown] == [0, 1, 2, 12]
    assert not any(one[:, 24:].any() for one in grown)


def test_the_full_size_adapter_is_a_tenth_of_the_model() -> None:
    with torch.device("meta"):
        model = FineEditTransformer2DModel()
    adapter = sum(value.numel() for value in model.adapter.parameters())
    rest = sum(value.numel() for value in model.parameters()) - adapter
    assert 0.095 < adapter / rest < 0.11
    assert 19e9 < rest < 22e9


def test_the_background_has_to_be_told(base: QwenImageTransformer2DModel) -> None:
    given = inputs()
    del given["background_tokens"]
    with pytest.raises(ValueError, match="background_tokens"):
        FineEditTransformer2DModel.from_base(base, True, 0)(**given)


def test_layers_that_cannot_be_spread_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="6 cannot be spread evenly over 10 blocks; 5 can"):
        check_layers(6, 10)
    check_layers(6, 60)


@given(st.integers(1, 30), st.integers(1, 60))
def test_every_layer_that_is_let_through_reaches_a_block(layers: int, blocks: int) -> None:
    reached = {block // -(-blocks // layers) for block in range(blocks)}
    if reached == set(range(layers)):
        check_layers(layers, blocks)
    else:
        with pytest.raises(ValueError, match="adapter_layers"):
            check_layers(layers, blocks)


def test_gradient_checkpointing_changes_no_gradient(base: QwenImageTransformer2DModel) -> None:
    found = []
    for checkpointing in (False, True):
        model = FineEditTransformer2DModel.from_base(base, True, 2).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
            assert model.adapter.gradient_checkpointing
        model(**inputs(), return_dict=False)[0].square().mean().backward()
        found.append({name: value.grad for name, value in model.named_parameters()})
    for name, gradient in found[0].items():
        other = found[1][name]
        assert (gradient is None) == (other is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, other)


def test_tokens_are_packed_as_the_base_models_pipeline_packs_them() -> None:
    latents = torch.randn(2, 4, 6, 10)
    theirs = QwenImageEditPlusPipeline._pack_latents(latents.unsqueeze(1), 2, 4, 6, 10)
    assert torch.equal(pack(latents), theirs)
    assert torch.equal(unpack(pack(latents), 6, 10), latents)
    assert shape_of(latents) == (1, 3, 5)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_exact_autoencoder_gives_back_what_it_got(factor: int) -> None:
    codec = Codec(CosineVAE(factor))
    pictures = torch.rand(2, 3, 32, 48) * 2 - 1
    latents = codec.encode(pictures)
    assert latents.shape == (2, 3 * factor**2, 32 // factor, 48 // factor)
    torch.testing.assert_close(codec.decode(latents), pictures, atol=1e-5, rtol=0)


def test_the_first_latent_of_the_exact_autoencoder_is_the_mean() -> None:
    codec = Codec(CosineVAE(4))
    pictures = torch.rand(1, 3, 8, 8) * 2 - 1
    means = torch.nn.functional.avg_pool2d(pictures, 4)
    expected = means * 4 / codec.vae.config.latents_std[0]
    torch.testing.assert_close(codec.encode(pictures)[:, ::16], expected)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4), max_size=3))
def test_masks_are_the_union_of_boxes_and_latents_hold_nothing_from_inside(corners: list[tuple[int, ...]]) -> None:
    boxes = [(4 * min(a, c), 4 * min(b, d), 4 * max(a, c), 4 * max(b, d)) for a, b, c, d in corners]
    mask = roi_mask([boxes], 48, 48)
    expected = np.zeros((48, 48), bool)
    for x1, y1, x2, y2 in boxes:
        expected[y1:y2, x1:x2] = True
    if not boxes:
        expected[:] = True
    assert np.array_equal(mask[0, 0].numpy(), expected)
    codec = Codec(CosineVAE(4))
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, 3, 48, 48), generator=generator, dtype=torch.uint8)
    other = torch.where(mask, 255 - picture, picture)
    told = [codec.encode(without(to_float(one), mask)) for one in (picture, other)]
    assert torch.equal(*told)
    inside = torch.from_numpy(expected).reshape(12, 4, 12, 4).any(3).any(1)
    assert not told[0][0][:, inside].any()
    assert torch.equal(told[0][0][:, ~inside], codec.encode(to_float(picture))[0][:, ~inside])
