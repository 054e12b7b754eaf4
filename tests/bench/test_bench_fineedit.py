"""FineEdit-1k's protocol: the box, the judge, resuming, and what a run says of what it lacks."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench_tools import BOX, bench, judge, mean, painted, pair_set, report_of, row, scene, spec_of, write
from chat_server import ALWAYS, Fault, picture_urls
from hypothesis import given
from hypothesis import strategies as st
from places import PATHS

from ugaf.base.errors import ConfigError
from ugaf.bench.difference import difference_box
from ugaf.bench.pairs import load_pairs
from ugaf.imaging import images
from ugaf.stage import RowError

# The box --------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 80), st.integers(0, 50), st.integers(16, 48), st.integers(16, 46))
def test_the_box_of_a_painted_rectangle_is_that_rectangle(x: int, y: int, width: int, height: int) -> None:
    source = np.full((96, 128, 3), 90, np.uint8)
    box = (x, y, x + width, y + height)
    found = difference_box(source, painted(source, box))
    # The median rounds the corners off, never a side.
    assert np.abs(np.subtract(found, box)).max() <= 1


def test_the_box_is_around_the_largest_difference_and_not_around_specks_or_noise() -> None:
    source = scene(1)
    edited = painted(source)
    edited[5, 5] = 255 - edited[5, 5]
    edited[85:89, 110:114] = 255 - edited[85:89, 110:114]
    noise = np.random.default_rng(0).integers(-12, 13, source.shape)
    edited = np.clip(edited.astype(int) + noise, 0, 255).astype(np.uint8)
    assert np.abs(np.subtract(difference_box(source, edited), BOX)).max() <= 2


def test_the_box_of_a_large_pair_is_in_its_own_pixels() -> None:
    source = np.full((1200, 2400, 3), 90, np.uint8)
    found = difference_box(source, painted(source, (600, 300, 1500, 900)))
    assert np.abs(np.subtract(found, (600, 300, 1500, 900))).max() <= 6


def test_a_pair_that_does_not_differ_has_no_box() -> None:
    with pytest.raises(RowError, match="do not differ"):
        difference_box(scene(1), scene(1))


# Whole runs -----------------------------------------------------------------------------------------------------------


def scores_of(text: str) -> list[int]:
    """5 less the pair's number for compliance, and so on; the answer follows from the instruction."""
    if "grey rectangle" in text:
        return [4]
    number = int(text.partition("edit ")[2][0])
    return [5 - number, 5, 3]


def test_the_reference_edits_are_scored_without_server_or_model(tmp_path: Path) -> None:
    data, out = pair_set(tmp_path / "set"), tmp_path / "out"
    assert bench("fineedit", "--data", data, "--outputs", "dataset", "--out", out) == 0
    report = report_of(out)
    assert {name: row(report, "overall")[name] for name in ("items", "scored", "failed", "missing")} == {
        "items": 4, "scored": 4, "failed": 0, "missing": 0,
    }  # fmt: skip
    by_hand = [_psnr_of(number) for number in range(4)]
    assert mean(report, "add", "PSNR") == pytest.approx(np.mean(by_hand[::2]), abs=0.01)
    assert mean(report, "remove", "PSNR") == pytest.approx(np.mean(by_hand[1::2]), abs=0.01)
    assert mean(report, "overall", "PSNR") == pytest.approx(np.mean(by_hand), abs=0.01)
    assert mean(report, "overall", "PC") is None
    assert "--judge" in report["missing_metrics"]["PC"]
    text = (out / "report.md").read_text()
    assert f"{np.mean(by_hand):.2f}" in text
    assert "PC: no judge: give --judge" in text


def _psnr_of(number: int) -> float:
    """Outside the found box (within a pixel of BOX) every value is higher by 1 + number, but for those at 255."""
    source = scene(number).astype(float)
    step = np.minimum(source + 1 + number, 255) - source
    free = np.ones(source.shape[:2], bool)
    free[BOX[1] : BOX[3], BOX[0] : BOX[2]] = False
    return float(10 * np.log10(255**2 / np.square(step[free]).mean()))


def test_what_is_not_installed_is_named_with_how_to_install_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    data, out = pair_set(tmp_path / "set", 1), tmp_path / "out"
    assert bench("fineedit", "--data", data, "--outputs", "dataset", "--out", out) == 0
    missing = report_of(out)["missing_metrics"]
    assert ".[bench]" in missing["LPIPS"]
    assert ".[bench]" in missing["CLIP"]
    assert row(report_of(out), "overall")["means"]["LPIPS"] == {"mean": None, "n": 0}


def test_the_judges_scores_are_averaged_and_the_outside_is_judged_with_the_box_covered(tmp_path: Path) -> None:
    data, out = pair_set(tmp_path / "set"), tmp_path / "out"
    with judge(scores_of) as server:
        assert _run(data, out, "--judge", spec_of(server)) == 0
        asked = len(server.asked)
        assert _run(data, out, "--judge", spec_of(server)) == 0
        assert len(server.asked) == asked == 8
        covered = next(request for request in server.asked if "grey rectangle" in request.text)
    report = report_of(out)
    assert mean(report, "overall", "PC") == pytest.approx(3.5)
    assert mean(report, "add", "PC") == pytest.approx(4)
    # No cap in FineEdit-1k: naturalness stays 5 where compliance is lower.
    assert mean(report, "overall", "VN") == 5
    assert mean(report, "overall", "PDI") == 3
    assert mean(report, "overall", "OBR") == 4
    assert report["judge"]["name"] == "test-model"
    before, after = (
        images.decode(base64.b64decode(url.partition(",")[2])).astype(int) for url in picture_urls(covered.body)
    )
    inside = np.s_[BOX[1] + 4 : BOX[3] - 4, BOX[0] + 4 : BOX[2] - 4]
    assert np.abs(before[inside] - 128).max() < 12
    assert np.abs(after[inside] - 128).max() < 12
    assert np.abs(before[:15] - 128).mean() > 20


def test_an_answer_that_cannot_be_read_is_a_failure_and_never_a_score(tmp_path: Path) -> None:
    data, out = pair_set(tmp_path / "set"), tmp_path / "out"

    def faults(text: str) -> Fault | None:
        if "edit 2" in text:
            return Fault("half json", ALWAYS)
        return Fault("wrong schema", 1) if "edit 1" in text else None

    with judge(scores_of, faults) as server:
        assert _run(data, out, "--judge", spec_of(server)) == 0
    report = report_of(out)
    assert (row(report, "overall")["scored"], row(report, "overall")["failed"]) == (3, 1)
    assert row(report, "overall")["means"]["PC"] == {"mean": pytest.approx((5 + 4 + 2) / 3), "n": 3}
    (failure,) = report["failures"]
    assert failure["id"] == "pair-2"
    assert "MalformedAnswer" in failure["why"]
    # What was measured of it still counts.
    assert row(report, "overall")["means"]["PSNR"]["n"] == 4
    assert "(n = 3)" in (out / "report.md").read_text()


def test_scores_out_of_range_are_refused(tmp_path: Path) -> None:
    data, out = pair_set(tmp_path / "set", 1), tmp_path / "out"
    with judge(lambda text: [6] if "grey" in text else [5, 5, 5]) as server:
        assert _run(data, out, "--judge", spec_of(server, answer_tries=2)) == 0
        # Once more, if the other was answered before: does the judge still answer?
        assert len(server.asked) in (3, 4)
    assert row(report_of(out), "overall")["failed"] == 1
    assert mean(report_of(out), "overall", "OBR") is None


def test_another_judge_scores_anew_and_failures_are_tried_again_on_request(tmp_path: Path) -> None:
    data, out = pair_set(tmp_path / "set", 2), tmp_path / "out"
    with judge(scores_of, lambda text: Fault("400", ALWAYS) if "edit 1" in text else None) as server:
        assert _run(data, out, "--judge", spec_of(server)) == 0
        assert row(report_of(out), "overall")["failed"] == 1
        server.faults = lambda _: None
        assert _run(data, out, "--judge", spec_of(server)) == 0
        assert row(report_of(out), "overall")["failed"] == 1
        assert _run(data, out, "--judge", spec_of(server), "--retry-failed") == 0
        assert row(report_of(out), "overall")["failed"] == 0
        before = len(server.asked)
        assert _run(data, out, "--judge", spec_of(server, revision="v2")) == 0
        assert len(server.asked) == before + 4


def test_a_killed_run_goes_on_edits_nothing_twice_and_gives_the_same_table(tmp_path: Path) -> None:
    data = pair_set(tmp_path / "set", 8)
    log = tmp_path / "log"
    arguments = _editor_run(data, tmp_path / "out", log, seconds=0.3)
    process = subprocess.Popen([sys.executable, "-m", "ugaf.bench", *arguments], env=_environment())
    edited = tmp_path / "out" / "edited"
    while len(_pictures(edited)) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = {file.name: file.stat().st_mtime_ns for file in _pictures(edited)}
    assert 2 <= len(there) < 8
    assert bench(*arguments) == 0
    assert {name: (edited / name).stat().st_mtime_ns for name in there} == there
    asked = Counter(log.read_text().split("\n")[:-1])
    assert len(asked) == 8
    # Only what was in hand when it was killed is asked for again.
    assert asked.total() <= 9
    whole = _editor_run(data, tmp_path / "whole", tmp_path / "other", seconds=0)
    assert bench(*whole) == 0
    assert _table(tmp_path / "whole") == _table(tmp_path / "out")
    assert mean(report_of(tmp_path / "out"), "overall", "PSNR") == 100


def test_edits_that_fail_are_counted_and_kept(tmp_path: Path) -> None:
    data, out, log = pair_set(tmp_path / "set", 3), tmp_path / "out", tmp_path / "log"
    arguments = _editor_run(data, out, log, refuse="edit 1")
    assert bench(*arguments) == 0
    assert bench(*arguments) == 0
    assert (row(report_of(out), "overall")["scored"], row(report_of(out), "overall")["failed"]) == (2, 1)
    assert "I will not" in report_of(out)["failures"][0]["why"]
    assert Counter(log.read_text().split("\n"))["edit 1"] == 1


def test_a_folder_of_another_editors_edits_is_refused(tmp_path: Path, capsys: Any) -> None:
    data, out = pair_set(tmp_path / "set", 1), tmp_path / "out"
    assert bench(*_editor_run(data, out, tmp_path / "log")) == 0
    assert bench(*_editor_run(data, out, tmp_path / "log", refuse="nothing")) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert bench("fineedit", "--data", data, "--outputs", "dataset", "--out", out) == 2


def test_outputs_of_a_folder_are_found_by_id_resized_and_counted_where_they_lack(tmp_path: Path) -> None:
    data, out = pair_set(tmp_path / "set", 3), tmp_path / "out"
    write(tmp_path / "mine" / "pair-0.png", scene(0))
    large = images.encode(np.repeat(np.repeat(scene(1), 2, 0), 2, 1), "jpeg")
    (tmp_path / "mine" / "pair-1.jpg").write_bytes(large)
    assert bench("fineedit", "--data", data, "--outputs", tmp_path / "mine", "--out", out) == 0
    report = report_of(out)
    assert (row(report, "overall")["scored"], row(report, "overall")["missing"]) == (2, 1)
    assert report["missing"] == ["pair-2"]
    assert report["resized"] == 1
    assert mean(report, "add", "PSNR") == 100
    assert mean(report, "remove", "PSNR") > 35


def test_a_damaged_picture_costs_only_its_own_item(tmp_path: Path) -> None:
    data, out = pair_set(tmp_path / "set", 3), tmp_path / "out"
    file = tmp_path / "set" / "e1.png"
    file.write_bytes(file.read_bytes()[:200])
    (tmp_path / "set" / "s2.png").unlink()
    assert bench("fineedit", "--data", data, "--outputs", "dataset", "--out", out) == 0
    report = report_of(out)
    assert (row(report, "overall")["scored"], row(report, "overall")["failed"]) == (1, 2)
    assert {failure["id"] for failure in report["failures"]} == {"pair-1", "pair-2"}


def test_boxes_of_the_data_can_be_taken(tmp_path: Path) -> None:
    data = pair_set(tmp_path / "set", 1)
    line = json.loads(data.read_text()) | {"boxes": [[0, 0, 128, 90]]}
    data.write_text(json.dumps(line))
    assert bench("fineedit", "--data", data, "--outputs", "dataset", "--out", tmp_path / "out", "--boxes", "data") == 0
    # Six rows are left: pixels for PSNR, but no window for SSIM.
    means = row(report_of(tmp_path / "out"), "overall")["means"]
    assert (means["PSNR"]["n"], means["SSIM"]["n"]) == (1, 0)


# Pair sets ------------------------------------------------------------------------------------------------------------


def test_parquet_tar_folder_and_run_give_the_same_pairs(tmp_path: Path) -> None:
    rows = [
        {"id": f"p{n}", "instruction": f"edit {n}", "task": "add", "boxes": [list(BOX)],
         "source": {"bytes": images.encode(scene(n)), "path": None},
         "edited": {"bytes": images.encode(painted(scene(n))), "path": None}}
        for n in range(3)
    ]  # fmt: skip
    shards = tmp_path / "run" / "shards"
    (shards / "parquet").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), shards / "parquet" / "train-0.parquet", row_group_size=2)
    (tmp_path / "wds").mkdir()
    with tarfile.open(tmp_path / "wds" / "train-0.tar", "w") as archive:
        for entry in rows:
            told = json.dumps({key: entry[key] for key in ("id", "instruction", "task", "boxes")}).encode()
            for suffix, content in (("edited.png", entry["edited"]["bytes"]), ("json", told),
                                    ("source.png", entry["source"]["bytes"])):  # fmt: skip
                member = tarfile.TarInfo(f"{entry['id']}.{suffix}")
                member.size = len(content)
                archive.addfile(member, _reader(content))
    for entry in rows:
        for side in ("source", "edited"):
            (tmp_path / "plain" / side).mkdir(parents=True, exist_ok=True)
            (tmp_path / "plain" / side / f"{entry['id']}.png").write_bytes(entry[side]["bytes"])
        (tmp_path / "plain" / "edited" / f"{entry['id']}.txt").write_text(f"{entry['instruction']}\n")
    for place in (tmp_path / "run", shards / "parquet", tmp_path / "wds", tmp_path / "plain"):
        benchmark = load_pairs(str(place))
        assert [(item.id, item.instruction) for item in benchmark.items] == [(f"p{n}", f"edit {n}") for n in range(3)]
        wanted = benchmark.items[1:]
        read = list(benchmark.read(wanted))
        assert [pictures.source for pictures in read] == [row["source"]["bytes"] for row in rows[1:]]
        assert [pictures.edited for pictures in read] == [row["edited"]["bytes"] for row in rows[1:]]
        assert {item.group for item in wanted} == {"all" if place.name == "plain" else "add"}


def test_pictures_that_lack_their_other_half_are_failures(tmp_path: Path) -> None:
    write(tmp_path / "source" / "a.png", scene(0))
    write(tmp_path / "edited" / "b.png", scene(0))
    benchmark = load_pairs(str(tmp_path))
    assert [str(found) for found in benchmark.read(benchmark.items)] == [
        "FileNotFoundError: no picture a in edited/",
        "FileNotFoundError: no picture b in source/",
    ]


def test_an_id_that_stands_twice_is_replaced_by_the_row(tmp_path: Path) -> None:
    data = pair_set(tmp_path, 2)
    lines = [json.loads(line) | {"id": "same"} for line in data.read_text().splitlines()]
    data.write_text("\n".join(map(json.dumps, lines)))
    assert [item.id for item in load_pairs(str(data)).items] == ["pairs.jsonl#1", "pairs.jsonl#2"]


def test_a_tar_that_holds_no_pairs_says_so(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(write(tmp_path / "x.png", scene(0)), "x.png")
    with pytest.raises(ConfigError, match=r"not `source` and `edited`"):
        load_pairs(str(tmp_path / "a.tar"))


def _reader(content: bytes) -> Any:
    import io

    return io.BytesIO(content)


def _run(data: Path, out: Path, *more: str) -> int:
    return bench("fineedit", "--data", data, "--outputs", "dataset", "--out", out, *more)


def _editor_run(data: Path, out: Path, log: Path, **options: Any) -> list[str]:
    spec = json.dumps({"engine": "bench_tools:PaintEditor", "log": str(log), "seconds": 0, "refuse": ""} | options)
    return ["fineedit", "--data", str(data), "--editor", spec, "--out", str(out), "--batch", "1"]


def _environment() -> dict[str, str]:
    paths = [str(Path(__file__).parent), PATHS]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _pictures(folder: Path) -> list[Path]:
    """Those that are whole: a file under way has a name that begins with a dot."""
    return [file for file in folder.glob("*.png") if not file.name.startswith(".")]


def _table(out: Path) -> Any:
    return report_of(out)["rows"]
