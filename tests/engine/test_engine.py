"""The engine in one process: columns, verdicts, incremental work, errors, barriers, duplicates."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from engine_stages import executions
from engine_tools import counts, go, make_photos, pipeline, table, tree

from ugaf.base.errors import ConfigError, UgafError
from ugaf.imaging import images

MEAN, DOUBLE, HALVES, FLIP = (f"engine_stages:{name}" for name in ("Mean", "Double", "Halves", "Flip"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_photos(tmp_path / "photos", 12)
    return tmp_path / "photos"


def true_means(folder: Path) -> dict[str, float]:
    """By an independent path: Pillow and hashlib."""
    import hashlib

    from PIL import Image

    out = {}
    for path in folder.iterdir():
        key = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        out[key] = float(np.asarray(Image.open(path).convert("RGB")).mean())
    return out


def test_columns_hold_what_the_stages_measured(photos: Path, tmp_path: Path) -> None:
    view = go(pipeline(photos, tmp_path / "run", [MEAN, DOUBLE]))
    expected = true_means(photos)
    rows = table(view, "image", ["mean", "double", "width", "height", "sources"])
    assert {key: row["mean"] for key, row in rows.items()} == expected
    assert all(row["double"] == 2 * row["mean"] for row in rows.values())
    assert {(row["width"], row["height"]) for row in rows.values()} == {(32, 24)}
    assert len(view.fragments) == 3


def test_second_run_does_nothing_and_changes_no_byte(photos: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    checked = pipeline(photos, tmp_path / "run", [{MEAN: {"trace": str(trace)}}, DOUBLE])
    go(checked)
    before = tree(tmp_path / "run")
    go(checked)
    assert tree(tmp_path / "run") == before
    assert len(executions(trace, "mean")) == 12


@pytest.mark.parametrize("bound", [0.0, 60.0, 120.0, 1000.0])
def test_the_rate_of_a_stage_is_of_all_rows_that_it_measured_whatever_it_is_given_now(
    bound: float, photos: Path, tmp_path: Path
) -> None:
    before = counts(go(pipeline(photos, tmp_path / "run", [MEAN, DOUBLE, HALVES, FLIP])))
    after = counts(go(pipeline(photos, tmp_path / "run", [{MEAN: {"keep": {"mean": {"min": bound}}}}, DOUBLE, HALVES])))
    assert before[DOUBLE].rows == 12
    for name in (MEAN, DOUBLE, HALVES):
        assert (after[name].rows, after[name].seconds) == (before[name].rows, before[name].seconds)


def test_a_threshold_recomputes_nothing_and_admits_only_new_rows(photos: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    values = sorted(true_means(photos).values())

    def run(threshold: float):
        stages = [
            {MEAN: {"trace": str(trace), "keep": {"mean": {"min": threshold}}}},
            {DOUBLE: {"trace": str(trace)}},
        ]
        return go(pipeline(photos, tmp_path / "run", stages))

    strict = counts(run(values[8]))
    assert (strict[MEAN].kept, sum(strict[MEAN].rejected.values())) == (4, 8)
    assert len(executions(trace, "double")) == 4
    loose = counts(run(values[2]))
    assert (loose[MEAN].kept, loose[DOUBLE].kept) == (10, 10)
    assert len(executions(trace, "mean")) == 12
    assert sorted(executions(trace, "double")) == sorted(set(executions(trace, "double")))
    assert len(executions(trace, "double")) == 10
    again = counts(run(values[8]))
    assert (again[MEAN].kept, again[DOUBLE].kept) == (4, 4)
    assert len(executions(trace, "double")) == 10


def test_settings_and_what_reads_them_are_new_columns(photos: Path, tmp_path: Path) -> None:
    first = pipeline(photos, tmp_path / "run", [MEAN, DOUBLE])
    second = pipeline(photos, tmp_path / "run", [{MEAN: {"power": 2.0}}, DOUBLE])
    third = pipeline(photos, tmp_path / "run", [MEAN, {DOUBLE: {"raise_above": 1e8}}])
    assert first.stages[0].fingerprint != second.stages[0].fingerprint
    assert first.stages[1].fingerprint != second.stages[1].fingerprint
    assert first.stages[0].fingerprint == third.stages[0].fingerprint
    assert first.stages[1].fingerprint != third.stages[1].fingerprint
    go(first)
    rows = table(go(second), "image", ["mean", "double"])
    assert all(row["double"] == 2 * row["mean"] for row in rows.values())
    assert sorted(row["mean"] for row in rows.values()) == sorted(v**2 for v in true_means(photos).values())


def test_added_photographs_are_the_only_work(photos: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    checked = pipeline(photos, tmp_path / "run", [{MEAN: {"trace": str(trace)}}])
    go(checked)
    make_photos(photos, 1, start=100)
    view = go(checked)
    assert len(executions(trace, "mean")) == 13
    assert counts(view)[MEAN].kept == 13
    assert set(table(view, "image", ["mean"])) == set(true_means(photos))


def test_one_bad_row_costs_no_good_one(photos: Path, tmp_path: Path) -> None:
    means = true_means(photos)
    bad = min(means, key=lambda key: means[key])
    brightest = max(means.values())
    stages = [{MEAN: {"fail_id": bad}}, {DOUBLE: {"raise_above": brightest - 1e-9}}]
    view = go(pipeline(photos, tmp_path / "run", stages))
    result = counts(view)
    assert (result[MEAN].kept, result[MEAN].failed, dict(result[MEAN].errors)) == (11, 1, {"RowError": 1})
    assert (result[DOUBLE].kept, result[DOUBLE].failed, dict(result[DOUBLE].errors)) == (10, 1, {"ValueError": 1})
    row = table(view, "image", ["mean"])[bad]
    assert (row["status"], row["reason"], row["mean"]) == ("failed", "RowError: asked to fail", None)


def test_an_outcome_that_does_not_fit_the_schema_fails_its_row_only(photos: Path, tmp_path: Path) -> None:
    brightest = max(true_means(photos).values())
    view = go(pipeline(photos, tmp_path / "run", [MEAN, {DOUBLE: {"misfit_above": brightest - 1e-9}}]))
    result = counts(view)[DOUBLE]
    assert (result.kept, result.failed, dict(result.errors)) == (11, 1, {"OutcomeError": 1})


def test_failed_rows_are_retried_only_on_request(photos: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    broken = photos / "broken.jpg"
    whole = make_photos(tmp_path / "other", 1, start=500)[0].read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    checked = pipeline(photos, tmp_path / "run", [{MEAN: {"trace": str(trace)}}])
    assert counts(go(checked))[MEAN].failed == 1
    assert counts(go(checked))[MEAN].failed == 1
    assert len(executions(trace, "mean")) == 13
    view = go(checked, retry_failed=True)
    assert counts(view)[MEAN].failed == 1
    assert len(executions(trace, "mean")) == 14


def test_a_failed_source_read_again_with_success_takes_its_row_s_place(photos: Path, tmp_path: Path) -> None:
    late, good = photos / "late.jpg", make_photos(tmp_path / "other", 1, start=500)[0].read_bytes()
    late.write_bytes(b"?" * len(good))
    stat = late.stat()
    checked = pipeline(photos, tmp_path / "run", [MEAN])
    first = counts(go(checked))
    assert (first["ingest"].given, first["ingest"].failed) == (13, 1)
    late.write_bytes(good)
    os.utime(late, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert counts(go(checked))["ingest"].failed == 1
    second = counts(go(checked, retry_failed=True))
    assert (second["ingest"].given, second["ingest"].failed, second[MEAN].kept) == (13, 0, 13)


def test_a_bad_file_that_is_replaced_is_no_failure_any_more(photos: Path, tmp_path: Path) -> None:
    late = photos / "late.jpg"
    late.write_bytes(b"")
    checked = pipeline(photos, tmp_path / "run", [MEAN])
    assert counts(go(checked))["ingest"].failed == 1
    late.write_bytes(make_photos(tmp_path / "other", 1, start=500)[0].read_bytes())
    second = counts(go(checked))
    assert (second["ingest"].given, second["ingest"].failed, second[MEAN].kept) == (13, 0, 13)


def test_exact_duplicates_are_one_row_that_remembers_its_sources(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    paths = make_photos(folder, 7)
    shutil.copy(paths[0], folder / "aa-copy.jpg")
    shutil.copy(paths[0], folder / "zz-copy.jpg")
    checked = pipeline(folder, tmp_path / "run", [MEAN], fragment_rows=3)
    view = go(checked)
    result = counts(view)
    assert (result["ingest"].given, result[MEAN].kept) == (7, 7)
    rows = table(view, "image", ["sources", "mean"])
    names = sorted(sorted(Path(s).name for s in row["sources"]) for row in rows.values())
    assert ["aa-copy.jpg", "photo-00000.jpg", "zz-copy.jpg"] in names
    assert sum(map(len, names)) == 9


def test_quantile_rules_wait_for_the_whole_run_and_equal_numpy(photos: Path, tmp_path: Path) -> None:
    keep = {"mean": {"min_quantile": 0.25, "max_quantile": 0.75}}
    checked = pipeline(photos, tmp_path / "run", [{MEAN: {"keep": keep}}, DOUBLE])
    view = go(checked)
    values = np.array(sorted(true_means(photos).values()))
    low, high = np.quantile(values, [0.25, 0.75])
    inside = int(((values >= low) & (values <= high)).sum())
    result = counts(view)
    assert (result[MEAN].kept, result[DOUBLE].kept) == (inside, inside)
    fitted = view.stages[1].keep["mean"]
    assert (fitted["min"], fitted["max"]) == (low, high)
    assert view.record["fitted"][MEAN]["mean"]["min_quantile"] == 0.25


def test_a_stage_that_fans_out_makes_rows_of_their_own(photos: Path, tmp_path: Path) -> None:
    means = true_means(photos)
    dark = sorted(means.values())[2]
    view = go(pipeline(photos, tmp_path / "run", [MEAN, {HALVES: {"dark": dark}}, FLIP]))
    result = counts(view)
    assert (result[HALVES].kept, dict(result[HALVES].rejected)) == (10, {"no edit was possible": 2})
    assert (result[FLIP].given, result[FLIP].kept) == (20, 20)
    edits = table(view, "edit", ["side", "half_mean", "mean", "image", "edited_image", "draw", "donor", "donor_mean"])
    assert len({row["draw"] for row in edits.values()}) == 20
    for row in edits.values():
        assert row["mean"] == means[row["parent"]]
        assert row["donor"] in means
        assert row["donor_mean"] == means[row["donor"]]
        assert row["donor"] != row["parent"]
        photo, edited = images.decode(row["image"]), images.decode(row["edited_image"])
        flipped = photo[:, ::-1] if row["side"] == "left" else photo[::-1]
        assert np.array_equal(edited, flipped)
    story = table(view, "image", [])
    assert (
        sorted(row["reason"] for row in story.values() if row["status"] == "rejected") == ["no edit was possible"] * 2
    )


def test_runs_from_scratch_are_alike_and_the_seed_matters(photos: Path, tmp_path: Path) -> None:
    def draws(name: str, seed: int) -> dict[str, float]:
        view = go(pipeline(photos, tmp_path / name, [MEAN, HALVES, FLIP], seed=seed))
        return {key: row["draw"] for key, row in table(view, "edit", ["draw"]).items()}

    one = draws("one", 0)
    assert draws("two", 0) == one
    other = draws("three", 1)
    assert set(other) == set(one)
    assert all(other[key] != one[key] for key in one)


def test_big_columns_are_committed_in_several_parts(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 10, side=400)
    stages = [MEAN, HALVES, {FLIP: {"resources": {"batch_rows": 4}}}]
    checked = pipeline(
        tmp_path / "photos", tmp_path / "run", stages, fragment_rows=10, engine={"executor": "inline", "flush_mb": 1}
    )
    view = go(checked)
    assert len(view.columns.parts(FLIP, view.fragments[0])) > 1
    assert counts(view)[FLIP].kept == 20


def test_single_stages_and_ranges(photos: Path, tmp_path: Path) -> None:
    checked = pipeline(photos, tmp_path / "run", [MEAN, DOUBLE, HALVES])
    only = counts(go(checked, first=None, last=MEAN))
    assert (only[MEAN].kept, only[DOUBLE].pending) == (12, 12)
    with pytest.raises(ConfigError, match=r"its inputs are not computed yet \(12 rows"):
        go(checked, first=HALVES, last=HALVES)
    only = counts(go(checked, first=DOUBLE, last=DOUBLE))
    assert (only[DOUBLE].kept, only[HALVES].pending) == (12, 12)
    assert counts(go(checked, first=HALVES))[HALVES].kept == 12


def test_a_run_that_other_code_made_is_not_read_as_if_it_were_unfinished(photos: Path, tmp_path: Path) -> None:
    from ugaf.columns.view import RunView

    go(pipeline(photos, tmp_path / "run", [MEAN]))
    record = tmp_path / "run" / "run.yaml"
    assert counts(RunView(str(tmp_path / "run")))[MEAN].kept == 12
    text = record.read_text()
    fingerprint = RunView(str(tmp_path / "run")).pipeline.stages[0].fingerprint
    record.write_text(text.replace(fingerprint, "f" * 12))
    with pytest.raises(UgafError, match=r"was made by ugaf .* with other code: engine_stages:Mean is f{12}"):
        RunView(str(tmp_path / "run"))
