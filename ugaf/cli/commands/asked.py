"""What the shared arguments mean: the pipeline, the stages and the run that a user asked for."""

from __future__ import annotations

import json
from argparse import Namespace

from ugaf.base.errors import ConfigError, UgafError
from ugaf.columns.record import RUN_FILE
from ugaf.columns.view import RunView
from ugaf.engine.runner import RunOptions
from ugaf.pipeline import config
from ugaf.pipeline.config import Pipeline
from ugaf.storage import Storage


def load(options: Namespace) -> Pipeline:
    """The pipeline of `arguments.pipeline`, with all changes applied and checked."""
    overrides = list(options.set)
    if options.output:
        overrides.append(f"output={json.dumps(options.output)}")
    if options.name:
        overrides.append(f"title={json.dumps(options.name)}")
    if options.input:
        overrides.append(f"inputs={json.dumps(options.input)}")
    if options.stage and (options.first or options.last):
        raise ConfigError("--stage names one stage; use --from and --until for a range")
    return config.load(options.pipeline, overrides)


def run_options(options: Namespace) -> RunOptions:
    """What to do of the pipeline, and where."""
    first, last = options.first or options.stage, options.last or options.stage
    return RunOptions(first, last, options.retry_failed, options.address, options.replace)


def view(options: Namespace) -> RunView:
    """The run of `arguments.run_folder`, read with the code that the user trusts."""
    return RunView(find_run(options.run), trust=options.trust)


def find_run(given: str | None) -> str:
    """The named run, or the one in runs/ whose record is the newest."""
    if given is not None:
        return given
    runs = Storage("runs")
    found = [name for name in runs.list() if runs.exists(f"{name}/{RUN_FILE}")]
    if not found:
        raise UgafError("there is no run in runs/: name a run's folder")
    newest = max(found, key=lambda name: runs.filesystem.get_file_info(runs.path(f"{name}/{RUN_FILE}")).mtime)
    return f"runs/{newest}"
