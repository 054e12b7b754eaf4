"""What the decoupled reward is worth: a small editor post-trained with it, and with one global score.

    python benchmarks/posttrain.py [--epochs 50] [--kinds decoupled global] [--output runs/posttrain] [--device cpu]

The editor is `benchmarks/learn.py`'s early + deep variant, trained from nothing for a few hundred steps and kept in the
output. It is then post-trained by `ugaf.trainer.rl` on further scenes of the same kind, with the embedded scorer: once
with the decoupled reward (region, background and its PSNR), once with one score of the whole picture.

Printed for each epoch: the mean reward and its terms over the edits of the epoch, and the PSNR of their backgrounds
against the source; now and then, on scenes that no training sees and always from the same noise, the PSNR of the
background and of the box, and the share of edits that were made. Started again with the same output it goes on where it
stood.

At the end, whether the reward rose and what became of the background. An epoch's own mean reward cannot tell: Psi is
normalised within each group, so that a policy whose every edit keeps the background better gets no more of it. So
scenes that no training sees are edited by the editor before and after, from the same noise, and the edits of a scene by
both are rewarded as one group.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks import learn  # noqa: E402
from ugaf.export.columns import CORE, schema  # noqa: E402
from ugaf.fineedit.latents import to_float  # noqa: E402
from ugaf.fineedit.pipeline import FineEditPipeline, padded  # noqa: E402
from ugaf.imaging import images  # noqa: E402
from ugaf.imaging.boxes import to_mask  # noqa: E402
from ugaf.trainer.data import Batch  # noqa: E402
from ugaf.trainer.distributed import World, join, leave  # noqa: E402
from ugaf.trainer.encode import EMPTY, Encoded, Encoder  # noqa: E402
from ugaf.trainer.rl.loop import PostTraining  # noqa: E402
from ugaf.trainer.rl.rewards import Case, Kind, rewards  # noqa: E402
from ugaf.trainer.rl.settings import PostSettings, parse  # noqa: E402
from ugaf.trainer.seeds import seed_of  # noqa: E402
from ugaf.trainer.settings import ScaleSettings  # noqa: E402

VARIANT = "early+deep"
FIRST_AND_LAST = 5
"""Epochs at either end whose means are shown."""
DRAWS = 4
"""Edits of a held-out scene, from as many noises, by which before and after are compared."""
KINDS: tuple[Kind, ...] = ("decoupled", "global")


class WordsEncoder(Encoder):
    """Instructions without a picture of the scene, as `learn.Learner` was trained: its text encoder is random."""

    def __init__(self, pipeline: FineEditPipeline, device: torch.device) -> None:
        super().__init__(pipeline, device)
        self.learner = learn.Learner.of(pipeline, device)

    @torch.no_grad()
    def encode(self, batch: Batch, without_text: list[bool] | None = None) -> Encoded:
        drop = without_text or [False] * len(batch)
        prompts = [EMPTY if dropped else text for text, dropped in zip(batch.instructions, drop, strict=True)]
        clean = self.pipeline.codec.encode(to_float(batch.edited.to(self.device)))
        conditions = self.pipeline.conditions(batch.source, batch.references, batch.roi_mask)
        return Encoded(clean, conditions, padded([self.learner.embedding(prompt) for prompt in prompts]))


class Watched(PostTraining):
    """A post-training that is looked at while it goes on."""

    def __init__(self, settings: PostSettings, world: World, options: argparse.Namespace) -> None:
        super().__init__(settings, world, encoder_of=WordsEncoder)
        self.options = options
        self.kind = settings.reward.kind
        self.began = time.monotonic()
        self.examined = learn.Learner.of(self.pipeline, world.device)

    def one_epoch(self, epoch: int, batches: Any) -> dict[str, float]:
        before = self._held_out() if epoch == 0 else None
        values = super().one_epoch(epoch, batches)
        if before is not None:
            values |= {f"{name}_before": value for name, value in before.items()}
        if (epoch + 1) % self.options.evaluate_every == 0 or epoch + 1 == self.settings.epochs:
            values |= self._held_out()
        shown = {name: round(value, 4) for name, value in values.items()}
        print(f"{self.kind} epoch {epoch + 1} ({time.monotonic() - self.began:.0f} s): {json.dumps(shown)}", flush=True)
        return values

    def compared(self) -> dict[str, float]:
        """Both kinds of reward, and the background's PSNR, of held-out edits before and after: `{name}_{when}`."""
        self.model.eval()
        pairs = [learn.held_out(number) for number in range(self.options.held_out)]
        with self.start.used():
            before = self._drawn(pairs)
        after = self._drawn(pairs)
        found: dict[str, list[np.ndarray]] = {}
        for one, *outputs in zip(pairs, before, after, strict=True):
            roi = to_mask([one.box], learn.SIDE, learn.SIDE)
            case = Case("", one.instruction, one.source, one.edited, roi, [*outputs[0], *outputs[1]], ())
            for kind in KINDS:
                got = rewards(case, self.scorer, kind)
                terms = {kind: got.reward, **{f"{kind}_{name}": values for name, values in got.parts.items()}}
                for name, values in {**terms, "background_psnr": got.psnr}.items():
                    for when, half in zip(("before", "after"), np.split(values, 2), strict=True):
                        found.setdefault(f"{name}_{when}", []).append(half)
        return {name: float(np.mean(values)) for name, values in found.items()}

    def _drawn(self, pairs: list[learn.Pair]) -> np.ndarray:
        """Edits of each pair: RGB uint8 (pairs, DRAWS, height, width, 3)."""
        numbers, steps = range(len(pairs)), self.options.denoising
        return np.stack([self.examined.edits(pairs, numbers, steps, draw) for draw in range(DRAWS)], axis=1)

    def _held_out(self) -> dict[str, float]:
        numbers, _ = self.examined.evaluate(self.options.held_out, self.options.denoising)
        return {f"held_out_{name}": value for name, value in numbers.items()}


def editor(options: argparse.Namespace, folder: Path, device: torch.device) -> Path:
    """The small instance, trained once and kept."""
    target = folder / f"editor-{options.pretraining}-{options.seed}"
    if not (target / "model_index.json").exists():
        learner = learn.Learner(VARIANT, options.seed, device)
        began = time.monotonic()
        loss = learner.train(options.pretraining, 32, 1e-3)
        numbers, _ = learner.evaluate(options.held_out, options.denoising)
        print(f"trained in {time.monotonic() - began:.0f} s, loss {loss:.4f}: {json.dumps(numbers)}", flush=True)
        learner.pipeline.to("cpu").save_pretrained(target)
    return target


def shards(folder: Path, count: int) -> Path:
    """Scenes that `learn.py` neither trains nor evaluates on, as Parquet."""
    target = folder / f"shards-{count}"
    file = target / "train-00000-of-00001.parquet"
    if not file.exists():
        rows = []
        for number in range(count):
            one = learn.pair(np.random.default_rng(seed_of("post-training", number)))
            pictures = {
                name: {"bytes": images.encode(getattr(one, name)), "path": None} for name in ("source", "edited")
            }
            own = {"id": f"{number:08d}", "instruction": one.instruction, "split": "train", "register": "concise"}
            sizes = {"width": learn.SIDE, "height": learn.SIDE, "bbox": list(one.box), "boxes": [list(one.box)]}
            rows.append({**dict.fromkeys(column.name for column in CORE), **pictures, **own, **sizes})
        target.mkdir(parents=True, exist_ok=True)
        staged = target / "writing"
        pq.write_table(pa.Table.from_pylist(rows, schema=schema(CORE)), staged, row_group_size=64)
        staged.rename(file)
    return target


