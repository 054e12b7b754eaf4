"""A faulty model server under a run: no row fails for it, and the exit status and the message say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_server import ALWAYS, ChatServer, Fault
from engine_tools import make_photos

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


def detect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["status", str(tmp_path / "run"), "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    return next(stage for stage in stages if stage["name"] == DETECT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("good", [0, 30])
def test_a_faulty_server_fails_no_row_and_the_run_goes_on_after_the_mend(
    kind: str, good: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer(answer=lambda *_: {"objects": []}) as server:
        server.faults = lambda _: Fault(kind, ALWAYS) if server.count > good else None
        arguments = command(tmp_path, server, 45)
        assert cli.main(arguments) == 75
        said = capsys.readouterr().err
        assert "eyes" in said or DETECT in said
        assert "Traceback" not in said
        stage = detect(tmp_path, capsys)
        assert stage["failed"] == 0
        assert stage["kept"] <= good
        assert stage["pending"] > 0
        server.faults = lambda _: None
        assert cli.main(arguments) == 0
    stage = detect(tmp_path, capsys)
    assert (stage["failed"], stage["kept"]) == (0, 45)
