"""Which code a run that somebody else made may bring in: none but ugaf's own, unless the reader says so.

A pipeline names stages and engines as `package.module:Class`, which are imported. Who starts a pipeline has chosen it;
who reads a run's folder has not chosen what its `run.yaml` names. While a run is read (`only`), such a name is refused
unless its package was trusted by `--trust` or by the environment variable UGAF_TRUST.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ugaf.base.errors import UgafError

VARIABLE = "UGAF_TRUST"
"""Packages that are trusted in every call, with commas between them."""

_trusted: ContextVar[frozenset[str] | None] = ContextVar("trusted", default=None)


@contextmanager
def only(packages: Collection[str], where: str) -> Iterator[None]:
    """Inside, a class of one's own is imported only if its package is one of these, or in UGAF_TRUST.

    Raises UgafError, naming `where` it was asked for and what to say, where another one is named.
    """
    more = (name.strip() for name in os.environ.get(VARIABLE, "").split(","))
    token = _trusted.set(frozenset(filter(None, (*packages, *more))))
    try:
        yield
    except Untrusted as error:
        package = error.module.partition(".")[0]
        raise UgafError(
            f"{where}: names {error.module}, which is not ugaf's own code, and reading a run imports no other; if you "
            f"know it, trust it with --trust {package} (or {VARIABLE}={package})"
        ) from error
    finally:
        _trusted.reset(token)


def check(module: str) -> None:
    """To be called before a module that a pipeline names is imported. Raises Untrusted."""
    trusted = _trusted.get()
    parts = module.split(".")
    if trusted is not None and not any(".".join(parts[:end]) in trusted for end in range(1, len(parts) + 1)):
        raise Untrusted(module)


class Untrusted(Exception):  # noqa: N818
    """A module outside of what may be imported now."""

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module
