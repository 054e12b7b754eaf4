"""The engine `diffusers` without torch: settings, sizes, what a pipeline is called with, batches that do not fit."""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugaf.base.errors import ConfigError, StopRun
from ugaf.models.editors.diffusion import families
from ugaf.models.editors.diffusion.batches import Batches
from ugaf.models.editors.diffusion.families import KONTEXT, QWEN, QWEN_PLUS, Sampling
from ugaf.models.editors.interface import EditRequest
from ugaf.models.editors.placement import PlacementSettings, Prepared, prepare
from ugaf.stage import Failure, engines


def spec(**options: Any) -> dict[str, Any]:
    return {"engine": "diffusers", "model": "Qwen/Qwen-Image-Edit", **options}


def ready(width: int = 96, height: int = 64, prompt: str = "make it red") -> Prepared:
    photo = np.zeros((height, width, 3), np.uint8)
    return prepare(EditRequest(photo, "style", prompt), PlacementSettings(), families.WorkingSize(width * height, 16))


# Settings


def test_needs_are_known_without_torch_and_name_the_extra_and_the_way_without_a_gpu() -> None:
    needs = engines.needs("editor", spec(lora={"path": "some/lora"}, batch_size=8))
    assert (needs.gpus, needs.own_pool, needs.without_gpu) == (1.0, True, "editor.device=cpu")
    assert set(needs.packages.values()) == {"diffusers"}
    assert {"torch", "diffusers", "peft"} <= set(needs.packages)
    assert needs.models == ("Qwen/Qwen-Image-Edit", "some/lora")
    assert engines.needs("editor", spec(device="cpu")).gpus == 0


def test_how_the_work_is_done_is_in_no_fingerprint_and_what_comes_out_is() -> None:
    def identity(**options: Any) -> Any:
        return engines.identity(engines.settings_of("editor", spec(**options)))

    assert identity() == identity(device="cpu", batch_size=1, compile=True)
    for options in ({"steps": 8}, {"cache": {"kind": "taylorseer"}}, {"weights": "float8"}, {"vae_tiling": True}):
        assert identity(**options) != identity()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": " "}, "name a folder or a repository"),
        ({"pipeline": "QwenImageEditPipeline", "guidance": 3.5}, "ignores it; set true_cfg_scale"),
        (
            {"pipeline": "QwenImageEditPlusPipeline", "placement": {"way": "inpaint"}},
            "needs an engine that takes a mask",
        ),
        ({"device": "cpu", "offload": "model"}, "no GPU memory to spare"),
        ({"device": "gpu"}, "device"),
        ({"cache": {"kind": "first_block", "treshold": 1}}, "treshold"),
        ({"true_cfg_scale": 0.5}, "true_cfg_scale"),
    ],
)
def test_settings_that_would_do_nothing_or_not_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engines.check("editor", spec(**options))


def test_the_inpainting_pipeline_is_wanted_by_name_or_by_placement() -> None:
    def wanted(**options: Any) -> bool:
        return bool(engines.settings_of("editor", spec(**options)).can_inpaint)

    assert wanted(pipeline="FluxKontextInpaintPipeline")
    assert wanted(placement={"way": "inpaint"})
    assert not wanted()


def test_lightning_is_a_shift_of_three_at_every_size() -> None:
    options = engines.settings_of("editor", spec(scheduler="lightning")).scheduler_options
    assert options["base_shift"] == options["max_shift"] == pytest.approx(np.log(3))
    assert options["shift_terminal"] is None


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ugaf.base.needs.find_spec", lambda name: None if name == "diffusers" else object())
    with pytest.raises(ConfigError, match=r"diffusers is not installed: pip install '\.\[diffusers\]'"):
        engines.build("editor", spec(device="cpu"))


# Families


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("QwenImageEditInpaintPipeline", QWEN),
        ("QwenImageEditPlusPipeline", QWEN_PLUS),
        ("FluxKontextPipeline", KONTEXT),
    ],
)
def test_a_pipeline_has_its_family(name: str, family: families.Family) -> None:
    assert families.family_of(name, "here") is family


def test_a_pipeline_that_edits_nothing_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="somewhere: 'QwenImagePipeline' is no editing pipeline"):
        families.family_of("QwenImagePipeline", "somewhere")


@given(st.integers(200, 4000), st.integers(200, 4000))
def test_kontext_works_at_a_size_it_was_trained_at_of_nearly_the_photographs_shape(width: int, height: int) -> None:
    size = KONTEXT.trained((width, height), 1024 * 1024)
    assert size in KONTEXT.trained_sizes
    assert 0.9 < size[0] * size[1] / 1024**2 < 1.1
    if 0.43 < width / height < 2.33:
        assert abs(np.log(size[0] / size[1] / (width / height))) < 0.08


