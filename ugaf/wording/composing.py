"""Composers: writers that look at the photograph themselves, and may say that an edit makes no sense.

A `Writer` (`ugaf.wording.writer`) puts a finished ask into words. A `Composer` is only told the task and what is
marked; it decides what to ask for. It is given all photographs of a batch at once, since it waits for a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ugaf.stage import Failure
from ugaf.wording.layout import Layout, Plan


@dataclass(frozen=True)
class Brief:
    """One request: a plan, the registers of the instructions wanted (one each), and a seed for the model's chance."""

    plan: Plan
    registers: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Assignment:
    """A photograph and all that is asked about it. image: the file's bytes. caption: "" if there is none."""

    image: bytes
    layout: Layout
    caption: str
    briefs: tuple[Brief, ...]


@dataclass(frozen=True)
class Composition:
    """One edit. target: the name of the object as used in the instruction (of both, joined by "; ")."""

    instruction: str
    instruction_cn: str | None
    target: str


@dataclass(frozen=True)
class Composed:
    """The answer to a brief. edits: in the order of its registers, perhaps fewer; none where the edit was declined.

    declined: why the edit makes no sense, "" if it does. tokens_in, tokens_out: used. thinking: "" if none.
    """

    edits: tuple[Composition, ...]
    declined: str
    tokens_in: int
    tokens_out: int
    thinking: str


@runtime_checkable
class Composer(Protocol):
    """One that offers not all of `layout.offered`, or with other default weights, says so by a mapping `tasks`."""

    name: str
    version: int

    @property
    def writer(self) -> str:
        """As it is written into rows."""
        ...

    @property
    def instructions_per_request(self) -> int:
        """The most registers that a brief may have."""
        ...

    def compose(self, assignments: Sequence[Assignment]) -> list[list[Composed | Failure]]:
        """For each assignment, in order, the answers to its briefs, in order."""
        ...
