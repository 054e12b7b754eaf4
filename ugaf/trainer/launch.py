"""Starting a training: in this process, or in workers of Ray Train that all run the same loop."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from ugaf.base.errors import ConfigError
from ugaf.base.needs import Needs, install_hint
from ugaf.engine.session import Session, machine
from ugaf.trainer.settings import TrainSettings

LOG = logging.getLogger(__name__)
PACKAGES = dict.fromkeys(("torch", "diffusers", "transformers", "accelerate", "peft"), "train")


def require() -> None:
    """Raises ConfigError naming the extra to install, if a package is not there."""
    missing = Needs(packages=PACKAGES).missing()
    if missing:
        raise ConfigError(f"the trainer: {install_hint(missing)}")


def launch(settings: TrainSettings) -> None:
    """Trains to the last step, from the newest checkpoint if there is one.

    Raises ConfigError for what cannot work, and RuntimeError where workers died more often than scale.restarts allows.
    """
    require()
    if settings.scale.workers == 1 and not settings.scale.ray:
        from ugaf.trainer.distributed import leave
        from ugaf.trainer.loop import train

        try:
            train(settings)
        finally:
            leave()
    else:
        _with_ray(settings)


def _with_ray(settings: TrainSettings) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    scale = settings.scale
    output = Path(settings.output).expanduser().absolute()
    document = {**settings.model_dump(mode="json"), "output": str(output)}
    with Session():
        here = machine()
        on_gpu = scale.device == "cuda" or (scale.device == "auto" and here.gpus > 0)
        resources = {"CPU": scale.cpus_per_worker, **({"GPU": 1.0} if on_gpu else {})}
        _check_fits(scale.workers, resources, {"CPU": here.cpus, "GPU": here.gpus})
        TorchTrainer(
            _worker,
            train_loop_config=document,
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=scale.workers, use_gpu=on_gpu, resources_per_worker=resources),
            # Workers resume from the training's own checkpoints: a restarted group goes on where the last one stood.
            run_config=RunConfig(
                name="ray", storage_path=str(output), failure_config=FailureConfig(max_failures=scale.restarts)
            ),
        ).fit()


def _worker(document: dict[str, Any]) -> None:
    """In each worker; the process group is Ray Train's."""
    from ugaf.trainer.loop import train
    from ugaf.trainer.settings import parse

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    train(parse(document))


def _check_fits(workers: int, each: dict[str, float], there: dict[str, float]) -> None:
    """Raises ConfigError where Ray would wait for ever."""
    for name, amount in each.items():
        if workers * amount > there[name]:
            raise ConfigError(
                f"scale.workers: {workers} workers of {amount:g} {name} need {workers * amount:g}, and there are "
                f"{there[name]:g}; lower scale.workers" + (" or scale.cpus_per_worker" if name == "CPU" else "")
            )
