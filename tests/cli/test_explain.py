"""`explain`: the verdict first, by whatever name a person knows the row; rules as they are wanted; JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from engine_tools import go, make_photos, pipeline, table

from ugaf import cli
from ugaf.base.errors import UgafError
from ugaf.cli.explain import explain, story
from ugaf.columns.view import RunView
from ugaf.export import export
from ugaf.imaging import images
from ugaf.pipeline import config

RESOLUTION = {"curation.resolution": {"keep": {"short_side": {"min": 100}}}}
SATURATION = {"curation.photometric": {"descriptors": ["saturation"], "keep": {"saturation": {"min": 0.0}}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three photographs: one large, one small, one damaged."""
    folder = tmp_path_factory.mktemp("explain")
    large, small = (
        make_photos(folder / "photos", 1, side=120)[0],
        make_photos(folder / "photos", 1, start=1, side=60)[0],
    )
    large.rename(folder / "photos" / "large.jpg")
    small.rename(folder / "photos" / "small.jpg")
    (folder / "photos" / "broken.jpg").write_bytes(b"no picture")
    go(pipeline(folder / "photos", folder / "run", [RESOLUTION, SATURATION]))
    return folder


def lines(folder: Path, text: str) -> list[str]:
    return list(explain(RunView(str(folder / "run")), text))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("large", "KEPT; nothing has been exported yet"),
        ("small.jpg", "OUT BY curation.resolution: short_side 60 < 100"),
        ("photos/broken.jpg", "FAILED IN ingest: ImageError: "),
    ],
)
def test_the_first_line_is_the_verdict(folder: Path, name: str, first: str) -> None:
    assert lines(folder, name)[0].startswith(first)


def test_rules_are_told_as_they_are_wanted_and_nulls_are_hidden(folder: Path) -> None:
    kept, out = "\n".join(lines(folder, "large.jpg")), "\n".join(lines(folder, "small.jpg"))
    assert "rule: short_side 120 >= 100 ok" in kept
    assert "rule: short_side 60 >= 100 BROKEN" in out
    for text in (kept, out):
        assert "None" not in text
        assert "null" not in text
        assert "clarity" not in text  # not among the descriptors: null, and its rules do not apply
    assert "curation.photometric" not in out


def test_an_unread_source_and_a_pending_row_say_what_they_wait_for(folder: Path, tmp_path: Path) -> None:
    view = go(pipeline(folder / "photos", tmp_path / "run", [RESOLUTION, SATURATION]), last="curation.resolution")
    (first, *_) = explain(view, "large")
    assert first == "PENDING AT curation.photometric: not computed yet"
    with pytest.raises(UgafError, match="no row"):
        list(explain(view, "elsewhere"))
    with pytest.raises(UgafError, match=r"(?s)3 rows of .* may be meant.*large\.jpg.*Give more of it"):
        list(explain(view, "photos"))


def test_quantile_rules_tell_what_they_wait_for(folder: Path, tmp_path: Path) -> None:
    keep = {"saturation": {"min": None, "min_quantile": 0.9}}
    stages = [{"curation.photometric": {"descriptors": ["saturation"], "keep": keep}}]
    view = go(pipeline(folder / "photos", tmp_path / "run", stages))
    texts = ["\n".join(explain(view, name)) for name in ("large", "small")]
    assert sorted(text.partition(" ")[0] for text in texts) == ["KEPT;", "OUT"]
    assert all("(quantile 0.9)" in text for text in texts)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """Pairs of two tasks, four and two of them; the export takes as many of each."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for number in range(6):
        rng = np.random.default_rng(number)
        for role in ("source", "edited"):
            pixels = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
            (folder / f"{role}{number}.png").write_bytes(images.encode(pixels, "png"))
        names = {role: f"{role}{number}.png" for role in ("source", "edited")}
        rows.append({**names, "instruction": f"edit {number}", "task": "add" if number < 4 else "remove"})
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keep = {"pair_rgb_entropy": None, "crop_rgb_entropy": None}
    balance = {"by": "task", "target": "uniform", "mode": "downsample", "min_rows": 1}
    checked = pipeline(
        [{"path": str(folder / "pairs.jsonl"), "kind": "pairs"}],
        folder / "run",
        [{"refinement.change_mask": {"keep": {"change_area": None}}}, {"refinement.rgb_entropy": {"keep": keep}}],
        export={"balance": balance, "validation": 0.3},
    )
    return go(checked)


def test_a_kept_pair_says_in_which_shards_it_is_or_why_in_none(pairs: RunView) -> None:
    ids = sorted(table(pairs, "edit", []))
    assert {next(explain(pairs, key)).partition(":")[0] for key in ids} == {"KEPT; nothing has been exported yet"}
    summary = export(pairs)
    assert summary.left_out
    told = {key: story(pairs, key)["verdict"] for key in ids}
    left = [verdict for verdict in told.values() if verdict["status"] == "left_out"]
    assert len(left) == sum(summary.left_out.values())
    assert all(verdict["reason"] in summary.left_out for verdict in left)
    shards = [verdict["shards"] for verdict in told.values() if verdict["shards"]]
    assert {name: shards.count(f"shards/{name}") for name in ("train", "validation")} == {
        name: summary.rows.get(name, 0) for name in ("train", "validation")
    }
    firsts = [next(explain(pairs, key)) for key in ids]
    assert sum(line.startswith("LEFT OUT OF SHARDS: balance") for line in firsts) == len(left)
    # Other rows are kept now than were exported: nobody left this one out.
    stricter = config.parse(pairs.pipeline.document, ["refinement.rgb_entropy.keep.pair_rgb_entropy.max=9"])
    document = {**stricter.document, "stages": stricter.document["stages"]}
    document["stages"][1]["refinement.rgb_entropy"]["keep"] = {"pair_rgb_entropy": {"min": None, "max": 0.1}}
    narrower = RunView(pairs.path, config.parse(document))
    assert all(next(explain(narrower, key)).startswith("OUT BY refinement.rgb_entropy") for key in ids)


def test_a_kept_photograph_of_a_run_without_pairs_says_in_which_shards_it_is(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 6, side=120)
    view = go(pipeline(tmp_path / "photos", tmp_path / "run", [RESOLUTION], export={"validation": 0.5}))
    summary = export(view)
    told = [next(explain(view, photo.name)) for photo in photos]
    assert {side: told.count(f"KEPT, in photographs/{side}") for side in summary.rows} == summary.rows
    make_photos(tmp_path / "photos", 1, start=9, side=120)
    grown = go(view.pipeline)
    assert next(explain(grown, "photo-00009.jpg")).startswith("KEPT; the shards are of other rows than are kept now")


def test_json_has_everything_and_is_json(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert cli.main(["explain", "small.jpg", "--run", "run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    verdict = {"status": "out", "stage": "curation.resolution", "reason": "short_side 60 < 100", "shards": None}
    assert told["verdict"] == verdict
    assert [stage["name"] for stage in told["stages"]] == ["ingest", "curation.resolution"]
    assert told["stages"][0]["columns"]["sources"] == [str(folder / "photos" / "small.jpg")]
    rule = told["stages"][1]["rules"][0]
    assert (rule["column"], rule["bound"], rule["value"], rule["holds"]) == ("short_side", 100, 60, False)
