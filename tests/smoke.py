"""What the README says, done: every block of it, on the default executor, on real files, as a new user would.

The blocks are read from README.md, so that they cannot drift from it. What one machine without a GPU, a cluster or a
bucket cannot do is replaced by the rules in `RULES`, all of which are printed; a line that no rule covers fails. Then
every command that the documentation, the Makefile or the benchmarks show must start (`--help`), each with no more
packages than the environment that its page names.

    python tests/smoke.py [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.metadata
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "clusters" / "README.md"]
STEP_S = 900
"""A command of the README that takes longer, on a busy machine too, hangs."""

RULES: tuple[tuple[str, str, str], ...] = (
    (r"^make run\b.*", "make -o {venv}/.base run VENV={venv}", "in the environment that runs this"),
    (r"^make (test|smoke)\b.*", r"make -n \1", "is a step of its own"),
    (r"^ray job submit .*? -- ", "", "there is no cluster: the job, here"),
    (r"^ugaf run (fineedit\S*)", r"ugaf plan \1", "needs GPUs: what it would do"),
    (r"s3://bucket/", "bucket/", "there is no bucket: a folder"),
    (r"^ugaf explain 198f3a\b", "ugaf explain {id}", "a row that is there"),
)
"""(pattern, what stands in its place, why), each applied to a line once if it is found."""
TAKEN = r"(ugaf|python -m ugaf\.run|make) "
"""What a line may then begin with. `pip install` is not done again: its extras must be there."""
TORCH = ("benchmarks/learn.py", "benchmarks/posttrain.py")
"""Their help needs torch: tests/models starts them."""
NO_COMMANDS = ("benchmarks/asking_stage.py", "benchmarks/photographs.py", "benchmarks/scenes.py")
"""Modules that the benchmarks import."""

BLOCKER = """
import site, sys
from importlib.machinery import PathFinder

class _Blocked:
    def find_spec(self, name, path=None, target=None):
        if path is not None or name not in {names!r}:
            return None
        # Some packages carry others within them, in a folder of their own on the path.
        carried = PathFinder.find_spec(name, [place for place in sys.path if place not in site.getsitepackages()])
        if carried is None:
            raise ModuleNotFoundError(f"No module named {{name!r}}: this command's environment lacks it", name=name)
        return carried

sys.meta_path.insert(0, _Blocked())
"""


class SmokeError(Exception):
    """Something that the README or a page says does not hold."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def lines(block: str) -> list[str]:
    """The commands of a shell block, without comments and continued lines joined."""
    found = (shlex.join(shlex.split(line, comments=True)) for line in block.replace("\\\n", " ").splitlines())
    return [line for line in found if line]


# ---- environments


