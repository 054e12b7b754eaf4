"""Every row of a run as a table: verdicts, files and values, by status and stage."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_tools import counts, go, make_photos, pipeline, tree
from hypothesis import given
from hypothesis import strategies as st

from ugaf import cli
from ugaf.base.errors import ConfigError, UgafError
from ugaf.cli.commands.rows import STATUS
from ugaf.columns.table import Choice, _Csv, write
from ugaf.columns.view import RunView
from ugaf.engine.cutting import cut
from ugaf.withdrawal import withdraw as withdrawal

MEAN, HALVES, FLIP = (f"engine_stages:{name}" for name in ("Mean", "Halves", "Flip"))


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """Photographs kept, rejected, failed, withdrawn, and one that was not read yet."""
    folder = tmp_path_factory.mktemp("rows")
    make_photos(folder / "in", 11)
    (folder / "in" / "broken.jpg").write_bytes(b"no picture")
    stages = [{MEAN: {"keep": {"mean": {"min": 80.0}}}}, HALVES, FLIP]
    checked = pipeline(folder / "in", folder / "run", stages)
    run = go(checked)
    withdrawal.withdraw(run, withdrawal.plan(run, ["photo-00003.jpg"]), "", lambda _: None)
    make_photos(folder / "in", 1, start=40)
    cut(RunView(checked.output, checked).columns)
    return RunView(checked.output, checked)


def test_the_table_has_each_row_once_with_its_verdict_and_agrees_with_the_funnel(view: RunView, tmp_path: Path) -> None:
    assert write(view, Choice("image"), str(tmp_path / "all.parquet")) == 13
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    funnel = counts(view)
    by = {
        status: [row for row in rows if row["status"] == status]
        for status in ("kept", "rejected", "failed", "pending", "withdrawn")
    }
    assert sum(map(len, by.values())) == len(rows)
    dark = sum(funnel[MEAN].rejected.values())
    assert len(by["kept"]) == funnel[HALVES].kept
    assert (len(by["rejected"]), len(by["withdrawn"])) == (dark, 1)
    assert [Path(row["sources"][0]).name for row in by["failed"]] == ["broken.jpg"]
    assert [(row["id"], Path(row["sources"][0]).name, row["stage"]) for row in by["pending"]] == [
        (None, "photo-00040.jpg", "ingest")
    ]
    assert all(row["mean"] >= 80 and row["width"] for row in by["kept"])
    assert "image" not in rows[0]


@pytest.mark.parametrize(
    ("choice", "number"),
    [
        (Choice("image", status="withdrawn"), 1),
        (Choice("image", status="failed"), 1),
        (Choice("image", status="pending"), 1),
        (Choice("image", stage="ingest"), 3),
    ],
)
def test_rows_by_status_and_stage(view: RunView, tmp_path: Path, choice: Choice, number: int) -> None:
    assert write(view, choice, str(tmp_path / "some.jsonl")) == number
    assert len((tmp_path / "some.jsonl").read_text().splitlines()) == number


def test_the_three_formats_hold_the_same_values(view: RunView, tmp_path: Path) -> None:
    choice = Choice("edit", columns=["side", "half_mean", "sources", "edited_image"])
    for suffix in ("parquet", "csv", "jsonl"):
        write(view, choice, str(tmp_path / f"edits.{suffix}"))
    table = pq.read_table(tmp_path / "edits.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "edits.jsonl").read_text().splitlines()]
    with (tmp_path / "edits.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert table and len(table) == len(lines) == len(cells)  # noqa: PT018
    for row, line, cell in zip(table, lines, cells, strict=True):
        assert row["id"] == line["id"] == cell["id"]
        assert row["half_mean"] == line["half_mean"] == float(cell["half_mean"])
        assert row["sources"] == line["sources"] == json.loads(cell["sources"])
        assert line["edited_image"] == cell["edited_image"]
        assert row["edited_image"].startswith(b"\x89PNG")


def test_what_cannot_be_given_is_said(view: RunView, tmp_path: Path) -> None:
    for choice, output, words in (
        (Choice("image"), "rows.xlsx", "the name has to end with the format"),
        (Choice("image", columns=["side"]), "rows.csv", "a column of edits"),
        (Choice("image", columns=["meen"]), "rows.csv", "did you mean 'mean'"),
        (Choice("image", stage="nothing"), "rows.csv", "no stage 'nothing'"),
    ):
        with pytest.raises(UgafError, match=words):
            write(view, choice, str(tmp_path / output))
    assert list(tmp_path.iterdir()) == []


FORMULAE = ["=HYPERLINK(1)", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "'=1", "plain", "", " =1"]


@given(st.lists(st.one_of(st.sampled_from(FORMULAE), st.text(max_size=5)), min_size=1), st.floats(-9, 9))
def test_a_csv_has_no_text_that_a_spreadsheet_takes_for_a_formula_and_its_numbers_are_numbers(
    texts: list[str], number: float
) -> None:
    made = pa.table({"text": texts, "number": [number] * len(texts), "list": [[text] for text in texts]})
    stream = io.BytesIO()
    writer = _Csv(stream, made.schema)
    writer.write(made)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue().decode("utf-8", "surrogatepass"), newline="")))
    for row, text in zip(rows, texts, strict=True):
        assert row["text"][:1] not in [*"=+-@\t\r\n＝＋－＠"]
        assert row["text"].removeprefix("'") == text.removeprefix("'")
        assert (row["text"] != text) == (text[:1] in [*"=+-@\t\r\n＝＋－＠"] and text != "")
        assert (float(row["number"]), json.loads(row["list"])) == (number, [text])


@pytest.mark.parametrize("place", ["rows.csv", "sources/x.parquet", "new/deep/x.jsonl", "../run/x.csv", "link/x.csv"])
def test_an_output_inside_of_the_run_is_refused(place: str, view: RunView, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(view.path)
    outputs = (
        [f"{tmp_path}/{place}"] if place.startswith("link") else [f"{view.path}/{place}", f"file://{view.path}/{place}"]
    )
    before = tree(Path(view.path))
    for output in outputs:
        with pytest.raises(ConfigError, match="lies in the run's folder"):
            write(view, Choice("image"), output)
    assert tree(Path(view.path)) == before
    assert write(view, Choice("image"), f"{view.path}-rows.csv") == 13


@pytest.mark.parametrize("status", ["kept", "rejected", "failed", "pending", "withdrawn", None])
def test_the_command_counts_what_the_other_level_holds(
    status: str | None, view: RunView, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [] if status is None else ["--status", status]
    command = ["rows", view.path, "--trust", "engine_stages", *words]
    photographs, edits = (write(view, Choice(level, status), str(tmp_path / "x.csv")) for level in ("image", "edit"))
    assert cli.main([*command, "-o", str(tmp_path / "rows.csv")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{photographs} photograph{'s' * (photographs != 1)}")
    assert (f"; {edits} edits too: --level edit" in said) == bool(edits)
    assert cli.main(command) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == photographs
    assert ("--level edit" in said.err) == bool(edits)
    assert {json.loads(line)["status"] for line in said.out.splitlines()} <= ({status} if status else {*STATUS})
