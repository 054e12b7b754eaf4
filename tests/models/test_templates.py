"""The templates editor: what each task promises, on real photographs and on made ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ugaf.base import tasks
from ugaf.imaging import blending, boxes, images, inpaint
from ugaf.models.editors.interface import Edit, EditObject, EditRequest
from ugaf.models.editors.templates import OPERATIONS, UNBOUNDED, TemplateEditor, oklab
from ugaf.models.editors.templates.background import BACKGROUNDS
from ugaf.models.editors.templates.material import MATERIALS
from ugaf.models.editors.templates.recolor import main_colour
from ugaf.models.editors.templates.restore import DEGRADATIONS
from ugaf.models.editors.templates.style import STYLES
from ugaf.models.editors.templates.tone import TONES
from ugaf.stage import Failure, engines

EDITOR = TemplateEditor()
BOX = (60, 50, 140, 120)


def ellipse(box: boxes.Box = BOX) -> EditObject:
    y, x = np.mgrid[0 : box[3] - box[1], 0 : box[2] - box[0]]
    height, width = y.shape
    inside = ((x + 0.5) / width * 2 - 1) ** 2 + ((y + 0.5) / height * 2 - 1) ** 2 <= 1
    return EditObject(box, inside, "disc")


@pytest.fixture(scope="module")
def cat(photos: dict[str, np.ndarray]) -> np.ndarray:
    """A part of a real photograph, read-only as a row gives it."""
    pixels = np.ascontiguousarray(photos["chelsea"][60:220, 60:270])
    pixels.flags.writeable = False
    return pixels


@pytest.fixture(scope="module")
def ball() -> np.ndarray:
    """A shaded, textured red ball with a black stripe on a green ground, in the ellipse's place."""
    rng = np.random.default_rng(0)
    y = np.mgrid[0:160, 0:210][0]
    ground = np.array([70, 120, 60]) + rng.normal(0, 8, (160, 210, 1)) * np.array([1, 1, 0.8])
    shade = 0.6 + 0.4 * (120 - y) / 70 + rng.normal(0, 0.02, y.shape)
    red = np.array([200, 40, 35]) * shade[..., None]
    red[85:92] = 12
    inside = blending.place(ellipse().mask, BOX, (0, 0, 210, 160))
    return np.clip(np.where(inside[..., None], red, ground), 0, 255).astype(np.uint8)


def request(photo: np.ndarray, task: str, seed: int = 3, **params: Any) -> EditRequest:
    objects = [ellipse(), ellipse((5, 5, 45, 45))]
    return EditRequest(photo, task, "", [BOX], params, objects, photo[:, ::-1].copy(), objects, seed)


def made(photo: np.ndarray, task: str, seed: int = 3, **params: Any) -> Edit:
    answer = EDITOR.edit([request(photo, task, seed, **params)])[0]
    assert isinstance(answer, Edit), answer
    return answer


def pair(photo: np.ndarray, edit: Edit) -> tuple[np.ndarray, np.ndarray]:
    return (photo if edit.source is None else edit.source), (photo if edit.edited is None else edit.edited)


LOCAL: list[tuple[str, dict[str, Any]]] = [
    ("recolor", {"object": 0, "rgb": [20, 60, 200]}),
    ("remove", {"object": 0}),
    ("add", {"object": 0}),
    ("replace", {"object": 0, "donor_object": 1}),
    *[("style", {"object": 0, "style": name}) for name in (*STYLES, "pixel art")],
    *[("material", {"object": 0, "material": name}) for name in MATERIALS],
    *[("background", {"object": 0, "background": name}) for name in BACKGROUNDS],
    ("text", {"operation": "add", "text": "OPEN", "box": [20, 20, 160, 60], "ink": "gold", "font": "duplex"}),
    ("text", {"operation": "replace", "old": "OPEN", "text": "CLOSED", "box": [20, 20, 160, 60], "ink": "navy"}),
    (
        "hybrid",
        {"operations": [{"task": "recolor", "object": 0, "rgb": [20, 60, 200]}, {"task": "remove", "object": 1}]},
    ),
]
GLOBAL: list[tuple[str, dict[str, Any]]] = [
    *[("tone", {"tone": name}) for name in TONES],
    *[("restore", {"degradation": name, "strength": 0.6}) for name in DEGRADATIONS],
]


