"""How fast the tuning page answers a slider, and whether what it predicts is what a run then keeps.

    python benchmarks/tune.py [--photographs 100000] [--moves 300] [--folder DIR]

Writes a run of so many photographs, and about as many edits, with the columns of the shipped stages drawn at random
(no image is decoded), every row measured by every stage. `ugaf tune` makes its page, headless Chromium opens it, and
sliders of all stages are moved to random positions. Two times are taken of each move: until the funnel's numbers are
right (the end of the input event), and until histograms and sample images are drawn too (the frame after it). Then the
settings that the page gives are pasted into the pipeline, the run is done again (nothing is left to compute), and its
funnel is compared with the predicted one, number by number.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.types as pat
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from ugaf.columns import record  # noqa: E402
from ugaf.columns.parts import CHILDREN, SOURCES, Columns, part_schema  # noqa: E402
from ugaf.columns.view import RunView  # noqa: E402
from ugaf.engine import runner  # noqa: E402
from ugaf.imaging import images  # noqa: E402
from ugaf.ingest import SourceRef  # noqa: E402
from ugaf.pipeline import config  # noqa: E402
from ugaf.pipeline.config import Pipeline  # noqa: E402
from ugaf.pipeline.spec import StageSpec  # noqa: E402
from ugaf.storage import Storage  # noqa: E402
from ugaf.storage.store import parquet_bytes  # noqa: E402
from ugaf.tune import tune  # noqa: E402

STAGES: list[Any] = [
    "curation.resolution",
    {"curation.photometric": {"keep": {"saturation": {"min_quantile": 0.02, "max": 0.9}}}},
    "annotation.detect",
    "annotation.instruct",
    "annotation.screen",
    "generation.edit",
    "refinement.change_mask",
    "refinement.rgb_entropy",
    "refinement.verify",
    "refinement.score",
]
ROWS = 2000
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1366,900"
)
MOVE = """
const [moves, done] = arguments;
const sliders = [...document.querySelectorAll('.track input')].filter(one => !one.closest('details:not([open])'));
const frame = () => new Promise(go => requestAnimationFrame(() => {
  const channel = new MessageChannel();
  channel.port1.onmessage = go;
  channel.port2.postMessage(0);
}));
const times = [];
(async () => {
  for (const [which, ...places] of moves) {
    const slider = sliders[Math.floor(which * sliders.length)];
    slider.closest('.knob').scrollIntoView({ block: 'center' });
    for (let wait = 0; wait < 10; wait++) { await frame(); await new Promise(go => setTimeout(go, 30)); }
    for (const where of places) {
      slider.value = Math.floor(where * (Number(slider.max) + 1));
      const began = performance.now();
      slider.dispatchEvent(new Event('input', { bubbles: true }));
      const counted = performance.now();
      await frame();
      const drawn = performance.now();
      await frame();
      times.push([counted - began, drawn - began, performance.now() - drawn]);
    }
  }
  done(times);
})();
"""
"""Brings a slider into view, and drags it to some places."""
DRAG = 5


def main() -> None:
    options = _options()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="ugaf-bench-"))
    pipeline = config.parse(
        {
            "name": "tune",
            "inputs": [{"path": str(folder / "photos"), "kind": "images"}],
            "output": str(folder / "run"),
            "engine": {"executor": "inline"},
            "stages": STAGES,
        }
    )
    began = time.perf_counter()
    if not (folder / "run" / "run.yaml").exists():
        write_run(pipeline, options.photographs)
    print(f"{options.photographs} photographs written in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    found = tune(RunView(pipeline.output, pipeline))
    page = folder / "run" / found.path
    size = page.stat().st_size / 1e6
    print(f"ugaf tune: {time.perf_counter() - began:.1f} s; the page has {size:.1f} MB", flush=True)
    print("target: a slider is answered in under 200 ms")
    predicted, pasted = measure(page, options.moves)
    compare(pipeline, predicted, pasted)
    if not options.folder:
        shutil.rmtree(folder)


def write_run(pipeline: Pipeline, photographs: int) -> None:
    """Fragment after fragment, every stage's columns of every row."""
    columns = Columns(Storage(pipeline.output), pipeline)
    rng = np.random.default_rng(0)
    blobs = [images.encode(rng.integers(0, 255, (24, 32, 3)).astype(np.uint8), "jpeg", 70) for _ in range(256)]
    for number, start in enumerate(range(0, photographs, ROWS)):
        ids = [_id("photo", place) for place in range(start, min(start + ROWS, photographs))]
        name = f"{number:06d}"
        refs = [SourceRef(f"/photos/{key}.jpg", "", "1", "image", "{}") for key in ids]
        columns.storage.write(f"{SOURCES}/{name}.parquet", parquet_bytes(SourceRef.to_table(refs)))
        facts = [
            {"id": key, "image": blobs[int(key[:4], 16) % 256], "width": 32, "height": 24, "refs": [place]}
            for place, key in enumerate(ids)
        ]
        columns.write("ingest", name, facts, 1.0)
        keys = ids
        for spec in pipeline.stages:
            if spec.cls.fans_out:
                edits = {key: [_id(key, edit) for edit in range(int(rng.integers(0, 3)))] for key in keys}
                rows = [{"id": key, CHILDREN: [{"id": edit} for edit in edits[key]]} for key in keys]
                keys = [edit for of in edits.values() for edit in of]
            else:
                rows = _drawn(spec, pipeline, keys, rng)
            columns.write(spec.name, name, rows, 1.0)
    record.save(columns, RunView(pipeline.output, pipeline).fits)


