"""What a run is called: what the user called it, on every page that shows a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ugaf import cli
from ugaf.columns.view import RunView
from ugaf.pipeline import config, naming


def _named(*overrides: str, pipeline: str = "demo") -> tuple[str, str]:
    found = config.load(pipeline, overrides)
    again = config.parse(found.document)  # as a record gives it back
    assert naming.title(again) == naming.title(found)
    return naming.title(found), naming.about(found)


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        ([], "demo"),
        (['inputs=["/data/Cats and dogs/"]'], "Cats and dogs"),
        (['inputs=["a/x-*.tar", "sample://b", {"path": "c.parquet"}, "d"]'], None),
        (['inputs=["photos/"]', 'output="runs/mine"'], "mine"),
        (['inputs=["photos/"]', 'output="s3://bucket/runs/Summer 7/?endpoint_override=http://h:1/x"'], "Summer 7"),
        (['output="/mnt/sets/v2"'], "v2"),
        (['inputs=["photos/"]', 'output="runs/mine"', 'title="Mine: the & <best>"'], "Mine: the & <best>"),
    ],
)
def test_a_run_is_named_by_the_user(overrides: list[str], title: str | None) -> None:
    found, about = _named(*overrides)
    assert found == (title or "x-*.tar, b, c.parquet and 1 more")
    assert ("scikit-image" in about) == (not any(one.startswith("inputs=") for one in overrides))
    assert "secret" not in found + about


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("photos/", "photos"),
        ("/a/b c.tar", "b c.tar"),
        ("https://me:secret@host/?sig=secret", "host"),
        ("s3://bucket", "bucket"),
        ("sample://coffee", "coffee"),
        ("sample://", "sample"),
        ("what?.jpg", "what?.jpg"),
    ],
)
def test_the_last_part_of_a_place_holds_no_secret(place: str, name: str) -> None:
    assert naming.last_part(place) == name


def test_a_pipeline_of_ones_own_keeps_its_words(tmp_path: Path) -> None:
    document = {"name": "own", "description": "My words.", "inputs": ["a"], "stages": ["curation.resolution"]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(document))
    assert _named('inputs=["b"]', pipeline=str(tmp_path / "own.yaml")) == ("own", "My words.")


def test_report_card_tune_page_and_status_have_the_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], photos: dict
) -> None:
    from PIL import Image

    folder = tmp_path / "album"
    folder.mkdir()
    Image.fromarray(photos["coffee"]).save(folder / "a.png")
    run = str(tmp_path / "run")
    stages = ["curation.resolution"]
    (tmp_path / "own.yaml").write_text(json.dumps({"name": "own", "inputs": [str(folder)], "stages": stages}))
    options = ["--set", "engine.executor=inline", "--output", run, "--name", "Coffee & <cake>"]
    assert cli.main(["run", str(tmp_path / "own.yaml"), *options]) == 0
    assert cli.main(["tune", run]) == 0
    assert RunView(run).name == "Coffee & <cake>"
    front = (tmp_path / "run" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["pretty_name"] == "Coffee & <cake>"
    for page in ("report/index.html", "tune/index.html"):
        text = (tmp_path / "run" / page).read_text()
        assert "<title>Coffee &amp; &lt;cake&gt; · ugaf" in text
    assert "Photographs of album, by own." in (tmp_path / "run/report/index.html").read_text()
    capsys.readouterr()