def names(cases: list[tuple[str, dict[str, Any]]]) -> list[str]:
    keys = ("style", "material", "background", "operation", "tone", "degradation")
    return ["-".join([task, *(str(params[key]) for key in keys if key in params)]) for task, params in cases]


@pytest.mark.parametrize(("task", "params"), LOCAL, ids=names(LOCAL))
def test_local_edit_changes_nothing_outside_its_mask(cat: np.ndarray, task: str, params: dict[str, Any]) -> None:
    edit = made(cat, task, **params)
    source, edited = pair(cat, edit)
    assert source.shape == edited.shape == cat.shape
    assert source.dtype == edited.dtype == np.uint8
    assert edit.mask is not None
    assert edit.mask.dtype == bool
    np.testing.assert_array_equal(source[~edit.mask], edited[~edit.mask])
    assert np.abs(source[edit.mask].astype(int) - edited[edit.mask]).mean() > 3
    assert not edit.mask.all()
    assert (edit.source is None) == (not tasks.of(task).inverted and params.get("operation") != "replace")
    assert (edit.edited is None) == tasks.of(task).inverted


@pytest.mark.parametrize(("task", "params"), GLOBAL, ids=names(GLOBAL))
def test_global_edit_has_no_mask_and_is_visible(cat: np.ndarray, task: str, params: dict[str, Any]) -> None:
    edit = made(cat, task, **params)
    source, edited = pair(cat, edit)
    assert edit.mask is None
    assert np.abs(source.astype(int) - edited).mean() > 2


@pytest.mark.parametrize(("task", "params"), LOCAL + GLOBAL, ids=names(LOCAL + GLOBAL))
def test_same_request_gives_same_bytes_in_any_batch(cat: np.ndarray, task: str, params: dict[str, Any]) -> None:
    alone = made(cat, task, **params)
    others = [request(cat, "material", 9, object=1, material="wood"), request(cat, "remove", 1, object=7)]
    answer = EDITOR.edit([others[0], request(cat, task, **params), others[1]])[1]
    assert isinstance(answer, Edit)
    for first, second in zip(pair(cat, alone), pair(cat, answer), strict=True):
        np.testing.assert_array_equal(first, second)


def test_every_task_of_the_contract_is_covered() -> None:
    assert {task for task, _ in LOCAL + GLOBAL} == {*OPERATIONS, "hybrid"}
    assert {task for task, _ in GLOBAL} == UNBOUNDED


# Recolour


@pytest.mark.parametrize("rgb", [[0, 128, 128], [245, 205, 40], [25, 35, 100], [125, 50, 150], [40, 140, 60]])
def test_recolor_lands_on_the_hue_and_keeps_the_shading(ball: np.ndarray, rgb: list[int]) -> None:
    edited = made(ball, "recolor", object=0, rgb=rgb).edited
    assert edited is not None
    inside = blending.erode(blending.place(ellipse().mask, BOX, (0, 0, 210, 160)), 6)
    stripe = np.zeros_like(inside)
    stripe[86:91] = True
    body = inside & ~blending.dilate(stripe, 4)
    got, want = main_colour(oklab.from_rgb(edited)[body]), oklab.from_rgb(np.array([rgb], np.uint8))[0]
    turn = np.degrees(np.arctan2(got[2], got[1]) - np.arctan2(want[2], want[1]))
    assert abs((turn + 180) % 360 - 180) < 12
    assert abs(got[0] - want[0]) < 0.12
    before, after = ball[body].astype(float).mean(axis=1), edited[body].astype(float).mean(axis=1)
    assert np.corrcoef(before, after)[0, 1] > 0.9
    assert np.abs(edited[inside & stripe].astype(int) - ball[inside & stripe]).max() < 25  # the stripe stays black


