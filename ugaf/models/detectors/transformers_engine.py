"""Detectors of the transformers library, by their hub id or folder.

Any AutoModelForObjectDetection checkpoint (RT-DETR v2, D-FINE, RF-DETR, DETR, ...), and with a vocabulary those that
are told what to look for: Grounding DINO and MM-Grounding-DINO, OWL-ViT and OWLv2. The model's type says which it is.

Every photograph is prepared by itself, and only those of one prepared size share a batch: nothing is padded, so that a
photograph's boxes do not depend on its neighbours. What is left are the rounding errors of other kernels for other
batch sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ugaf.base.errors import ConfigError
from ugaf.base.failure import each
from ugaf.base.needs import Needs, together
from ugaf.models.detectors import grounding
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
from ugaf.models.detectors.interface import Detection, DetectQuery, detections_of, ranked
from ugaf.stage import Failure

PACKAGES = {"torch": "transformers", "transformers": "transformers"}
GROUNDING = ("grounding-dino", "mm-grounding-dino")
OWL = ("owlvit", "owlv2")
OWL_PROMPT = "a photo of a {}"
"""The words around a class name with which OWL-ViT was trained (arXiv 2205.06230)."""


@dataclass(frozen=True, eq=False)
class Work:
    """A photograph that is ready for the model, with a part of the vocabulary that the model takes at once.

    index: the query's. size: (width, height) of the photograph. pixels: the model's tensors, each (1, ...).
    """

    index: int
    size: tuple[int, int]
    pixels: Mapping[str, Any]
    vocabulary: tuple[str, ...] = ()

    @property
    def shape(self) -> Hashable:
        return tuple(tuple(tensor.shape) for tensor in self.pixels.values())


class TransformersDetector:
    """Implements `ugaf.models.detectors.interface.Detector`.

    Labels are the checkpoint's class names, or phrases of the vocabulary. A vocabulary that is longer than Grounding
    DINO takes (256 tokens) is asked in parts, and an object may then be found under two names: see the stage's
    `max_overlap`. On a GPU it computes in half precision by autocast: what is sensitive (coordinates, normalisation)
    stays in float32.
    """

    name = "transformers"
    version = 1

    class Settings(BatchSettings, VocabularySettings):
        """Options of the engine `transformers`."""

        model: str = Field(min_length=1, description="The checkpoint: a hub id or a folder.")
        revision: str | None = Field(None, description="The checkpoint's revision on the hub: a commit, tag or branch.")
        floor: float = Field(
            0.05, ge=0, le=1, description="Boxes scored lower are never reported, whatever the stage's `min_score`."
        )
        dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
            "auto", description="Precision of the model; auto: float16 on a GPU, float32 on a CPU."
        )

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return together([gpu_needs(settings, PACKAGES, [settings.model], GPU_SHARE), Needs(reads=settings.columns)])

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._torch, transformers = libraries(PACKAGES)
        check_device(self._torch, settings.device)
        transformers.utils.logging.disable_progress_bar()
        named = {"pretrained_model_name_or_path": settings.model, "revision": settings.revision}
        try:
            config = transformers.AutoConfig.from_pretrained(**named)
            self._kind = self._kind_of(transformers, config)
            told = self._kind in (GROUNDING, OWL)
            auto = (
                transformers.AutoModelForZeroShotObjectDetection if told else transformers.AutoModelForObjectDetection
            )
            self._processor = (transformers.AutoProcessor if told else transformers.AutoImageProcessor).from_pretrained(
                **named
            )
            self._model = auto.from_pretrained(**named).eval().to(settings.device)
        except (OSError, ValueError) as error:
            raise ConfigError(f"detector.model: {settings.model!r} cannot be loaded: {error}") from error
        self._chunks = functools.lru_cache(maxsize=1024)(self._in_chunks)
        self.class_names = tuple(settings.vocabulary) if told else tuple(self._model.config.id2label.values())
        if told and settings.vocabulary_column:
            self.class_names = ()

    def _kind_of(self, transformers: Any, config: Any) -> tuple[str, ...]:
        """GROUNDING, OWL, or () for a model with classes of its own. Raises ConfigError for what is no detector."""
        kind = next((kind for kind in (GROUNDING, OWL) if config.model_type in kind), ())
        if kind and not self.settings.told:
            raise ConfigError(
                f"detector: {self.settings.model} has no classes: set `vocabulary` or `vocabulary_column`"
            )
        if kind:
            return kind
        if type(config) not in transformers.MODEL_FOR_OBJECT_DETECTION_MAPPING:
            raise ConfigError(f"detector.model: {self.settings.model} ({config.model_type}) is no supported detector")
        if self.settings.told:
            raise ConfigError(
                f"detector.vocabulary: {self.settings.model} has its own classes; choose among them with `classes`"
            )
        return ()

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection] | Failure]:
        """For each photograph: its objects, best first."""
        found = each(lambda item: self._prepared(*item), enumerate(queries))
        works = [work for prepared in found if not isinstance(prepared, Failure) for work in prepared]
        parts: dict[int, list[list[Detection] | Failure]] = {index: [] for index in range(len(queries))}
        for batch in grouped(works, self._key, self.settings.batch_size):
            for work, outcome in zip(batch, by_halves(self._torch, self._run, batch), strict=True):
                parts[work.index].append(outcome)
        return [
            prepared if isinstance(prepared, Failure) else _merged(parts[index]) for index, prepared in enumerate(found)
        ]

    def _prepared(self, index: int, query: DetectQuery) -> list[Work]:
        from PIL import Image

        photo = query.photo()
        images = getattr(self._processor, "image_processor", self._processor)
        pixels = images(images=[Image.fromarray(photo)], return_tensors="pt")
        tensors = {name: value for name, value in pixels.items() if name in ("pixel_values", "pixel_mask")}
        chunks: Iterable[tuple[str, ...]] = [()]
        if self._kind:
            chunks = self._chunks(self.settings.phrases_for(query))
        return [Work(index, query.size, tensors, chunk) for chunk in chunks]

    def _key(self, work: Work) -> Hashable:
        """Works with equal keys may share a batch. OWL takes one list of phrases for all images of a batch."""
        return work.shape, work.vocabulary if self._kind == OWL else None

    def _in_chunks(self, vocabulary: tuple[str, ...]) -> list[tuple[str, ...]]:
        """What the model can be asked at once. Raises ValueError for a phrase that is too long for it."""
        tokenizer = self._processor.tokenizer
        if self._kind == GROUNDING:
            limit = self._model.config.max_text_len
            return grounding.in_chunks(vocabulary, lambda text: len(tokenizer(text)["input_ids"]), limit)
        limit = self._model.config.text_config.max_position_embeddings
        for phrase in vocabulary:
            if len(tokenizer(OWL_PROMPT.format(phrase))["input_ids"]) > limit:
                raise ValueError(f"{phrase!r} has more tokens than the detector takes ({limit})")
        return [vocabulary]

    def _run(self, batch: Sequence[Work]) -> list[list[Detection]]:
        torch = self._torch
        inputs = {name: torch.cat([work.pixels[name] for work in batch]) for name in batch[0].pixels}
        texts = self._texts(batch)
        inputs |= {name: value for name, value in texts.items() if name != "offset_mapping"}
        half = self._dtype()
        with torch.inference_mode(), torch.autocast(self.settings.device, half, enabled=half != torch.float32):
            outputs = self._model(**{name: value.to(self.settings.device) for name, value in inputs.items()})
        for name in ("logits", "pred_boxes"):
            outputs[name] = outputs[name].float().cpu()
            if outputs[name].isnan().any():
                raise ValueError(f"the detector gave {name} that are not numbers; dtype: float32 may help")
        if self._kind == GROUNDING:
            offsets = texts["offset_mapping"]
            return [self._grounded(work, outputs, offsets[i].tolist(), i) for i, work in enumerate(batch)]
        return self._classified(batch, outputs)

    def _dtype(self) -> Any:
        named = self.settings.dtype
        if named == "auto":
            named = "float16" if self.settings.device == "cuda" else "float32"
        return getattr(self._torch, named)

    def _texts(self, batch: Sequence[Work]) -> Mapping[str, Any]:
        tokenizer = getattr(self._processor, "tokenizer", None)
        if self._kind == GROUNDING:
            return tokenizer(  # type: ignore[misc]
                [grounding.as_text(work.vocabulary)[0] for work in batch],
                padding=True,
                return_tensors="pt",
                return_token_type_ids=True,
                return_offsets_mapping=True,
            )
        if self._kind == OWL:
            prompts = [OWL_PROMPT.format(phrase) for phrase in batch[0].vocabulary]
            length = self._model.config.text_config.max_position_embeddings
            tokens = tokenizer(prompts, padding="max_length", max_length=length, return_tensors="pt")  # type: ignore[misc]
            # The model takes the phrases of each image, one image after another.
            return {name: tokens[name].repeat(len(batch), 1) for name in ("input_ids", "attention_mask")}
        return {}

    def _grounded(self, work: Work, outputs: Any, offsets: list[grounding.Span], i: int) -> list[Detection]:
        logits = outputs["logits"][i].numpy()
        _, spans = grounding.as_text(work.vocabulary)
        scores, best = grounding.read(logits, grounding.token_shares(offsets, spans, logits.shape[1]))
        corners = grounding.corners(outputs["pred_boxes"][i].numpy(), *work.size)
        return self._detections(corners, scores, [work.vocabulary[phrase] for phrase in best], work.size)

    def _classified(self, batch: Sequence[Work], outputs: Any) -> list[list[Detection]]:
        images = getattr(self._processor, "image_processor", self._processor)
        sizes = self._torch.tensor([work.size[::-1] for work in batch])
        # Above a threshold of 0: a box without any score is no answer of the model, it is what fills its queries.
        answers = images.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        names = self._model.config.id2label
        found = []
        for work, answer in zip(batch, answers, strict=True):
            classes = answer["labels"].tolist()
            labels = [work.vocabulary[i] if self._kind else names[i] for i in classes]
            found.append(self._detections(answer["boxes"].numpy(), answer["scores"].numpy(), labels, work.size))
        return found

    def _detections(
        self, corners: np.ndarray, scores: np.ndarray, labels: Sequence[str], size: tuple[int, int]
    ) -> list[Detection]:
        found = detections_of(corners, scores, labels, size)
        return [detection for detection in found if (detection.score or 0.0) >= self.settings.floor]


def _merged(parts: Sequence[list[Detection] | Failure]) -> list[Detection] | Failure:
    """The answers to all parts of a vocabulary; one that failed leaves the photograph without an answer."""
    failed = next((part for part in parts if isinstance(part, Failure)), None)
    return failed or ranked(detection for part in parts if not isinstance(part, Failure) for detection in part)
