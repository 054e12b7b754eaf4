"""DiffusersEditor with the real pipelines on tiny random checkpoints.

Tolerance of "the same row gives the same edit whatever batch it was in": in float32 no value differs by more than 1 of
255; in bfloat16 they differ by less than 4 of 255 in the root mean square.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_editors
import torch
from diffusers import QwenImageEditPipeline
from diffusers.utils import logging
from peft import LoraConfig, get_peft_model_state_dict
from skimage import data

from ugaf.base.errors import ConfigError, StopRun
from ugaf.models.editors.diffusion.engine import DiffusersEditor
from ugaf.models.editors.interface import Edit, EditRequest
from ugaf.stage import Failure, engines

pytestmark = pytest.mark.torch

logging.disable_progress_bar()

CAT, CUP = data.chelsea()[::3, ::3].copy(), data.coffee()[::4, ::4].copy()
PROMPTS = (
    "make the sky red",
    "remove the person on the left and change the cat into a dog that sits beside the small boat",
    "a",
    "change the cat into a dog",
)
KINDS = ("qwen_edit", "qwen_edit_plus", "kontext")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("editors")
    for kind in KINDS:
        getattr(tiny_editors, f"build_{kind}")(folder / kind)
    return folder


@pytest.fixture(scope="module")
def build(folder: Path) -> Callable[..., DiffusersEditor]:
    made: dict[str, DiffusersEditor] = {}

    def build(kind: str, fresh: bool = False, **options: Any) -> DiffusersEditor:
        """`fresh`: for a test that breaks or watches the editor; the others share it."""
        spec = {"engine": "diffusers", "model": str(folder / kind), "device": "cpu", "steps": 2, "max_area": 64 * 64}
        key = f"{kind} {options}"
        editor: DiffusersEditor = made.get(key) or engines.build("editor", {**spec, **options})
        if fresh:
            made.pop(key, None)
        else:
            made[key] = editor
        return editor

    return build


def request(photo: np.ndarray, prompt: str, seed: int, boxes: Sequence[Any] = (), task: str = "style") -> EditRequest:
    return EditRequest(photo, task, prompt, boxes, seed=seed)


ROWS = [request(np.rot90(CAT, 2 * seed).copy(), prompt, seed) for seed, prompt in enumerate(PROMPTS)]


def pixels(answer: Edit | Failure) -> np.ndarray:
    assert isinstance(answer, Edit), answer
    assert answer.edited is not None
    return answer.edited.astype(np.float64)


def furthest(one: Edit | Failure, other: Edit | Failure) -> float:
    return float(np.abs(pixels(one) - pixels(other)).max())


def rms(one: Edit | Failure, other: Edit | Failure) -> float:
    return float(np.sqrt(np.mean((pixels(one) - pixels(other)) ** 2)))


def watched(
    editor: DiffusersEditor, error: Exception | None = None, when: Callable[[int, list[str]], bool] = lambda *_: True
) -> list[int]:
    """The sizes of the pipeline's calls, filled as they come; a call fails where `when(number, prompts)` says so."""
    sizes: list[int] = []
    pipeline = editor.pipeline

    class Failing:
        def __call__(self, **arguments: Any) -> Any:
            sizes.append(len(arguments["prompt"]))
            if error is not None and when(len(sizes), arguments["prompt"]):
                raise error
            return pipeline(**arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(pipeline, name)

    # `exactly` looks at the class of the pipeline.
    stand_in = type(type(pipeline).__name__, (Failing,), {"__module__": type(pipeline).__module__})()
    editor.pipeline = stand_in
    return sizes


# The same row, the same edit


@pytest.mark.parametrize("kind", KINDS)
def test_a_rows_edit_does_not_depend_on_its_batch(build: Callable[..., DiffusersEditor], kind: str) -> None:
    editor = build(kind)
    together = editor.edit(ROWS)
    for row, answer in zip(ROWS, together, strict=True):
        assert furthest(answer, editor.edit([row])[0]) <= 1
    assert rms(together[0], together[1]) > 20


@pytest.mark.parametrize("kind", ["qwen_edit", "kontext"])
def test_a_rows_edit_does_not_depend_on_its_batch_in_bfloat16(build: Callable[..., DiffusersEditor], kind: str) -> None:
    editor = build(kind, dtype="bfloat16")
    together = editor.edit(ROWS)
    assert max(rms(answer, editor.edit([row])[0]) for row, answer in zip(ROWS, together, strict=True)) < 4


@pytest.mark.parametrize("kind", ["qwen_edit", "kontext"])
def test_a_rows_inpainting_does_not_depend_on_its_batch(build: Callable[..., DiffusersEditor], kind: str) -> None:
    boxes = [(10, 10, 60, 50), (40, 20, 140, 90), (0, 0, 30, 30), (60, 40, 100, 90)]
    rows = [request(row.photo, row.instruction, row.seed, [box]) for row, box in zip(ROWS, boxes, strict=True)]
    editor = build(kind, placement={"way": "inpaint"})
    together = editor.edit(rows)
    for row, answer, box in zip(rows, together, boxes, strict=True):
        assert isinstance(answer, Edit)
        assert answer.way == "inpaint"
        assert furthest(answer, editor.edit([row])[0]) <= 1
        assert answer.mask is not None
        assert np.array_equal(pixels(answer)[~answer.mask], row.photo[~answer.mask])
        x1, y1, x2, y2 = box
        assert rms(answer, Edit(None, row.photo, None)) > 1
        assert answer.mask[y1:y2, x1:x2].mean() > 0.5


def test_seed_and_prompt_both_reach_the_model(build: Callable[..., DiffusersEditor]) -> None:
    for kind in KINDS:
        editor = build(kind)
        base, seed, prompt = editor.edit(
            [request(CAT, PROMPTS[0], 1), request(CAT, PROMPTS[0], 2), request(CAT, PROMPTS[1], 1)]
        )
        assert rms(base, seed) > 10
        assert rms(base, prompt) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_several_shapes_keep_their_own(build: Callable[..., DiffusersEditor], kind: str) -> None:
    photos = [CUP, CAT[:, :90], CUP[:40], np.rot90(CUP).copy(), CUP]
    rows = [request(photo, PROMPTS[place % 4], place) for place, photo in enumerate(photos)]
    editor = build(kind, fresh=True)
    sizes = watched(editor)
    answers = editor.edit(rows)
    assert [pixels(answer).shape for answer in answers] == [photo.shape for photo in photos]
    assert sorted(sizes) == ([1] * 5 if kind == "qwen_edit_plus" else [1, 1, 1, 2])
    for row, answer in zip(rows, answers, strict=True):
        assert furthest(answer, editor.edit([row])[0]) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_reference_and_answer_lie_on_the_same_grid(build: Callable[..., DiffusersEditor], kind: str) -> None:
    editor = build(kind, fresh=True, max_area=96 * 64)
    seen: list[tuple[int, ...]] = []

    def look(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        seen.append(given["hidden_states"].shape)

    editor.pipeline.transformer.register_forward_pre_hook(look, with_kwargs=True)
    editor.edit([request(CUP, PROMPTS[0], 0)])
    assert {shape[1] for shape in seen} == {2 * (96 // 16) * (64 // 16)}


# Failures


def test_out_of_memory_in_the_middle_loses_nothing(build: Callable[..., DiffusersEditor]) -> None:
    whole = build("kontext").edit(ROWS * 2)
    editor = build("kontext", fresh=True)
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    sizes = watched(editor, full, lambda number, prompts: number > 1 and len(prompts) > 1)
    answers = editor.edit(ROWS * 2)
    assert sizes == [4, 4, 2, 1, 1, 1, 1]
    assert max(furthest(a, b) for a, b in zip(whole, answers, strict=True)) <= 1
    sizes.clear()
    editor.edit(ROWS)
    assert sizes == [1, 1, 1, 1]


def test_a_row_that_never_fits_fails_alone_with_advice(build: Callable[..., DiffusersEditor]) -> None:
    editor = build("qwen_edit", fresh=True)
    full = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    watched(editor, full, lambda _, prompts: PROMPTS[1] in prompts)
    answers = editor.edit(ROWS)
    assert [isinstance(answer, Edit) for answer in answers] == [True, False, True, True]
    assert isinstance(answers[1], Failure)
    assert answers[1].type == "OutOfMemory"


def test_a_row_that_breaks_the_call_costs_no_other(build: Callable[..., DiffusersEditor]) -> None:
    editor = build("kontext", fresh=True)
    watched(editor, ValueError("bad prompt"), lambda _, prompts: PROMPTS[2] in prompts)
    answers = editor.edit([*ROWS, request(CAT, " ", 0)])
    assert [str(answer) for answer in answers if isinstance(answer, Failure)] == [
        "ValueError: bad prompt",
        "NoInstruction: the row has no instruction, and this editor works from nothing else",
    ]


def test_a_lost_gpu_stops_the_run(build: Callable[..., DiffusersEditor]) -> None:
    editor = build("kontext", fresh=True)
    watched(editor, RuntimeError("CUDA error: unspecified launch failure"))
    with pytest.raises(StopRun, match="unspecified launch failure"):
        editor.edit(ROWS)


@pytest.mark.parametrize(("value", "kind"), [(0.0, "BlankAnswer"), (float("nan"), "BadAnswer")])
def test_an_answer_that_is_no_picture_is_a_failure(
    build: Callable[..., DiffusersEditor], value: float, kind: str
) -> None:
    editor = build("kontext", fresh=True)
    with torch.no_grad():
        editor.pipeline.vae.decoder.conv_out.weight.zero_()
        editor.pipeline.vae.decoder.conv_out.bias.fill_(value)
    (answer,) = editor.edit(ROWS[:1])
    assert isinstance(answer, Failure)
    assert answer.type == kind


def test_a_model_that_is_not_there_is_named(
    build: Callable[..., DiffusersEditor], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"there is no folder {tmp_path}/none"):
        build("kontext", model=f"{tmp_path}/none")
    with pytest.raises(ConfigError, match="has no model_index"):
        build("kontext", model=str(tmp_path))
    with pytest.raises(ConfigError, match="'nobody/nothing' cannot be loaded"):
        build("kontext", model="nobody/nothing")
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ConfigError, match="'FluxPipeline' is no editing pipeline"):
        build("kontext", model=str(tmp_path))
    shutil.copytree(folder / "kontext", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "vae")
    with pytest.raises(ConfigError, match="half' cannot be loaded"):
        build("kontext", model=str(tmp_path / "half"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_message_says_what_to_set(build: Callable[..., DiffusersEditor]) -> None:
    with pytest.raises(ConfigError, match=r"editor\.device=cpu works"):
        build("kontext", device="cuda")


def test_what_a_model_cannot_have_is_refused(build: Callable[..., DiffusersEditor]) -> None:
    with pytest.raises(ConfigError, match="QwenImageEditPipeline ignores it"):
        build("qwen_edit", guidance=3.0)
    with pytest.raises(ConfigError, match="has no pipeline that takes a mask"):
        build("qwen_edit_plus", placement={"way": "inpaint"})
    with pytest.raises(ConfigError, match="has no 'max_shit'; did you mean 'max_shift'"):
        build("qwen_edit", scheduler={"max_shit": 1.0})
    with pytest.raises(ConfigError, match="would mix them"):
        build("kontext", cache={"kind": "first_block"}, true_cfg_scale=2.0)


# Options


def test_guidance_and_negative_prompt_change_the_edit(build: Callable[..., DiffusersEditor]) -> None:
    plain, guided, steered = (
        build("qwen_edit", true_cfg_scale=scale, negative_prompt=text).edit(ROWS[:2])
        for scale, text in ((1.0, " "), (4.0, ""), (4.0, PROMPTS[1]))
    )
    assert rms(plain[0], guided[0]) > 2
    assert rms(guided[0], steered[0]) > 2
    # What it steers away from is what it is asked for: that is no guidance at all.
    assert furthest(plain[1], steered[1]) <= 1
    soft, hard = (build("kontext", guidance=value).edit(ROWS[:1])[0] for value in (1.0, 9.0))
    assert furthest(soft, hard) > 1


def test_a_lora_is_added_to_the_weights_by_its_scale(build: Callable[..., DiffusersEditor], tmp_path: Path) -> None:
    transformer = build("qwen_edit", fresh=True).pipeline.transformer
    plain = transformer.transformer_blocks[1].attn.to_v.weight.detach().clone()
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(transformer)
    QwenImageEditPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    down, up = (layers[f"transformer_blocks.1.attn.to_v.lora_{side}.weight"] for side in "AB")
    file = tmp_path / "pytorch_lora_weights.safetensors"
    for lora in ({"path": str(tmp_path), "scale": 0.0}, {"path": str(file), "scale": 0.5}, {"path": str(tmp_path)}):
        editor = build("qwen_edit", lora=lora)
        merged = editor.pipeline.transformer.transformer_blocks[1].attn.to_v.weight
        assert torch.allclose(merged, plain + lora.get("scale", 1.0) * up @ down, atol=1e-6)
    assert rms(editor.edit(ROWS[:1])[0], build("qwen_edit").edit(ROWS[:1])[0]) > 0.3
    with pytest.raises(ConfigError, match="is for another model: 2 of its 4 layers are not in FluxTransformer2DModel"):
        build("kontext", lora={"path": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"editor\.lora .*nowhere"):
        build("kontext", lora={"path": str(tmp_path / "nowhere")})


def test_lightning_gives_the_timesteps_of_a_shift_of_three(build: Callable[..., DiffusersEditor]) -> None:
    editor = build("qwen_edit", scheduler="lightning", true_cfg_scale=1.0, steps=4)
    assert rms(editor.edit(ROWS[:1])[0], build("qwen_edit", true_cfg_scale=1.0, steps=4).edit(ROWS[:1])[0]) > 1
    plain = np.linspace(1, 1 / 4, 4)
    assert np.allclose(editor.pipeline.scheduler.sigmas, [*(3 * plain / (1 + 2 * plain)), 0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", [{"kind": "first_block", "threshold": 0.4}, {"kind": "taylorseer", "warmup": 2}])
def test_a_cache_saves_work_and_keeps_rows_apart(
    build: Callable[..., DiffusersEditor], kind: str, cache: dict[str, Any]
) -> None:
    steps, rows = 6, ROWS[:2]
    editor = build(kind, fresh=True, steps=steps, cache=cache)
    transformer, work = editor.pipeline.transformer, []
    last = transformer.single_transformer_blocks[-1] if kind == "kontext" else transformer.transformer_blocks[-1]
    (last.attn.to_q).register_forward_hook(lambda *_: work.append(1))
    together, alone = editor.edit(rows), [editor.edit([row])[0] for row in rows]
    assert max(furthest(a, b) for a, b in zip(together, alone, strict=True)) <= 1
    calls = 3 if cache["kind"] == "taylorseer" and kind != "qwen_edit_plus" else 4
    passes = 1 if kind == "kontext" else 2
    assert 0 < len(work) < calls * steps * passes
    plain = build(kind, steps=steps).edit(rows)
    assert 0 < rms(plain[0], together[0]) < 60


def test_weights_in_eight_bits_stay_near(build: Callable[..., DiffusersEditor]) -> None:
    plain, small = build("kontext"), build("kontext", weights="float8")
    dtypes = {parameter.dtype for parameter in small.pipeline.transformer.parameters()}
    assert torch.float8_e4m3fn in dtypes
    assert 0 < rms(plain.edit(ROWS[:1])[0], small.edit(ROWS[:1])[0]) < 20


@pytest.mark.skipif(not os.environ.get("UGAF_COMPILE"), reason="compiles for a minute: set UGAF_COMPILE=1")
def test_compiled_blocks_give_the_same_edit(build: Callable[..., DiffusersEditor]) -> None:
    plain, compiled = build("qwen_edit"), build("qwen_edit", compile=True)
    assert furthest(plain.edit(ROWS[:1])[0], compiled.edit(ROWS[:1])[0]) <= 1


def test_the_row_says_which_model_made_it_and_not_where_it_lay(build: Callable[..., DiffusersEditor]) -> None:
    assert build("kontext").name == "diffusers:kontext"
