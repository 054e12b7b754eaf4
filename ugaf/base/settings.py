"""What every group of settings is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of all settings: unknown names are errors, numbers are finite, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def operational(default: Any, **options: Any) -> Any:
    """A pydantic field for how the work is done, not what comes out: it is in no fingerprint, so that changing it
    (a batch size, a device, a time-out) computes nothing again."""
    return Field(default, json_schema_extra={"operational": True}, **options)
