"""What a benchmark run has done so far: one small file for each item and part, each written in one atomic step.

    OUT/run.json            whose edits these are
    OUT/edited/KEY.png      edited pictures (where an editor was run)
    OUT/PART/KEY.json       what an item gave: edits that failed, measures, the judge's scores
    OUT/report.{md,json}

A file is there completely or not at all, so a run that was killed goes on with what is not there yet. Measures and
scores hold a digest of what they were made from; what was made from something else counts as not there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ugaf.base.errors import ConfigError
from ugaf.storage import Storage

RUN = "run.json"


class Store:
    """The files of a run below a folder or URL."""

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Make the folder this run's. Raises ConfigError if it holds edits of another editor, or another protocol's."""
        identity = json.loads(_json(identity))
        try:
            there = json.loads(self.storage.read(RUN))
        except FileNotFoundError:
            self.storage.write(RUN, _json(identity))
            return
        except ValueError as error:
            raise ConfigError(f"--out: {self.storage.url}/{RUN} is damaged ({error}): choose another folder") from error
        for name in sorted(there.keys() | identity.keys()):
            if there.get(name) != identity.get(name):
                raise ConfigError(
                    f"--out: {self.storage.url} holds a run with {name} = {there.get(name)}, not {identity.get(name)}: "
                    "choose another folder"
                )

    def get(self, part: str, key: str) -> dict[str, Any] | None:
        """What is stored of an item, None if nothing is (or if it cannot be read: it is then made again)."""
        try:
            return json.loads(self.storage.read(f"{part}/{key}.json"))
        except (FileNotFoundError, ValueError):
            return None

    def put(self, part: str, key: str, values: Mapping[str, Any]) -> None:
        self.storage.write(f"{part}/{key}.json", _json(values))

    def picture(self, key: str) -> bytes | None:
        """The edited picture of an item, None if there is none yet."""
        try:
            return self.storage.read(f"edited/{key}.png")
        except FileNotFoundError:
            return None

    def has_picture(self, key: str) -> bool:
        return self.storage.exists(f"edited/{key}.png")

    def put_picture(self, key: str, png: bytes) -> None:
        self.storage.write(f"edited/{key}.png", png)


def digest(*parts: Any) -> str:
    """Of plain data and bytes: changes when one of them does."""
    told = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        told.update(hashlib.sha256(data).digest())
    return told.hexdigest()[:16]


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