@pytest.mark.parametrize("grey", [20, 90, 160, 235])
def test_recolor_gives_a_grey_object_the_named_colour(grey: int) -> None:
    rng = np.random.default_rng(1)
    photo = np.full((160, 210, 3), 128, np.uint8)
    shaded = np.clip(grey + rng.normal(0, 4, (160, 210, 1)), 0, 255)
    inside = blending.place(ellipse().mask, BOX, (0, 0, 210, 160))
    photo[inside] = np.broadcast_to(shaded, photo.shape)[inside]
    edited = made(photo, "recolor", object=0, rgb=[200, 30, 30]).edited
    assert edited is not None
    mean = edited[blending.erode(inside, 6)].mean(axis=0)
    assert mean[0] > 1.8 * mean[1]
    assert mean[0] > 1.8 * mean[2]
    assert mean[0] > 90


SAID = ("NoVisibleChange", "NoMask", "HoleTooLarge")
"""Kinds of failure that say why an edit cannot be made, rather than that it broke."""
CORNER = st.sampled_from([0, 1, 127, 254, 255]) | st.integers(0, 255)
COLOUR = st.tuples(CORNER, CORNER, CORNER)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(COLOUR, COLOUR, COLOUR, st.integers(0, 3))
def test_recolor_of_any_colour_to_any_other_is_an_edit_or_says_why_not(
    thing: tuple[int, int, int], ground: tuple[int, int, int], wanted: tuple[int, int, int], noise: int
) -> None:
    inside = blending.place(ellipse().mask, BOX, (0, 0, 210, 160))[..., None]
    pixels = np.where(inside, np.array(thing), np.array(ground)) + np.random.default_rng(0).integers(
        -noise, noise + 1, (160, 210, 3)
    )
    photo = np.clip(pixels, 0, 255).astype(np.uint8)
    with np.errstate(all="raise", under="ignore"):
        (answer,) = EDITOR.edit([request(photo, "recolor", object=0, rgb=list(wanted))])
    if isinstance(answer, Failure):
        assert answer.type in SAID, answer
    else:
        assert isinstance(answer.edited, np.ndarray)
        assert answer.edited.dtype == np.uint8
        assert not np.array_equal(answer.edited, photo)


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize(("task", "params"), LOCAL + GLOBAL, ids=names(LOCAL + GLOBAL))
def test_no_task_breaks_on_a_photograph_without_any_detail(task: str, params: dict[str, Any], value: int) -> None:
    with np.errstate(all="raise", under="ignore"):
        (answer,) = EDITOR.edit([request(np.full((160, 210, 3), value, np.uint8), task, **params)])
    if isinstance(answer, Failure):
        assert answer.type in SAID, answer


def test_recolor_to_its_own_colour_is_a_failure(ball: np.ndarray) -> None:
    inside = blending.place(ellipse().mask, BOX, (0, 0, 210, 160))
    own = oklab.to_rgb(main_colour(oklab.from_rgb(ball)[inside])[None])[0]
    answer = EDITOR.edit([request(ball, "recolor", object=0, rgb=np.rint(own).astype(int).tolist())])[0]
    assert isinstance(answer, Failure)
    assert answer.type == "NoVisibleChange"


# Remove, add, replace


def test_remove_takes_all_of_the_object(ball: np.ndarray) -> None:
    edit = made(ball, "remove", object=0)
    inside = blending.place(ellipse().mask, BOX, (0, 0, 210, 160))
    assert edit.mask is not None
    assert edit.edited is not None
    assert edit.mask[inside].all()
    red = edit.edited[..., 0].astype(int) - edit.edited[..., 1]
    assert (red[inside] > 20).mean() < 0.002
    around = ball[~blending.dilate(inside, 8)].astype(float)
    np.testing.assert_allclose(edit.edited[inside].mean(axis=0), around.mean(axis=0), atol=4)
    assert edit.edited[inside].std(axis=0).min() > 0.5 * around.std(axis=0).min()  # texture, not a smear


