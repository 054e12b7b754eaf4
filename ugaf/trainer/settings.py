"""Settings of the trainer: one YAML file, checked as a whole before anything is read or loaded.

The module imports no torch, so that `--check` and the help work where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from ugaf.base import yaml_files
from ugaf.base.errors import ConfigError, explain_validation, nearest
from ugaf.stage import Settings, operational
from ugaf.trainer.data.settings import DataSettings

Kind = TypeVar("Kind", bound=Settings)

TINY = "tiny"
"""The base model that is made on the spot, with random weights: to try the trainer where there are no weights."""


class LoraSettings(Settings):
    """Low-rank adapters on the base model's attention and MLPs; early and deep fusion are trained as they are."""

    rank: int = Field(32, ge=1, description="rank of the adapters")
    alpha: float = Field(64.0, gt=0, description="their scale is alpha / rank")
    targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        min_length=1,
        description="ends of the names of the linear layers that get one",
    )


class TinySettings(Settings):
    """Sizes of the base model `tiny`."""

    layers: int = Field(4, ge=1, description="transformer blocks")
    heads: int = Field(4, ge=1, description="attention heads")
    head_dim: int = Field(32, ge=16, multiple_of=16, description="width of a head")
    text_dim: int = Field(64, ge=16, multiple_of=16, description="width of the text encoder")
    factor: Literal[2, 4, 8] = Field(4, description="pixels of a latent's side; its autoencoder is exact, not learned")


class ModelSettings(Settings):
    """The model: FineEdit (arXiv 2604.10954, section 3) on a Qwen-Image-Edit checkpoint."""

    base: str = Field(description="a Qwen-Image-Edit checkpoint, a folder of the trainer's own, or `tiny`")
    revision: str | None = Field(None, description="branch, tag or commit of a repository")
    tiny: TinySettings = Field(TinySettings(), description="sizes of the base model `tiny`")
    early_fusion: bool = Field(True, description="latents of the image without its boxes, beside the noisy tokens")
    deep_fusion: bool = Field(True, description="a side adapter on those latents, added into the blocks")
    adapter_layers: int = Field(6, ge=1, description="blocks of the side adapter")
    train: Literal["full", "lora", "fusion"] = Field(
        "full", description="full: every weight; lora: adapters and fusion; fusion: only what FineEdit adds"
    )
    lora: LoraSettings = Field(LoraSettings(), description="with train: lora")
    drop_prompt: float = Field(
        0.1, ge=0, lt=1, description="share of samples with the empty prompt, for classifier-free guidance"
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="of the computation; auto: bfloat16 on a GPU, float32 on a CPU. Trained weights are float32"
    )
    checkpointing: bool = operational(True, description="gradient checkpointing: less memory, a third more time")
    compile: bool = operational(False, description="torch.compile of the transformer's blocks")

    @model_validator(mode="after")
    def _trains_something(self) -> ModelSettings:
        if self.train == "fusion" and not (self.early_fusion or self.deep_fusion):
            raise ValueError("train: fusion, but early_fusion and deep_fusion are off: nothing would be trained")
        return self


class FlowSettings(Settings):
    """Flow matching (FineEdit section 3.1): q_t = t noise + (1 - t) target, and the model learns noise - target."""

    timesteps: Literal["uniform", "logit_normal"] = Field("logit_normal", description="distribution of t")
    mean: float = Field(0.0, description="logit_normal: of logit t")
    std: float = Field(1.0, gt=0, description="logit_normal: of logit t")
    shift: float = Field(1.0, gt=0, description="t becomes shift t / (1 + (shift - 1) t): above 1 is more noise")
    stratified: bool = Field(
        True,
        description="one t from each of as many equal strata as an optimizer step has samples, strata rotating over "
        "samples and ranks (FireRed-Image-Edit's distributed stratified sampling)",
    )
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = Field("none", description="weight of a timestep's loss")


class AdamWSettings(Settings):
    """AdamW, as FineEdit trains."""

    lr: float = Field(5e-5, gt=0, description="learning rate, after a warm-up where there is one")
    betas: tuple[float, float] = Field((0.9, 0.999), description="of AdamW")
    eps: float = Field(1e-8, gt=0, description="of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    clip: float | None = Field(1.0, gt=0, description="greatest norm of the gradient; null: none")


class OptimizerSettings(AdamWSettings):
    """And how its rate goes."""

    warmup_steps: int = Field(500, ge=0, description="linear, from 0")
    schedule: Literal["constant", "cosine"] = Field("constant", description="after the warm-up; cosine ends at 0")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of a moving average of the weights, which is then what is exported"
    )


