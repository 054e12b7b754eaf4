"""Engine "rules": a pair is verified by measurement, by no model.

Rules cannot read meaning: whether the pasted thing is a plausible cat is beyond them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ugaf import stage
from ugaf.base import tasks
from ugaf.base.failure import Failure, RowError, each
from ugaf.measures import verification
from ugaf.measures.verification import Evidence, Verdict, worst
from ugaf.models.judging.pairs import Pair
from ugaf.models.verifiers.interface import Case, Verification


class RuleVerifier:
    """Engine "rules": scores by measurement, each with the measurement that decided it (`ugaf.measures.verification`).

    What no rule measures for a task is not scored: None, with the reason.
    """

    name: ClassVar[str] = "rules"
    version: ClassVar[int] = 1

    class Settings(stage.Settings):
        """The rules have no settings."""

    def __init__(self, settings: RuleVerifier.Settings | None = None) -> None:
        self.settings = settings or RuleVerifier.Settings()

    def verify(self, cases: Iterable[Case]) -> list[Verification | Failure]:
        return each(self._one, cases)

    def _one(self, case: Case) -> Verification:
        params = parameters(case.params)
        evidence = Evidence(case.pair.source, case.pair.edited, case.pair.mask)
        return Verification(self._global(case, evidence, params), self._local(case.pair, evidence, params))

    def _global(self, case: Case, evidence: Evidence, params: Mapping[str, Any]) -> Verdict:
        kept = verification.background_kept(case.background_psnr, case.background_ssim)
        present = verification.change_present(case.change_area)
        if present.score is not None:
            return present
        task = case.pair.task
        if task == "tone" and "tone" in params:
            return verification.tone(evidence, params["tone"])
        if task == "restore" and "degradation" in params:
            return verification.restored(evidence, params["degradation"])
        if task == "background" and "object" in params:
            return verification.background_changed(evidence, case.object_mask(int(params["object"])))
        if not case.pair.boxes and tasks.of(task).scope == "global":
            return Verdict(None, f"a {task} edit of the whole image without known parameters: no rule measures it")
        return worst([kept, present])

    def _local(self, pair: Pair, evidence: Evidence, params: Mapping[str, Any]) -> Verdict:
        if not pair.boxes:
            return Verdict(None, "no target box")
        operations = params.get("operations")
        if operations and len(operations) == len(pair.boxes):
            pairs = zip(operations, pair.boxes, strict=True)
            return worst([verification.local(evidence, op.get("task"), box, op) for op, box in pairs])
        return worst([verification.local(evidence, pair.task, box, params) for box in pair.boxes])


def parameters(text: str | None) -> Mapping[str, Any]:
    """The edit's parameters; empty for pairs from elsewhere. Raises RowError if the column holds no JSON object."""
    if not text:
        return {}
    try:
        params = json.loads(text)
    except json.JSONDecodeError as error:
        raise RowError(f"params is not JSON ({error}): {text[:80]!r}") from error
    if not isinstance(params, dict):
        raise RowError(f"params is not a JSON object: {text[:80]!r}")
    return params