def settings_of(options: argparse.Namespace, folder: Path, kind: str, base: Path, pairs: Path) -> PostSettings:
    return parse(
        {
            "name": f"posttrain-{kind}",
            "output": str(folder / f"{kind}-{options.seed}"),
            "epochs": options.epochs,
            "seed": options.seed,
            "data": {"shards": [str(pairs)], "area": 1024, "multiple": 32, "token_side": 4, "workers": 0},
            "model": {"base": str(base), "checkpointing": False, "dtype": "float32"},
            "sampling": {
                "groups": options.groups,
                "members": options.members,
                "steps": options.denoising,
                "batch": options.members,
            },
            "reward": {"kind": kind},
            "method": options.method,
            "nft": {"beta": options.beta, "clip": options.clip, "kl": options.kl},
            "optimizer": {
                "lr": options.lr,
                "updates": options.updates,
                "levels": options.levels,
                "batch": options.members,
            },
            "device": options.device,
            "checkpoint": {"every": 5, "keep": 1},
        }
    )


def summary(kind: str, lines: list[dict[str, float]], compared: dict[str, float]) -> dict[str, float]:
    """Prints, and returns: the epochs' rewards at either end, and held-out scenes before and after."""
    found = dict(compared)
    found["epochs_first"], found["epochs_last"] = (
        statistics.mean(one["reward"] for one in end) for end in (lines[:FIRST_AND_LAST], lines[-FIRST_AND_LAST:])
    )
    for name in ("box_psnr", "box_accuracy"):
        found[f"{name}_before"], found[f"{name}_after"] = (
            lines[0][f"held_out_{name}_before"],
            lines[-1][f"held_out_{name}"],
        )

    def went(name: str, digits: int) -> str:
        return f"{found[f'{name}_before']:.{digits}f} to {found[f'{name}_after']:.{digits}f}"

    rose = found[f"{kind}_after"] > found[f"{kind}_before"]
    change = found["background_psnr_after"] - found["background_psnr_before"]
    print(
        f"{kind}: the mean reward {'rose' if rose else 'did not rise'}, {went(kind, 3)}; the background changed by "
        f"{change:+.2f} dB, {went('background_psnr', 2)}; box {went('box_psnr', 2)} dB, edits made "
        f"{went('box_accuracy', 2)}"
    )
    for other in KINDS:
        terms = [name.removesuffix("_before") for name in found if name.startswith(other) and name.endswith("_before")]
        print("  " + "; ".join(f"{name} {went(name, 3)}" for name in terms))
    ends = f"{found['epochs_first']:.3f}, {found['epochs_last']:.3f}"
    print(f"  the epochs' own mean reward, first and last {FIRST_AND_LAST}: {ends}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--groups", type=int, default=6)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--denoising", type=int, default=6, help="steps of an edit")
    parser.add_argument("--updates", type=int, default=4, help="optimizer steps of an epoch")
    parser.add_argument("--levels", type=int, default=2, help="noise levels at which an edit is learnt from")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--method", choices=["nft", "dpo"], default="nft")
    parser.add_argument("--beta", type=float, default=1.0, help="of DiffusionNFT")
    parser.add_argument("--clip", type=float, default=5.0, help="of DiffusionNFT's advantages")
    parser.add_argument("--kl", type=float, default=0.0, help="of DiffusionNFT")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--pretraining", type=int, default=600, help="steps of the editor's own training")
    parser.add_argument("--pairs", type=int, default=2000, help="scenes to post-train on")
    parser.add_argument("--held-out", type=int, default=100, help="scenes of the evaluation")
    parser.add_argument("--evaluate-every", type=int, default=10, help="epochs between two evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    parser.add_argument("--output", default="runs/posttrain", help="folder of the editor, the shards and the runs")
    options = parser.parse_args()
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    world = join(ScaleSettings(device=options.device))
    base, pairs = editor(options, folder, world.device), shards(folder, options.pairs)
    numbers = {}
    for kind in options.kinds:
        settings = settings_of(options, folder, kind, base, pairs)
        training = Watched(settings, world, options)
        training.run()
        lines = [json.loads(line) for line in (Path(settings.output) / "metrics.jsonl").read_text("utf-8").splitlines()]
        print(f"\n{options.epochs} epochs of {options.groups} groups of {options.members}, {options.method}")
        numbers[kind] = summary(kind, lines, training.compared())
    leave()
    (folder / f"numbers-{options.seed}.json").write_text(json.dumps(numbers, indent=1), "utf-8")


if __name__ == "__main__":
    main()
