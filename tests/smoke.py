"""What the README says, done: every block of it, on the default executor, on real files, as a new user would.

The blocks are read from README.md, so that they cannot drift from it. What one machine without a GPU, a cluster or a
bucket cannot do is replaced by the rules in `RULES`, all of which are printed; a line that no rule covers fails. Before
that, every command that the documentation, the Makefile or the benchmarks show must start (`--help`), each with no more
packages than the environment that its page names.

    python tests/smoke.py [--keep FOLDER] [--only TEXT ...]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from smoke_commands import check_help
from smoke_tools import ROOT, SmokeError, environment, lines, run

RULES: tuple[tuple[str, str, str], ...] = (
    (r"^make run\b.*", "make -o {venv}/.base run VENV={venv}", "in the environment that runs this"),
    (r"^make (test|smoke)\b.*", r"make -n \1", "is a step of its own"),
    (r"^ray job submit .*? -- ", "", "there is no cluster: the job, here"),
    (r"^ugaf run (fineedit\S*)", r"ugaf plan \1", "needs GPUs: what it would do"),
    (r"s3://bucket/", "bucket/", "there is no bucket: a folder"),
)
"""(pattern, what stands in its place, why), each applied to a line once if it is found."""
TAKEN = r"(ugaf|python -m ugaf\.run|make -[no]) "
"""What a line may then begin with. `pip install` is not done again: its extras must be there."""
SIDE_BY_SIDE = 2
PAIRS = re.compile(r"pairs\.jsonl|set/train")
"""What is made of the demo's pairs."""
# ---- the README


def stand_in(line: str) -> str:
    """The line as it is done here; what was replaced is printed."""
    told = line
    for pattern, instead, why in RULES:
        if re.search(pattern, told):
            there = instead.replace("{venv}", sys.prefix)
            told = re.sub(pattern, there, told)
            print(f"          {line}  ->  {told}  ({why})")
    if not re.match(TAKEN, f"{told} "):
        raise SmokeError(f"README.md: no rule of tests/smoke.py covers the line {line!r}")
    return told


def check_extras(line: str) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.search(r"\[([\w,-]+)\]", line)
    if named and not set(named[1].split(",")) <= set(known):
        raise SmokeError(f"{line}: no such extra")


def check_run(line: str, work: Path) -> str:
    """The run that a line made is complete: all that was given was measured. Gives the pipeline's name."""
    from ugaf.columns.view import RunView

    words = shlex.split(line)
    folder = words[words.index("--output") + 1] if "--output" in words else "runs/demo"
    view = RunView(str(work / folder))
    funnel = view.funnel()
    part = "--until" in words
    wrong = [stage.name for stage in funnel if stage.failed or (stage.pending and not part)]
    if wrong or not funnel[0].kept or not funnel[1].rows:
        counts = [(stage.name, stage.given, stage.kept, stage.failed, stage.pending) for stage in funnel]
        raise SmokeError(f"{line}: nothing kept, failed, pending or not measured: {counts}")
    return view.pipeline.name


def readme(work: Path, only: Sequence[str] = ()) -> set[str]:
    """Every block of README.md, or those lines alone that have one of the texts; gives the names of the pipelines that
    ran. Those that work in one folder in their order, others side by side: much of a run is waiting for Ray.

    Raises SmokeError with all that went wrong: a fault does not hide those of the lines below.
    """
    waiting = [given for given in parts() if not only or any(text in given[1] for text in only)]
    base = environment(work.parent)
    ran: set[str] = set()
    wrong: list[str] = []
    running: dict[Future[set[str]], set[str]] = {}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        while waiting or running:
            taken = set().union(*running.values())
            for part in tuple(waiting):
                if len(running) < SIDE_BY_SIDE and not taken & folders(*part):
                    waiting.remove(part)
                    running[pool.submit(do, *part, work, base)] = folders(*part)
                taken |= folders(*part)
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                del running[done]
                try:
                    ran |= done.result()
                except SmokeError as error:
                    print(f"  WRONG   {error}", flush=True)
                    wrong.append(str(error))
    if wrong:
        raise SmokeError("\n".join(wrong))
    return ran


def parts() -> list[tuple[str, str]]:
    """README.md's blocks, each with its language; of shell blocks each line."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [(name, part) for name, block in found for part in (lines(block) if name == "sh" else [block])]


def folders(language: str, part: str) -> set[str]:
    """The runs that a line or a block works in: those it names, else the demo's."""
    found = set(re.findall(r"[\w:/]*runs/\w+", part))
    if language == "" or re.match(r"make run|ugaf run(?!.*(--output|\.yaml|fineedit))", part) or PAIRS.search(part):
        found.add("runs/demo")
    return found


def do(language: str, part: str, work: Path, base: dict[str, str]) -> set[str]:
    """A line of a shell block, or a block; gives the name of the pipeline that it ran, if it ran one."""
    if language == "sh":
        return shell(part, work, base)
    if language == "python":
        run(shlex.join(["python", "-c", part]), work, dict(os.environ))
    elif language == "":
        check_tree(part, work)
    elif language != "yaml":
        raise SmokeError(f"README.md: tests/smoke.py does not know blocks of {language!r}")
    return set()


