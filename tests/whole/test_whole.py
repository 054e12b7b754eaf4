"""Whole pipelines on what users have: a folder with broken files in it, and pairs that somebody else made."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from engine_tools import counts, go, make_photos, table
from PIL import Image
from test_ingest_images import bad_files

from ugaf.columns.view import RunView
from ugaf.export import export
from ugaf.imaging import boxes
from ugaf.pipeline import config
from ugaf.report import write_report


def test_a_thousand_good_images_and_twenty_bad_files(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    good = make_photos(folder, 1000)
    bad = bad_files()
    truncated = {f"cut-{n}.jpg": good[n].read_bytes()[:-200] for n in range(max(0, 20 - len(bad)))}
    for name, data in {**{name: data for name, (data, _) in bad.items()}, **truncated}.items():
        (folder / name).write_bytes(data)
    extra = len(bad) + len(truncated)
    assert extra >= 20
    checked = config.load(
        "demo",
        [
            f"inputs=[{json.dumps(str(folder))}]",
            f"output={json.dumps(str(tmp_path / 'run'))}",
            "engine.executor=inline",
            "fragment_rows=128",
            "curation.resolution.keep.short_side=null",
        ],
    )
    view = go(checked, last="curation.photometric")
    rows = table(view, "image", ["rgb_entropy", "sources"])
    failed = {key: row for key, row in rows.items() if row["status"] == "failed"}
    measured = [row for row in rows.values() if row["rgb_entropy"] is not None]
    assert (len(measured), len(failed)) == (1000, extra)
    assert {Path(row["sources"][0]).name for row in failed.values()} == {*bad, *truncated}
    assert all(row["reason"] for row in failed.values())
    stages = Counter(row["stage"] for row in failed.values())
    assert set(stages) == {"ingest", "curation.photometric"}
    assert counts(view)["ingest"].given == 1000 + extra


def refine(folder: Path, lines: list[dict], root: Path) -> RunView:
    """Score pairs through pipelines/refine.yaml, write shards and report."""
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    inputs = [{"path": str(folder / "pairs.jsonl"), "kind": "pairs", "root": str(root)}]
    overrides = [f"inputs={json.dumps(inputs)}", f"output={json.dumps(str(folder / 'run'))}", "engine.executor=inline"]
    view = go(config.load("refine", overrides))
    export(view, view.pipeline.settings.export)
    write_report(view)
    return view


def test_pairs_of_a_diffusion_editor_are_refined(shared_images: Path, tmp_path: Path) -> None:
    """Must show 2: the change mask's box on real local edits agrees with the box that was judged by eye."""
    index = json.loads((shared_images / "index.json").read_text())["pairs"]
    lines, given = [], {}
    for pair in index:
        line = {name: pair[name] for name in ("source", "edited", "instruction", "task")}
        if pair["change_box"]:
            width, height = Image.open(shared_images / pair["source"]).size
            box = [round(v * side) for v, side in zip(pair["change_box"], (width, height) * 2, strict=True)]
            given[pair["instruction"]] = line["boxes"] = box
        lines.append(line)
    view = refine(tmp_path, lines, shared_images)
    rows = table(view, "edit", ["instruction", "bbox_edit", "iou", "boxes"])
    assert len(rows) == len(index)
    for row in rows.values():
        box = given.get(row["instruction"])
        if box is None:
            assert row["iou"] is None
            assert row["bbox_edit"] is not None
        else:
            assert row["iou"] == pytest.approx(boxes.iou(row["bbox_edit"], box))
            assert row["iou"] >= 0.85


def test_the_iou_rule_does_not_apply_to_pairs_without_a_box(tmp_path: Path) -> None:
    """Two pairs by hand: one with its box, one without, and one that changed nothing."""
    from skimage import data

    photo = data.coffee()
    edited = photo.copy()
    edited[100:200, 200:320] = edited[100:200, 200:320, ::-1]
    Image.fromarray(photo).save(tmp_path / "source.png")
    Image.fromarray(edited).save(tmp_path / "edited.png")
    base = {"source": "source.png", "edited": "edited.png"}
    lines = [
        {**base, "instruction": "Swap red and blue in the box.", "boxes": [[200, 100, 320, 200]]},
        {**base, "instruction": "Swap red and blue."},
        {**base, "instruction": "Do nothing.", "edited": "source.png"},
        {**base, "instruction": "Look elsewhere.", "boxes": [[0, 0, 60, 60]]},
    ]
    rows = table(refine(tmp_path, lines, tmp_path), "edit", ["instruction", "iou", "bbox_edit"])
    by_name = {row["instruction"]: row for row in rows.values()}
    assert by_name["Swap red and blue in the box."]["iou"] >= 0.9
    assert by_name["Swap red and blue."]["iou"] is None
    assert boxes.iou(by_name["Swap red and blue."]["bbox_edit"], (200, 100, 320, 200)) >= 0.9
    assert by_name["Do nothing."]["reason"].startswith("change_area ")
    assert by_name["Look elsewhere."]["reason"].startswith("iou ")
    assert by_name["Look elsewhere."]["status"] == "rejected"
