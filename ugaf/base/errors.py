"""Errors that a user reads, and how they name what was wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args, get_origin

from pydantic import BaseModel, ValidationError

MANY_FAILED = 3
"""Exit status of a run that is done, but more rows failed than `--max-failed` allows."""
NOTHING_KEPT = 4
"""Exit status of a run that is done, but kept nothing."""
STOPPED = 75
"""Exit status of a command that was stopped by a fault which is not its own: run again, it goes on."""


class UgafError(Exception):
    """An error whose message is meant for the user; the command line prints it without a traceback.

    status: the exit status of the command that it ends.
    """

    status = 2


class ConfigError(UgafError):
    """A setting that cannot be used, found before any work starts."""


@dataclass(frozen=True)
class Alike:
    """Nearly all rows of a stage failed with errors of one shape. message: for the user. fragments: where they are."""

    stage: str
    shape: str
    message: str
    fragments: frozenset[str] = frozenset()


class StopRun(BaseException):
    """Raised inside a row's work when the fault is not the row's: a server that is gone, a key that is refused.

    The run stops with this message, which is meant for the user. The rows in hand stay pending, so that no row is
    failed for it, and the same command goes on once what the message names is mended.

    It is no `Exception`, so that no `except Exception` around a row's work takes it for the row's fault.

    status: the exit status of the command that it ends. doubtful: failures before it that are hardly the rows' fault
    either (`ugaf.engine.alike`); those rows are taken back.
    """

    status = STOPPED
    doubtful: tuple[Alike, ...] = ()


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for a near miss, else '; known: a, b, c'."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def explain_validation(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """Pydantic's errors as lines that name the setting, its value and, for an unknown name, the nearest one."""
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        setting = ".".join([where, *path])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{setting}: unknown setting{nearest(path[-1], _fields_at(model, path[:-1]))}")
        elif problem["type"] == "missing":
            lines.append(f"{setting}: required, but not set")
        else:
            lines.append(f"{setting}: {problem['msg']} (got {_shown(problem['input'])})")
    return "\n".join(lines)


def _shown(value: object) -> str:
    """A value that was given, bounded and without the secrets of a URL."""
    from ugaf.base.location import scrub

    text = scrub(repr(value))
    return text if len(text) <= 300 else f"{text[:300]}..."


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The settings there are at a path, which may lead through mappings and lists of models."""
    parts = iter(path)
    for part in parts:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        options = [option for option in get_args(inner) if option is not type(None)]
        if len(options) == 1 < len(get_args(inner)):
            inner = options[0]
        if get_origin(inner) in (dict, list):
            inner = get_args(inner)[-1]
            next(parts, None)
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def exit_status(error: BaseException) -> int:
    """The exit status of a command that ended with this error; 1 for a fault of ours."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.status if isinstance(error, UgafError | StopRun) else 1
