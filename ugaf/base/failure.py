"""A row that failed, and the one way in which work on rows is tried: the batch, else smaller, else this row fails.

What a row's work raises is that row's `Failure`, and costs no other row. What is nobody's own fault is raised as
`StopRun`, which is no `Exception`: it passes through everything here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ugaf.base.errors import UgafError

MESSAGE_CHARACTERS = 2000
"""An error's message is stored up to this length; libraries put whole documents into theirs."""
TRACE_FRAMES = 8
"""Innermost calls of a traceback that are kept for the user."""

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Result = TypeVar("Result")


class RowError(Exception):
    """Raised by a stage when a row cannot be processed; its message is shown to the user as the row's error.

    Errors derived from it are foreseen, and say something of the row. Anything else that is raised may as well be a
    mistake in the stage: where nothing but such errors comes of it, the run stops (see `ugaf.engine.alike`).

    kind: the type of the Failure, if it is not the error's own name.
    """

    kind: str = ""


@dataclass(frozen=True)
class Failure:
    """A row whose work could not be done; kept out of the result, and retried on request.

    foreseen: it says something of this row; else the fault may be the stage's or a service's.
    trace: where it was raised, of an error that nobody foresaw; "" elsewhere. Shown, never stored.
    """

    type: str
    message: str
    foreseen: bool = field(default=True, compare=False, repr=False)
    trace: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        foreseen = isinstance(error, RowError | UgafError)
        trace = "" if foreseen else "".join(traceback.format_exception(error, limit=-TRACE_FRAMES))
        kind = error.kind if isinstance(error, RowError) else ""
        return cls(kind or type(error).__name__, str(error) or repr(error), foreseen, trace)

    def __str__(self) -> str:
        """As it is stored: valid UTF-8 (file names may hold other bytes), and not endless."""
        text = f"{self.type}: {self.message}".encode("utf-8", "backslashreplace").decode()
        return text if len(text) <= MESSAGE_CHARACTERS else f"{text[:MESSAGE_CHARACTERS]}... ({len(text)} characters)"


def attempt(function: Callable[[Item], Result], item: Item) -> Result | Failure:
    """The function's result, or what it raised as the item's Failure."""
    try:
        return function(item)
    except (Exception, SystemExit) as error:  # libraries call exit() too: it must not end a worker
        return Failure.of(error)


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result | Failure]:
    """One by one: a result or a Failure for each item, in order."""
    return [attempt(function, item) for item in items]


def at_once(
    function: Callable[[Sequence[Item]], Iterable[Result | Failure]],
    items: Sequence[Item],
    else_by: Literal["ones", "halves"] = "ones",
    *,
    failure: Callable[[BaseException], Failure] = Failure.of,
    after: Callable[[BaseException, int], None] | None = None,
) -> list[Result | Failure]:
    """All items at once; where that raises, one by one (or by halves, and so on), so that only bad ones fail.

    Args:
        function: gives a result for each item; another number of results is its error.
        else_by: "halves" where a batch may be too large rather than hold a bad item.
        failure: of what one item raised by itself.
        after: is told what so many items raised, before the next try, when no frame of the failed call is alive. What
            it raises itself ends it all.
    """
    if not items:
        return []
    try:
        results = list(function(items))
        if len(results) == len(items):
            return results
        raise ValueError(f"{_name(function)} gave {len(results)} results for {len(items)} items")
    except (Exception, SystemExit) as error:
        failed = failure(error)
        problem = error.with_traceback(None)
        problem.__cause__ = problem.__context__ = None  # they have frames, too
    if after is not None:
        after(problem, len(items))
    if len(items) == 1:
        return [failed]
    size = 1 if else_by == "ones" else -(-len(items) // 2)
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [one for part in parts for one in at_once(function, part, else_by, failure=failure, after=after)]


def through(
    prepare: Callable[[Item], Ready], items: Iterable[Item], answer: Callable[[Iterator[Ready]], Iterable[Any]]
) -> list[Any]:
    """What `answer` says of each item, in order; a Failure for an item that could not be prepared.

    `answer` is called once for all, with an iterator that prepares the next item when it is asked for it, and keeps
    none: what is prepared may be large. Raises RuntimeError where it does not give one answer for each.
    """
    failures: dict[int, Failure] = {}
    count = 0

    def ready() -> Iterator[Ready]:
        nonlocal count
        for place, item in enumerate(items):
            count += 1
            one = attempt(prepare, item)
            if isinstance(one, Failure):
                failures[place] = one
            else:
                yield one
            del one

    answers = list(answer(ready()))
    if len(answers) != count - len(failures):
        asked = count - len(failures)
        raise RuntimeError(f"{_name(answer)} gave {len(answers)} answers for {asked}: it must give one for each")
    following = iter(answers)
    return [failures[place] if place in failures else next(following) for place in range(count)]


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__name__)
