"""Text from data does nothing to a terminal, a log or a page, and can be printed whatever the streams are."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from engine_tools import go, make_photos, pipeline
from hypothesis import given
from hypothesis import strategies as st
from places import PATHS
from rich.markup import escape
from rich.table import Table

from ugaf import cli
from ugaf.base.printing import HARMFUL, complain, harmless
from ugaf.cli.commands.terminal import SafeConsole, funnel_table
from ugaf.cli.progress.files import RunLog
from ugaf.columns.view import StageCounts
from ugaf.export import export
from ugaf.pages import markup
from ugaf.pages.cells import plain
from ugaf.report import write_report
from ugaf.storage import Storage

NAMED = "a\x1b]0;pwned\x07\x1b[31mred\u202egnp.jpg"
TEXTS = st.text(st.one_of(st.characters(categories=["Cc", "Cf", "Zl", "Zp"]), st.characters(codec="utf-8")), min_size=1)
MEAN = {"engine_stages:Mean": None}


def left(text: str) -> str:
    """What of a text would do something to a terminal."""
    joiners = "\t\n\u200c\u200d"
    bad = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(char for char in text if unicodedata.category(char) in bad and char not in joiners)


def test_every_control_and_format_character_is_spelled_out_and_nothing_else_is_touched() -> None:
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        assert not left(harmless(char)), hex(code)
        if char.isprintable() or char in "\t\n\u200c\u200d\xa0\u3000":
            assert harmless(char) == char, hex(code)
    assert harmless(NAMED) == r"a\x1b]0;pwned\x07\x1b[31mred\u202egnp.jpg"


@given(TEXTS)
def test_whatever_prints_or_writes_text_of_data_spells_it_out(text: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    console = SafeConsole(file=out, width=60)
    table = Table("name")
    table.add_row(escape(text))
    console.print(escape(f"x {text}"))
    console.print(table)
    with contextlib.redirect_stderr(err):
        complain("ugaf", ValueError(text))
    log = RunLog(Storage("/nowhere"))
    log.add(f"read {text}")
    page = markup.element("p", text, [text], title=text)
    for written in (out.getvalue(), err.getvalue(), *log._waiting, page, *plain([text])):
        assert not left(written), written


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose title and file names are an attacker's."""
    folder = tmp_path_factory.mktemp("printing")
    for path, name in zip(
        make_photos(folder / "in", 3, side=300), (NAMED, "é\x9b2J日本.jpg", "\x85b.jpg"), strict=True
    ):
        path.rename(path.with_name(name))
    (folder / "in" / "broken\x1b[2J.jpg").write_bytes(b"no picture")
    (folder / "in" / "list.jsonl").write_text("")
    checked = pipeline([str(folder / "in" / "*.jpg")], folder / "run", [MEAN], title="Größe \x1b[31m日本 \u202e")
    export(go(checked))
    write_report(go(checked), gallery=5)
    return folder / "run"


COMMANDS = [["status", "RUN"], ["explain", "red", "--run", "RUN"], ["explain", "broken", "--run", "RUN"]]
COMMANDS += [
    ["explain", "jpg", "--run", "RUN"],
    ["rows", "RUN"],
    ["tune", "RUN"],
    ["withdraw", "RUN", "red", "--dry-run"],
]
COMMANDS += [["report", "RUN"], ["plan", "--input", "RUN/../in/*.jpg", "--output", "RUN"], ["export", "RUN"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_no_command_prints_a_control_character(
    command: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trusted = [] if command[0] == "plan" else ["--trust", "engine_stages"]
    cli.main([*(word.replace("RUN", str(run)) for word in command), *trusted])
    said = capsys.readouterr()
    assert not left(said.out + said.err), said


def test_report_and_card_hold_none(run: Path) -> None:
    for path in (run / "README.md", run / "report" / "index.html"):
        assert not left(path.read_text()), path


def test_json_lines_say_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rows", str(run), "--trust", "engine_stages"]) == 0
    names = {os.path.basename(json.loads(line)["sources"][0]) for line in capsys.readouterr().out.splitlines()}
    assert names == {NAMED, "é\x9b2J日本.jpg", "\x85b.jpg", "broken\x1b[2J.jpg"}
    assert all(HARMFUL.search(name) for name in names)


@given(st.dictionaries(TEXTS, st.integers(1, 99), max_size=7), st.dictionaries(TEXTS, st.integers(1, 99), max_size=7))
def test_the_funnel_says_of_every_row_that_is_out_why_or_that_there_are_more_reasons(
    rejected: dict[str, int], errors: dict[str, int]
) -> None:
    stage = StageCounts("stage", "image", rejected=Counter(rejected), errors=Counter(errors))
    shown = funnel_table([stage])
    reasons, numbers = ([strip(cell) for cell in list(shown.columns[at].cells)[1:]] for at in (0, 4))
    assert sum(map(int, numbers)) == sum(rejected.values()) + sum(errors.values())
    for kinds, begins in ((rejected, "and "), (errors, "failed: and ")):
        told = [reason for reason in reasons if reason.startswith(begins) and reason.endswith("--json`)")]
        assert told == ([f"{begins}{len(kinds) - 3} more (report, `ugaf status --json`)"] if len(kinds) > 3 else [])


def strip(cell: object) -> str:
    return re.sub(r"\[/?(dim)?\]", "", str(cell)).strip()


ENVIRONMENTS = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""},
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
@pytest.mark.parametrize("command", ["status", "tune", "rows", "report", "explain"])
def test_streams_of_any_encoding_take_any_text(environment: dict[str, str], command: str, run: Path) -> None:
    where = ["broken", "--run", str(run)] if command == "explain" else [str(run)]
    done = called([command, *where, "--trust", "engine_stages"], environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["status", "tune", "rows"])
def test_a_stream_that_is_closed_costs_the_others_nothing(closed: str, command: str, run: Path) -> None:
    call = f'{sys.executable} -m ugaf {command} "{run}" --trust engine_stages {closed}'
    done = called(["sh", "-c", call], {}, shell=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert bool(done.stdout) == (re.search(r"(?<!2)>&-", closed) is None)


def called(
    arguments: list[str], environment: dict[str, str], shell: bool = False
) -> subprocess.CompletedProcess[bytes]:
    paths = PATHS
    return subprocess.run(
        arguments if shell else [sys.executable, "-m", "ugaf", *arguments],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )
