"""generation.edit: rows in, pairs out, encoded as the settings say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError
from ugaf.stages.generation.edit import GenerateEdit

from ugaf import stage
from ugaf.base.errors import ConfigError, StopRun
from ugaf.base.needs import Needs
from ugaf.imaging import images
from ugaf.models.editors.interface import Edit, EditRequest
from ugaf.stage import Failure, Row, engines

BOX = [60, 50, 140, 120]


class Paint:
    """A model's stand-in: paints the boxes in one colour, and keeps what it was asked. "stop" stops the run."""

    version = 3
    built: ClassVar[list[str]] = []

    class Settings(stage.Settings):
        colour: str = "red"

    @classmethod
    def needs(cls, settings: Settings) -> Needs:
        return Needs(own_pool=True, gpus=1.0, batch_rows=16, models=(settings.colour,))

    def __init__(self, settings: Settings) -> None:
        self.name = settings.colour
        self.rgb = {"red": (255, 0, 0), "blue": (0, 0, 255)}[settings.colour]
        self.asked: list[EditRequest] = []
        self.built.append(settings.colour)

    def edit(self, requests: Sequence[EditRequest]) -> list[Edit | Failure]:
        self.asked.extend(requests)
        return [self._one(request) for request in requests]

    def _one(self, request: EditRequest) -> Edit | Failure:
        if request.instruction == "stop":
            raise StopRun("the server is gone")
        if not request.boxes:
            return Failure("NoBox", "nothing to paint")
        edited = request.photo.copy()
        for x1, y1, x2, y2 in request.boxes:
            edited[y1:y2, x1:x2] = self.rgb
        return Edit(None, edited, None, "words")


PAINT = f"{__name__}:Paint"
MIX = {"a": {"engine": PAINT}, "b": {"engine": PAINT, "colour": "blue"}, "exact": {"engine": "templates"}}


@pytest.fixture(autouse=True)
def _nothing_built() -> None:
    Paint.built.clear()


def disc() -> dict[str, Any]:
    y, x = np.mgrid[-1:1:70j, -1:1:80j]
    return {"box": BOX, "label": None, "score": 0.9, "mask": images.encode_mask(x**2 + y**2 <= 1)}


