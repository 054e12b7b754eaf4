"""A faulty model server under a run: no row fails for it, and the exit status and the message say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import images_server
import pytest
import yaml
from chat_server import ALWAYS, ChatServer, Fault
from engine_tools import make_photos
from images_server import ImagesServer
from test_images_api import AREA

from ugaf import cli

DETECT = "annotation.detect"
KINDS = ["400", "401", "404", "500 html", "200 half", "wrong schema"]


def command(tmp_path: Path, server: ChatServer, photos: int, **engine: Any) -> list[str]:
    make_photos(tmp_path / "photos", photos)
    entry = {
        "model": "test-model",
        "endpoints": [server.url],
        "tries": 1,
        "answer_tries": 1,
        "in_flight": 4,
        "patience_s": 0.2,
    }
    document = {
        "name": "served",
        "inputs": [str(tmp_path / "photos")],
        "output": str(tmp_path / "run"),
        "fragment_rows": 5,
        "engine": {"executor": "inline", **engine},
        "models": {"eyes": entry},
        "stages": [{DETECT: {"detector": {"engine": "vlm", "server": "eyes"}, "keep": {"n_objects": {"min": 0}}}}],
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(document))
    return ["run", str(tmp_path / "pipeline.yaml"), "--no-export"]


def stage_of(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["status", str(tmp_path / "run"), "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    return next(stage for stage in stages if stage["name"] == name)


def stops_and_goes_on(
    arguments: list[str],
    tmp_path: Path,
    name: str,
    server: str,
    good: int,
    capsys: pytest.CaptureFixture[str],
    mend: Callable[[], None],
) -> None:
    """A run of 45 photographs with a faulty server, and the same command after the mend. good: answers before."""
    assert cli.main(arguments) == 75
    said = capsys.readouterr().err
    assert server in said or name in said
    assert "Traceback" not in said
    stage = stage_of(tmp_path, name, capsys)
    assert stage["failed"] == 0
    assert stage["kept"] <= good
    assert stage["pending"] > 0
    mend()
    assert cli.main(arguments) == 0
    stage = stage_of(tmp_path, name, capsys)
    assert (stage["failed"], stage["kept"]) == (0, 45)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("good", [0, 30])
def test_a_faulty_server_fails_no_row_and_the_run_goes_on_after_the_mend(
    kind: str, good: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer(answer=lambda *_: {"objects": []}) as server:
        server.faults = lambda _: Fault(kind, ALWAYS) if server.count > good else None
        arguments = command(tmp_path, server, 45)
        stops_and_goes_on(
            arguments, tmp_path, DETECT, "eyes", good, capsys, lambda: setattr(server, "faults", lambda _: None)
        )


EDIT = "generation.edit"
EDITOR_KINDS = ["400", "401", "404", "500", "half", "no image", "empty"]


def editing(tmp_path: Path, server: ImagesServer, photos: int, executor: str) -> list[str]:
    make_photos(tmp_path / "photos", photos)
    entry = {"model": images_server.MODEL, "endpoints": [server.url], "tries": 1, "answer_tries": 1, "patience_s": 5}
    edit = {"editor": {"engine": "http", "server": "painter", "area": AREA}}
    document = {
        "name": "edited",
        "inputs": [str(tmp_path / "photos")],
        "output": str(tmp_path / "run"),
        "fragment_rows": 5,
        "engine": {"executor": executor},
        "models": {"painter": entry},
        "stages": ["test_images_api:Ask", {EDIT: edit}],
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(document))
    return ["run", str(tmp_path / "pipeline.yaml"), "--no-export"]


@pytest.mark.parametrize("kind", EDITOR_KINDS)
@pytest.mark.parametrize("good", [0, 30])
def test_a_faulty_editor_fails_no_row_and_the_run_goes_on_after_the_mend(
    kind: str, good: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty_editor(kind, good, "inline", tmp_path, capsys)


def faulty_editor(kind: str, good: int, executor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ImagesServer(lambda _: kind if len(server.calls) > good else "") as server:
        arguments = editing(tmp_path, server, 45, executor)
        stops_and_goes_on(
            arguments, tmp_path, EDIT, "painter", good, capsys, lambda: setattr(server, "behave", lambda _: "")
        )