def shell(line: str, work: Path, base: dict[str, str]) -> set[str]:
    if line.startswith("pip install"):
        check_extras(line)
        return set()
    here = stand_in(line)
    if PAIRS.search(here):
        write_pairs(work)
    run(here, work, base)
    return {check_run(here, work)} if re.match(r"(ugaf run|python -m ugaf\.run)\b", here) else set()


def check_tree(block: str, work: Path) -> None:
    """The files that a listing names are there; STAGE@FINGERPRINT is any. What is "of a pipeline ..." need not be."""
    root, *rest = block.splitlines()
    for line in rest:
        name, _, said = line.strip().partition("  ")
        pattern = name.replace("STAGE@FINGERPRINT", "*@*").rstrip("/")
        if not said.strip().startswith("of a pipeline") and not list((work / root).glob(pattern)):
            raise SmokeError(f"README.md: {root}{name} is not there")


# ---- what a user has


def write_inputs(work: Path) -> None:
    """Photographs in folders, in a tar, in what stands for a bucket, named as README.md does; a pipeline file."""
    if (work / "my.yaml").exists():
        return
    import cv2
    from skimage import data

    photos = {"IMG_0042": data.astronaut(), "coffee": data.coffee(), "cat": data.chelsea()}
    # Bounds that are fitted on a set take its extremes: these, which `demo` takes out before an edit is made of them.
    photos |= {name: cv2.cvtColor(getattr(data, name)(), cv2.COLOR_GRAY2RGB) for name in ("brick", "grass", "gravel")}
    bucket = work / "bucket"
    (bucket / "set").mkdir(parents=True)
    for name, pixels in {**photos, "more": data.stereo_motorcycle()[1]}.items():
        scale = 520 / min(pixels.shape[:2])
        grown = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        folder = work / ("more" if name == "more" else "photos")
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{name}.jpg"), cv2.cvtColor(grown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    (bucket / "photos").mkdir()
    shutil.copy(work / "photos" / "IMG_0042.jpg", bucket / "photos")
    subprocess.run(["tar", "-cf", "bucket/set/0.tar", "-C", "photos", "coffee.jpg"], cwd=work, check=True)
    demo = (ROOT / "pipelines" / "demo.yaml").read_text()
    own = {"sample://": "photos/IMG_0042.jpg", "name: demo": "name: my", "edits_per_image: 12": "edits_per_image: 4"}
    for theirs, instead in own.items():
        assert theirs in demo, f"pipelines/demo.yaml has no {theirs!r}"
        demo = demo.replace(theirs, instead)
    (work / "my.yaml").write_text(demo)


def write_pairs(work: Path) -> None:
    """The demo's pairs as somebody else's: a list with pictures beside it, and a table with pictures in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (work / "pairs.jsonl").exists():
        return
    (work / "set").mkdir()
    shards = sorted((work / "runs/demo/shards/parquet").glob("train-*.parquet"))
    rows = pq.read_table(shards[0], columns=["source", "edited", "instruction", "task"]).slice(0, 6).to_pylist()
    said = []
    for number, row in enumerate(rows):
        names = {
            side: f"set/{number}-{side}{Path(row[side]['path'] or '.png').suffix or '.png'}"
            for side in ("source", "edited")
        }
        for side, name in names.items():
            (work / name).write_bytes(row[side]["bytes"])
        said.append(json.dumps({**names, "instruction": row["instruction"], "task": row["task"]}))
    (work / "pairs.jsonl").write_text("\n".join(said))
    table = pa.Table.from_pylist(
        [{**row, "source": row["source"]["bytes"], "edited": row["edited"]["bytes"]} for row in rows]
    )
    pq.write_table(table, work / "set" / "train-0.parquet")


def copied(folder: Path) -> Path:
    """The repository as a clone has it: what git knows, and what is new and not ignored."""
    work = folder / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, stdout=subprocess.PIPE, check=True,
    ).stdout.decode()  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, work / name)
    return work


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", metavar="FOLDER", help="work here, and leave it; default: a folder that is removed")
    parser.add_argument(
        "--only", metavar="TEXT", action="append", default=[],
        help="only commands and blocks that have this text in them; what they read must be there: see --keep",
    )  # fmt: skip
    options = parser.parse_args()
    began = time.monotonic()
    folder = Path(options.keep or tempfile.mkdtemp(prefix="ugaf-smoke-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop("RAY_ADDRESS", None)
    try:
        from ugaf.pipeline.config import shipped_pipelines

        check_help(folder, options.only)
        work = copied(folder)
        write_inputs(work)
        ran = readme(work, options.only)
        wanted = {name for name in shipped_pipelines() if not name.startswith("fineedit")}
        if not wanted <= ran and not options.only:
            raise SmokeError(f"README.md runs no {', '.join(sorted(wanted - ran))}")
    except SmokeError as error:
        print(f"\nsmoke: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"smoke: all well, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
