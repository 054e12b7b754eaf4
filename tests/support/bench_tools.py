"""Small sets in the benchmarks' formats, an editor that needs no model, and a judge on a real local server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from chat_server import ChatServer, Fault

from ugaf import stage
from ugaf.bench.__main__ import main
from ugaf.imaging import images
from ugaf.models.editors.interface import Edit, EditRequest
from ugaf.models.readers import Line
from ugaf.stage import Failure

BOX = (30, 20, 70, 60)


def scene(number: int, size: tuple[int, int] = (128, 96)) -> np.ndarray:
    """A smooth picture of its own, RGB uint8."""
    noise = np.random.default_rng(number).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)


def painted(picture: np.ndarray, box: Sequence[int] = BOX, colour: Sequence[int] = (255, 0, 0)) -> np.ndarray:
    edited = picture.copy()
    edited[box[1] : box[3], box[0] : box[2]] = colour
    return edited


def write(file: Path, picture: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(images.encode(picture))
    return file


def pair_set(folder: Path, count: int = 4, tasks: Sequence[str] = ("add", "remove")) -> Path:
    """`pairs.jsonl` with pictures beside it: pair n has its box painted red, and noise of 1 + n outside it."""
    lines = []
    for number in range(count):
        source = scene(number)
        noisy = np.clip(source.astype(int) + (1 + number), 0, 255).astype(np.uint8)
        write(folder / f"s{number}.png", source)
        write(folder / f"e{number}.png", painted(noisy))
        record = {"id": f"pair-{number}", "source": f"s{number}.png", "edited": f"e{number}.png"}
        lines.append(
            record | {"instruction": f"edit {number}", "task": tasks[number % len(tasks)], "boxes": [list(BOX)]}
        )
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


class PaintEditor:
    """Paints the boxes green, slowly if asked to; writes each instruction that it was given into `log`."""

    name = "paint"
    version = 1

    class Settings(stage.Settings):
        log: str
        seconds: float = 0.0
        refuse: str = ""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def edit(self, requests: Sequence[EditRequest]) -> list[Edit | Failure]:
        answers: list[Edit | Failure] = []
        for request in requests:
            with open(self.settings.log, "a", encoding="utf-8") as log:
                log.write(f"{request.instruction}\n")
                log.flush()
                os.fsync(log.fileno())
            time.sleep(self.settings.seconds)
            if request.instruction == self.settings.refuse:
                answers.append(Failure("Refused", "I will not"))
                continue
            edited = request.photo.copy()
            for x1, y1, x2, y2 in request.boxes or [BOX]:
                edited[y1:y2, x1:x2] = (0, 255, 0)
            answers.append(Edit(None, edited, None))
        return answers


class SignReader:
    """A reader that sees the same two lines on every picture."""

    name = "sign"
    version = 1

    class Settings(stage.Settings):
        """No settings."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def read(self, pictures: Sequence[np.ndarray]) -> list[list[Line] | Failure]:
        corners = np.zeros((4, 2))
        return [[Line(corners, "welcome", None), Line(corners, "NEW DAV", None)] for _ in pictures]


def judge(answer: Callable[[str], Sequence[int]], faults: Callable[[str], Fault | None] = lambda _: None) -> ChatServer:
    """A server that answers each question, known by its text, with these scores."""

    def said(text: str, schema: Mapping[str, Any] | None) -> Any:
        assert schema is not None
        return {"reasoning": "as seen", "scores": list(answer(text))}

    return ChatServer(answer=said, faults=faults)


def spec_of(server: ChatServer, **more: Any) -> str:
    return json.dumps({"model": "test-model", "endpoints": [server.url], **more})


def bench(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def report_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())


def row(report: Mapping[str, Any], group: str, language: str = "en") -> dict[str, Any]:
    (found,) = [row for row in report["rows"] if row["group"] == group and row["language"] == language]
    return found


def mean(report: Mapping[str, Any], group: str, metric: str, language: str = "en") -> float:
    return row(report, group, language)["means"][metric]["mean"]
