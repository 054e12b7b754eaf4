"""The editor `http` against a real server on this machine that answers, and misbehaves in every way it can."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import engine_tools
import numpy as np
import pyarrow as pa
import pytest
from images_server import FAULTS, MODEL, REFUSALS, Call, ImagesServer, edited
from places import PATHS
from pydantic import ValidationError
from ugaf.stages.generation.edit import GenerateEdit

from ugaf import stage
from ugaf.base.errors import ConfigError, StopRun
from ugaf.imaging import boxes, images
from ugaf.models.chat.transport import Pace
from ugaf.models.editors.images_api import ImagesAPIEditor, read_picture
from ugaf.models.editors.interface import Edit, EditRequest
from ugaf.models.servers import ModelServer, ServerLink
from ugaf.stage import Failure, Row, engines

FAST = Pace(first_s=0.01, most_s=0.05, probe_first_s=0.02, probe_most_s=0.05)
AREA = 64 * 64


def link_to(*urls: str, **settings: Any) -> ServerLink:
    server = ModelServer(model=MODEL, endpoints=list(urls), **settings)
    return ServerLink("painter", server, tuple(server.endpoints))


def editor_of(link: ServerLink, **options: Any) -> ImagesAPIEditor:
    settings = ImagesAPIEditor.Settings(server="painter", **{"area": AREA, **options})
    return ImagesAPIEditor(settings, {"painter": link}, FAST)


def photo_of(number: int, width: int = 64, height: int = 64) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def request_of(number: int, **more: Any) -> EditRequest:
    """An edit of a whole photograph of the model's own size, so that the server's formula can be checked exactly."""
    return EditRequest(
        **{"photo": photo_of(number), "task": "tone", "instruction": f"Do {number}", "seed": number, **more}
    )


def expected(number: int) -> np.ndarray:
    return edited(photo_of(number), f"Do {number}", number)


def check(answer: Edit | Failure, number: int) -> None:
    assert isinstance(answer, Edit), answer
    assert answer.edited is not None
    np.testing.assert_array_equal(answer.edited, expected(number))


# --- what is sent ---


def test_the_form_is_what_the_servers_documents_say() -> None:
    options = {
        "steps": 8,
        "guidance_scale": 1.5,
        "true_cfg_scale": 4.0,
        "negative_prompt": " ",
        "extra": {"generator_device": "cpu"},
    }
    with ImagesServer() as server:
        editor = editor_of(link_to(server.url), **options)
        editor.edit([request_of(1, photo=photo_of(1, 300, 150), seed=2**40 + 7)])
    (call,) = server.calls
    assert call.fields == {
        "model": MODEL,
        "prompt": "Do 1",
        "size": "96x48",
        "n": "1",
        "seed": "7",
        "response_format": "b64_json",
        "output_format": "png",
        "num_inference_steps": "8",
        "guidance_scale": "1.5",
        "true_cfg_scale": "4.0",
        "negative_prompt": " ",
        "generator_device": "cpu",
    }
    assert call.image.shape == (48, 96, 3)
    assert call.mask is None
    assert editor.name == f"http:{MODEL}"


def test_what_is_not_set_is_left_to_the_server() -> None:
    with ImagesServer() as server:
        editor_of(link_to(server.url)).edit([request_of(1)])
    assert set(server.calls[0].fields) == {
        "model", "prompt", "size", "n", "seed", "response_format", "output_format"
    }  # fmt: skip


def test_a_served_name_is_what_requests_carry_and_the_model_is_what_rows_name() -> None:
    with ImagesServer() as server:
        server.model = "alias"
        editor = editor_of(link_to(server.url, served_name="alias"))
        check(editor.edit([request_of(1)])[0], 1)
    assert server.calls[0].fields["model"] == "alias"
    assert editor.name == f"http:{MODEL}"


def test_an_inpainting_server_gets_the_mask_white_where_it_paints() -> None:
    photo = photo_of(5)
    box = (16, 16, 32, 40)
    with ImagesServer() as server:
        editor = editor_of(link_to(server.url), inpaint=True, placement={"mask_margin": 0.0, "feather": 0.0})
        local, whole = editor.edit([request_of(5, task="recolor", boxes=[box]), request_of(6)])
    masks = {call.fields["prompt"]: call.mask for call in server.calls}
    np.testing.assert_array_equal(masks["Do 5"] == 255, boxes.to_mask([box], 64, 64))
    assert (masks["Do 6"] == 255).all()
    check(whole, 6)
    assert isinstance(local, Edit)
    assert local.way == "inpaint"
    assert local.edited is not None
    outside = ~boxes.to_mask([box], 64, 64)
    np.testing.assert_array_equal(local.edited[outside], photo[outside])
    assert (local.edited[~outside] != photo[~outside]).any()


def test_the_way_of_a_crop_and_its_place_come_back() -> None:
    photo = photo_of(1, 640, 480)
    with ImagesServer() as server:
        editor = editor_of(link_to(server.url), placement={"least_side": 64, "least_margin": 8})
        (answer,) = editor.edit([EditRequest(photo, "recolor", "Make it red", [(300, 200, 340, 230)])])
    assert isinstance(answer, Edit)
    assert answer.way == "crop"
    assert answer.edited is not None
    assert answer.mask is not None
    assert 0 < answer.mask.mean() < 0.1
    np.testing.assert_array_equal(answer.edited[~answer.mask], photo[~answer.mask])


# --- what comes back ---


def test_order_and_seeds_are_the_same_whatever_the_batch() -> None:
    def slow(call: Call) -> str:
        time.sleep(0.02 * (int(call.fields["seed"]) % 3))
        return ""

    with ImagesServer(slow) as server:
        editor = editor_of(link_to(server.url))
        together = editor.edit([request_of(number) for number in range(12)])
        alone = [editor.edit([request_of(number)])[0] for number in reversed(range(12))][::-1]
    for number in range(12):
        check(together[number], number)
        check(alone[number], number)
    sent = {(call.fields["prompt"], call.fields["seed"]) for call in server.calls}
    assert sent == {(f"Do {number}", str(number)) for number in range(12)}


def test_an_answer_of_another_size_is_mapped_back() -> None:
    with ImagesServer(lambda _: "other size") as server:
        (answer,) = editor_of(link_to(server.url)).edit([request_of(1)])
    assert isinstance(answer, Edit)
    assert answer.edited is not None
    assert answer.edited.shape == (64, 64, 3)


def patience_for(fault: str) -> float:
    """timeout_s: short only where running out of it is what is tested."""
    return 1.0 if fault == "hang" else 60.0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_nothing(fault: str) -> None:
    with ImagesServer(lambda call: fault if call.number == 0 else "") as server:
        answers = editor_of(link_to(server.url, timeout_s=patience_for(fault))).edit(
            [request_of(number) for number in range(3)]
        )
    for number, answer in enumerate(answers):
        check(answer, number)
    # The same question again: a row must not depend on what went wrong on its way.
    assert len({(call.fields["prompt"], call.fields["seed"]) for call in server.calls}) == 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("429", "HTTP 429: 'too many requests'"),
        ("500", "HTTP 500"),
        ("cut", "cut"),
        ("half", "not JSON"),
        ("hang", "timeout_s"),
        ("empty", "no data[0].b64_json"),
        ("no image", "cannot be read"),
        ("bad base64", "no data[0].b64_json"),
    ],
)
def test_a_fault_that_stays_fails_its_row_and_no_other(fault: str, said: str) -> None:
    with ImagesServer(lambda call: fault if call.fields["seed"] == "1" else "") as server:
        editor = editor_of(link_to(server.url, tries=3, answer_tries=3, timeout_s=patience_for(fault)))
        answers = editor.edit([request_of(number) for number in range(3)])
    check(answers[0], 0)
    check(answers[2], 2)
    assert isinstance(answers[1], Failure)
    assert said in str(answers[1])
    assert "3 tries" in str(answers[1])
    assert sum(call.fields["seed"] == "1" for call in server.calls) == 3


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_request_is_not_sent_again(refusal: str) -> None:
    with ImagesServer(lambda call: refusal if call.fields["seed"] == "1" else "") as server:
        answers = editor_of(link_to(server.url)).edit([request_of(number) for number in range(3)])
    assert [isinstance(answer, Failure) for answer in answers] == [False, True, False]
    assert f"this is a {refusal}" in str(answers[1])
    # None is sent again but, where no other has been answered since, one that went well: is it the server's fault?
    assert [call.fields["seed"] for call in server.calls].count("1") == 1
    assert len(server.calls) <= 4


def test_many_faulty_requests_end_with_their_own_answer_and_no_more_are_on_their_way_than_allowed() -> None:
    faults = [fault for fault in FAULTS if fault != "hang"]

    def behave(call: Call) -> str:
        number = int(call.fields["seed"])
        return faults[number % len(faults)] if number % 3 == 0 and call.number < 2 else ""

    with ImagesServer(behave, latency_s=0.005) as server:
        answers = editor_of(link_to(server.url, in_flight=8)).edit([request_of(number) for number in range(60)])
    for number, answer in enumerate(answers):
        check(answer, number)
    assert 2 <= server.most_at_once <= 8


def test_a_request_that_cannot_be_sent_fails_alone() -> None:
    bad = request_of(1, task="recolor", boxes=[(500, 500, 600, 600)])
    broken = request_of(1, photo=np.zeros((0, 4, 3), np.uint8))
    with ImagesServer() as server:
        mute = request_of(1, instruction=" ")
        answers = editor_of(link_to(server.url)).edit([request_of(0), bad, request_of(2), broken, mute])
    check(answers[0], 0)
    check(answers[2], 2)
    assert str(answers[1]).startswith("BadBox: ")
    assert isinstance(answers[3], Failure)
    assert str(answers[4]).startswith("NoInstruction: ")
    assert len(server.calls) == 2


def test_a_picture_of_one_colour_is_a_failure() -> None:
    with ImagesServer(lambda call: "blank" if call.fields["seed"] == "1" else "") as server:
        good, blank = editor_of(link_to(server.url)).edit([request_of(0), request_of(1)])
    check(good, 0)
    assert str(blank).startswith("BlankAnswer: ")


# --- what stops the run ---


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_requests_wait_for_a_server_that_comes_back() -> None:
    port = free_port()
    editor = editor_of(link_to(f"http://127.0.0.1:{port}/v1", patience_s=20))
    answers: list[Edit | Failure] = []
    thread = threading.Thread(target=lambda: answers.extend(editor.edit([request_of(n) for n in range(4)])))
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    with ImagesServer(port=port):
        thread.join(15)
    for number in range(4):
        check(answers[number], number)


def test_a_server_that_stays_away_stops_the_run_and_names_it() -> None:
    editor = editor_of(link_to(f"http://127.0.0.1:{free_port()}/v1", patience_s=0.3))
    with pytest.raises(StopRun, match=r"'painter'.*127"):
        editor.edit([request_of(number) for number in range(4)])


def test_one_endpoint_of_two_may_be_away() -> None:
    with ImagesServer() as server:
        link = link_to(f"http://127.0.0.1:{free_port()}/v1", server.url, patience_s=5)
        for number, answer in enumerate(editor_of(link).edit([request_of(number) for number in range(8)])):
            check(answer, number)


def test_requests_are_shared_out_over_the_endpoints() -> None:
    with ImagesServer(latency_s=0.02) as one, ImagesServer(latency_s=0.02) as other:
        editor = editor_of(link_to(one.url, other.url, in_flight=4))
        for number in range(200):  # until both are known to be up
            editor.edit([request_of(number), request_of(number)])
            if one.calls and other.calls:
                break
        one.calls.clear()
        other.calls.clear()
        editor.edit([request_of(number) for number in range(16)])
    assert len(one.calls) + len(other.calls) == 16
    assert abs(len(one.calls) - len(other.calls)) <= 6


def test_the_key_is_sent_and_stays_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAINTER_KEY", "sk-very-secret")
    with ImagesServer(lambda call: "400" if call.fields["seed"] == "1" else "") as server:
        link = link_to(server.url, api_key_env="PAINTER_KEY")
        answers = editor_of(link).edit([request_of(0), request_of(1)])
    assert {call.key for call in server.calls} == {"sk-very-secret"}
    assert "sk-very-secret" not in str(answers[1])
    with ImagesServer(lambda _: "401") as server, pytest.raises(StopRun, match="PAINTER_KEY") as caught:
        editor_of(link_to(server.url, api_key_env="PAINTER_KEY")).edit([request_of(0)])
    assert "sk-very-secret" not in str(caught.value)


def test_a_server_without_the_model_stops_the_run() -> None:
    with ImagesServer() as server:
        server.model = "another/model"
        editor = editor_of(link_to(server.url))
        with pytest.raises(StopRun, match="tiny/editor"):
            editor.edit([request_of(0)])


def test_an_address_without_the_endpoint_stops_the_run() -> None:
    with ImagesServer(lambda _: "404") as server, pytest.raises(StopRun, match=r"/images/edits"):
        editor_of(link_to(server.url)).edit([request_of(0)])


# --- settings, and the stage around it ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": {"way": "inpaint"}}, r"placement\.way"),
        ({"true_cfg_scale": 4.0}, "negative_prompt"),
        ({"extra": {"seed": 3}}, "seed"),
        ({"area": 64 * 64, "multiple": 512}, "512"),
        ({"placement": {"wey": "crop"}}, "wey"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImagesAPIEditor.Settings(server="painter", **options)


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"'\.\[chat\]'"):
        editor_of(link_to("http://127.0.0.1:1/v1"))


def test_needs_and_fingerprint_name_the_served_model_not_its_address() -> None:
    settings = GenerateEdit.Settings(editor={"engine": "http", "server": "painter", "steps": 8})
    needs = GenerateEdit.needs(settings)
    assert needs.servers == ("painter",)
    assert needs.own_pool
    assert needs.gpus == 0
    assert needs.fragments > 1
    assert needs.packages == {"openai": "chat"}
    here, there = (ModelServer(model=MODEL, endpoints=[url]) for url in ("http://a/v1", "http://b/v1"))
    other = ModelServer(model="another/model", endpoints=["http://a/v1"])
    told = [engines.identity(settings, {"painter": server}) for server in (here, there, other)]
    assert told[0] == told[1] != told[2]


def test_the_stage_edits_over_http_with_one_client_from_several_threads(photos: dict[str, np.ndarray]) -> None:
    photo = np.ascontiguousarray(photos["chelsea"][:120, :160])

    def rows(first: int) -> list[Row]:
        parent = Row("p" * 32, {"image": images.encode(photo), "objects": []})
        own = {"task": "tone", "boxes": [], "params": None, "donor": None, "engine": "vlm"}
        return [Row(f"{n:032x}", {**own, "instruction": f"Do {n}"}, parent) for n in range(first, first + 5)]

    with ImagesServer(latency_s=0.02) as server:
        editor = {"engine": "http", "server": "painter", "area": AREA}
        edit = GenerateEdit("generation.edit", GenerateEdit.Settings(editors={"vlm": editor}), seed=1)
        edit.servers, edit.lane = {"painter": link_to(server.url)}, "vlm"
        edit.setup()
        found: dict[int, Any] = {}

        def work(first: int) -> None:
            found[first] = edit(rows(first))

        _in_threads(work, [0, 5, 10, 15])
    outcomes = [outcome for first in sorted(found) for outcome in found[first]]
    assert {outcome["editor"] for outcome in outcomes} == {f"http:{MODEL}/1"}
    assert {outcome["edit_way"] for outcome in outcomes} == {"whole"}
    by_prompt = {call.fields["prompt"]: call for call in server.calls}
    for number, outcome in enumerate(outcomes):
        call = by_prompt[f"Do {number}"]
        small = edited(call.image, call.fields["prompt"], int(call.fields["seed"]))
        result = images.decode(outcome["edited_image"])
        assert result.shape == photo.shape
        assert np.abs(result.mean((0, 1)) - small.mean((0, 1))).max() < 2


def _in_threads(work: Callable[[int], None], arguments: list[int]) -> None:
    threads = [threading.Thread(target=work, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("said", [None, [], {}, {"data": {}}, {"data": [{}]}, {"data": [{"b64_json": None}]}, "text"])
def test_an_answer_without_a_picture_says_so(said: Any) -> None:
    with pytest.raises(Exception, match="b64_json"):
        read_picture(said)


# --- killed in the middle ---


class Ask(stage.Stage):
    """Asks for one edit of each photograph; the words name it."""

    reads = ("image",)
    writes = pa.schema(
        [
            ("task", pa.string()),
            ("instruction", pa.string()),
            ("boxes", pa.list_(pa.list_(pa.int32()))),
            ("params", pa.string()),
            ("donor", pa.string()),
            ("objects", pa.list_(pa.struct([("box", pa.list_(pa.int32()))]))),
        ]
    )

    def process(self, row: Row) -> Mapping[str, Any]:
        nothing = {"boxes": [], "params": None, "donor": None, "objects": []}
        return {"task": "tone", "instruction": f"Edit {row.id}", **nothing}


def run_edits(folder: str, url: str) -> Any:
    edit = {"editor": {"engine": "http", "server": "painter", "area": AREA}, "resources": {"batch_rows": 4}}
    checked = engine_tools.pipeline(
        Path(folder) / "photos",
        Path(folder) / "run",
        ["test_images_api:Ask", {"generation.edit": edit}],
        models={"painter": {"model": MODEL, "endpoints": [url]}},
        engine={"executor": "inline", "flush_s": 0},
        fragment_rows=12,
    )
    return engine_tools.go(checked)


def test_after_a_kill_no_stored_edit_is_made_again(tmp_path: Path) -> None:
    engine_tools.make_photos(tmp_path / "photos", 24)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), PATHS])}
    with ImagesServer(latency_s=0.1) as server:
        code = f"import test_images_api; test_images_api.run_edits({str(tmp_path)!r}, {server.url!r})"
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path)
        try:
            while len(server.calls) < 14 and process.poll() is None:
                time.sleep(0.01)
            assert process.poll() is None, "it ended before it could be killed"
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        before = [call.fields["prompt"] for call in server.calls]
        server.calls.clear()
        view = run_edits(str(tmp_path), server.url)
        after = [call.fields["prompt"] for call in server.calls]
        rows = engine_tools.table(view, "image", ["edited_image"])
    assert len(rows) == 24
    assert all(row["status"] == "kept" for row in rows.values())
    # What was on its way, and the last batch, may have been lost; all that was stored is done.
    again = set(before) & set(after)
    assert len(again) <= 4
    assert len(before) == len(set(before))
    assert len(after) == len(set(after))
    assert len(set(before) | set(after)) == 24
    assert len(after) < 24 - 4
