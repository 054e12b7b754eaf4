"""Which files of trainers' layouts are an export's own."""

from __future__ import annotations

import re

_ID = "[0-9a-f]{32}"

FILES: dict[str, re.Pattern[str]] = {
    "ai_toolkit": re.compile(rf"(train|validation)/(control|target)/{_ID}\.[a-z]+"),
    "diffsynth": re.compile(rf"metadata(_validation)?\.jsonl|images/../{_ID}\.(source|edited)\.[a-z]+"),
    "instruct_pix2pix": re.compile(r"arguments\.txt"),
}
"""By adapter, the names of the files that it writes, relative to its folder: any other file there is the user's."""