def _drawn(spec: StageSpec, pipeline: Pipeline, keys: list[str], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Values on both sides of the stage's rules; one row in a hundred failed, one in a hundred without values."""
    values: dict[str, list[Any]] = {}
    for field in part_schema(pipeline, spec.name):
        kinds = spec.keep.get(field.name) or {}
        if "one_of" in kinds:
            values[field.name] = [kinds["one_of"][0] if x < 0.95 else "other" for x in rng.random(len(keys))]
        elif pat.is_floating(field.type) or pat.is_integer(field.type):
            low, high = kinds.get("min"), kinds.get("max")
            low = low if low is not None else (0.0 if high is None else high - 2 * max(abs(high), 1))
            high = high if high is not None else low + 2 * max(abs(low), 1)
            drawn = rng.normal((low + high) / 2, (high - low) / 4, len(keys))
            small = pat.is_integer(field.type) and field.type.bit_width == 8
            drawn = np.clip(drawn, -128, 127) if small else drawn
            values[field.name] = [int(x) for x in drawn] if pat.is_integer(field.type) else drawn.tolist()
    rows = []
    for place, (key, draw) in enumerate(zip(keys, rng.random(len(keys)), strict=True)):
        if draw < 0.01:
            rows.append({"id": key, "error": "RowError: drawn to fail"})
        elif draw < 0.02:
            rows.append({"id": key})
        else:
            rows.append({"id": key, **{name: column[place] for name, column in values.items()}})
    return rows


def _id(*parts: Any) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:32]


def measure(page: Path, moves: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Moves sliders; the predicted funnel at the end, and the settings in both forms."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _found("chromium", "chromium-browser", "google-chrome")
    profile = tempfile.mkdtemp(prefix="ugaf-profile-")
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    rng = np.random.default_rng(1)
    with webdriver.Chrome(options=options, service=Service(_found("chromedriver"))) as browser:
        browser.set_script_timeout(600)
        began = time.perf_counter()
        browser.get(page.as_uri())
        print(f"the page opens in {time.perf_counter() - began:.1f} s")
        browser.execute_async_script(MOVE, [[0.0, 0.5]])
        drags = rng.random((moves // DRAG, 1 + DRAG)).tolist()
        times = np.array(browser.execute_async_script(MOVE, drags))
        # A frame with nothing to do: what the machine takes by itself.
        names = ("funnel's numbers", "all drawn", "an empty frame")
        for name, column in zip(names, times.T, strict=True):
            print(
                f"{name}: median {statistics.median(column):.1f} ms, 99 % {np.quantile(column, 0.99):.1f} ms, "
                f"largest {column.max():.1f} ms of {len(column)} moves"
            )
        # Where the last moves ended may keep nothing: thresholds that keep a good part say more.
        browser.execute_script("""
            const { run, changed } = tuning;
            run.replace(run.present);
            for (const stage of run.stages) for (const column of stage.columns.values()) {
              const of = { ...run.bounds[stage.name][column.name], ...stage.fitted[column.name] };
              const middle = (column.low + column.high) / 2;
              for (const side of ['min', 'max']) if (of[side] !== undefined || of[side + '_quantile'] !== undefined) {
                const bound = of[side] ?? of[side + '_quantile'];
                run.set(stage.name, column.name, side, Number((bound + (middle - bound) * 0.07).toPrecision(5)));
              }
            }
            changed(null);
        """)
        predicted = browser.execute_script("return tuning.run.funnel()")
        pasted = {form: browser.execute_script(f"return Settings.{form}(tuning.run)") for form in ("yaml", "options")}
    shutil.rmtree(profile, ignore_errors=True)
    return predicted, pasted


def compare(pipeline: Pipeline, predicted: list[dict[str, Any]], pasted: dict[str, str]) -> None:
    """Run again with the pasted settings, in both forms, and compare every number of the funnel."""
    document = pipeline.document
    blocks = {name: entry for block in yaml.safe_load(pasted["yaml"])["stages"] for name, entry in block.items()}
    stages = [{name: {**entry, **blocks.get(name, {})}} for one in document["stages"] for name, entry in one.items()]
    options = [line.removesuffix(" \\").removeprefix("--set ") for line in pasted["options"].splitlines()]
    for form, checked in (
        ("pipeline file", config.parse({**document, "stages": stages})),
        ("--set", config.parse(document, options)),
    ):
        first = checked.stages[0].name
        runner.run(checked, runner.RunOptions(first=first), lambda _: None, lambda _: None)
        differs = 0
        for counts, there in zip(RunView(pipeline.output, checked).funnel()[1:], predicted, strict=True):
            numbers = (counts.given, counts.kept, counts.failed, counts.pending, sorted(counts.rejected.values()))
            reasons = sorted(reason[2] for reason in there["rejected"])
            told = (there["given"], there["kept"], there["failed"], there["pending"], reasons)
            if numbers != told:
                differs += 1
                print(f"{counts.name}: predicted {told}, the run has {numbers}")
        last = predicted[-1]
        print(
            f"settings by {form}: {'EQUAL' if not differs else f'{differs} stages differ'}; "
            f"{last['kept']:,} kept in the end of {predicted[0]['given']:,} photographs"
        )


def _found(*names: str) -> str:
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise SystemExit(f"needs {names[0]} on the path")
    return path


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=100_000)
    parser.add_argument("--moves", type=int, default=300)
    parser.add_argument("--folder", help="keep the run here, and take the one that is there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
