"""Detectors of the ultralytics library (AGPL-3.0): YOLO26 and others, RT-DETR, YOLO-World, YOLOE; SAM2 for masks.

YOLO-World and YOLOE look for a vocabulary, given once or by a column. Masks come from a segmenting checkpoint (`-seg`),
or for the boxes of any detector from SAM2.

The library is kept to what it is asked for: its settings stand in a temporary folder, it installs no packages and
reports nothing; weights that are asked for by their bare name are downloaded into torch's hub folder.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ugaf.base.errors import ConfigError
from ugaf.base.failure import each
from ugaf.base.needs import Needs, together
from ugaf.imaging import images
from ugaf.models.detectors.common import (
    GPU_SHARE,
    BatchSettings,
    VocabularySettings,
    by_halves,
    check_device,
    gpu_needs,
    grouped,
    libraries,
)
from ugaf.models.detectors.interface import Detection, DetectQuery, detections_of
from ugaf.models.detectors.letterbox import Frame, letterbox
from ugaf.stage import Failure

PACKAGES = {"torch": "ultralytics", "ultralytics": "ultralytics"}
SAM_SIDE = 1024
"""Longer side of what SAM2 sees."""
SAM_BOXES = 64
"""Boxes of an image that get their masks at once: each takes 4 MB."""


@dataclass(frozen=True, eq=False)
class Work:
    """A photograph as the model takes it. index: the query's. pixels: BGR uint8. frame: None if not letterboxed."""

    index: int
    query: DetectQuery
    pixels: np.ndarray
    frame: Frame | None
    vocabulary: tuple[str, ...]


