"""Detectors of MMDetection 3, by configuration and checkpoint: Co-DETR (arXiv 2211.12860), which FineEdit used.

Co-DETR lives in a project folder of the mmdetection repository, which must be importable on every worker; its
configuration names it in `custom_imports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ugaf.base.errors import ConfigError
from ugaf.base.needs import Needs
from ugaf.imaging import boxes
from ugaf.models.detectors.common import DeviceSettings, by_halves, check_device, gpu_needs, libraries
from ugaf.models.detectors.interface import Detection, DetectQuery, detections_of
from ugaf.stage import Failure

PACKAGES = {"torch": "mmdet", "mmdet": "mmdet"}


class MMDetDetector:
    """Implements `ugaf.models.detectors.interface.Detector`. Masks are those of models that have them."""

    name = "mmdet"
    version = 1

    class Settings(DeviceSettings):
        """Options of the engine `mmdet`."""

        config: str = Field(min_length=1, description="The model's configuration: a .py file of MMDetection 3.")
        checkpoint: str = Field(min_length=1, description="Its weights: a file or URL.")
        floor: float = Field(
            0.05, ge=0, le=1, description="Boxes scored lower are never reported, whatever the stage's `min_score`."
        )

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return gpu_needs(settings, PACKAGES, [settings.checkpoint], 1.0)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._torch, _ = libraries(PACKAGES)
        check_device(self._torch, settings.device)
        from mmdet.apis import inference_detector, init_detector

        self._infer = inference_detector
        device = "cuda:0" if settings.device == "cuda" else "cpu"
        try:
            self._model = init_detector(settings.config, settings.checkpoint, device=device)
        except (OSError, ImportError, KeyError, ValueError) as error:
            raise ConfigError(
                f"detector: {settings.config} with {settings.checkpoint} cannot be loaded: {error}"
            ) from error
        self.class_names = tuple(self._model.dataset_meta["classes"])

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
        """For each photograph: its objects, best first."""
        return [one for query in queries for one in by_halves(self._torch, self._run, [query])]

    def _run(self, queries: Sequence[DetectQuery]) -> list[list[Detection]]:
        # MMDetection's pipelines expect the channels as OpenCV reads them, and take images one after another.
        answers = self._infer(self._model, [np.ascontiguousarray(query.photo()[..., ::-1]) for query in queries])
        return [
            read(answer.pred_instances, self.class_names, query.size, self.settings.floor)
            for query, answer in zip(queries, answers, strict=True)
        ]


def read(instances: Any, names: Sequence[str], size: tuple[int, int], floor: float) -> list[Detection]:
    """MMDetection's `pred_instances` as detections, best first, without those scored below `floor`.

    instances: tensors bboxes (n, 4), x1 y1 x2 y2 in pixels of the image, scores (n,) and labels (n,); some models also
    have masks, bool (n, height, width). size: (width, height).
    """
    corners, scores, labels = (
        getattr(instances, name).detach().cpu().float().numpy() for name in ("bboxes", "scores", "labels")
    )
    masks = getattr(instances, "masks", None)
    found = []
    for i in np.argsort(-scores, kind="stable"):
        for one in detections_of(corners[i : i + 1], scores[i : i + 1], [names[int(labels[i])]], size):
            if one.score is not None and one.score >= floor:
                found.append(Detection(one.box, one.label, one.score, _inside(masks, i, one.box)))
    return found


def _inside(masks: Any, i: int, box: boxes.Box) -> np.ndarray | None:
    """The part of the i-th mask in the box; None if there are no masks, or nothing is in it."""
    if masks is None:
        return None
    cut = boxes.crop(masks[i].detach().cpu().numpy(), box) > 0
    return cut if cut.any() else None
