"""Settings of the post-training: one YAML file, checked as a whole before anything is read. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from ugaf.models.servers import ModelServer
from ugaf.stage import Settings, operational
from ugaf.trainer.data.settings import DataSettings
from ugaf.trainer.settings import (
    AdamWSettings,
    CheckpointSettings,
    FlowSettings,
    LoraSettings,
    ModelSettings,
    TinySettings,
    load_as,
    parse_as,
)


class PolicySettings(Settings):
    """The editor that is post-trained: a LoRA on its blocks learns, everything else stays as it is."""

    base: str = Field(description="folder of a trained editor, a Qwen-Image-Edit checkpoint, or `tiny`")
    revision: str | None = Field(None, description="branch, tag or commit of a repository")
    tiny: TinySettings = Field(TinySettings(), description="sizes of the base model `tiny`")
    lora: LoraSettings = Field(LoraSettings(), description="the adapters")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="of the computation; auto: bfloat16 on a GPU, float32 on a CPU. The LoRA is float32"
    )
    checkpointing: bool = operational(True, description="gradient checkpointing: less memory, a third more time")
    compile: bool = operational(False, description="torch.compile of the transformer's blocks")

    def as_model(self) -> ModelSettings:
        """As the trainer builds it. A base without fusion stays without: it would begin at zero and is not trained."""
        return ModelSettings(
            base=self.base,
            revision=self.revision,
            tiny=self.tiny,
            early_fusion=False,
            deep_fusion=False,
            train="lora",
            lora=self.lora,
            dtype=self.dtype,
            checkpointing=self.checkpointing,
            compile=self.compile,
        )


class SamplingSettings(Settings):
    """How the model edits while it learns."""

    groups: int = Field(24, ge=1, description="pairs of an epoch; the number of processes divides it")
    members: int = Field(16, ge=2, description="edits of each pair, which differ by their noise")
    steps: int = Field(10, ge=1, description="denoising steps of an edit")
    true_cfg_scale: float = Field(1.0, ge=1, description="guidance of these edits; 1 is none, as DiffusionNFT learns")
    batch: int = operational(8, ge=1, description="edits that go through the model together")


class RewardSettings(Settings):
    """What an edit is worth. Every score is 0..1."""

    kind: Literal["decoupled", "global"] = Field(
        "decoupled",
        description="decoupled: score of the region, plus score of the background, plus its PSNR normalised within the "
        "group; global: one score of the whole picture (the ablation)",
    )
    scorer: Literal["judge", "embedded"] = Field(
        "embedded", description="judge: a vision-language model; embedded: measurements against the pair's own target"
    )
    server: ModelServer | None = Field(None, description="scorer judge: the model, and the `endpoints` it runs at")
    passes: int = Field(1, ge=1, description="scorer judge: times each question is asked; the mean counts")
    temperature: float | None = Field(0.7, ge=0, description="scorer judge: of sampling; null leaves it to the server")
    max_tokens: int = Field(1024, ge=64, description="scorer judge: longest answer, thinking included")
    thinking: bool | None = Field(
        None, description="scorer judge: ask a hybrid model to think, or not to; null leaves it out"
    )
    image_side: int = Field(1024, ge=64, le=2048, description="scorer judge: longer side in pixels of pictures sent")

    @model_validator(mode="after")
    def _server(self) -> RewardSettings:
        if self.scorer == "judge":
            if self.server is None:
                raise ValueError("scorer: judge needs `server: {model: NAME, endpoints: [http://HOST:PORT/v1]}`")
            if self.server.is_started:
                raise ValueError("server: post-training starts no servers: start it, and give `endpoints: [URL]`")
        return self


class MiningSettings(Settings):
    """Semi-hard groups (FireRed-Image-Edit, section 3.6.2): the model can do the edit, but not every time.

    The paper estimates this once, beforehand; here it is the group's own rewards that say it.
    """

    least_mean: float | None = Field(None, description="a group learns if its mean reward is at least this; null: any")
    most_worst: float | None = Field(None, description="and if its worst reward is at most this; null: any")


class NFTSettings(Settings):
    """DiffusionNFT (arXiv 2509.16117). Defaults are those of its published code."""

    beta: float = Field(1.0, gt=0, le=1, description="v+ = (1 - beta) v_old + beta v; less is a bolder step")
    clip: float = Field(5.0, gt=0, description="advantage at which an edit counts as wholly good or bad")
    weighting: Literal["self", "none"] = Field(
        "self", description="self: errors of the predicted picture, over their own mean size; none: of the velocity"
    )
    kl: float = Field(
        1e-4,
        ge=0,
        description="weight of the squared distance to the velocity before post-training; 0 saves its forward pass",
    )


class DPOSettings(Settings):
    """DPO with positive-sample reinforcement (FireRed-Image-Edit, arXiv 2602.13344, section 3.6.1, equation 2).

    The paper gives no values but omega > 1: the defaults are ours.
    """

    beta: float = Field(1000.0, gt=0, description="sharpness of the preference, for mean square errors")
    omega: float = Field(1.5, ge=1, description="weight of the winner's error against the loser's")
    reinforcement: float = Field(0.1, ge=0, description="lambda: weight of the winner's own flow-matching loss")
    winners: Literal["sampled", "target"] = Field(
        "sampled", description="sampled: a group's best edits; target: the shards' own edit, for want of other experts"
    )
    losers: Literal["worst", "semi_hard"] = Field(
        "semi_hard", description="worst: the group's worst; semi_hard: the best that are `gap` below their winner"
    )
    gap: float = Field(1.0, ge=0, description="least difference of a pair's advantages; without one there is no pair")


class PostFlowSettings(FlowSettings):
    """Noise levels at which the edits are learnt from."""

    timesteps: Literal["uniform", "logit_normal"] = Field("uniform", description="distribution of t")


class PostOptimizerSettings(AdamWSettings):
    """AdamW on the LoRA."""

    lr: float = Field(3e-4, gt=0, description="learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW")
    updates: int = Field(1, ge=1, description="optimizer steps of an epoch, each on its share of every group")
    levels: int = Field(8, ge=1, description="noise levels at which each edit is learnt from")
    batch: int = operational(4, ge=1, description="edits that go through the model together")


class OldSettings(Settings):
    """The policy that samples: a copy of the LoRA that follows the one that learns."""

    rate: float = Field(0.001, ge=0, description="after epoch e, min(rate e, most) of the copy stays")
    most: float = Field(0.5, ge=0, lt=1, description="the most of it that stays")


class PostCheckpointSettings(CheckpointSettings):
    """Checkpoints, from which a killed post-training goes on."""

    every: int = operational(10, ge=1, description="epochs between two")


class PostSettings(Settings):
    """The whole of a post-training."""

    name: str = Field("fineedit-post", min_length=1, description="of the post-training, in logs")
    output: str = Field(description="folder of checkpoints, logs, pictures and the editor")
    epochs: int = Field(300, ge=1, description="rounds of editing and learning")
    seed: int = Field(0, ge=0, description="every random choice follows from it")
    data: DataSettings = Field(description="pairs to edit; lanes and tokens are set by the post-training")
    model: PolicySettings = Field(description="what is post-trained")
    sampling: SamplingSettings = Field(SamplingSettings(), description="how it edits")
    reward: RewardSettings = Field(RewardSettings(), description="what an edit is worth")
    method: Literal["nft", "dpo"] = Field("nft", description="how it learns from that")
    scale: Literal["epoch", "group"] = Field(
        "epoch", description="an advantage is in standard deviations of all rewards of the epoch, or of its group"
    )
    mining: MiningSettings = Field(MiningSettings(), description="groups that are learnt from")
    nft: NFTSettings = Field(NFTSettings(), description="method nft")
    dpo: DPOSettings = Field(DPOSettings(), description="method dpo")
    flow: PostFlowSettings = Field(PostFlowSettings(), description="noise levels")
    optimizer: PostOptimizerSettings = Field(PostOptimizerSettings(), description="how weights are changed")
    old: OldSettings = Field(OldSettings(), description="the policy that samples")
    device: str = operational("auto", pattern=r"^(auto|cuda|cpu)$", description="auto: a GPU if there is one")
    checkpoint: PostCheckpointSettings = Field(PostCheckpointSettings(), description="what a crash costs")
    pictures: int = operational(10, ge=0, description="epochs between two sheets of pictures; 0: none")

    @model_validator(mode="after")
    def _fits_together(self) -> PostSettings:
        if self.data.cache is not None:
            raise ValueError(
                "data.cache: edits are rewarded as pictures, which a feature cache does not hold: leave it out"
            )
        if self.optimizer.updates > self.sampling.members:
            raise ValueError(
                f"optimizer.updates: {self.optimizer.updates} steps, but a group has {self.sampling.members} members"
            )
        return self

    def pairs(self) -> DataSettings:
        """The data settings with which a step of the plan is an epoch, and each of its microbatches one pair."""
        return self.data.model_copy(update={"lanes": self.sampling.groups, "tokens": None})


def load(path: str, overrides: Sequence[str] = ()) -> PostSettings:
    """The settings of a YAML file, with `key.path=value` changed. Raises ConfigError: see `load_as`."""
    return load_as(PostSettings, path, overrides)


def parse(document: Mapping[str, Any], where: str = "post-training") -> PostSettings:
    """Checked settings. Raises ConfigError."""
    return parse_as(PostSettings, document, where)