class UltralyticsDetector:
    """Implements `ugaf.models.detectors.interface.Detector`.

    On a GPU it computes in half precision by autocast. A photograph's boxes do not depend on its batch, but for the
    rounding errors of other kernels for other batch sizes.
    """

    name = "ultralytics"
    version = 1

    class Settings(BatchSettings, VocabularySettings):
        """Options of the engine `ultralytics`."""

        model: str = Field(
            min_length=1,
            description="The weights: a file, or the name of published ones (yolo26x.pt, yolov8x-worldv2.pt).",
        )
        masks: str | None = Field(
            None,
            description="SAM2 weights that give each box its mask (sam2.1_b.pt); null leaves a -seg model its own.",
        )
        image_side: int = Field(
            640, ge=32, multiple_of=32, description="Longer side in pixels at which the model looks at a photograph."
        )
        floor: float = Field(
            0.05, ge=0, le=1, description="Boxes scored lower are never reported, whatever the stage's `min_score`."
        )
        max_boxes: int = Field(100, ge=1, le=1000, description="At most this many boxes an image, the best ones.")
        nms: float = Field(
            0.7,
            gt=0,
            le=1,
            description="IoU above which the worse of two boxes of a class is dropped (models that need it).",
        )
        dtype: Literal["auto", "float32", "float16"] = Field(
            "auto", description="Precision of the models; auto: float16 on a GPU, float32 on a CPU."
        )

        @field_validator("model")
        @classmethod
        def _weights(cls, value: str) -> str:
            if value.lower().endswith((".yaml", ".yml")):
                raise ValueError("a YAML describes a model without weights: name a file with weights (.pt)")
            return value

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        models = [name for name in (settings.model, settings.masks) if name]
        return together([gpu_needs(settings, PACKAGES, models, GPU_SHARE), Needs(reads=settings.columns)])

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        keep_to_itself()
        self._torch, library = libraries(PACKAGES)
        check_device(self._torch, settings.device)
        folder = Path(self._torch.hub.get_dir()) / "ultralytics"
        with _alone(folder):
            self._model = self._loaded(library.YOLO, settings.model, folder)
            self._sam = self._loaded(library.SAM, settings.masks, folder) if settings.masks else None
            self._stretches = isinstance(self._model, library.RTDETR)
            self._open = hasattr(self._model, "set_classes")
            self._vocabulary: tuple[str, ...] = ()
            if self._model.task not in ("detect", "segment"):
                raise ConfigError(
                    f"detector.model: {settings.model} is for the task {self._model.task!r}, not detection"
                )
            if settings.told and not self._open:
                raise ConfigError(
                    f"detector.vocabulary: {settings.model} has its own classes; choose among them with `classes`"
                )
            if settings.vocabulary:
                self._look_for(tuple(settings.vocabulary))
        self.class_names = () if settings.vocabulary_column else tuple(_names(self._model).values())

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
        """For each photograph: its objects, best first."""
        prepared = each(lambda item: self._prepared(*item), enumerate(queries))
        found: list[list[Detection] | Failure] = [work if isinstance(work, Failure) else [] for work in prepared]
        works = [work for work in prepared if isinstance(work, Work)]
        for batch in grouped(
            works, lambda work: (work.frame and work.pixels.shape, work.vocabulary), self.settings.batch_size
        ):
            for work, outcome in zip(batch, by_halves(self._torch, self._run, batch), strict=True):
                found[work.index] = outcome
        return found

    def _loaded(self, load: Any, name: str, folder: Path) -> Any:
        """A model from a file, or from published weights by their bare name. Raises ConfigError naming the setting."""
        path = Path(name).expanduser()
        try:
            if not path.exists():
                if path.name != name:
                    raise FileNotFoundError("no such file")
                from ultralytics.utils.downloads import attempt_download_asset

                path = Path(attempt_download_asset(folder / name))
            model = load(str(path.absolute()))
        except Exception as error:
            raise ConfigError(f"detector: the weights {name!r} cannot be loaded: {error}") from error
        model.model.to(self.settings.device)
        return model

    def _prepared(self, index: int, query: DetectQuery) -> Work:
        vocabulary = self.settings.phrases_for(query) if self.settings.told else ()
        pixels, frame = query.photo(), None
        if not self._stretches:
            pixels, frame = letterbox(pixels, self.settings.image_side, int(max(self._model.model.stride)))
        return Work(index, query, np.ascontiguousarray(pixels[..., ::-1]), frame, vocabulary)

    def _look_for(self, vocabulary: tuple[str, ...]) -> None:
        if vocabulary == self._vocabulary:
            return
        try:
            self._model.set_classes(list(vocabulary))
        except ImportError as error:
            raise ConfigError(
                f"detector.vocabulary: the text encoder of {self.settings.model} needs the package `clip` ({error}): "
                "pip install git+https://github.com/ultralytics/CLIP.git"
            ) from error
        self._vocabulary = vocabulary

    def _run(self, batch: Sequence[Work]) -> list[list[Detection]]:
        if batch[0].vocabulary:
            self._look_for(batch[0].vocabulary)
        answers = self._predicted(batch)
        # After about two seconds the library stops dropping overlapping boxes, and the photographs to which it did not
        # come look as if they were empty: those are asked again, each by itself.
        done = next((n for n in range(len(answers), 1, -1) if len(answers[n - 1].boxes)), 1)
        answers[done:] = [self._predicted([work])[0] for work in batch[done:]]
        found = [self._read(work, answer) for work, answer in zip(batch, answers, strict=True)]
        if self._sam is None:
            return found
        return [self._with_masks(self._sam, work, some) for work, some in zip(batch, found, strict=True)]

    def _predicted(self, batch: Sequence[Work]) -> list[Any]:
        settings = self.settings
        with self._half():
            return list(
                self._model.predict(
                    [work.pixels for work in batch],
                    conf=settings.floor,
                    iou=settings.nms,
                    imgsz=settings.image_side,
                    max_det=settings.max_boxes,
                    device=self._torch.device(settings.device),
                    verbose=False,
                    save=False,
                )
            )

    def _half(self) -> Any:
        settings, torch = self.settings, self._torch
        half = settings.dtype == "float16" or (settings.dtype == "auto" and settings.device == "cuda")
        return torch.autocast(settings.device, torch.float16, enabled=half)

    def _read(self, work: Work, answer: Any) -> list[Detection]:
        rows = answer.boxes.data.float().cpu().numpy()  # x1 y1 x2 y2 score class
        names = _names(answer)
        corners = rows[:, :4] if work.frame is None else work.frame.to_photo(rows[:, :4])
        labels = [names[int(row[5])] for row in rows]
        if answer.masks is None or work.frame is None or self._sam is not None:
            return detections_of(corners, rows[:, 4], labels, work.query.size)
        found = []
        for i, mask in enumerate(answer.masks.data.float().cpu().numpy()):
            for one in detections_of(corners[i : i + 1], rows[i : i + 1, 4], labels[i : i + 1], work.query.size):
                found.append(Detection(one.box, one.label, one.score, work.frame.mask_of(mask, one.box)))
        return found

    def _with_masks(self, sam: Any, work: Work, found: list[Detection]) -> list[Detection]:
        """The same detections with SAM2's masks; a box that it finds nothing in keeps none."""
        if not found:
            return found
        width, height = work.query.size
        size = images.fit(width, height, SAM_SIDE)
        small = _resized(work.query.photo(), size)[..., ::-1]
        frame = Frame((size[0] / width, size[1] / height), 0, 0)
        masks: dict[int, np.ndarray | None] = {}
        for start in range(0, len(found), SAM_BOXES):
            part = found[start : start + SAM_BOXES]
            prompts = np.array([one.box for one in part], np.float64) * (*frame.scale, *frame.scale)
            with self._half():
                # Nothing is left out for a low quality: `cls` says which box a mask belongs to.
                (answer,) = sam.predict(
                    np.ascontiguousarray(small),
                    bboxes=prompts.tolist(),
                    conf=0.0,
                    device=self._torch.device(self.settings.device),
                    verbose=False,
                    save=False,
                )
            if answer.masks is None:
                continue
            for which, mask in zip(answer.boxes.cls.int().tolist(), answer.masks.data.cpu().numpy(), strict=True):
                masks[start + which] = frame.mask_of(mask, part[which].box)
        return [Detection(one.box, one.label, one.score, masks.get(i)) for i, one in enumerate(found)]


def keep_to_itself() -> None:
    """Set the environment in which ultralytics writes nothing to the home folder, installs nothing and reports nothing.

    It has to be set before its first import. What the user has set stays.
    """
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = folder = tempfile.mkdtemp(prefix="ugaf-ultralytics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    # At import it decides by this whether it may report.
    os.environ.setdefault("YOLO_OFFLINE", "true")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of this machine at a time: they share the files that are downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "wb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _names(model: Any) -> dict[int, str]:
    names = model.names
    return dict(names) if isinstance(names, dict) else dict(enumerate(names))


def _resized(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import cv2

    return photo if size == photo.shape[1::-1] else cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
