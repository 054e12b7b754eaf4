"""ImgEdit-Bench, GEdit-Bench and REDEdit-Bench: their item formats, caps and means; errors of the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_tools import bench, judge, mean, pair_set, report_of, row, scene, spec_of, write
from chat_fakes import quotations
from chat_server import picture_urls
from hypothesis import given
from hypothesis import strategies as st

from ugaf.base.errors import ConfigError
from ugaf.bench.protocols import capped
from ugaf.bench.published import load_gedit, load_imgedit, load_rededit
from ugaf.imaging import images

# ImgEdit-Bench --------------------------------------------------------------------------------------------------------

IMGEDIT = {
    "1082": {"id": "animal/000342021.jpg", "prompt": "smooth shell: 3 5 2", "edit_type": "adjust"},
    "1068": {"id": "animal/000047206.jpg", "prompt": "darker fur: 5 4 3", "edit_type": "adjust"},
    "673": {"id": "style/000278574.jpg", "prompt": "ukiyo-e: 1 5 5", "edit_type": "style"},
}


def imgedit_set(folder: Path, images_in: str = "original_images") -> Path:
    for item in IMGEDIT.values():
        write(folder / images_in / item["id"], scene(len(item["prompt"])))
    file = folder / "basic_edit.json"
    file.write_text(json.dumps(IMGEDIT))
    return file


def instruction_of(text: str) -> str:
    return quotations(text, "instruction")[0]


def told(text: str) -> list[int]:
    """The scores that an instruction names after its colon."""
    return [int(word) for word in instruction_of(text).partition(":")[2].split()]


def edited_folder(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        write(folder / f"{name}.png", scene(99))
    return folder


def test_imgedits_item_format_parses(tmp_path: Path) -> None:
    benchmark = load_imgedit(str(imgedit_set(tmp_path).parent), None)
    assert [(item.id, item.group, item.outputs) for item in benchmark.items] == [
        ("1082", "adjust", ("1082",)),
        ("1068", "adjust", ("1068",)),
        ("673", "style", ("673",)),
    ]
    (pictures,) = benchmark.read(benchmark.items[2:])
    assert images.decode(pictures.source).shape == (96, 128, 3)


@pytest.mark.parametrize("place", ["singleturn", "Benchmark/singleturn", "."])
def test_imgedits_pictures_are_found_where_its_archive_has_them(tmp_path: Path, place: str) -> None:
    assert len(load_imgedit(str(imgedit_set(tmp_path, place)), None).items) == 3


def test_imgedit_caps_by_code_and_averages_items_then_types(tmp_path: Path) -> None:
    data, out = imgedit_set(tmp_path / "bench"), tmp_path / "out"
    outputs = edited_folder(tmp_path / "edited", list(IMGEDIT))
    with judge(told) as server:
        arguments = ("--data", data, "--outputs", outputs, "--out", out, "--judge", spec_of(server))
        assert bench("imgedit", *arguments) == 0
        texts = [asked.text for asked in server.asked]
    report = report_of(out)
    # (3 5 2) counts as (3 3 2), (1 5 5) as (1 1 1).
    assert mean(report, "adjust", "Score") == pytest.approx((8 / 3 + 4) / 2)
    assert mean(report, "style", "Score") == 1
    assert mean(report, "overall", "Score") == pytest.approx(((8 / 3 + 4) / 2 + 1) / 2)
    assert mean(report, "style", "S2") == 1
    assert sum("Style Fidelity" in text for text in texts) == 1
    assert sum("Visual Seamlessness" in text for text in texts) == 2


@given(st.tuples(*[st.integers(1, 5)] * 3))
def test_the_cap_lowers_the_later_scores_and_nothing_else(scores: tuple[int, int, int]) -> None:
    first, second, third = capped(scores)
    assert first == scores[0]
    assert (second, third) == tuple(score if score <= first else first for score in scores[1:])


def test_an_item_without_an_edited_picture_is_missing_and_in_no_mean(tmp_path: Path) -> None:
    data, out = imgedit_set(tmp_path / "bench"), tmp_path / "out"
    outputs = edited_folder(tmp_path / "edited", ["1068"])
    with judge(told) as server:
        assert bench("imgedit", "--data", data, "--outputs", outputs, "--out", out, "--judge", spec_of(server)) == 0
    report = report_of(out)
    assert {name: row(report, "overall")[name] for name in ("items", "scored", "missing")} == {
        "items": 3, "scored": 1, "missing": 2,
    }  # fmt: skip
    assert mean(report, "overall", "Score") == 4
    assert mean(report, "style", "Score") is None


def test_an_editor_is_run_and_the_limit_counts_by_type(tmp_path: Path) -> None:
    data, out, log = imgedit_set(tmp_path / "bench"), tmp_path / "out", tmp_path / "log"
    spec = json.dumps({"engine": "bench_tools:PaintEditor", "log": str(log)})
    with judge(told) as server:
        arguments = ["--data", data, "--editor", spec, "--out", out, "--judge", spec_of(server)]
        assert bench("imgedit", *arguments, "--limit", 1) == 0
        assert row(report_of(out), "overall")["items"] == 2
        assert bench("imgedit", *arguments) == 0
    assert row(report_of(out), "overall")["items"] == 3
    assert len(log.read_text().split("\n")[:-1]) == 3


# GEdit-Bench ----------------------------------------------------------------------------------------------------------

GEDIT = [
    ("background_change", "k1", "en", "beach: 8 6 | 9 4"),
    ("background_change", "k2", "en", "city: 10 10 | 10 10"),
    ("text_change", "k3", "en", "sign: 0 9 | 8 8"),
    ("text_change", "k4", "cn", "招牌: 4 9 | 9 9"),
]


def gedit_table() -> pa.Table:
    rows = [
        {
            "task_type": task,
            "key": key,
            "instruction": instruction,
            "instruction_language": language,
            "input_image": {"bytes": images.encode(scene(n)), "path": None},
            "input_image_raw": {"bytes": images.encode(scene(n, (200, 150))), "path": None},
            "Intersection_exist": True,
        }
        for n, (task, key, language, instruction) in enumerate(GEDIT)
    ]
    return pa.Table.from_pylist(rows)


def gedit_scores(text: str) -> list[int]:
    """SC's two scores before the bar of the instruction. PQ is asked without it: 9 and 4."""
    if not quotations(text, "instruction"):
        return [9, 4]
    return [int(word) for word in instruction_of(text).partition(": ")[2].partition(" |")[0].split()]


@pytest.mark.parametrize("kind", ["parquet", "arrow stream", "arrow file"])
def test_gedits_columns_parse_as_parquet_and_as_arrow(tmp_path: Path, kind: str) -> None:
    table = gedit_table()
    if kind == "parquet":
        pq.write_table(table, tmp_path / "train-0.parquet", row_group_size=3)
    else:
        new = pa.ipc.new_stream if kind == "arrow stream" else pa.ipc.new_file
        with new(tmp_path / "data-00000-of-00001.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    benchmark = load_gedit(str(tmp_path), "both")
    assert [(item.group, item.language, item.instruction) for item in benchmark.items] == [
        (task, language, instruction) for task, _, language, instruction in GEDIT
    ]
    assert benchmark.items[3].outputs[0] == "fullset/text_change/cn/k4"
    sources = [pictures.source for pictures in benchmark.read(benchmark.items)]
    # The picture as it came, not the one resized for the official script.
    assert sources == [images.encode(scene(n, (200, 150))) for n in range(4)]
    assert len(load_gedit(str(tmp_path), "cn").items) == 1


def test_gedit_takes_minima_roots_each_item_and_averages_groups_by_language(tmp_path: Path) -> None:
    pq.write_table(gedit_table(), tmp_path / "train-0.parquet")
    names = [f"fullset/{task}/{language}/{key}" for task, key, language, _ in GEDIT]
    outputs, out = edited_folder(tmp_path / "edited", names), tmp_path / "out"
    with judge(gedit_scores) as server:
        arguments = ("--data", tmp_path, "--outputs", outputs, "--out", out, "--judge", spec_of(server))
        assert bench("gedit", *arguments) == 0
        pictures = {
            bool(quotations(asked.text, "instruction")): len(picture_urls(asked.body)) for asked in server.asked
        }
    report = report_of(out)
    assert mean(report, "background_change", "SC") == 8
    # The mean of the items' roots, not the root of the means.
    background = (math.sqrt(6 * 4) + math.sqrt(10 * 4)) / 2
    assert mean(report, "background_change", "O") == pytest.approx(background)
    assert mean(report, "text_change", "O") == 0
    assert mean(report, "overall", "O") == pytest.approx(background / 2)
    assert mean(report, "overall", "SC") == 4
    assert mean(report, "overall", "O", "cn") == pytest.approx(math.sqrt(4 * 4))
    assert pictures == {True: 2, False: 1}
    assert "| cn |" in (out / "report.md").read_text()


# REDEdit-Bench --------------------------------------------------------------------------------------------------------

REDEDIT = [
    {"id": "1", "source": "redbench/add/add-1.png", "task": "add", "a_to_b_instructions": "加: 5 5 5",
     "a_to_b_instructions_eng": "Add a ladybug: 4 5 2"},
    {"id": "2", "source": "redbench/add/add-2.png", "task": "add", "a_to_b_instructions": "加: 1 1 1",
     "a_to_b_instructions_eng": "Add latte art: 2 2 2"},
    {"id": "144", "source": "redbench/text/text-144.png", "task": "text",
     "a_to_b_instructions": "把“OLD”改成“新年”: 3 3 3", "a_to_b_instructions_eng": 'Change "OLD" to "NEW DAY": 5 5 5'},
]  # fmt: skip


def rededit_set(folder: Path, prefix: str = "") -> Path:
    for record in REDEDIT:
        write(folder / prefix / record["source"], scene(3))
    (folder / "redbench.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in REDEDIT))
    return folder


def test_rededits_item_format_parses_in_both_languages(tmp_path: Path) -> None:
    folder = rededit_set(tmp_path)
    english = load_rededit(str(folder), None, "en")
    assert [(item.id, item.group) for item in english.items] == [("1", "add"), ("2", "add"), ("144", "text")]
    assert english.items[0].instruction.startswith("Add")
    assert english.items[2].outputs == ("text/text-144", "text/144", "144")
    assert load_rededit(str(folder / "redbench.jsonl"), None, "cn").items[0].instruction.startswith("加")
    assert next(english.read(english.items)).source == images.encode(scene(3))


def test_rededit_averages_tasks_and_names_ocr_as_missing_without_a_reader(tmp_path: Path, monkeypatch: Any) -> None:
    from ugaf.base import needs

    monkeypatch.setattr(needs, "_installed", lambda module: module != "rapidocr_onnxruntime")
    folder, out = rededit_set(tmp_path / "bench"), tmp_path / "out"
    outputs = edited_folder(tmp_path / "edited", ["add/1", "add/add-2", "144"])
    with judge(told) as server:
        arguments = ("--data", folder, "--outputs", outputs, "--out", out, "--judge", spec_of(server))
        assert bench("rededit", *arguments) == 0
    report = report_of(out)
    add = (fmean3(4, 4, 2) + 2) / 2
    assert mean(report, "add", "Score") == pytest.approx(add)
    assert mean(report, "overall", "Score") == pytest.approx((add + 5) / 2)
    assert ".[ocr]" in report["missing_metrics"]["OCR"]


def test_rededits_text_items_get_ocr_scores_where_there_is_a_reader(tmp_path: Path) -> None:
    folder, out = rededit_set(tmp_path / "bench"), tmp_path / "out"
    outputs = edited_folder(tmp_path / "edited", ["1", "2", "144"])
    reader = "{engine: 'bench_tools:SignReader'}"
    assert bench("rededit", "--data", folder, "--outputs", outputs, "--out", out, "--reader", reader) == 0
    report = report_of(out)
    # "newday" in "welcomenewdav": one letter of six is wrong; one word of two was read.
    assert mean(report, "text", "OCR similarity") == pytest.approx(5 / 6)
    assert mean(report, "text", "OCR completion") == pytest.approx(5 / 6)
    assert mean(report, "text", "OCR words") == pytest.approx(1 / 2)
    assert mean(report, "text", "OCR") == pytest.approx((5 / 6 + 5 / 6 + 1 / 2) / 3)
    assert row(report, "add")["means"]["OCR"]["n"] == 0
    assert mean(report, "overall", "OCR") == mean(report, "text", "OCR")


def fmean3(*values: float) -> float:
    return sum(values) / 3


# Errors of the command line -------------------------------------------------------------------------------------------


def said(capsys: Any, *arguments: Any, status: int = 2) -> str:
    assert bench(*arguments) == status
    return capsys.readouterr().err


def test_wrong_settings_are_named_with_what_to_do(tmp_path: Path, capsys: Any) -> None:
    data = pair_set(tmp_path / "set", 1)
    run = ("fineedit", "--data", data, "--out", tmp_path / "out")
    reference = (*run, "--outputs", "dataset")
    assert "did you mean 'fineedit'" in said(capsys, "finedit")
    assert "did you mean 'diffusers'" in said(capsys, *run, "--editor", "{engine: difusers}")
    assert "did you mean 'steps'" in said(capsys, *run, "--editor", "{engine: diffusers, model: x, step: 3}")
    assert "by parameters" in said(capsys, *run, "--editor", "{engine: templates}")
    assert "neither a file nor a mapping" in said(capsys, *run, "--editor", "nowhere.yaml")
    assert "no server 'omni' in --models" in said(capsys, *run, "--editor", "{engine: http, server: omni}")
    assert "no such folder" in said(capsys, *run, "--outputs", tmp_path / "none")
    assert "no entry 'eyes' in --models" in said(capsys, *reference, "--judge", "eyes")
    assert "did you mean 'model'" in said(capsys, *reference, "--judge", "{modle: m, endpoints: [http://a/v1]}")
    assert "starts no servers" in said(capsys, *reference, "--judge", "{model: m, serve: vllm}")
    assert "at least 1" in said(capsys, *reference, "--limit", 0)
    assert "no such file" in said(capsys, *reference, "--models", tmp_path / "none.yaml")
    imgedit = ("imgedit", "--data", imgedit_set(tmp_path / "bench"), "--out", tmp_path / "out")
    assert "no edited pictures of its own" in said(capsys, *imgedit, "--outputs", "dataset")


def test_models_of_a_file_serve_as_judge_by_name(tmp_path: Path, capsys: Any) -> None:
    data, out = imgedit_set(tmp_path / "bench"), tmp_path / "out"
    outputs = edited_folder(tmp_path / "edited", list(IMGEDIT))
    with judge(told) as server:
        models = tmp_path / "models.yaml"
        models.write_text(json.dumps({"models": {"eyes": {"model": "test-model", "endpoints": [server.url]}}}))
        arguments = ("--data", data, "--outputs", outputs, "--out", out, "--models", models)
        assert "did you mean 'eyes'" in said(capsys, "imgedit", *arguments, "--judge", "eye")
        assert bench("imgedit", *arguments, "--judge", "eyes") == 0
    assert row(report_of(out), "overall")["scored"] == 3


def test_prompts_can_be_replaced_and_unknown_ones_are_refused(tmp_path: Path, capsys: Any) -> None:
    data, out = imgedit_set(tmp_path / "bench"), tmp_path / "out"
    outputs = edited_folder(tmp_path / "edited", list(IMGEDIT))
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "three_scores.md").write_text("My own words.\n{instruction}")
    with judge(told) as server:
        run = ("--data", data, "--outputs", outputs, "--out", out, "--judge", spec_of(server), "--prompts", own)
        assert bench("imgedit", *run) == 0
        assert all("My own words." in asked.text for asked in server.asked)
        (own / "three_scores.md").write_text("{nothing}")
        assert "{nothing} cannot be filled in" in said(capsys, "imgedit", *run)
        (own / "three_scores.md").rename(own / "three_score.md")
        assert "did you mean 'three_scores'" in said(capsys, "imgedit", *run)


def test_a_judge_that_is_gone_stops_the_run_and_keeps_what_was_done(tmp_path: Path, capsys: Any) -> None:
    data, out = pair_set(tmp_path / "set", 2), tmp_path / "out"
    run = ("fineedit", "--data", data, "--outputs", "dataset", "--out", out, "--judge")
    with judge(told) as server:
        spec = spec_of(server, patience_s=0.2)
    message = said(capsys, *run, spec, status=75)
    assert "no endpoint could be reached" in message
    assert "run the same command again" in message
    assert len(list((out / "measured").glob("*.json"))) == 2
    assert not (out / "report.md").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object"),
        ("{", "not JSON"),
        ('{"1": {"id": "a.jpg", "prompts": "x", "edit_type": "add"}}', "no text 'prompt'; did you mean 'prompts'"),
        ('{"1": {"id": "a.jpg", "prompt": "x", "edit_type": "add"}}', "give --images"),
        ("{}", "no items"),
    ],
)
def test_a_list_of_items_that_is_none_says_why(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "basic_edit.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_imgedit(str(tmp_path), None).checked(str(tmp_path), None)


def test_gedit_without_its_columns_says_which(tmp_path: Path) -> None:
    pq.write_table(
        gedit_table().rename_columns(["task_types", *gedit_table().column_names[1:]]), tmp_path / "a.parquet"
    )
    with pytest.raises(ConfigError, match="no column 'task_type'; did you mean 'task_types'"):
        load_gedit(str(tmp_path), "en")
