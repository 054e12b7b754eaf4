"""Reasons: what a row is counted by, and its words."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ugaf.columns.reasons import NO_CHILDREN, TYPE, Reason, text
from ugaf.pipeline import rules
from ugaf.pipeline.distinct import Losers, packed

SCHEMA = pa.schema(
    [("entropy", pa.float64()), ("screen", pa.string()), ("links", pa.list_(pa.struct([("id", "string")])))]
)
ROW, OTHER = "0123" * 8, "4567" * 8


def rule(column: str, **bounds: object) -> rules.Rule:
    (one,) = rules.parse({column: bounds}, SCHEMA, "stage")
    return one


@pytest.mark.parametrize(
    ("reason", "cause", "words"),
    [
        (Reason.broken(rule("entropy", min=5.5), 3.14159, ROW), "entropy < 5.5", "entropy 3.142 < 5.5"),
        (
            Reason.broken(rule("entropy", min_quantile=0.02).frozen(0.5), 0.25, ROW),
            "entropy < 0.5 (quantile 0.02)",
            "entropy 0.25 < 0.5 (quantile 0.02)",
        ),
        (
            Reason.broken(rule("screen", one_of=["ok", "passed"]), "too small", ROW),
            "screen is not one of ok, passed",
            "screen too small is not one of ok, passed",
        ),
        (Reason.broken(rule("screen", none_of=[""]), "", ROW), "screen is one of ", "screen  is one of "),
        (
            Reason.broken(rule("links", distinct={}).turning_down(Losers(packed([ROW]), packed([OTHER]))), [], ROW),
            "links: near-duplicate",
            f"links: near-duplicate of {OTHER}",
        ),
        (Reason.failed("ImageError: entropy < 5.5"), "ImageError", "ImageError: entropy < 5.5"),
        (Reason.failed("WorkerDied"), "WorkerDied", "WorkerDied"),
        (Reason.withdrawn("Withdrawn"), "withdrawn", "withdrawn"),
        (Reason.withdrawn("Withdrawn: asked: by her"), "withdrawn", "withdrawn: asked: by her"),
        (Reason(NO_CHILDREN), NO_CHILDREN, NO_CHILDREN),
    ],
)
def test_a_reason_is_counted_by_its_cause_and_told_with_what_the_row_has(
    reason: Reason, cause: str, words: str
) -> None:
    assert reason.cause == cause
    (stored,) = pa.array([reason._asdict()], TYPE).to_pylist()
    assert text(stored) == words


def test_a_row_that_is_in_has_no_reason() -> None:
    assert text(None) == ""
