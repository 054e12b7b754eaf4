"""Tells what a call does while it works: on the terminal, as plain lines or as JSON, and in the run's folder."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from ugaf.base.errors import STOPPED, StopRun, exit_status
from ugaf.base.location import scrub
from ugaf.base.printing import complain
from ugaf.cli import endings
from ugaf.cli.progress import files, shown
from ugaf.cli.progress.files import Heartbeat, RunLog
from ugaf.cli.progress.tracker import Snapshot, State, Tracker, ended
from ugaf.engine.watcher import Watcher
from ugaf.pipeline.config import INGEST, Pipeline
from ugaf.storage import Storage

LINE_S = 30.0
"""Without a terminal, at least one line in so many seconds."""

FINISHED = (0, 3, 4)
"""Exit statuses of a call that did all it was asked for, whatever came out."""

_TICK_S = 0.25

_LAST_WORD_S = 10.0
"""For the files of a call that ends at once."""


class Call(Watcher):
    """One call of a command on a run, from its first word to its exit status: a `with` block around the work.

    `doing`, `counts` and `note` are for the runner, `say` for the command's own words. In the mode "json" standard
    output is one JSON object a line and nothing else: `say` prints nothing, and the command gives `result` its answer.

    Args:
        mode: "plain", "json" or "none"; "auto": a live table on a terminal, else plain.
        command: as the user gave it, without secrets.
    """

    def __init__(self, pipeline: Pipeline, console: Console, mode: str, command: str) -> None:
        live = mode == "auto" and console.is_terminal
        self.mode = "live" if live else ("plain" if mode == "auto" else mode)
        self.tracker = Tracker([INGEST, *(spec.name for spec in pipeline.stages)])
        self._console = console
        self._storage = Storage(pipeline.output, patience_s=0)
        self._log = RunLog(self._storage)
        self._beats: Heartbeat | None = None
        self._command = command
        self._live: Live | None = None
        self._told: set[str] = set()
        self._machine: dict[str, Any] | None = None
        self._last_line = self._last_beat = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._lock, self._writing = threading.RLock(), threading.RLock()
        self._told_of_files = False

    def __enter__(self) -> Call:
        self._record(f"{self._command}\n{files.versions()}")
        if self.mode == "live":
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._quiet()
        if error is not None:
            self.finish(exit_status(error), str(error) or type(error).__name__)

    def accepted(self) -> None:
        """The run's folder is this call's to write in: from here on there are `log.txt` and `progress.json`."""
        if self._beats is None:
            self._beats = Heartbeat(self._storage, self._command)
            self._beat("running")

    def doing(self, what: str, waiting: Mapping[str, int] | None = None) -> None:
        """Something else begins, see `Tracker.doing`."""
        if waiting is None and self.tracker.is_doing(what):
            self.tracker.doing(what)
            return
        with self._lock:
            self._tell_ended(ended(self.tracker.state()))
            self.tracker.doing(what, waiting)
            self._progress_line(what)
            self._show()

    def counts(self, snapshot: Snapshot) -> None:
        """The engine's counts since the call began."""
        self.tracker.counts(snapshot)
        with self._lock:
            self._tell_ended(self.tracker.state())

    def runs_on(self, machine: Mapping[str, Any]) -> None:
        """See `Watcher.runs_on`; it is kept in `progress.json`."""
        self._machine = dict(machine)

    def note(self, text: str) -> None:
        """A line that is worth reading later: it is printed and logged."""
        self._record(text)
        with self._lock:
            if self.mode == "json":
                self._json({"note": text})
            elif self.mode == "plain":
                self._print(text)
            else:
                self._console.print(escape(text))

    def say(self, text: Any, **options: Any) -> None:
        """The command's own words, with rich's markup; not logged."""
        if self.mode != "json":
            self._console.print(text, **options)

    def result(self, document: Mapping[str, Any]) -> None:
        """The command's answer, for programs: the last line in the mode "json"."""
        if self.mode == "json":
            self._json(document)

    def finish(self, status: int, message: str = "") -> None:
        """The call is over: its exit status, and why where it is not 0."""
        self._quiet()
        self.tracker.doing("finished")
        self._record(f"exit code {status}" + (f": {message}" if message else ""))
        end = {"exit_code": status, **({"message": scrub(message)} if message else {})}
        self._beat("stopped" if status not in FINISHED else "done", **end)

    def lost(self, why: str) -> None:
        """The head of Ray is gone: the call ends here and now, with a word, before Ray ends it without one."""
        message = f"{why}: {endings.GOES_ON}"
        # A store that does not answer either must not keep it.
        last = threading.Thread(target=self.finish, args=(STOPPED, message), daemon=True)
        last.start()
        last.join(_LAST_WORD_S)
        complain("ugaf", message)
        endings.vanish(STOPPED)

    def _quiet(self) -> None:
        """End the display and its thread."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _loop(self) -> None:
        while not self._stop.wait(_TICK_S):
            now = time.monotonic()
            with self._lock:
                self._show()
                if self.mode in ("plain", "json") and now - self._last_line >= LINE_S:
                    self._progress_line(shown.line(self.tracker.state()))
            # Without the lock: a store that does not answer must not hold up the work.
            if self._beats is not None and now - self._last_beat >= self._beats.every_s:
                self._beat("running")

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(shown.table(self.tracker.state()), refresh=True)

    def _tell_ended(self, state: State) -> None:
        """A line for each stage whose end has not been told; those that did nothing have nothing to tell."""
        for stage in state.stages:
            if stage.state == "done" and stage.done and stage.name not in self._told:
                self._told.add(stage.name)
                text = shown.stage_line(stage)
                self._record(text)
                self._progress_line(text)

    def _progress_line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self.mode == "plain":
            self._print(text)
        elif self.mode == "json":
            self._json({"line": text, **shown.document(self.tracker.state())})

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        self._console.print(f"{datetime.now():%H:%M:%S}  {escape(text)}")

    def _json(self, document: Mapping[str, Any]) -> None:
        print(json.dumps({"time": files.timestamp(), **document}), flush=True)

    def _record(self, text: str) -> None:
        self._log.add(text)
        if self._beats is not None and files.is_local(self._storage):
            self._safely(self._log.flush)

    def _beat(self, state: str, **end: Any) -> None:
        beats = self._beats
        if beats is not None:
            self._last_beat = time.monotonic()
            doing = {"machine": self._machine, **shown.document(self.tracker.state())}
            document = beats.document(state, doing, **end)
            self._safely(lambda: beats.beat(document))
            self._safely(self._log.flush)

    def _safely(self, write: Callable[[], None]) -> None:
        """A run does not end because its log cannot be written: that is said once, and tried again."""
        with self._writing:
            try:
                write()
            except (OSError, StopRun) as error:
                if not self._told_of_files:
                    self._told_of_files = True
                    complain("ugaf", f"{files.LOG} and {files.PROGRESS} cannot be written: {error}")
