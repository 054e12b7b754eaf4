"""What an editor is: a photograph, an instruction and a target in, an edited pair out.

An editor takes a batch of requests and answers each with an `Edit` or a `Failure`, in order. Engines that work from
the instruction alone (diffusion models) read `instruction` and `boxes`, by way of `placement`; the embedded
`templates` engine reads `params`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ugaf.base.failure import Failure, RowError
from ugaf.imaging.boxes import Box


class EditError(RowError):
    """An edit that cannot be made; the message says why, and `kind` is the failure's type in the funnel."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class EditObject:
    """A thing in a photograph.

    box: absolute pixels x1 y1 x2 y2, half-open. mask: bool (y2 - y1, x2 - x1), or None where the detector has none.
    """

    box: Box
    mask: np.ndarray | None = None
    label: str | None = None


@dataclass(frozen=True)
class EditRequest:
    """One edit to make.

    photo: RGB uint8 (height, width, 3), possibly read-only. boxes: the targets, absolute pixels, half-open; empty for a
    global edit. params: what the engine needs beyond the instruction. objects: the photograph's, in the order
    that `params` counts them. donor, donor_objects: another photograph to take an object from. seed: every
    random choice of the edit follows from it.
    """

    photo: np.ndarray
    task: str
    instruction: str = ""
    boxes: Sequence[Box] = ()
    params: dict[str, Any] = field(default_factory=dict)
    objects: Sequence[EditObject] = ()
    donor: np.ndarray | None = None
    donor_objects: Sequence[EditObject] = ()
    seed: int = 0


@dataclass(frozen=True)
class Edit:
    """A pair, both RGB uint8 of the photograph's size.

    source: None where the photograph itself is the pair's source. edited: None where the photograph is its target.
    mask: bool (height, width), True where source and edited may differ; None where they may differ anywhere.
    way: how the target box was told to a model ("words", "crop", "inpaint", "whole": see `placement`); None
    for an editor that needs no telling.
    """

    source: np.ndarray | None
    edited: np.ndarray | None
    mask: np.ndarray | None
    way: str | None = None


class Editor(Protocol):
    """What every editor has. `name` and `version` are stored in each row that it makes."""

    name: str
    version: int

    def edit(self, requests: Sequence[EditRequest]) -> list[Edit | Failure]:
        """One answer a request, in order; a request that fails costs no other.

        Raises StopRun where the fault is no request's own: a server that is gone.
        """
        ...
