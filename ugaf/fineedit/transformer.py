"""FineEdit's transformer: Qwen-Image's MM-DiT with early and deep fusion (arXiv 2604.10954, section 3.2).

The image without its boxes goes through the autoencoder: q_msk. *Early fusion* joins it to the noisy target tokens
channel by channel, zeros to the source tokens, and widens the input projection by columns of zeros. *Deep fusion* runs
q_msk through a side adapter of transformer blocks and adds what each of them gives to an equal share of the model's
blocks, through projections that begin at zero. So before the first step the output is the base model's.

The adapter's blocks are of the base model's kind and begin as copies of blocks evenly spaced in it: 6 beside 60 are the
tenth more parameters that the paper names. It sees the text and the noise level as the model does.
"""

from __future__ import annotations

from typing import Any

import torch

# A pipeline finds how to load a class by the bases that its module knows.
from diffusers import ModelMixin, QwenImageTransformer2DModel  # noqa: F401
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock
from torch import nn


class SideAdapter(nn.Module):
    """Blocks beside the model's, on the tokens of the image without its boxes."""

    def __init__(self, channels: int, width: int, heads: int, head_dim: int, layers: int) -> None:
        super().__init__()
        self.img_in = nn.Linear(channels, width)
        self.transformer_blocks = nn.ModuleList(
            QwenImageTransformerBlock(width, heads, head_dim) for _ in range(layers)
        )
        self.outs = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.gradient_checkpointing = False

    def forward(
        self,
        tokens: torch.Tensor,
        text: torch.Tensor,
        text_mask: torch.Tensor | None,
        conditioning: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
    ) -> list[torch.Tensor]:
        """What each layer adds to the target tokens: (n, sequence, width) each."""
        hidden, added = self.img_in(tokens), []
        for block, out in zip(self.transformer_blocks, self.outs, strict=True):
            given = (hidden, text, text_mask, conditioning, rotary)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                text, hidden = self._gradient_checkpointing_func(block, *given)
            else:
                text, hidden = block(*given)
            added.append(out(hidden))
        return added


