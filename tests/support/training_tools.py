"""Small trainings for tests: shards of a few pairs, settings of a tiny model, and processes that can be killed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from places import ROOT

from ugaf.export.columns import CORE, schema

TINY = {"layers": 2, "heads": 2, "head_dim": 16, "text_dim": 32, "factor": 4}


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def make_shards(folder: Path, count: int, seed: int = 0, group: int = 3, split: str = "train", side: int = 64) -> Path:
    """Pairs of a coloured ground on which a square becomes red, in Parquet row groups of `group`."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        width, height = (side, side) if number % 3 else (side * 2, side // 2)
        source = np.empty((height, width, 3), np.uint8)
        source[:] = rng.integers(0, 255, 3)
        source[::4] //= 2
        x, y = int(rng.integers(0, width - 16)), int(rng.integers(0, height - 16))
        edited = source.copy()
        edited[y : y + 16, x : x + 16] = (255, 0, 0)
        box = [x, y, x + 16, y + 16]
        rows.append(
            {
                **dict.fromkeys(column.name for column in CORE),
                "id": f"{split}{number:04d}",
                "source": {"bytes": png(source), "path": None},
                "edited": {"bytes": png(edited), "path": None},
                "instruction": "Make the square red.",
                "task": "recolor",
                "register": "concise",
                "bbox": box,
                "boxes": [box],
                "width": width,
                "height": height,
                "split": split,
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=schema(CORE))
    pq.write_table(table, folder / f"{split}-00000-of-00001.parquet", row_group_size=group)
    return folder


def config(folder: Path, shards: Path, **changes: Any) -> Path:
    """A configuration file; `changes` are sections or values of the top level."""
    document: dict[str, Any] = {
        "output": str(folder / "out"),
        "steps": 6,
        "data": {
            "shards": [str(shards)],
            "area": 4096,
            "multiple": 16,
            "token_side": 8,
            "tokens": 256,
            "lanes": 4,
            "workers": 0,
        },
        "model": {"base": "tiny", "tiny": TINY, "adapter_layers": 2, "checkpointing": False},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2},
        "scale": {"device": "cpu"},
        "checkpoint": {"every": 2},
        "validation": {"every": 0},
    }
    for name, value in changes.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) and name in document else value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "training.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def start(path: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """`python -m ugaf.trainer`, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ugaf.trainer", str(path), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def metrics(output: Path) -> list[dict[str, Any]]:
    """The lines with a loss, in order."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def group(path: Path, size: int) -> None:
    """The training of a configuration in `size` processes with gloo, each started here."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = (
        "import sys, torch.distributed as dist\n"
        "from ugaf.trainer.loop import train\nfrom ugaf.trainer.settings import load\n"
        "dist.init_process_group('gloo')\ntrain(load(sys.argv[1]))\ndist.destroy_process_group()\n"
    )
    processes = []
    for rank in range(size):
        place = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {**os.environ, **place, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        processes.append(subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, env=env))
    codes = _ended(processes)
    assert codes == [0] * size


def _ended(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    try:
        return [process.wait(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()


def losses(path: Path) -> list[float]:
    """Of the training whose settings are in a file, step by step."""
    from ugaf.trainer.settings import load

    return [line["loss"] for line in metrics(Path(load(str(path)).output))]


def run(path: Path) -> list[float]:
    """Train in this process, and say what the losses were."""
    from ugaf.trainer.distributed import leave
    from ugaf.trainer.loop import train
    from ugaf.trainer.settings import load

    train(load(str(path)))
    leave()
    return losses(path)


def weights(output: Path) -> dict[str, Any]:
    """The newest checkpoint's, and its moving average's, read in one process."""
    import torch
    import torch.distributed.checkpoint as dcp

    from ugaf.trainer.checkpoints import Checkpoints

    checkpoints = Checkpoints(output / "checkpoints", 1)
    path = checkpoints._path(checkpoints.steps()[-1])
    known = dcp.FileSystemReader(str(path)).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size) for name, entry in known.items() if name.startswith(("model.", "average."))
    }
    assert tensors
    nested: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        nested.setdefault(part, {})[rest] = value
    dcp.load(nested, checkpoint_id=str(path), no_dist=True)
    return tensors
