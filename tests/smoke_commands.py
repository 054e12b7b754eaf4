"""Every command that the documentation, the Makefile or the benchmarks show starts: its `--help`, with no more packages
than the environment that its page names.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from smoke_tools import ROOT, SmokeError, blocks, environment, lines, run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "clusters" / "README.md"]
TORCH = ("benchmarks/learn.py", "benchmarks/posttrain.py")
"""Their help needs torch: tests/cli/test_commands_with_torch.py starts them."""
NO_COMMANDS = ("benchmarks/asking_stage.py", "benchmarks/photographs.py", "benchmarks/scenes.py")
"""Modules that the benchmarks import."""


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


def check_help(folder: Path, only: Sequence[str] = ()) -> None:
    """Every command's `--help`, or of those with one of the texts. Raises SmokeError with all that do not start."""
    environments = {extras: environment(folder, *extras) for extras in ((), ("benchmarks",), ("test",))}
    wrong = []

    def start(command: str, extras: tuple[str, ...]) -> None:
        try:
            run(f"{command} --help", ROOT, environments[extras])
        except SmokeError as error:
            wrong.append(str(error))

    with ThreadPoolExecutor(2) as pool:
        wanted = [given for given in commands() if not only or any(text in f"{given[0]} --help" for text in only)]
        list(pool.map(lambda given: start(*given), wanted))
    if wrong:
        raise SmokeError("\n".join(wrong))