def test_away_from_the_trained_area_and_for_qwen_the_size_stays() -> None:
    assert KONTEXT.trained((640, 480), 640 * 480) == (640, 480)
    assert QWEN.trained((1056, 992), 1024 * 1024) == (1056, 992)


# What a pipeline is called with


def test_qwen_gets_a_negative_prompt_if_only_a_space_exactly_when_guidance_is_on() -> None:
    def given_to(scale: float, negative: str) -> Any:
        sampling = Sampling(8, scale, negative, None)
        return families.arguments(QWEN, [ready(), ready()], [1, 2], sampling, False).get("negative_prompt")

    assert given_to(4.0, "") == [" ", " "]
    assert given_to(4.0, "blur") == ["blur", "blur"]
    assert given_to(1.0, "blur") is None


def test_kontext_is_told_the_exact_size_so_that_it_does_not_choose_its_own() -> None:
    call = families.arguments(KONTEXT, [ready(96, 64)], [1], Sampling(8, 1.0, " ", 2.5), False)
    assert (call["width"], call["height"], call["max_area"], call["_auto_resize"]) == (96, 64, 96 * 64, False)
    assert call["guidance_scale"] == 2.5
    assert "mask_image" not in call


def test_without_a_mask_the_inpainting_pipeline_may_paint_everywhere() -> None:
    call = families.arguments(QWEN, [ready()], [1], Sampling(8, 4.0, " ", None), True)
    assert np.asarray(call["mask_image"][0]).min() == 255
    assert call["strength"] == 1.0
    assert "guidance_scale" not in call


def test_qwens_own_sizing_is_replaced_for_the_call_only() -> None:
    def own(area: int, _ratio: float) -> tuple[int, int, None]:
        side = int(area**0.5)
        return side, side, None

    module = ModuleType("pretended_pipelines")
    module.calculate_dimensions = own  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    cls = type("QwenImageEditPipeline", (), {"__module__": module.__name__})
    try:
        with contextlib.suppress(KeyError), families.exactly(cls(), (96, 64)):
            assert module.calculate_dimensions(1024 * 1024, 1.5) == (96, 64, None)
            assert module.calculate_dimensions(32 * 32, 1.0) == (32, 32, None)
            assert module.calculate_dimensions(384 * 384, 1.0) == (78, 78, None)
            raise KeyError
        assert module.calculate_dimensions is own
    finally:
        del sys.modules[module.__name__]


# Batches


class NoMemoryError(Exception):
    pass


class Memory:
    """Work that fits only `room` jobs at once, of which one may be spoilt."""

    def __init__(self, room: int, spoilt: int | None = None) -> None:
        self.room, self.spoilt = room, spoilt
        self.calls: list[list[int]] = []
        self.recovered = 0

    def work(self, jobs: Any) -> list[int]:
        self.calls.append(list(jobs))
        if len(jobs) > self.room:
            raise NoMemoryError("no room")
        if self.spoilt in jobs:
            raise ValueError(f"job {self.spoilt} is spoilt")
        return [10 * job for job in jobs]

    def recover(self) -> None:
        self.recovered += 1

    def batches(self, size: int) -> Batches:
        return Batches(size, lambda error: "memory" if isinstance(error, NoMemoryError) else "", self.recover)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 20), st.none() | st.integers(0, 19))
def test_every_job_has_its_own_answer_whatever_fits_and_whichever_is_spoilt(
    room: int, size: int, count: int, spoilt: int | None
) -> None:
    memory = Memory(room, spoilt)
    results = memory.batches(size).run("bucket", list(range(count)), memory.work)
    expected = [Failure("ValueError", f"job {job} is spoilt") if job == spoilt else 10 * job for job in range(count)]
    assert results == expected


def test_out_of_memory_halves_the_batch_and_the_bucket_remembers_it() -> None:
    memory = Memory(room=3)
    batches = memory.batches(8)
    assert batches.run("wide", list(range(8)), memory.work) == [10 * job for job in range(8)]
    assert [len(call) for call in memory.calls] == [8, 4, 2, 2, 2, 2]
    assert memory.recovered == 2
    memory.calls.clear()
    batches.run("wide", list(range(4)), memory.work)
    batches.run("tall", list(range(3)), memory.work)
    assert [len(call) for call in memory.calls] == [2, 2, 3]


def test_a_single_job_that_does_not_fit_fails_with_advice() -> None:
    memory = Memory(room=0)
    (failure,) = memory.batches(4).run("b", [1], memory.work)
    assert failure.type == "OutOfMemory"
    assert "max_area" in failure.message


def test_a_lost_device_stops_the_run_instead_of_failing_its_rows() -> None:
    def lost(_jobs: Any) -> list[int]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(StopRun, match="illegal memory access"):
        Batches(4, lambda _: "device", lambda: None).run("b", [1, 2], lost)