def requirements(extras: tuple[str, ...]) -> set[str]:
    """Names of the distributions that ugaf with these extras brings, and theirs."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [
        *project["dependencies"],
        *(text for extra in extras for text in project["optional-dependencies"][extra]),
    ]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = Requirement(waiting.pop())
        for extra in ("", *wanted.extras):
            key = (canonicalize_name(wanted.name), extra)
            if key in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
                continue
            seen.add(key)
            try:
                told = importlib.metadata.requires(wanted.name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            for text in told:
                marker = Requirement(text).marker
                if marker is None or marker.evaluate({"extra": extra}):
                    waiting.append(text.partition(";")[0])
    return {name for name, _ in seen}


def environment(folder: Path, *extras: str) -> dict[str, str]:
    """This environment, less what `pip install '.[extras]'` would not have brought."""
    from packaging.utils import canonicalize_name

    own = requirements(extras) | {"ugaf", "pip", "setuptools"}
    tops = importlib.metadata.packages_distributions()
    lacking = {top for top, names in tops.items() if not own & {canonicalize_name(name) for name in names}}
    place = folder / f"only-{'-'.join(extras) or 'base'}"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(BLOCKER.format(names=sorted(lacking)))
    path = [str(place), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


# ---- the README


def run(line: str, work: Path, env: dict[str, str]) -> str:
    """One command to its end. Raises SmokeError with all that it said."""
    words = shlex.split(line)
    program = {"ugaf": [sys.executable, "-m", "ugaf"], "python": [sys.executable]}.get(words[0], [words[0]])
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*program, *words[1:]], cwd=work, env=env, text=True, timeout=STEP_S,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SmokeError(f"{line}: not done after {STEP_S} s\n{error.output}") from error
    print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)
    if done.returncode:
        raise SmokeError(f"{line}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def stand_in(line: str, work: Path) -> str:
    """The line as it is done here; what was replaced is printed."""
    told = line
    for pattern, instead, why in RULES:
        if re.search(pattern, told):
            there = instead.replace("{venv}", sys.prefix)
            there = there.replace("{id}", _an_id(work)[:6]) if "{id}" in there else there
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
    from ugaf.view import RunView

    words = shlex.split(line)
    folder = words[words.index("--output") + 1] if "--output" in words else "runs/demo"
    view = RunView(str(work / folder))
    funnel = view.funnel()
    part = "--until" in words
    wrong = [stage.name for stage in funnel if stage.failed or (stage.pending and not part)]
    if wrong or not funnel[0].kept or not funnel[1].rows:
        counts = [(stage.name, stage.given, stage.kept, stage.failed, stage.pending) for stage in funnel]
        raise SmokeError(f"{line}: failed, pending or not measured: {counts}")
    return view.pipeline.name


def _an_id(work: Path) -> str:
    from ugaf.view import RunView

    return next(row["id"] for part in RunView(str(work / "runs/mine")).rows("image") for row in part.to_pylist())


def readme(work: Path) -> set[str]:
    """Every block of README.md in its order; gives the names of the pipelines that ran."""
    text = (ROOT / "README.md").read_text()
    base, tested = environment(work.parent), dict(os.environ)
    ran: set[str] = set()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language == "python":
            run(shlex.join(["python", "-c", block]), work, tested)
        elif language == "sh":
            for line in lines(block):
                if line.startswith("pip install"):
                    check_extras(line)
                    continue
                here = stand_in(line, work)
                if re.search(r"pairs\.jsonl|set/train", here):
                    write_pairs(work)
                run(here, work, base)
                if re.match(r"(ugaf run|python -m ugaf\.run)\b", here):
                    ran.add(check_run(here, work))
        elif language == "":
            check_tree(block, work)
        elif language != "yaml":
            raise SmokeError(f"README.md: tests/smoke.py does not know blocks of {language!r}")
    return ran


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
    """Photographs in folders, in a tar, in what stands for a bucket; and a pipeline file."""
    import cv2
    from skimage import data

    left, right, _ = data.stereo_motorcycle()
    photos = {"astronaut": data.astronaut(), "coffee": data.coffee(), "motorcycle": left, "chelsea": data.chelsea()}
    (work / "bucket" / "set").mkdir(parents=True)
    for name, pixels in {**photos, "more": right}.items():
        scale = 520 / min(pixels.shape[:2])
        grown = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        folder = work / ("more" if name == "more" else "photos")
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{name}.jpg"), cv2.cvtColor(grown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    shutil.copytree(work / "photos", work / "bucket" / "photos")
    subprocess.run(
        ["tar", "-cf", "bucket/set/0.tar", "-C", "photos", "astronaut.jpg", "coffee.jpg"], cwd=work, check=True
    )
    demo = (ROOT / "pipelines" / "demo.yaml").read_text()
    (work / "my.yaml").write_text(demo.replace("sample://", "photos/astronaut.jpg").replace("name: demo", "name: my"))


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


# ---- commands that start


def commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(command, extras of its environment): whatever the pages, the Makefile and the benchmarks start, once each."""
    found: dict[str, tuple[str, ...]] = {}
    for page in PAGES:
        for line in (line for block in blocks(page.read_text(), "sh") for line in lines(block)):
            words = shlex.split(line)
            words = words[words.index("--") + 1 :] if words[0] == "ray" and "--" in words else words
            found.update(dict.fromkeys(_programs(words), ()))
    makefile = (ROOT / "Makefile").read_text()
    for script in [
        *re.findall(r"(?:tests|benchmarks)/\S+\.py", makefile),
        *map(_here, (ROOT / "benchmarks").glob("*.py")),
    ]:
        found[f"python {script}"] = ()
    for module in re.findall(r"python -m (ugaf\S*)", makefile):
        found[f"python -m {module}"] = ()
    help_text = subprocess.run([sys.executable, "-m", "ugaf", "--help"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    for name in re.findall(r"^    (\w+)", help_text.stdout.decode(), re.MULTILINE):
        found[f"ugaf {name}"] = ()
    for command in sorted(found):
        script = command.removeprefix("python ")
        if script not in (*TORCH, *NO_COMMANDS) and not script.endswith("__init__.py"):
            yield (
                command,
                ("benchmarks",)
                if script.startswith("benchmarks/")
                else ("test",)
                if script.startswith("tests/")
                else (),
            )


def _here(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _programs(words: list[str]) -> Iterator[str]:
    """The command in a line of a page, without its arguments."""
    if words[0] == "ugaf":
        yield f"ugaf {words[1]}"
    elif "-m" in words and words[words.index("-m") + 1].startswith("ugaf"):
        yield f"python -m {words[words.index('-m') + 1]}"
    elif words[0] == "python" and words[1].endswith(".py"):
        yield f"python {words[1]}"


def check_help(folder: Path) -> None:
    """Every command's `--help`. Raises SmokeError with all that do not start."""
    environments = {extras: environment(folder, *extras) for extras in ((), ("benchmarks",), ("test",))}
    wrong = []

    def start(command: str, extras: tuple[str, ...]) -> None:
        try:
            run(f"{command} --help", ROOT, environments[extras])
        except SmokeError as error:
            wrong.append(str(error))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda given: start(*given), commands()))
    if wrong:
        raise SmokeError("\n".join(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", metavar="FOLDER", help="work here, and leave it; default: a folder that is removed")
    options = parser.parse_args()
    began = time.monotonic()
    folder = Path(options.keep or tempfile.mkdtemp(prefix="ugaf-smoke-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.pop("RAY_ADDRESS", None)
    try:
        from ugaf.config import shipped_pipelines

        check_help(folder)
        work = copied(folder)
        write_inputs(work)
        ran = readme(work)
        wanted = {name for name in shipped_pipelines() if not name.startswith("fineedit")}
        if not wanted <= ran:
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
