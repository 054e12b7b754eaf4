"""annotation.instruct: shares, determinism, contracts of params, donors, and what is said."""

from __future__ import annotations

import collections
import copy
import json
import re
import threading
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from ugaf.stages.annotation.instruct import Instruct

from ugaf.base.errors import ConfigError
from ugaf.imaging import boxes, images
from ugaf.stage import Row, RowError
from ugaf.wording import asks, colours, params

COLOURS = [(200, 30, 38), (35, 90, 200), (40, 145, 60), (125, 50, 165), (240, 125, 20)]
SPOTS = [(8, 8), (108, 14), (14, 70), (100, 68)]
WIDTH, HEIGHT = 160, 120


def synthetic(index: int) -> Row:
    """A small photograph with four ellipses of different colours on a light, slightly textured ground."""
    rng = np.random.default_rng(index)
    photo = np.clip(rng.normal(205, 6, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    objects = []
    for (x, y), colour in zip(SPOTS, rng.permutation(len(COLOURS)), strict=False):
        h = w = int(rng.integers(34, 46))
        if len(objects) == 3:
            w = h = 50
        rows, columns = np.mgrid[0:h, 0:w]
        mask = ((rows - h / 2 + 0.5) / (h / 2)) ** 2 + ((columns - w / 2 + 0.5) / (w / 2)) ** 2 <= 1
        photo[y : y + h, x : x + w][mask] = COLOURS[colour]
        objects.append(thing((x, y, x + w, y + h), mask, score=float(rng.uniform(0.45, 0.9))))
    data = images.encode(photo)
    return Row(f"{index:032x}", {"image": data, "width": WIDTH, "height": HEIGHT, "objects": objects})


def thing(box: tuple, mask: np.ndarray | None, score: float = 0.8, label: str | None = None) -> dict[str, Any]:
    return {
        "box": list(box),
        "label": label,
        "score": score,
        "mask": None if mask is None else images.encode_mask(mask),
    }


def stage_of(seed: int = 0, **settings: Any) -> Instruct:
    stage = Instruct("annotation.instruct", Instruct.Settings(**settings), seed)
    stage.setup()
    return stage


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """2,000 rows over 40 photographs, in fragments of 40."""
    photos = [synthetic(i) for i in range(40)]
    found = []
    for fragment in range(50):
        peers = [Row(f"{fragment * 40 + i:032x}", photo.values) for i, photo in enumerate(photos)]
        for i, row in enumerate(peers):
            row.peers = peers
            row._memo = photos[i]._memo
        found += peers
    return found


class Shared(Instruct):
    """Measures each of the 40 photographs once, though 50 rows have it; chance hangs on the id alone."""

    scenes: ClassVar[dict[int, Any]] = {}

    def scene(self, row: Row) -> Any:
        known = self.scenes.setdefault(int(row.id, 16) % 40, super().scene(row))
        known.things, known.calm_boxes, known.tones_there, known.unrestorable  # noqa: B018
        shared = copy.copy(known)
        shared.id = row.id
        return shared


@pytest.fixture(scope="module")
def edits(rows: list[Row]) -> list[tuple[Row, dict[str, Any]]]:
    stage = Shared("annotation.instruct", Instruct.Settings(), 0)
    stage.setup()
    return [(row, child) for row in rows for child in stage.process(row)]


def test_shares_of_tasks_match_the_weights(edits: list) -> None:
    counts = collections.Counter(child["task"] for _, child in edits)
    total = sum(asks.WEIGHTS.values())
    assert len(edits) == pytest.approx(4 * 2000, rel=0.01)
    for task, weight in asks.WEIGHTS.items():
        assert counts[task] / len(edits) == pytest.approx(weight / total, abs=0.012), task


def test_one_image_gets_different_tasks(edits: list) -> None:
    by_image = collections.defaultdict(list)
    for row, child in edits:
        by_image[row.id].append(child["task"])
    assert all(len(set(tasks)) == len(tasks) for tasks in by_image.values())


def test_registers_match_their_weights(edits: list) -> None:
    counts = collections.Counter(child["register"] for _, child in edits)
    assert {name: n / len(edits) for name, n in counts.items()} == pytest.approx(
        {"detailed": 0.4, "concise": 0.4, "user": 0.2}, abs=0.03
    )


def test_rows_have_the_columns_that_are_promised(edits: list) -> None:
    table = pa.Table.from_pylist([child for _, child in edits], schema=Instruct.schema)
    assert set(edits[0][1]) == set(Instruct.schema.names)
    assert table.num_rows == len(edits)
    assert set(Instruct.identity) <= set(table.column_names)


def test_templates_fill_no_column_of_a_model(edits: list) -> None:
    of_models = {name for name in Instruct.schema.names if name.startswith("writer_")} | {"instruction_cn"}
    assert len(of_models) == 7
    for _, child in edits[:200]:
        assert {name for name, value in child.items() if value is None} - {"donor"} == of_models


def test_params_and_boxes_keep_the_contract(edits: list) -> None:
    for row, child in edits:
        values = json.loads(child["params"])
        params.validate(child["task"], values)
        objects = row["objects"]
        positions = params.objects_of(child["task"], values)
        if child["task"] in params.LOCAL | {"hybrid"}:
            assert child["boxes"] == [objects[position]["box"] for position in positions]
        elif child["task"] == "text":
            assert child["boxes"] == [values["box"]]
            assert all(boxes.intersection(values["box"], found["box"]) == 0 for found in objects)
            assert boxes.clip(values["box"], WIDTH, HEIGHT) == tuple(values["box"])
            assert values["text"] in child["instruction"]
            assert values.get("old") != values["text"]
            assert values.get("old", "") in child["instruction"]
        else:
            assert child["boxes"] == []
        assert (child["donor"] is not None) == (child["task"] == "replace")


def test_a_new_colour_is_clearly_another(edits: list) -> None:
    checked = 0
    for _, child in edits:
        values = json.loads(child["params"])
        for op in values.get("operations", [{"task": child["task"], **values}]):
            if op["task"] == "recolor":
                assert tuple(op["rgb"]) == asks.PALETTE[op["colour"]]
                assert colours.basic_name(tuple(op["rgb"])) == op["colour"]
                assert op["colour"] not in {op["from"]} | colours.NEIGHBOURS[op["from"]]
                assert colours.difference(tuple(op["rgb"]), asks.PALETTE[op["from"]]) > 30
                assert re.search(rf"\b{op['colour']}\b", child["instruction"])
                checked += 1
    assert checked > 500


def test_a_hybrid_has_two_operations_on_two_objects_in_one_sentence(edits: list) -> None:
    found = [child for _, child in edits if child["task"] == "hybrid"]
    assert found
    for child in found:
        first, second = json.loads(child["params"])["operations"]
        assert first["object"] != second["object"]
        assert boxes.intersection(*child["boxes"]) == 0
        assert len(child["target"].split("; ")) == 2
        assert all(part in child["instruction"] for part in child["target"].split("; "))


def test_an_object_is_named_by_its_own_colour(edits: list) -> None:
    own = dict(zip(["red", "blue", "green", "purple", "orange"], COLOURS, strict=True))
    for row, child in edits:
        if child["task"] not in params.LOCAL:
            continue
        said = [word for word in re.findall(r"[a-z]+", child["target"]) if word in own]
        box = row["objects"][json.loads(child["params"])["object"]]["box"]
        photo = row.photo(512)
        centre = photo[(box[1] + box[3]) // 2, (box[0] + box[2]) // 2]
        assert all(np.abs(centre.astype(int) - own[name]).max() == 0 for name in said), (child, centre)


def test_sentences_vary_and_are_whole(edits: list) -> None:
    said = [child["instruction"] for _, child in edits]
    assert len(set(said)) > 0.6 * len(said)
    for _, child in edits:
        text = child["instruction"]
        assert not re.search(r"[{}()|]|  |^ | $| [,.?!]|\.\.", text), text
        bare = re.sub(r"'[^']*[A-Z0-9][^']*'|\"[^\"]*\"", "", text)
        assert not re.search(
            r"\ba (?:orange|oil|object|item|area|empty)\b|\ban (?:[bcdfgjklmnpqrstvwxyz])", bare, re.I
        ), text
        if child["register"] == "user":
            assert not re.search(r"[A-Z]", bare.replace("JPEG", "")), text
        else:
            assert text[0].isupper(), text
        if child["register"] == "detailed":
            assert text.endswith("."), text


def test_targets_are_said(edits: list) -> None:
    for _, child in edits:
        if child["task"] in params.LOCAL:
            assert child["target"].lower() in child["instruction"].lower()


def test_donors_are_suitable_and_of_other_photographs(edits: list) -> None:
    found = 0
    for row, child in edits:
        if child["donor"]:
            peer = next(peer for peer in row.peers if peer.id == child["donor"])
            assert peer is not row
            values = json.loads(child["params"])
            box, other = row["objects"][values["object"]]["box"], peer["objects"][values["donor_object"]]["box"]
            ratio = ((other[2] - other[0]) / (other[3] - other[1])) / ((box[2] - box[0]) / (box[3] - box[1]))
            assert 1 / asks.ASPECT_RANGE <= ratio <= asks.ASPECT_RANGE
            found += 1
    assert found > 300


def test_a_new_peer_moves_few_donors(rows: list[Row]) -> None:
    stage = stage_of(tasks={"replace": 1}, edits_per_image=1)
    peers = rows[:40]

    def donors(given: list[Row]) -> dict[str, Any]:
        found = {}
        for row in given[:20]:
            copy = Row(row.id, row.values)
            copy.peers = given
            found[row.id] = stage.process(copy)[0]["donor"]
        return found

    before, after = donors(peers[:39]), donors(peers)
    assert sum(before[id] != after[id] for id in before) <= 4


def test_the_same_seed_gives_the_same_edits_and_another_gives_others(rows: list[Row]) -> None:
    first, again, other = ([stage_of(seed).process(row) for row in rows[:20]] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_fragments_in_several_threads_do_not_mix(rows: list[Row]) -> None:
    """Each thread has its own fragment, so that no donor comes from another's."""
    settings = {"tasks": {"replace": 1}, "edits_per_image": 2}
    fragments = [rows[0:6], rows[46:52], rows[92:98]]
    given = []
    for fragment in fragments:
        copies = [Row(row.id, row.values) for row in fragment]
        for row in copies:
            row.peers = copies
        given.append(copies)
    alone = [[stage_of(**settings).process(row) for row in copies] for copies in given]
    shared, found = stage_of(**settings), {}
    barrier = threading.Barrier(len(given))

    def work(number: int) -> None:
        barrier.wait()
        found[number] = [shared.process(row) for row in given[number]]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(given))] == alone
    assert any(child["donor"] for outcome in alone[0] for child in outcome)


def test_an_edit_does_not_depend_on_the_rows_before_it(rows: list[Row]) -> None:
    stage = stage_of()
    for row in rows[:5]:
        stage.process(row)
    assert stage.process(rows[7]) == stage_of().process(rows[7])


def test_more_edits_than_tasks_repeat_no_task_on_the_same_object(rows: list[Row]) -> None:
    stage = stage_of(edits_per_image=40)
    for row in rows[:30]:
        seen = [(c["task"], str(c["boxes"]), c["params"]) for c in stage.process(row)]
        local = [(task, box) for task, box, _ in seen if task in params.LOCAL]
        assert len(set(local)) == len(local)
        assert len(set(seen)) == len(seen)


def test_children_have_distinct_identities(rows: list[Row]) -> None:
    stage = stage_of(edits_per_image=40, registers={"concise": 1})
    for row in rows[:30]:
        keys = [tuple(str(child[name]) for name in Instruct.identity) for child in stage.process(row)]
        assert len(set(keys)) == len(keys)


def test_without_objects_only_edits_that_need_none(rows: list[Row]) -> None:
    row = Row("f" * 32, {**rows[0].values, "objects": []})
    row.peers = rows[:40]
    assert {child["task"] for child in stage_of(edits_per_image=11).process(row)} <= {"tone", "text", "restore"}
    assert stage_of(tasks={"recolor": 1, "remove": 1}).process(row) == []


def test_without_a_mask_or_cut_off_an_object_is_neither_removed_nor_added() -> None:
    photo = np.full((200, 300, 3), 225, np.uint8)
    photo[40:100, 40:110] = COLOURS[0]
    photo[100:200, 200:300] = COLOURS[1]
    everywhere = np.ones((200, 300), bool)
    everywhere[::4, ::4] = False
    objects = [thing((40, 40, 110, 100), None), thing((0, 0, 300, 200), everywhere)]
    row = Row("a" * 32, {"image": images.encode(photo), "width": 300, "height": 200, "objects": objects})
    row.peers = [row]
    for task in ("remove", "add", "replace", "background"):
        assert stage_of(tasks={task: 1}).process(row) == []
    (child,) = stage_of(tasks={"recolor": 1}, edits_per_image=1, registers={"detailed": 1}).process(row)
    assert "area" in child["target"]  # without an outline, no claim that it is an object


def test_a_label_is_said_and_a_grey_photograph_is_not_made_grey() -> None:
    photo = np.full((200, 300, 3), 225, np.uint8)
    photo[60:140, 40:140] = 90
    objects = [thing((40, 60, 140, 140), np.ones((80, 100), bool), label="Suitcase")]
    row = Row("b" * 32, {"image": images.encode(photo), "width": 300, "height": 200, "objects": objects})
    row.peers = [row]
    (child,) = stage_of(tasks={"style": 1}, edits_per_image=1).process(row)
    assert "suitcase" in child["target"]
    tones = {json.loads(c["params"])["tone"] for c in stage_of(tasks={"tone": 1}, edits_per_image=10).process(row)}
    assert tones
    assert not tones & {"black and white", "brighter"}


def test_a_box_outside_the_image_is_a_row_error(rows: list[Row]) -> None:
    row = Row("c" * 32, {**rows[0].values, "objects": [thing((100, 100, 500, 110), None)]})
    with pytest.raises(RowError, match=r"objects\[0\].*outside the 160 x 120"):
        stage_of().process(row)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": {"recolour": 1}}, "did you mean 'recolor'"),
        ({"tasks": {"remove": -1}}, ">= 0"),
        ({"tasks": {"remove": 0}}, "above 0"),
        ({"registers": {"formal": 1}}, "unknown name 'formal'"),
        ({"engines": {}}, "above 0"),
        ({"edits_per_image": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_settings_name_the_value(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Instruct.Settings(**settings)


def test_no_tasks_are_the_writer_s_own() -> None:
    assert Instruct.Settings().tasks == Instruct.Settings(tasks={}).tasks == asks.WEIGHTS


def test_the_engines_that_may_be_drawn_are_offered() -> None:
    settings = Instruct.Settings(engines={"qwen": 2, "templates": 0, "kontext": 0.5})
    assert Instruct.offers(settings) == {"engine": ["qwen", "kontext"]}


def test_an_unknown_writer_is_named() -> None:
    with pytest.raises((ConfigError, ValidationError), match="unknown engine 'template'; did you mean 'templates'"):
        Instruct.Settings(writer={"engine": "template"})


def test_british_spelling(rows: list[Row]) -> None:
    settings = {"tasks": {"recolor": 1}, "edits_per_image": 1}
    british = [
        stage_of(**settings, writer={"engine": "templates", "spelling": "british"}).process(r) for r in rows[:40]
    ]
    american = [stage_of(**settings).process(r) for r in rows[:40]]
    text = " ".join(c["instruction"] for found in british for c in found)
    assert "colour" in text
    assert "color " not in text
    assert "colour" not in " ".join(c["instruction"] for found in american for c in found)
