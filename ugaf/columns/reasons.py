"""Why a row is out, as data: what is counted, grouped and linked by. In words only where it is shown, by `text`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from ugaf.columns.tombstones import WITHDRAWN
from ugaf.pipeline.rules import Rule

NO_CHILDREN = "no edit was possible"


class Reason(NamedTuple):
    """Why a row is out.

    cause: what it is counted by: the broken rule's key, the kind of failure, `WITHDRAWN` or `NO_CHILDREN`.
    column, value, limit: of a rule on a value, the value as it is shown: rgb_entropy, 3.1, < 5.5.
    winner: of `distinct`, the id of the row that is kept in this one's place.
    message: of a failure, all that it says, its kind included; of a withdrawal, why.
    """

    cause: str
    column: str = ""
    value: str = ""
    limit: str = ""
    winner: str = ""
    message: str = ""

    @classmethod
    def broken(cls, rule: Rule, value: Any, key: str) -> Reason:
        """The row with this id, and this value in the rule's column, breaks the rule."""
        if rule.losers is not None:
            return cls(rule.key, winner=rule.losers.winner(key))
        return cls(rule.key, rule.column, f"{value:.4g}" if isinstance(value, float) else str(value), rule.failing)

    @classmethod
    def failed(cls, error: str) -> Reason:
        """As it is stored: `ImageError: damaged image header`."""
        return cls(failure_kind(error), message=error)

    @classmethod
    def withdrawn(cls, error: str) -> Reason:
        """As it is stored (see `Tombstone.error`)."""
        return cls(WITHDRAWN, message=error.removeprefix("Withdrawn").removeprefix(": "))


TYPE = pa.struct([(name, pa.string()) for name in Reason._fields])
"""Of the column `reason` of `RunView.rows`."""


def failure_kind(error: str) -> str:
    """`ImageError` of `ImageError: damaged image header`."""
    return error.partition(":")[0]


def text(reason: Mapping[str, str] | None) -> str:
    """A row's reason in words: `rgb_entropy 3.1 < 5.5`, or the error; "" for a row that is kept or pending."""
    if reason is None:
        return ""
    if reason["column"]:
        return f"{reason['column']} {reason['value']} {reason['limit']}"
    if reason["winner"]:
        return f"{reason['cause']} of {reason['winner']}"
    if reason["cause"] == WITHDRAWN and reason["message"]:
        return f"{WITHDRAWN}: {reason['message']}"
    return reason["message"] or reason["cause"]
