"""The edit tasks: their names, what holds of each, and that another one is added in one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_fakes import FakeChat, texts_of
from engine_tools import go, table
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ugaf.stages.annotation.instruct import Instruct
from ugaf.stages.refinement.change_mask import drift_for

from ugaf.base import tasks
from ugaf.base.tasks import TASKS, EditTask
from ugaf.imaging import images
from ugaf.models.writers import vlm
from ugaf.pipeline import config
from ugaf.stage import Row, prompts
from ugaf.wording import asks, layout, params

NAMES = [(name, task.name) for task in TASKS.values() for name in (task.name, *task.aliases)]


def test_no_name_means_two_tasks() -> None:
    assert len({name for name, _ in NAMES}) == len(NAMES)


@given(st.sampled_from(NAMES), st.sampled_from([str.upper, str.title, str.lower]), st.sampled_from(" -_./"), st.data())
def test_a_name_is_known_however_it_is_written(
    named: tuple[str, str], case: Any, mark: str, data: st.DataObject
) -> None:
    name, task = named
    edges = data.draw(st.sampled_from(["", " ", "--"]))
    assert tasks.ours(edges + case(name).replace("_", mark) + edges) == task


@pytest.mark.parametrize("name", [None, "", "?!", "viewpoint", "count_change", "ps_human"])
def test_what_is_none_of_ours_has_no_name_and_says_nothing(name: str | None) -> None:
    assert tasks.ours(name) is None
    assert tasks.of(name) == EditTask(name or "")


def test_who_makes_tasks_makes_these() -> None:
    assert set(params.TASKS) < set(TASKS)
    assert set(asks.WEIGHTS) == set(params.TASKS)
    assert {"recolor", "remove", "add", "replace", "style", "material"} == params.LOCAL
    assert {task for task in TASKS if tasks.of(task).inverted} == {"add", "restore"}


# Another task: an entry, a prompt, an editor.

TURN = EditTask("turn", "local", face="altered", weight=5, aliases=("rotation", "object_turn"))
TOLD = "Task: turn the thing in the red frame.\n\n{metadata}\n\nWrite {count} instruction(s): {registers}."


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> EditTask:
    monkeypatch.setitem(TASKS, "turn", TURN)
    shipped = prompts.shipped
    more = {"annotation/instruct": {"turn": TOLD}}
    monkeypatch.setattr(prompts, "shipped", lambda folder: {**shipped(folder), **more.get(folder, {})})
    return TURN


@pytest.mark.usefixtures("turn")
def test_a_writer_asks_for_another_task(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def answer(request: Any) -> dict[str, Any]:
        told.append(texts_of(request))
        edits = [{"target": "the dog", "instruction": "Turn the dog to the left."}]
        return {"seen": "a dog", "why": "it can turn", "feasible": True, "edits": edits}

    monkeypatch.setattr(vlm, "open_chat", lambda _: FakeChat(answer))
    writer = {"engine": "vlm", "server": "eyes", "instructions_per_request": 1}
    assert Instruct.Settings(writer=writer).tasks["turn"] == 5
    stage = Instruct("annotation.instruct", Instruct.Settings(writer=writer, tasks={"turn": 1}, edits_per_image=1), 0)
    stage.servers = {"eyes": "the link"}
    stage.setup()
    photo = images.encode(np.random.default_rng(0).integers(0, 200, (400, 600, 3), dtype=np.uint8))
    thing = {"box": [40, 210, 200, 390], "label": "dog", "score": 0.95, "mask": None}
    values = {"image": photo, "width": 600, "height": 400, "objects": [thing]}
    (edit,) = stage([Row("0" * 32, values)])[0]
    assert (edit["task"], edit["boxes"]) == ("turn", [[40, 210, 200, 390]])
    assert "turn the thing in the red frame" in told[0]


def test_another_task_goes_through_ingest_and_all_of_refinement(turn: EditTask, tmp_path: Path) -> None:
    from skimage import data

    photo = data.coffee()
    edited = photo.copy()
    edited[100:220, 200:320] = np.rot90(edited[100:220, 200:320])
    Image.fromarray(photo).save(tmp_path / "source.png")
    Image.fromarray(edited).save(tmp_path / "edited.png")
    line = {"source": "source.png", "edited": "edited.png", "instruction": "Turn the cup.", "task": "Object-Turn"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps({**line, "boxes": [[200, 100, 320, 220]]}) + "\n")
    changes = [
        f"inputs={json.dumps([str(tmp_path / 'pairs.jsonl')])}",
        f"output={json.dumps(str(tmp_path / 'run'))}",
        "engine.executor=inline",
    ]
    view = go(config.load("refine", changes))
    (row,) = table(view, "edit", ["task", "quality", "iou"]).values()
    assert row["task"] == turn.name
    assert row["quality"] > 0
    assert row["iou"] > 0.5
    assert not view.record.get("unknown_tasks")
    assert drift_for("turn", has_box=False) == "undo"
    assert layout.offered()["turn"] == turn.weight
