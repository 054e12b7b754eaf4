"""`make train-demo`: the loop from pairs to an editor, closed on one machine without a GPU or weights.

    python benchmarks/train_demo.py [--run runs/demo] [--output runs/train-demo]

A tiny model is trained on the demo's shards. On the way it is killed with SIGKILL and started again; at its end it is
validated and exported, and the exported editor edits photographs in a pipeline. What is seen of each is printed; the
exit status says whether all of it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ugaf.columns.view import RunView

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "pipelines" / "train" / "demo.yaml"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
"""Threads that wait for each other on busy cores cost a small model ten times its work."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/demo", help="folder of the demo's run; made if it is not there")
    parser.add_argument("--output", default="runs/train-demo", help="folder of the training; removed first")
    options = parser.parse_args()
    run, output = Path(options.run).absolute(), Path(options.output).absolute()
    if not list(run.glob("shards/parquet/*.parquet")):
        print(f"making the demo's pairs in {run}", flush=True)
        call("ugaf.run", "demo", "--output", str(run))
    shutil.rmtree(output, ignore_errors=True)
    killed = kill_after_checkpoint(run, output)
    began = time.monotonic()
    call("ugaf.trainer", *training(run, output))
    print(f"started again and finished in {time.monotonic() - began:.0f} s", flush=True)
    report(output, killed)
    return 0 if edit(output) else 1


def training(run: Path, output: Path) -> list[str]:
    return [str(CONFIG), f"data.shards=[{run}]", f"output={output}"]


def kill_after_checkpoint(run: Path, output: Path) -> int:
    """Starts the training, kills it after its first checkpoint; returns the last step that it had done."""
    command = [sys.executable, "-m", "ugaf.trainer", *training(run, output)]
    process = subprocess.Popen(command, start_new_session=True, env=ENVIRONMENT)
    while not list(output.glob("checkpoints/*/state.json")):
        if process.poll() is not None:
            raise SystemExit(f"the training ended by itself, with status {process.returncode}")
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    step = lines(output)[-1]["step"]
    print(f"killed after step {step}; checkpoints: {', '.join(p.name for p in output.glob('checkpoints/step-*'))}")
    return int(step)


def report(output: Path, killed: int) -> None:
    """The numbers of the training, which have to be complete."""
    found = lines(output)
    trained = [line for line in found if "loss" in line]
    steps = [line["step"] for line in trained]
    if steps != list(range(1, len(steps) + 1)):
        raise SystemExit(f"steps are missing or double: {steps}")
    fifth = len(trained) // 5
    first, last = (sum(line["loss"] for line in part) / fifth for part in (trained[:fifth], trained[-fifth:]))
    validated = [line for line in found if "val_loss" in line]
    print(f"{len(steps)} steps, killed after {killed}: loss {first:.3f} -> {last:.3f}")
    for line in validated:
        shown = {name: round(value, 3) for name, value in line.items() if name.startswith("val_")}
        print(f"  validation after step {line['step']}: {shown}")
    print(f"  pictures: {', '.join(str(p) for p in sorted(output.glob('validation/*.png')))}")


def edit(output: Path) -> int:
    """The demo's photographs and instructions with edits by the exported editor; how many of them it made."""
    editor = {
        "engine": "diffusers",
        "model": str(output / "editor"),
        "device": "cpu",
        "steps": 4,
        "true_cfg_scale": 1.0,
        "max_area": 128 * 128,
    }
    edited = output / "edited"
    call(
        "ugaf.run",
        "demo",
        *("--output", str(edited), "--until", "refinement.rgb_entropy", "--no-export"),
        *("--set", f"generation.edit.editor={json.dumps(editor)}"),
    )
    tables = RunView(str(edited)).rows("edit", ["editor", "edit_way"])
    rows = [row for table in tables for row in table.to_pylist() if row["editor"]]
    ways = Counter(row["edit_way"] for row in rows)
    print(f"{len(rows)} edits in {edited} by {', '.join({row['editor'] for row in rows})}: {dict(ways)}")
    return len(rows)


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]


def call(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, env=ENVIRONMENT)


if __name__ == "__main__":
    raise SystemExit(main())