def test_remove_continues_a_pattern() -> None:
    """Stripes behind the object are restored where they were, by an independent formula."""
    x = np.arange(210)
    truth = np.broadcast_to(np.where(x // 10 % 2, 200, 60)[None, :, None], (160, 210, 3)).astype(np.uint8)
    hole = blending.place(ellipse((80, 50, 130, 110)).mask, (80, 50, 130, 110), (0, 0, 210, 160))
    photo = truth.copy()
    photo[hole] = (255, 0, 0)
    filled = inpaint.fill(photo, hole)
    assert np.abs(filled[hole].astype(int) - truth[hole]).mean() < 12


def test_add_is_the_exact_inverse_of_remove(cat: np.ndarray) -> None:
    removed, added = made(cat, "remove", object=0), made(cat, "add", object=0)
    assert added.edited is None
    np.testing.assert_array_equal(added.source, removed.edited)
    np.testing.assert_array_equal(added.mask, removed.mask)


def test_remove_does_not_copy_the_other_object(ball: np.ndarray) -> None:
    photo = ball.copy()
    twin = (150, 60, 200, 110)
    photo[blending.place(ellipse(twin).mask, twin, (0, 0, 210, 160))] = (250, 220, 20)
    asked = EditRequest(photo, "remove", params={"object": 0}, objects=[ellipse(), ellipse(twin)])
    edit = EDITOR.edit([asked])[0]
    assert isinstance(edit, Edit)
    assert edit.edited is not None
    inside = blending.place(ellipse().mask, BOX, (0, 0, 210, 160))
    assert (edit.edited[inside][:, 0] > 180).mean() < 0.01


def test_replace_shows_the_donor_and_not_the_target(ball: np.ndarray) -> None:
    donor = np.full((100, 100, 3), 90, np.uint8)
    disc = ellipse((20, 20, 80, 80))
    donor[blending.place(disc.mask, disc.box, (0, 0, 100, 100))] = (30, 60, 220)
    asked = EditRequest(
        ball, "replace", params={"object": 0, "donor_object": 0}, objects=[ellipse()], donor=donor, donor_objects=[disc]
    )
    edit = EDITOR.edit([asked])[0]
    assert isinstance(edit, Edit)
    assert edit.edited is not None
    centre = edit.edited[75:95, 90:110].reshape(-1, 3).mean(axis=0)
    assert centre[2] > centre[0] + 60
    assert (edit.edited[..., 0].astype(int) - edit.edited[..., 1] > 60).mean() < 0.005  # no red ball is left
    shown = edit.edited[..., 2].astype(int) - edit.edited[..., 1] > 60
    assert boxes.iou(boxes.of_mask(shown) or (0, 0, 0, 0), BOX) > 0.6


# Background, tone, style, text, restore


@pytest.mark.parametrize("name", sorted(BACKGROUNDS))
def test_background_leaves_the_object(ball: np.ndarray, name: str) -> None:
    edited = made(ball, "background", object=0, background=name).edited
    assert edited is not None
    inside = blending.erode(blending.place(ellipse().mask, BOX, (0, 0, 210, 160)), 5)
    np.testing.assert_array_equal(edited[inside], ball[inside])


def test_studio_white_has_no_rim_of_the_old_background(ball: np.ndarray) -> None:
    edited = made(ball, "background", object=0, background="studio white").edited
    assert edited is not None
    green = edited[..., 1].astype(int) - np.maximum(edited[..., 0], edited[..., 2])
    assert green.max() < 12


def test_tones_move_the_light_as_named(cat: np.ndarray) -> None:
    def mean(name: str) -> np.ndarray:
        edited = made(cat, "tone", tone=name).edited
        assert edited is not None
        return edited.reshape(-1, 3).mean(axis=0)

    original = cat.reshape(-1, 3).mean(axis=0)
    assert mean("brighter").mean() > original.mean() + 15
    assert mean("darker").mean() < original.mean() - 15
    assert mean("night").mean() < 0.6 * original.mean()
    assert mean("warmer")[0] - mean("warmer")[2] > original[0] - original[2] + 15
    assert mean("cooler")[2] - mean("cooler")[0] > original[2] - original[0] + 15
    grey = made(cat, "tone", tone="black and white").edited
    assert grey is not None
    assert (grey.max(axis=-1) == grey.min(axis=-1)).all()


def test_pixel_art_is_made_of_blocks(cat: np.ndarray) -> None:
    edit = made(cat, "style", object=0, style="pixel art")
    assert edit.mask is not None
    assert edit.edited is not None
    assert len(np.unique(edit.edited[edit.mask], axis=0)) <= 32  # 16 colours, each also as the darker rim


def test_text_replace_differs_only_where_words_are(cat: np.ndarray) -> None:
    box = (20, 20, 160, 60)
    edit = made(cat, "text", operation="replace", old="OPEN", text="CLOSED", box=list(box), ink="white")
    assert edit.source is not None
    assert edit.edited is not None
    assert edit.mask is not None
    found = boxes.of_mask((edit.source != edit.edited).any(axis=-1))
    assert found is not None
    assert boxes.intersection(found, box) == boxes.area(found)
    np.testing.assert_array_equal(edit.source[~edit.mask], cat[~edit.mask])


@pytest.mark.parametrize("font", ["simplex", "duplex", "triplex", "complex", "script"])
@pytest.mark.parametrize("text", ["OPEN", "Café 24"])
def test_text_is_readable_in_every_font(cat: np.ndarray, font: str, text: str) -> None:
    edit = made(cat, "text", operation="add", text=text, box=[20, 20, 160, 60], ink="white", font=font)
    assert edit.edited is not None
    part = boxes.crop(edit.edited, (20, 20, 160, 60))
    white = (part.min(axis=-1) > 225).mean()
    assert 0.02 < white < 0.6


def test_restore_by_jpeg_is_a_jpeg_of_low_quality(cat: np.ndarray) -> None:
    edit = made(cat, "restore", degradation="jpeg", strength=1.0)
    np.testing.assert_array_equal(edit.source, images.decode(images.encode(cat, "jpeg", quality=5)))
    assert edit.edited is None


@pytest.mark.parametrize("name", sorted(DEGRADATIONS))
def test_restore_strength_grows(cat: np.ndarray, name: str) -> None:
    def error(strength: float) -> float:
        source = made(cat, "restore", degradation=name, strength=strength).source
        assert source is not None
        return float(np.abs(source.astype(float) - cat).mean())

    assert error(0.2) < error(1.0)


# What cannot be done


@pytest.mark.parametrize(
    ("task", "params", "kind"),
    [
        ("recolor", {"object": 9, "rgb": [1, 2, 3]}, "NoObject"),
        ("recolor", {"object": 0, "rgb": "teal"}, "BadParams"),
        ("style", {"object": 0, "style": "oil"}, "BadParams"),
        ("material", {"object": 0, "material": "gol"}, "BadParams"),
        ("background", {"object": 0, "background": "beach"}, "BadParams"),
        ("tone", {"tone": "warm"}, "BadParams"),
        ("restore", {"degradation": "blur", "strength": 2}, "BadParams"),
        ("text", {"operation": "add", "text": " ", "box": [0, 0, 90, 30]}, "BadParams"),
        ("text", {"operation": "add", "text": "OPEN", "box": [0, 0, 9, 3]}, "BadParams"),
        ("text", {"operation": "replace", "old": "A", "text": "A", "box": [0, 0, 90, 30]}, "BadParams"),
        ("hybrid", {"operations": [{"task": "add", "object": 0}, {"task": "tone", "tone": "sepia"}]}, "BadParams"),
        ("rotate", {}, "BadParams"),
    ],
)
def test_what_cannot_be_done_is_a_failure_with_its_reason(
    cat: np.ndarray, task: str, params: dict[str, Any], kind: str
) -> None:
    answer = EDITOR.edit([request(cat, task, **params)])[0]
    assert isinstance(answer, Failure)
    assert answer.type == kind
    assert answer.message


def test_object_too_large_to_remove(cat: np.ndarray) -> None:
    large = EditObject((0, 0, 200, 150), np.ones((150, 200), bool))
    answer = EDITOR.edit([EditRequest(cat, "remove", params={"object": 0}, objects=[large])])[0]
    assert isinstance(answer, Failure)
    assert answer.type == "HoleTooLarge"
    assert "35%" in answer.message


def test_donor_cut_off_by_its_photograph_is_refused(cat: np.ndarray) -> None:
    half = EditObject((150, 0, 210, 80), np.ones((80, 60), bool))
    asked = EditRequest(
        cat, "replace", params={"object": 0, "donor_object": 0}, objects=[ellipse()], donor=cat, donor_objects=[half]
    )
    answer = EDITOR.edit([asked])[0]
    assert isinstance(answer, Failure)
    assert answer.message == "the donor's object is cut off by the top and right of its photograph"


def test_missing_donor_and_empty_mask(cat: np.ndarray) -> None:
    params = {"object": 0, "donor_object": 0}
    empty = EditObject(BOX, np.zeros((BOX[3] - BOX[1], BOX[2] - BOX[0]), bool))
    answers = EDITOR.edit(
        [
            EditRequest(cat, "replace", params=params, objects=[ellipse()]),
            EditRequest(cat, "remove", params={"object": 0}, objects=[empty]),
            EditRequest(cat, "remove", params={"object": 0}, objects=[EditObject(BOX, np.ones((3, 3), bool))]),
        ]
    )
    assert [answer.type for answer in answers if isinstance(answer, Failure)] == ["NoDonor", "NoMask", "NoMask"]


def test_object_without_a_mask_is_cut_by_grabcut(ball: np.ndarray) -> None:
    loose = boxes.grow(BOX, 0.06, 210, 160)
    edit = EDITOR.edit(
        [EditRequest(ball, "style", params={"object": 0, "style": "cartoon"}, objects=[EditObject(loose)])]
    )
    assert isinstance(edit[0], Edit)
    inside = blending.place(ellipse().mask, BOX, (0, 0, 210, 160))
    assert (edit[0].mask & inside).sum() / (edit[0].mask | inside).sum() > 0.85


def test_options_are_checked() -> None:
    assert engines.check("editor", {"engine": "templates"})["version"] == TemplateEditor.version
    with pytest.raises(Exception, match="largest_fil"):
        engines.check("editor", {"engine": "templates", "largest_fil": 0.2})


# The parts


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1))
def test_overlay_is_exact_where_the_matte_is_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    matte = np.clip(rng.normal(0.3, 0.6, (8, 11)), 0, 1).astype(np.float32)
    layer = blending.Layer((5, 4, 16, 12), rng.integers(0, 256, (8, 11, 3), dtype=np.uint8), matte)
    result, mask = blending.overlay(picture, layer)
    np.testing.assert_array_equal(result[~mask], picture[~mask])
    full = np.zeros((20, 30), bool)
    full[4:12, 5:16] = matte == 1
    np.testing.assert_array_equal(result[full], blending.place(layer.pixels, layer.box, (0, 0, 30, 20))[full])
    expected = picture[4:12, 5:16] * (1.0 - matte[..., None]) + layer.pixels * matte[..., None]
    assert np.abs(result[4:12, 5:16] - expected).max() <= 2.6


