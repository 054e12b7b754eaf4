"""Pipelines whose stages ask a real vLLM: photographs to screened instructions, and pairs to verdicts and scores.

The model is random, so that keep rules are off. What is checked is that each row has an answer of the right form or
an error that says what happened, and that tokens, models and seeds are recorded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from engine_tools import counts, go, pipeline, table

from ugaf.imaging import images
from ugaf.wording import layout

pytestmark = pytest.mark.vllm

VERDICTS = {"ok", "unreasonable", "human_centric", "unsafe", "ambiguous", "not_visible"}
RULES = {"face", "whole_image", "too_small", "unsafe_text", "malformed"}
SAID = ("MalformedAnswer", "TruncatedAnswer")
"""Errors that noise may end in after all tries: an instruction without a letter in it, say."""
ASKED = {"server": "tiny", "thinking": False}


def test_photographs_to_screened_instructions(entry: dict[str, Any], tmp_path: Path) -> None:
    writer = {"engine": "vlm", **ASKED, "max_tokens": 4096}
    stages = [
        "annotation.detect",
        {"annotation.instruct": {"writer": writer, "edits_per_image": 5}},
        {"annotation.screen": {"screener": {"engine": "llm", **ASKED}, "keep": {"screen": None}}},
    ]
    inputs = ["sample://coffee", "sample://astronaut", "sample://chelsea"]
    checked = pipeline(inputs, tmp_path / "run", stages, models={"tiny": entry})
    view = go(checked)
    funnel = counts(view)
    written, screened = funnel["annotation.instruct"], funnel["annotation.screen"]
    assert written.pending == screened.pending == 0
    assert written.kept > 0
    assert all(error.startswith(SAID) for stage in (written, screened) for error in stage.errors)
    columns = ["task", "instruction", "boxes", "params", "donor", "writer", "writer_tokens_in", "writer_tokens_out",
               "screen", "screen_detail", "screener", "screener_tokens_in", "width", "height"]  # fmt: skip
    rows = table(view, "edit", columns)
    assert len(rows) == screened.given > 0
    for row in rows.values():
        assert row["task"] in layout.offered()
        assert row["instruction"].strip()
        assert row["writer"] == "vlm:tiny"
        assert row["params"] is None
        assert row["donor"] is None
        assert row["writer_tokens_in"] > 100
        for x1, y1, x2, y2 in row["boxes"]:
            assert 0 <= x1 < x2 <= row["width"]
            assert 0 <= y1 < y2 <= row["height"]
        if row["screener"] == "rules":
            assert row["screen"] in RULES
            assert row["screener_tokens_in"] is None
        elif row["screener"] is not None:
            assert row["screen"] in VERDICTS
            assert row["screen_detail"]
            assert row["screener_tokens_in"] > 100
    assert {row["screener"] for row in rows.values()} >= {"llm:tiny"}
    parts = sorted((tmp_path / "run").rglob("part-*"))
    go(checked)
    assert sorted((tmp_path / "run").rglob("part-*")) == parts


@pytest.fixture
def pairs(tmp_path: Path, photos: dict[str, np.ndarray]) -> Path:
    """Two pairs, each a photograph and the same with a painted disc, and what was asked for."""
    lines = []
    for number, name in enumerate(("coffee", "chelsea")):
        photo = np.ascontiguousarray(photos[name])
        edited = photo.copy()
        height, width = photo.shape[:2]
        centre, radius = (width // 2, height // 2), height // 8
        cv2.circle(edited, centre, radius, (40, 200, 60), -1)
        for kind, pixels in (("source", photo), ("edited", edited)):
            (tmp_path / f"{kind}{number}.png").write_bytes(images.encode(pixels))
        (x, y), r = centre, radius
        lines.append({
            "source": f"source{number}.png", "target": f"edited{number}.png", "task": "add",
            "instruction": "Add a green ball in the middle.", "boxes": [[x - r, y - r, x + r, y + r]],
        })  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_pairs_to_verdicts_and_scores(entry: dict[str, Any], pairs: Path, tmp_path: Path) -> None:
    off = {"keep": {"iou": None, "change_area": None}}
    stages = [
        {"refinement.change_mask": off},
        {"refinement.verify": {"verifier": {"engine": "vlm", **ASKED, "max_tokens": 4096},
                               "keep": {"global_score": None, "local_score": None}}},
        {"refinement.score": {"scorer": {"engine": "editscore", **ASKED, "passes": 2, "max_tokens": 4096},
                              "keep": {"quality": None}}},
    ]  # fmt: skip
    inputs = [{"path": str(pairs), "kind": "pairs"}]
    view = go(pipeline(inputs, tmp_path / "run", stages, models={"tiny": entry}))
    for stage in counts(view).values():
        assert (stage.given, stage.kept, stage.failed) == (2, 2, 0), stage
    columns = ["verifier", "global_score", "local_score", "verifier_scores", "verifier_ratings", "verifier_tokens_in",
               "scorer", "quality", "semantic_consistency", "perceptual_quality", "quality_spread",
               "scorer_tokens_out"]  # fmt: skip
    for row in table(view, "edit", columns).values():
        assert (row["verifier"], row["scorer"]) == ("vlm:tiny", "editscore:tiny")
        assert row["verifier_ratings"] == "expected"
        for score in (row["global_score"], row["local_score"]):
            assert 1 <= score <= 5
            assert score != round(score)
        whole = json.loads(row["verifier_scores"])["global"]
        assert whole["visual_naturalness"]["score"] <= whole["prompt_compliance"]["score"]
        assert row["verifier_tokens_in"] > 500
        assert 0 <= row["quality"] <= 10
        assert row["quality_spread"] is not None
        assert row["scorer_tokens_out"] > 40
