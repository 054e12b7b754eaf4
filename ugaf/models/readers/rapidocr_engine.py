"""RapidOCR: PaddleOCR's small text detector and recogniser (PP-OCRv4, Chinese and English) on ONNX Runtime.

The package carries its models (16 MB), so nothing is downloaded; it runs on a CPU. Text is found as regions by
differentiable binarisation (DB, arXiv 1911.08947), and each region is read as one line, as in PP-OCR
(arXiv 2009.09941).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ugaf import stage
from ugaf.base.errors import ConfigError
from ugaf.base.failure import each
from ugaf.base.needs import Needs, install_hint
from ugaf.models.readers import Line
from ugaf.stage import Failure, Settings

PACKAGES = {"rapidocr_onnxruntime": "ocr"}
SHORTEST_SIDE = 8
"""Pictures with a shorter side are not read: no letters fit in, and the library enlarges strips to many times this."""


class RapidOCRReader:
    """Implements `ugaf.models.readers.interface.Reader`. Pictures are read at the size that they come in, one by one.

    The library's own limit on what it reads as text is off: a line comes with its score, which the stage judges.
    """

    name = "rapidocr:PP-OCRv4"
    version = 1

    class Settings(stage.Settings):
        """Options of the engine `rapidocr`."""

        box_score: float = Field(0.5, gt=0, lt=1, description="Least score of a region to be read at all.")
        upside_down: bool = Field(True, description="Turn lines that stand on their heads before they are read.")
        threads: int = stage.operational(
            1, ge=1, description="threads of a worker that compute; it reserves as many CPUs"
        )

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return Needs(own_pool=True, cpus=float(settings.threads), packages=PACKAGES, models=("PP-OCRv4",))

    def __init__(self, settings: Settings) -> None:
        try:
            library = importlib.import_module("rapidocr_onnxruntime")
        except ModuleNotFoundError as error:
            missing = error.name in PACKAGES
            hint = install_hint(PACKAGES)
            raise ConfigError(hint if missing else f"{hint} ({error})") from error
        except ImportError as error:
            raise ConfigError(f"rapidocr_onnxruntime: installed, but cannot be imported: {error}") from error
        self._options = {"box_thresh": settings.box_score, "text_score": 0.0}
        self._engine: Any = library.RapidOCR(
            # "max": a picture is looked at as it is, not enlarged to 736 pixels.
            det_limit_type="max",
            use_cls=settings.upside_down,
            intra_op_num_threads=settings.threads,
            inter_op_num_threads=1,
        )
        # It tells of every picture without text, and the names are given their level when the engine is made.
        for name in ("RapidOCR", "OrtInferSession"):
            logging.getLogger(name).setLevel(logging.ERROR)

    def read(self, pictures: Sequence[np.ndarray]) -> list[list[Line] | Failure]:
        """For each picture: its lines from top to bottom, then from left to right."""
        return each(self._read, pictures)

    def _read(self, picture: np.ndarray) -> list[Line]:
        if min(picture.shape[:2]) < SHORTEST_SIDE:
            return []
        # The call's options, where there are any, take the place of all of the constructor's.
        answer, _ = self._engine(np.ascontiguousarray(picture[..., ::-1]), **self._options)
        return [
            Line(np.asarray(corners, np.float64), text, float(score))
            for corners, text, score in answer or ()
            if text.strip()
        ]