def test_oklab_goes_there_and_back_and_matches_a_published_value() -> None:
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), axis=-1).reshape(-1, 3).astype(np.uint8)
    back = np.rint(oklab.to_rgb(oklab.from_rgb(every))).astype(int)
    assert np.abs(back - every).max() <= 1
    red = oklab.from_rgb(np.array([[255, 0, 0]], np.uint8))[0]
    np.testing.assert_allclose(red, [0.6280, 0.2249, 0.1258], atol=1e-3)


def test_matte_is_sure_away_from_the_outline(cat: np.ndarray) -> None:
    mask = blending.place(ellipse().mask, BOX, (0, 0, 210, 160))
    matte = blending.matte_of(cat, mask, band=4)
    assert (matte[blending.erode(mask, 5)] == 1).all()
    assert (matte[~blending.dilate(mask, 5)] == 0).all()
    assert 0 <= matte.min() <= matte.max() <= 1


@pytest.mark.parametrize("size", [(12, 9), (40, 300), (33, 31)])
def test_small_and_narrow_photographs_end_in_an_edit_or_a_reason(size: tuple[int, int]) -> None:
    photo = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    height, width = size
    box = (width // 4, height // 4, width - width // 4, height - height // 4)
    for task, params in LOCAL + GLOBAL:
        asked = EditRequest(
            photo, task, params=params, objects=[ellipse(box)] * 2, donor=photo, donor_objects=[ellipse(box)] * 2
        )
        answer = EDITOR.edit([asked])[0]
        assert isinstance(answer, Edit) or answer.type in {
            "BadParams", "NoMask", "NoObject", "HoleTooLarge", "NoVisibleChange", "NoDonor"
        }, answer  # fmt: skip
