# ruff: noqa: ARG003, RUF012
"""Stages that stand in for models in the engine's tests: lanes, servers, waiting, and a stop of the run."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from engine_stages import note
from pydantic import Field

from ugaf.base.errors import StopRun
from ugaf.base.needs import Needs, together
from ugaf.models.chat import Answer, ChatRequest, Message, chat_needs, open_chat
from ugaf.stage import Outcome, Row, Settings, Stage, operational
from ugaf.stage.engines import ServerName


class Assign(Stage):
    """Names a lane for every row: by the last digit of its id."""

    reads = ("width",)
    writes = pa.schema([("engine", pa.string())])

    class Settings(Settings):
        names: list[str] = ["a", "b"]

    @classmethod
    def offers(cls, settings: Any) -> Mapping[str, Sequence[str]]:
        return {"engine": [name for name in settings.names if name != "unknown"]}

    def process(self, row: Row) -> Outcome:
        return {"engine": self.settings.names[int(row.id[-1], 16) % len(self.settings.names)]}


class Lanes(Stage):
    """Does the rows of each lane in a process of its own."""

    reads = ("engine", "image")
    writes = pa.schema([("done_by", pa.string()), ("process", pa.int64())])
    lane_column = "engine"

    class Settings(Settings):
        trace: str = ""
        lanes: list[str] = ["a", "b"]
        abort_id: str = ""

    @classmethod
    def lanes(cls, settings: Any) -> tuple[str, ...]:
        return tuple(settings.lanes)

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:
        return Needs(cpus=0.2, batch_rows=2)

    def process(self, row: Row) -> Outcome:
        note(self.settings.trace, "lanes", row.id)
        if row.id == self.settings.abort_id:
            os.abort()
        if row["engine"] not in self.settings.lanes:
            raise ValueError(f"no lane {row['engine']}")
        return {"done_by": self.lane, "process": os.getpid()}


class Waits(Stage):
    """Waits as for a server, and notes how many rows of how many fragments were waiting at once."""

    reads = ("image",)
    writes = pa.schema([("together", pa.int64())])

    class Settings(Settings):
        fragments: int = operational(3)
        meet: int = operational(1, description="calls that have to be there at once before any goes on")
        trace: str = ""
        abort_id: str = ""

    _here: ClassVar[int] = 0
    _most: ClassVar[int] = 0
    _changed: ClassVar[threading.Condition] = threading.Condition()

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:
        return Needs(own_pool=True, cpus=0.2, fragments=settings.fragments, batch_rows=4)

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        for row in rows:
            note(self.settings.trace, "waits", row.id)
        cls = type(self)
        with cls._changed:
            cls._here += 1
            cls._most = max(cls._most, cls._here)
            cls._changed.notify_all()
            # Those that come last find nobody to meet: they go on after a while.
            cls._changed.wait_for(lambda: cls._most >= self.settings.meet, timeout=5)
        if any(row.id == self.settings.abort_id for row in rows):
            os.abort()
        with cls._changed:
            cls._here -= 1
        return [{"together": cls._most} for _ in rows]


class Stops(Stage):
    """Stops the run at its n-th call, as a client whose server is gone."""

    reads = ("image",)
    writes = pa.schema([("fine", pa.bool_())])

    class Settings(Settings):
        folder: str = operational("", description="where calls are counted; a file `back` in it: the server is back")
        after: int = operational(3)

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:
        return Needs(batch_rows=1)

    def process(self, row: Row) -> Outcome:
        note(self.settings.folder, "stops", row.id)
        calls = len((Path(self.settings.folder) / "stops.log").read_text().split())
        if calls > self.settings.after and not (Path(self.settings.folder) / "back").exists():
            raise StopRun("the server is gone")
        return {"fine": True}


class FakeEngine:
    """An engine behind the interface `detector`, which names a server."""

    name = "fake"
    version = 3

    class Settings(Settings):
        server: Annotated[str, Field(description="")] = ""
        size: int = 1
        device: str = operational("cuda")
        prompt: str = "look"

    @classmethod
    def needs(cls, settings: Any) -> Needs:
        packages = {"torch_that_is_not_there": "transformers"}
        return Needs(gpus=float(settings.device == "cuda"), packages=packages, without_gpu="detector.device=cpu")

    def __init__(self, settings: Any, servers: Any = None) -> None:
        self.settings, self.servers = settings, servers


class ServedEngine(FakeEngine):
    """The same with a server."""

    class Settings(Settings):
        server: ServerName
        size: int = 1

    @classmethod
    def needs(cls, settings: Any) -> Needs:
        return Needs(own_pool=True, cpus=0.2, fragments=2)


class Asks(Stage):
    """Asks a server to echo the row's id."""

    reads = ("image",)
    writes = pa.schema([("echo", pa.string()), ("process", pa.int64())])

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:
        return together([chat_needs(), Needs(servers=("echo",))])

    def setup(self) -> None:
        self.chat = open_chat(self.servers["echo"])

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        answers = self.chat.ask(ChatRequest((Message("user", (row.id,)),)) for row in rows)
        return [{"echo": a.text, "process": os.getpid()} if isinstance(a, Answer) else a for a in answers]


class Slow(Stage):
    """A row takes a while; each one that was done is noted."""

    reads = ("image",)
    writes = pa.schema([("slow", pa.float64())])

    class Settings(Settings):
        trace: str = ""
        seconds: float = operational(0.02)

    @classmethod
    def needs(cls, settings: Any, lane: str | None = None) -> Needs:
        return Needs(own_pool=True, cpus=0.3, batch_rows=2)

    def __call__(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        time.sleep(self.settings.seconds * len(rows))
        for row in rows:
            note(self.settings.trace, "slow", row.id)
        return [{"slow": 1.0} for _ in rows]
