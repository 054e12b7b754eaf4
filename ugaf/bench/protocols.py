"""The four protocols: how each benchmark is read, what is measured and asked about an item, what follows from it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal

import cv2
import numpy as np

from ugaf.base.needs import install_hint
from ugaf.bench import criteria, lettering, metrics, published
from ugaf.bench.criteria import Criterion
from ugaf.bench.difference import difference_box
from ugaf.bench.items import Benchmark, Item
from ugaf.bench.judging import Judge, OneOfFive, ThreeOfFive, TwoOfTen
from ugaf.bench.pairs import load_pairs
from ugaf.bench.settings import BenchSettings
from ugaf.imaging import boxes
from ugaf.imaging.boxes import Box
from ugaf.ingest.pair_cells import parse_boxes
from ugaf.models.chat import Answer
from ugaf.models.judging.asking import Question
from ugaf.stage import Failure, RowError, engines
from ugaf.stage.prompts import quoted

GREY = 128
"""What covers the box where only its outside is judged."""

NO_JUDGE = "no judge: give --judge"

Values = dict[str, float]
Kind = Literal["measure", "judge"]


@dataclass(frozen=True)
class Metric:
    """A column of the table. name: as the table has it. about: one line. digits: shown after the point."""

    name: str
    about: str
    digits: int
    kind: Kind = "judge"


@dataclass(frozen=True, eq=False)
class Case:
    """An item whose turn has come. source, edited: RGB uint8, of any two sizes. boxes: pixels of the source."""

    item: Item
    source: np.ndarray
    edited: np.ndarray
    boxes: tuple[Box, ...] = ()

    def on_grid(self) -> np.ndarray:
        """The edited picture resized to the source's size: not registered, so that a shift counts as a difference."""
        height, width = self.source.shape[:2]
        if self.edited.shape == self.source.shape:
            return self.edited
        smaller = self.edited.shape[0] > height
        return cv2.resize(self.edited, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


class Protocol(ABC):
    """Base of the protocols.

    version: raised when a change of code changes the numbers. overall: how the last row is made: the mean of all
    "items", or the unweighted mean of the "groups". missing: metric -> why it cannot be had.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    metrics: ClassVar[tuple[Metric, ...]]
    overall: ClassVar[Literal["items", "groups"]] = "groups"

    def __init__(self, settings: BenchSettings, judge: Judge | None) -> None:
        self.settings = settings
        self.judge = judge
        self.missing: dict[str, str] = {}
        if judge is None:
            self.missing = {metric.name: NO_JUDGE for metric in self.metrics if metric.kind == "judge"}

    @abstractmethod
    def load(self) -> Benchmark:
        """The items. Raises ConfigError."""

    def prepare(self) -> None:
        """Load what the measures need; what is not there goes into `missing`."""
        return

    def boxes(self, item: Item, source: np.ndarray, reference: np.ndarray | None) -> tuple[Box, ...]:  # noqa: ARG002
        """Where the edit belongs, in pixels of the source; empty if the benchmark does not say."""
        return ()

    def identity(self) -> dict[str, Any]:
        """What of the settings its measures depend on."""
        return {}

    def measure(self, case: Case) -> Values:  # noqa: ARG002
        """Values by metric; one that does not apply to the case is left out."""
        return {}

    @abstractmethod
    def questions(self, case: Case) -> Iterator[Question]:
        """What the judge is asked about a case."""

    @abstractmethod
    def judged(self, answers: Mapping[str, Answer]) -> Values:
        """The values that the answers (by the questions' labels) make."""

    def _judge(self) -> Judge:
        assert self.judge is not None
        return self.judge

    def _three(self, case: Case, three: Sequence[Criterion], capped: bool) -> Question:
        cap = "Scores 2 and 3 cannot be higher than score 1.\n" if capped else ""
        values = {"instruction": quoted(case.item.instruction, "instruction"), "cap": cap}
        for place, criterion in zip(("first", "second", "third"), three, strict=True):
            values |= {place: criterion.asks, f"{place}_name": criterion.name}
        return self._judge().question("scores", ThreeOfFive, (case.source, case.edited), "three_scores", values)


def capped(scores: Sequence[int]) -> tuple[int, int, int]:
    """Three scores, the second and third no higher than the first: an edit that was not made is not done well."""
    first, second, third = scores
    return first, min(second, first), min(third, first)


class FineEdit(Protocol):
    """FineEdit-1k (arXiv 2604.10954, table 1): the mean over all items; PC, VN and PDI are not capped."""

    name = "fineedit"
    title = "FineEdit-1k"
    overall = "items"
    metrics = (
        Metric("PSNR", "outside the boxes, dB, higher is better; 100 for identical pixels", 2, "measure"),
        Metric("SSIM", "outside the boxes, higher is better", 4, "measure"),
        Metric("LPIPS", "outside the boxes, lower is better", 4, "measure"),
        Metric("OBR", "out-of-box retention, 1 to 5, by the judge", 2),
        Metric("CLIP", "cosine of the box's crop and the instruction", 4, "measure"),
        Metric("PC", "prompt compliance, 1 to 5, by the judge", 2),
        Metric("VN", "visual naturalness, 1 to 5, by the judge", 2),
        Metric("PDI", "physical and detail integrity, 1 to 5, by the judge", 2),
    )

    def load(self) -> Benchmark:
        return load_pairs(self.settings.data)

    def prepare(self) -> None:
        lpips = metrics.load_lpips(self.settings.device)
        clip = metrics.load_clip(self.settings.clip, self.settings.device)
        self.lpips = lpips if isinstance(lpips, metrics.Lpips) else None
        self.clip = clip if isinstance(clip, metrics.Clip) else None
        self.missing |= {name: why for name, why in (("LPIPS", lpips), ("CLIP", clip)) if isinstance(why, str)}

    def identity(self) -> dict[str, Any]:
        return {
            "boxes": self.settings.boxes,
            "LPIPS": self.lpips.name if self.lpips else None,
            "CLIP": self.clip.name if self.clip else None,
        }

    def boxes(self, item: Item, source: np.ndarray, reference: np.ndarray | None) -> tuple[Box, ...]:
        if self.settings.boxes == "data":
            found = parse_boxes(item.boxes, source.shape[1], source.shape[0], item.reference)
            if not found:
                raise RowError("no box in the data: leave --boxes at `difference`")
            return tuple(found)
        if reference is None:
            raise RowError("the pair has no edited picture, from which the box follows")
        return (difference_box(source, reference),)

    def measure(self, case: Case) -> Values:
        edited = case.on_grid()
        crop = np.ascontiguousarray(boxes.crop(edited, boxes.union(case.boxes)))
        found = {
            "PSNR": metrics.psnr_outside(case.source, edited, case.boxes),
            "SSIM": metrics.ssim_outside(case.source, edited, case.boxes),
            "LPIPS": self.lpips.outside(case.source, edited, case.boxes) if self.lpips else None,
            "CLIP": self.clip.score(crop, case.item.instruction) if self.clip and case.item.instruction else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def questions(self, case: Case) -> Iterator[Question]:
        if not case.item.instruction:
            raise RowError("no instruction: a judge can only judge an edit against what was asked for")
        yield self._three(case, criteria.GENERAL, capped=False)
        covered = [picture.copy() for picture in (case.source, case.on_grid())]
        for x1, y1, x2, y2 in case.boxes:
            for picture in covered:
                picture[y1:y2, x1:x2] = GREY
        yield self._judge().question("outside", OneOfFive, covered, "outside", {})

    def judged(self, answers: Mapping[str, Answer]) -> Values:
        first, second, third = answers["scores"].value.scores
        return {"PC": first, "VN": second, "PDI": third, "OBR": answers["outside"].value.scores[0]}


_THREE = (
    Metric("Score", "mean of the three, 1 to 5", 2),
    Metric("S1", "first score (compliance, fidelity)", 2),
    Metric("S2", "second score, at most the first", 2),
    Metric("S3", "third score, at most the first", 2),
)


class ImgEdit(Protocol):
    """ImgEdit-Bench, basic suite: item mean, type mean, mean of types."""

    name = "imgedit"
    title = "ImgEdit-Bench"
    metrics: ClassVar[tuple[Metric, ...]] = _THREE
    criteria: ClassVar[Mapping[str, criteria.Three]] = criteria.IMGEDIT

    def load(self) -> Benchmark:
        return published.load_imgedit(self.settings.data, self.settings.images)

    def questions(self, case: Case) -> Iterator[Question]:
        yield self._three(case, self.criteria.get(case.item.group, criteria.GENERAL), capped=True)

    def judged(self, answers: Mapping[str, Answer]) -> Values:
        scores = capped(answers["scores"].value.scores)
        return {"Score": fmean(scores), **dict(zip(("S1", "S2", "S3"), scores, strict=True))}


class REDEdit(ImgEdit):
    """REDEdit-Bench: as ImgEdit-Bench, mean of task means; the task `text` has OCR scores too (`lettering`)."""

    name = "rededit"
    title = "REDEdit-Bench"
    criteria = criteria.REDEDIT
    metrics = (
        *_THREE,
        Metric("OCR", "text items: mean of the next three, 0 to 1", 3, "measure"),
        Metric("OCR similarity", "1 - edit distance to the nearest stretch, over the target's length", 3, "measure"),
        Metric("OCR completion", "longest common subsequence over the target's length", 3, "measure"),
        Metric("OCR words", "share of the target's words that were read", 3, "measure"),
    )

    def load(self) -> Benchmark:
        return published.load_rededit(self.settings.data, self.settings.images, self.settings.language)

    def prepare(self) -> None:
        self.reader: Any = None
        spec = self.settings.reader or {}
        if lacking := engines.needs("reader", spec).missing():
            self.missing |= {m.name: install_hint(lacking) for m in self.metrics if m.kind == "measure"}
        else:
            self.reader = engines.build("reader", spec)

    def identity(self) -> dict[str, Any]:
        return {"reader": self.reader.name if self.reader else None}

    def measure(self, case: Case) -> Values:
        if case.item.group != "text" or self.reader is None:
            return {}
        target = case.item.text or lettering.target_of(case.item.instruction)
        if target is None:
            return {}
        (lines,) = self.reader.read([case.edited])
        if isinstance(lines, Failure):
            raise RowError(f"the reader failed: {lines.message}")
        found = lettering.text_scores(target, " ".join(found.text for found in lines))
        return {
            "OCR": found["mean"],
            "OCR similarity": found["similarity"],
            "OCR completion": found["completion"],
            "OCR words": found["words"],
        }


class GEdit(Protocol):
    """GEdit-Bench by VIEScore: SC = min of two, PQ = min of two, O = sqrt(SC PQ) of each item; mean of group means."""

    name = "gedit"
    title = "GEdit-Bench"
    metrics = (
        Metric("SC", "semantic consistency, 0 to 10", 3),
        Metric("PQ", "perceptual quality, 0 to 10", 3),
        Metric("O", "overall: the mean over items of sqrt(SC PQ), 0 to 10", 3),
    )

    def load(self) -> Benchmark:
        return published.load_gedit(self.settings.data, self.settings.language)

    def questions(self, case: Case) -> Iterator[Question]:
        both = (case.source, case.edited)
        values = {"instruction": quoted(case.item.instruction, "instruction")}
        yield self._judge().question("consistency", TwoOfTen, both, "consistency", values)
        yield self._judge().question("perceptual", TwoOfTen, (case.edited,), "perceptual", {})

    def judged(self, answers: Mapping[str, Answer]) -> Values:
        sc, pq = (min(answers[label].value.scores) for label in ("consistency", "perceptual"))
        return {"SC": sc, "PQ": pq, "O": math.sqrt(sc * pq)}


PROTOCOLS: dict[str, Callable[[BenchSettings, Judge | None], Protocol]] = {
    cls.name: cls for cls in (FineEdit, ImgEdit, GEdit, REDEdit)
}
