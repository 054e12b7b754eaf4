"""Rows and Chats for the tests of stages that ask a model about finished pairs."""

from __future__ import annotations

import json
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from chat_fakes import FakeChat, Reply, pictures_of
from pydantic import BaseModel

from ugaf.imaging import images
from ugaf.models.chat import Answer, ChatRequest, Token
from ugaf.stage import Failure, Row

GREY = (90, 110, 130)


def pair_row(number: int, boxes: Sequence[Sequence[int]] = ((20, 12, 60, 44),), **values: Any) -> Row:
    """A flat 96 x 64 photograph and its edit, in which the boxes are of a colour that tells the row's number."""
    source = np.full((64, 96, 3), GREY, np.uint8)
    edited = source.copy()
    mask = np.zeros((64, 96), bool)
    for x1, y1, x2, y2 in boxes or [(0, 0, 96, 64)]:
        edited[y1:y2, x1:x2] = (number, 200, 40)
        mask[y1:y2, x1:x2] = True
    columns = {
        "image": images.encode(source),
        "edited_image": images.encode(edited),
        "instruction": f"edit {number}",
        "task": "replace",
        "boxes": [list(box) for box in boxes],
        "bbox_edit": None,
        "change_mask": images.encode_mask(mask),
        "change_area": float(mask.mean()),
        "shift_x": 0.0,
        "shift_y": 0.0,
    }
    return Row(f"{number:032x}", columns | values)


def number_of(request: ChatRequest) -> int:
    """The row's number, read from the edited picture that a request shows (the last one)."""
    pixels = pictures_of(request)[-1].pixels.astype(int)
    edited = (np.abs(pixels[..., 1] - 200) < 4) & (np.abs(pixels[..., 2] - 40) < 4)
    return round(float(np.median(pixels[edited][:, 0])))


def with_logprobs(value: BaseModel, distributions: Mapping[str, Mapping[int, float]]) -> Answer:
    """An answer in tokens of one character each; the digit of a key has these probabilities (and some for a word)."""
    text = json.dumps(value.model_dump())
    tokens = [Token(character, 0.0, ((character, 0.0),)) for character in text]
    for key, distribution in distributions.items():
        at = text.index(f'"{key}": ') + len(key) + 4
        top = [(str(rating), math.log(share)) for rating, share in distribution.items()]
        tokens[at] = Token(text[at], math.log(distribution[int(text[at])]), (*top, (" the", math.log(0.01))))
    return Answer(text, value, "", tuple(tokens), 7, 5, 1)


class WindowChat(FakeChat):
    """Holds at most `window` requests at once, as a client with so many in flight, and counts the pictures alive.

    most: the greatest number of picture arrays that any request held, or its maker still holds, at one moment.
    """

    def __init__(self, answers: Callable[[ChatRequest], Reply], window: int) -> None:
        super().__init__(answers)
        self.window = window
        self.most = 0
        self._alive: list[weakref.ref[np.ndarray]] = []

    def ask(self, requests: Iterable[ChatRequest]) -> list[Answer | Failure]:
        outcomes: list[Answer | Failure] = []
        waiting: deque[ChatRequest] = deque()
        known: set[int] = set()
        for request in requests:
            fresh = [p.pixels for p in pictures_of(request) if id(p.pixels) not in known]
            self._alive += [weakref.ref(pixels) for pixels in fresh]
            del fresh
            waiting.append(request)
            del request
            self._alive = [ref for ref in self._alive if ref() is not None]
            known = {id(ref()) for ref in self._alive}
            self.most = max(self.most, len(self._alive))
            if len(waiting) == self.window:
                outcomes.append(self._answer(waiting.popleft()))
                self.requests.clear()
        outcomes += [self._answer(request) for request in waiting]
        return outcomes