class FineEditTransformer2DModel(QwenImageTransformer2DModel):
    """Qwen-Image's transformer that is told where to edit.

    The arguments are those of `QwenImageTransformer2DModel`, and:

    early_fusion: whether q_msk is joined to the target tokens.
    adapter_layers: blocks of the side adapter; 0 is no deep fusion.
    """

    _no_split_modules = ("QwenImageTransformerBlock",)

    @register_to_config
    def __init__(
        self,
        patch_size: int = 2,
        in_channels: int = 64,
        out_channels: int | None = 16,
        num_layers: int = 60,
        attention_head_dim: int = 128,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 3584,
        guidance_embeds: bool = False,
        axes_dims_rope: tuple[int, int, int] = (16, 56, 56),
        zero_cond_t: bool = False,
        use_additional_t_cond: bool = False,
        use_layer3d_rope: bool = False,
        early_fusion: bool = True,
        adapter_layers: int = 6,
    ) -> None:
        super().__init__(
            patch_size,
            in_channels,
            out_channels,
            num_layers,
            attention_head_dim,
            num_attention_heads,
            joint_attention_dim,
            guidance_embeds,
            axes_dims_rope,
            zero_cond_t,
            use_additional_t_cond,
            use_layer3d_rope,
        )
        check_layers(adapter_layers, num_layers)
        if early_fusion:
            self.img_in = nn.Linear(2 * in_channels, self.inner_dim)
        self.adapter = (
            SideAdapter(in_channels, self.inner_dim, num_attention_heads, attention_head_dim, adapter_layers)
            if adapter_layers
            else None
        )

    @classmethod
    def from_base(cls, base: QwenImageTransformer2DModel, early_fusion: bool, adapter_layers: int) -> Any:
        """A model whose output is the base model's until it is trained; it takes over the base model's weights.

        Raises ValueError for a number of layers that cannot be spread evenly.
        """
        check_layers(adapter_layers, len(base.transformer_blocks))
        known = {name: value for name, value in base.config.items() if not name.startswith("_")}
        with torch.device("meta"):
            model = cls(**known, early_fusion=early_fusion, adapter_layers=adapter_layers)
        state = base.state_dict()
        if early_fusion:
            weight = state["img_in.weight"]
            state["img_in.weight"] = torch.cat([weight, torch.zeros_like(weight)], dim=1)
        if adapter_layers:
            state |= _adapter_state(base.state_dict(), len(base.transformer_blocks), adapter_layers)
        # The rotary tables are no buffers: those of the base model are real, the new ones were made on no device.
        model.pos_embed = base.pos_embed
        model.load_state_dict(state, assign=True)
        return model.train(base.training)

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_mask: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None,
        img_shapes: Any = None,
        background_tokens: torch.Tensor | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """As the base model's, and:

        background_tokens: (n, target sequence, in_channels), tokens of the image without its boxes; needed unless both
            fusions are off. hidden_states begins with as many target tokens.
        """
        added = None
        if background_tokens is not None:
            tokens = background_tokens.to(hidden_states)
            rest = hidden_states.shape[1] - tokens.shape[1]
            if self.adapter is not None:
                given = (encoder_hidden_states, encoder_hidden_states_mask, timestep, img_shapes)
                added = [nn.functional.pad(one, (0, 0, 0, rest)) for one in self._deep(tokens, *given)]
            if self.config.early_fusion:
                told = nn.functional.pad(tokens, (0, 0, 0, rest))
                hidden_states = torch.cat([hidden_states, told], dim=-1)
        elif self.config.early_fusion or self.adapter is not None:
            raise ValueError("background_tokens: this model has to be told the image without its boxes")
        return super().forward(
            hidden_states=hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            encoder_hidden_states_mask=encoder_hidden_states_mask,
            timestep=timestep,
            img_shapes=img_shapes,
            controlnet_block_samples=added,
            return_dict=return_dict,
            **options,
        )

    def _deep(
        self, tokens: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor | None, timestep: Any, img_shapes: Any
    ) -> list[torch.Tensor]:
        conditioning = self.time_text_embed(timestep.to(tokens.dtype), tokens)
        text = self.txt_in(self.txt_norm(text))
        if text_mask is not None:
            text_mask = text_mask.bool()
        target = [[shapes[0]] for shapes in img_shapes]
        # Positions of the text come after those of the largest picture, so all have to be named.
        rotary = self.pos_embed(img_shapes, max_txt_seq_len=text.shape[1], device=tokens.device)
        frames, rows, columns = target[0][0]
        own = (rotary[0][: frames * rows * columns], rotary[1])
        adapter: Any = self.adapter
        return list(adapter(tokens, text, text_mask, conditioning, own))


def check_layers(adapter_layers: int, blocks: int) -> None:
    """Raises ValueError where so many layers do not each reach some of the blocks."""
    if adapter_layers and -(-blocks // -(-blocks // adapter_layers)) != adapter_layers:
        fits = next(n for n in range(min(adapter_layers, blocks), 0, -1) if -(-blocks // -(-blocks // n)) == n)
        raise ValueError(f"adapter_layers: {adapter_layers} cannot be spread evenly over {blocks} blocks; {fits} can")


def is_added(name: str, early_fusion: bool) -> bool:
    """Whether a parameter belongs to what FineEdit adds, or widens."""
    return name.startswith("adapter.") or (early_fusion and name.startswith("img_in."))


def _adapter_state(state: dict[str, torch.Tensor], blocks: int, layers: int) -> dict[str, torch.Tensor]:
    """The adapter's first weights: blocks and input projection of the base model, and projections out that are zero."""
    weight = state["img_in.weight"]
    made = {"adapter.img_in.weight": weight.clone(), "adapter.img_in.bias": state["img_in.bias"].clone()}
    width = weight.shape[0]
    for layer in range(layers):
        copied = f"transformer_blocks.{layer * blocks // layers}."
        for name, value in state.items():
            if name.startswith(copied):
                made[f"adapter.transformer_blocks.{layer}.{name.removeprefix(copied)}"] = value.clone()
        made[f"adapter.outs.{layer}.weight"] = weight.new_zeros(width, width)
        made[f"adapter.outs.{layer}.bias"] = weight.new_zeros(width)
    return made
