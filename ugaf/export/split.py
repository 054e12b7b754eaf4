"""Train or validation, decided by photograph.

The split of a photograph is a pure function of its id, which is a hash of its bytes: it does not depend on what else
is in the run, so it stays when the data grows, and every run and machine agrees. Raising the share only moves
photographs from train to validation.

An edit belongs to the split of its photograph. Where it also shows an object of a second photograph (the donor of a
`replace`), both must lie in the same split, else the edit is left out of the export: no photograph is in both splits
in any role.
"""

from __future__ import annotations

import hashlib

TRAIN, VALIDATION = "train", "validation"
SPLITS = (TRAIN, VALIDATION)


def of_photograph(image_id: str, share: float) -> str:
    """ "train" or "validation". `share` (0..1) is the expected share of photographs in validation."""
    digest = hashlib.sha256(f"ugaf split/{image_id}".encode()).digest()
    return VALIDATION if int.from_bytes(digest[:8], "big") < share * 2**64 else TRAIN


def of_edit(image_id: str, donor: str | None, share: float) -> str | None:
    """The split of an edit; None where its photograph and its donor lie in different splits."""
    own = of_photograph(image_id, share)
    return own if donor is None or of_photograph(donor, share) == own else None