class ScaleSettings(Settings):
    """Where the training runs: one process here, or several by Ray Train."""

    workers: int = operational(1, ge=1, description="processes, one a GPU; above 1 they are Ray Train's")
    ray: bool = operational(False, description="Ray Train with one worker, too")
    device: str = operational("auto", pattern=r"^(auto|cuda|cpu)$", description="auto: a GPU if there is one")
    cpus_per_worker: float = operational(1.0, gt=0, description="CPUs that Ray reserves for a worker")
    restarts: int = operational(3, ge=0, description="how often Ray Train starts dead workers anew, from a checkpoint")
    strategy: Literal["fsdp", "hsdp"] = operational(
        "fsdp", description="fsdp: weights are split over all workers; hsdp: within groups of `shard` workers"
    )
    shard: int | None = operational(None, ge=1, description="hsdp: workers that share one copy (the GPUs of a node)")

    @model_validator(mode="after")
    def _groups(self) -> ScaleSettings:
        if self.strategy == "hsdp" and (self.shard is None or self.workers % self.shard):
            raise ValueError(f"shard: with hsdp, a number that divides workers ({self.workers})")
        return self


class CheckpointSettings(Settings):
    """Checkpoints, from which a killed training goes on as if it had not been."""

    every: int = operational(500, ge=1, description="steps between two")
    keep: int = operational(2, ge=1, description="how many of the newest are kept")


class ValidationSettings(Settings):
    """Pictures and a loss on samples that are not trained on."""

    every: int = operational(500, ge=0, description="steps between two; 0: never")
    samples: int = operational(8, ge=1, description="pairs of the validation split")
    steps: int = operational(30, ge=1, description="denoising steps of a picture")
    true_cfg_scale: float = operational(4.0, ge=1, description="classifier-free guidance of a picture")
    split: str = operational("validation", description="split of the shards that they are from")


class TrainSettings(Settings):
    """The whole of a training."""

    name: str = Field("fineedit", min_length=1, description="of the training, in logs")
    output: str = Field(description="folder of checkpoints, logs, pictures and the editor")
    steps: int = Field(15_000, ge=1, description="optimizer steps")
    seed: int = Field(0, ge=0, description="every random choice follows from it")
    data: DataSettings = Field(description="what it is trained on")
    model: ModelSettings = Field(description="what is trained")
    flow: FlowSettings = Field(FlowSettings(), description="the loss")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="how weights are changed")
    scale: ScaleSettings = Field(ScaleSettings(), description="where it runs")
    checkpoint: CheckpointSettings = Field(CheckpointSettings(), description="what a crash costs")
    validation: ValidationSettings = Field(ValidationSettings(), description="how it is going")
    log_every: int = operational(1, ge=1, description="steps between two lines of the log")
    peak_tflops: float | None = operational(
        None, gt=0, description="of one GPU at the training's dtype, for MFU; null: known for common GPUs"
    )

    @model_validator(mode="after")
    def _lanes(self) -> TrainSettings:
        if self.data.lanes % self.scale.workers:
            raise ValueError(f"scale.workers: {self.scale.workers} does not divide data.lanes ({self.data.lanes})")
        return self


def load(path: str, overrides: Sequence[str] = ()) -> TrainSettings:
    """The settings of a YAML file, with `key.path=value` changed. Raises ConfigError: see `load_as`."""
    return load_as(TrainSettings, path, overrides)


def parse(document: Mapping[str, Any], where: str = "training") -> TrainSettings:
    """Checked settings. Raises ConfigError."""
    return parse_as(TrainSettings, document, where)


def load_as(kind: type[Kind], path: str, overrides: Sequence[str] = ()) -> Kind:
    """Settings of a kind from a YAML file, with `key.path=value` changed.

    Raises ConfigError naming the file and the setting, and the nearest valid name.
    """
    document = yaml_files.mapping(Path(path).expanduser(), path, "a mapping of settings")
    for override in overrides:
        _set(document, override, kind)
    return parse_as(kind, document, path)


def parse_as(kind: type[Kind], document: Mapping[str, Any], where: str) -> Kind:
    """Checked settings of a kind. Raises ConfigError naming `where` and the setting."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, where, kind)) from error


def _set(document: dict[str, Any], override: str, kind: type[Settings]) -> None:
    key, value = yaml_files.change(override, override)
    path = key.split(".")
    if path[0] not in kind.model_fields:
        raise ConfigError(f"{override}: no such setting{nearest(path[0], kind.model_fields)}")
    yaml_files.set_path(document, path, value, override)