@pytest.fixture(scope="module")
def photo(photos: dict[str, np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(photos["chelsea"][60:220, 60:270])


def rows_of(photo: np.ndarray, edits: list[dict[str, Any]], image: bytes | None = None) -> list[Row]:
    values = {"image": image if image is not None else images.encode(photo), "objects": [disc()]}
    parent = Row("p" * 32, values)
    rows = []
    for number, edit in enumerate(edits):
        own = {"instruction": "", "boxes": [BOX], "donor": None, **edit}
        own["params"] = json.dumps(edit["params"]) if isinstance(edit["params"], dict) else edit["params"]
        rows.append(Row(f"{number:032x}", own, parent))
    return rows


def stage_of(lane: str | None = None, **settings: Any) -> GenerateEdit:
    stage = GenerateEdit("generation.edit", GenerateEdit.Settings(**settings), seed=7)
    stage.lane = lane
    stage.setup()
    return stage


RECOLOR = {"task": "recolor", "params": {"object": 0, "rgb": [20, 60, 200]}}
ADD = {"task": "add", "params": {"object": 0}}
TONE = {"task": "tone", "params": {"tone": "sepia"}, "boxes": []}


def test_columns_say_which_side_the_photograph_is(photo: np.ndarray) -> None:
    rows = rows_of(photo, [RECOLOR, ADD, TONE])
    outcomes = stage_of()(rows)
    for row, outcome in zip(rows, outcomes, strict=True):
        assert isinstance(outcome, dict), outcome
        assert set(outcome) == set(GenerateEdit.schema.names)
        assert outcome["editor"] == "templates/1"
        assert outcome["edit_way"] is None
        row.values.update(outcome)
    recolor, add, tone = rows
    assert recolor["source_image"] is None
    np.testing.assert_array_equal(recolor.source(), photo)
    assert add["edited_image"] is None
    np.testing.assert_array_equal(add.edited(), photo)
    assert tone["edit_mask"] is None
    for row in (recolor, add):
        outside = ~images.decode_mask(row["edit_mask"])
        np.testing.assert_array_equal(row.source()[outside], row.edited()[outside])


def test_one_bad_row_costs_no_other(photo: np.ndarray) -> None:
    bad = [
        {"task": "recolor", "params": "{not json"},
        {"task": "recolor", "params": "[1]"},
        {"task": "remove", "params": {"object": 4}},
        {"task": "replace", "params": {"object": 0, "donor_object": 0}, "donor": "f" * 32},
        {"task": "juggle", "params": {}},
    ]
    outcomes = stage_of()(rows_of(photo, [bad[0], RECOLOR, *bad[1:], ADD]))
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [True, False, True, True, True, True, False]
    assert "not JSON" in str(outcomes[0])
    assert "f" * 32 in str(outcomes[4])


def test_an_undecodable_photograph_fails_its_rows(photo: np.ndarray) -> None:
    outcomes = stage_of()(rows_of(photo, [RECOLOR, TONE], image=images.encode(photo)[:500]))
    assert all(isinstance(outcome, Failure) and outcome.type == "ImageError" for outcome in outcomes)


def test_a_row_depends_on_nothing_but_itself(photo: np.ndarray) -> None:
    edits = [{"task": "tone", "params": {"tone": name}, "boxes": []} for name in ("faded film", "golden hour")]
    edits.append({"task": "material", "params": {"object": 0, "material": "marble"}})
    together = stage_of()(rows_of(photo, edits))
    again = [stage_of()([row])[0] for row in rows_of(photo, edits)]
    assert together == again
    other_seed = GenerateEdit("generation.edit", GenerateEdit.Settings(), seed=8)
    other_seed.setup()
    assert other_seed(rows_of(photo, edits))[2] != together[2]


def test_the_donor_is_another_photograph_of_the_fragment(photo: np.ndarray) -> None:
    edit = {"task": "replace", "params": {"object": 0, "donor_object": 0}, "donor": "d" * 32}
    row = rows_of(photo, [edit])[0]
    row.refs = {"donor": Row("d" * 32, {"image": images.encode(255 - photo), "objects": [disc()]})}
    outcome = stage_of()([row])[0]
    assert isinstance(outcome, dict), outcome
    assert (images.decode(outcome["edited_image"]) != photo).any()


@pytest.mark.parametrize("settings", [{"format": "png"}, {"format": "webp"}])
def test_lossless_encoding_keeps_the_promise_exactly(photo: np.ndarray, settings: dict[str, Any]) -> None:
    rows = rows_of(photo, [RECOLOR], image=images.encode(photo, "jpeg", 90))
    rows[0].values.update(stage_of(**settings)(rows)[0])
    outside = ~images.decode_mask(rows[0]["edit_mask"])
    np.testing.assert_array_equal(rows[0].source()[outside], rows[0].edited()[outside])


@pytest.mark.parametrize(
    ("settings", "least_psnr"),
    [
        ({"format": "jpeg"}, 38.0),
        ({"format": "jpeg", "quality": 75}, 31.0),
        ({"format": "webp", "quality": 90}, 33.0),
    ],
)
def test_lossy_encoding_keeps_it_within_a_tolerance(
    photo: np.ndarray, settings: dict[str, Any], least_psnr: float
) -> None:
    rows = rows_of(photo, [RECOLOR])
    rows[0].values.update(stage_of(**settings)(rows)[0])
    outside = ~images.decode_mask(rows[0]["edit_mask"])
    difference = rows[0].source()[outside].astype(float) - rows[0].edited()[outside]
    assert np.abs(difference).max() > 0  # so the docs may not promise equality
    assert 10 * np.log10(255**2 / np.mean(difference**2)) > least_psnr


def test_settings_are_checked_before_the_run() -> None:
    with pytest.raises(ValidationError, match="lossless"):
        GenerateEdit.Settings(format="png", quality=90)
    with pytest.raises(Exception, match="templates"):
        GenerateEdit.Settings(editor={"engine": "template"})
    with pytest.raises(Exception, match="largest_fill"):
        GenerateEdit.Settings(editor={"engine": "templates", "largest_fill": 3})


# --- several editors ---


def asked(engine: str | None, instruction: str = "Make it red", **more: Any) -> dict[str, Any]:
    """A row as a VLM writes it: words, and no parameters."""
    return {"task": "recolor", "instruction": instruction, "params": None, "engine": engine, **more}


def test_each_row_goes_to_the_editor_that_its_engine_names(photo: np.ndarray) -> None:
    rows = rows_of(photo, [asked("a"), asked("b"), RECOLOR | {"engine": "exact"}, asked("a")])
    outcomes = stage_of(editors=MIX)(rows)
    assert [outcome["editor"] for outcome in outcomes] == ["red/3", "blue/3", "templates/1", "red/3"]
    assert [outcome["edit_way"] for outcome in outcomes] == ["words", "words", None, "words"]
    middles = [images.decode(outcome["edited_image"])[85, 100].tolist() for outcome in outcomes]
    assert middles[:2] == [[255, 0, 0], [0, 0, 255]]
    assert middles[3] == [255, 0, 0]


def test_a_lane_builds_its_own_editor_at_once_and_no_other(photo: np.ndarray) -> None:
    assert GenerateEdit.lanes(GenerateEdit.Settings(editors=MIX)) == ("a", "b", "exact")
    lane = stage_of("b", editors=MIX)
    assert Paint.built == ["blue"]
    assert lane(rows_of(photo, [asked("b")]))[0]["editor"] == "blue/3"
    assert Paint.built == ["blue"]


def test_without_lanes_an_editor_is_built_when_a_row_asks_for_it(photo: np.ndarray) -> None:
    whole = stage_of(editors=MIX)
    assert Paint.built == []
    whole(rows_of(photo, [asked("b"), asked("b")]))
    whole(rows_of(photo, [asked("b")]))
    assert Paint.built == ["blue"]


@pytest.mark.parametrize("lane", [None, "a"])
@pytest.mark.parametrize("engine", ["c", None])
def test_a_row_of_an_unknown_engine_fails_and_says_which_there_are(
    photo: np.ndarray, engine: str | None, lane: str | None
) -> None:
    good, bad = stage_of(lane, editors={"a": {"engine": PAINT}, "xy": {"engine": PAINT}})(
        rows_of(photo, [asked("a"), asked(engine)])
    )
    assert isinstance(good, dict)
    assert isinstance(bad, Failure)
    assert repr(engine) in str(bad)
    assert "known: a, xy" in str(bad)


def test_one_editor_does_every_row_whatever_engine_was_drawn(photo: np.ndarray) -> None:
    outcomes = stage_of(editor={"engine": PAINT})(rows_of(photo, [asked("a"), asked(None), asked("zzz")]))
    assert {outcome["editor"] for outcome in outcomes} == {"red/3"}


def test_an_editor_is_given_the_words_the_boxes_and_the_rows_own_seed(photo: np.ndarray) -> None:
    edits = [asked("a", f"Do {number}") for number in range(4)]
    together, alone = stage_of(editors=MIX), stage_of("a", editors=MIX)
    together(rows_of(photo, edits))
    for row in reversed(rows_of(photo, edits)):
        alone([row])
    first, second = together._editor("a").asked, alone._editor("a").asked[::-1]
    assert [(r.instruction, r.boxes, r.seed, r.params) for r in first] == [
        (r.instruction, r.boxes, r.seed, r.params) for r in second
    ]
    assert len({request.seed for request in first}) == 4
    assert first[2].instruction == "Do 2"
    assert [list(box) for box in first[2].boxes] == [BOX]


def test_a_failed_row_of_a_mix_costs_no_other(photo: np.ndarray) -> None:
    bad = [asked("a", boxes=[]), RECOLOR | {"engine": "exact", "params": "{"}, asked("b", boxes=[])]
    outcomes = stage_of(editors=MIX)(rows_of(photo, [bad[0], asked("b"), bad[1], asked("a"), bad[2]]))
    assert [isinstance(outcome, Failure) for outcome in outcomes] == [True, False, True, False, True]
    assert str(outcomes[0]) == "NoBox: nothing to paint"


def test_what_is_no_rows_fault_stops_the_run(photo: np.ndarray) -> None:
    with pytest.raises(StopRun, match="gone"):
        stage_of(editors=MIX)(rows_of(photo, [asked("a", "stop")]))


def test_needs_and_fingerprint_are_those_of_the_editors_named() -> None:
    mix, one = GenerateEdit.Settings(editors=MIX), GenerateEdit.Settings(editor={"engine": PAINT})
    assert "engine" in GenerateEdit.needs(mix, "a").reads
    assert "engine" not in GenerateEdit.needs(one).reads
    assert (GenerateEdit.needs(mix, "a").gpus, GenerateEdit.needs(mix, "a").models) == (1, ("red",))
    assert (GenerateEdit.needs(mix, "exact").gpus, GenerateEdit.needs(mix, "exact").own_pool) == (0, False)
    assert GenerateEdit.needs(mix).models == ("red", "blue")
    assert GenerateEdit.needs(GenerateEdit.Settings()) == Needs(batch_rows=8)
    assert engines.identity(mix)["editors"]["b"] == {"engine": PAINT, "colour": "blue", "version": 3}
    assert engines.identity(mix)["editor"] is None
    assert engines.identity(one)["editor"] == {"engine": PAINT, "colour": "red", "version": 3}


def test_either_one_editor_or_several() -> None:
    settings = GenerateEdit.Settings(editors=MIX)
    assert settings.editor is None
    assert GenerateEdit.Settings(**settings.model_dump()) == settings
    assert GenerateEdit.Settings(**GenerateEdit.Settings().model_dump()) == GenerateEdit.Settings()
    for given, message in [
        ({"editor": {"engine": "templates"}, "editors": MIX}, "not both"),
        ({"editors": {}}, "name an editor"),
        ({"editor": None}, "name an editor"),
    ]:
        with pytest.raises(ValidationError, match=message):
            GenerateEdit.Settings(**given)
    with pytest.raises(ConfigError, match="templates"):
        GenerateEdit.Settings(editors={"a": {"engine": "template"}})
