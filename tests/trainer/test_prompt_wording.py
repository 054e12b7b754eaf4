"""What a sample is told: wordings by weight, and references that the words follow."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ugaf.trainer.data import draws
from ugaf.trainer.data.settings import AlignmentSettings, InstructionSettings
from ugaf.trainer.data.wording import choose, kept, named, order, renumber

BOTH = {"instruction": "Paint it.", "instruction_cn": "涂它。"}
COLUMNS = {
    "instruction": {},
    "instruction_cn": {"language": "cn"},
    "long": {"wording": "detailed"},
    "short": {"wording": "concise"},
}


def numbers(count: int, purpose: int = 1, epoch: int = 0) -> np.ndarray:
    return draws.uniform(draws.keys_of(map(str, range(count))), 0, epoch, purpose)


def test_wordings_come_by_their_weights() -> None:
    settings = InstructionSettings(languages={"en": 3, "cn": 1})
    chosen = Counter(choose(BOTH, None, settings, float(u)) for u in numbers(8000))
    assert chosen["instruction"] / 8000 == pytest.approx(0.75, abs=0.02)
    assert set(chosen) == set(BOTH)


def test_weights_count_among_what_a_row_has() -> None:
    settings = InstructionSettings(languages={"en": 1, "cn": 0.001})
    for missing in (None, "", "  "):
        assert choose({**BOTH, "instruction": missing}, None, settings, 0.5) == "instruction_cn"
    assert choose({"instruction": None, "instruction_cn": None}, None, settings, 0.5) is None


def test_registers_of_columns_and_of_rows_both_count() -> None:
    settings = InstructionSettings.model_validate({"columns": COLUMNS, "registers": {"detailed": 1, "user": 1}})
    texts = {"instruction": "a", "long": "b", "short": "c"}
    assert {choose(texts, "concise", settings, float(u)) for u in numbers(100)} == {"long"}
    assert {choose(texts, "user", settings, float(u)) for u in numbers(100)} == {"long", "instruction"}
    assert {choose(texts, None, settings, float(u)) for u in numbers(100)} == {"long", "instruction"}
    assert choose({"short": "c"}, None, settings, 0.5) is None
    assert settings.usable() == ("instruction", "instruction_cn", "long")


@pytest.mark.parametrize(
    "wrong", [{"languages": {"en": 0}}, {"languages": {"en": -1}}, {"languages": {"fr": 1}}, {"columns": {}}]
)
def test_weights_that_draw_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        InstructionSettings.model_validate(wrong)


def test_draws_are_uniform_and_differ_by_epoch_seed_and_purpose() -> None:
    u = numbers(20_000)
    assert ((u >= 0) & (u < 1)).all()
    assert np.histogram(u, 10, (0, 1))[0] == pytest.approx(2000, rel=0.1)
    for other in (numbers(20_000, purpose=2), numbers(20_000, epoch=1)):
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.03
    keys = draws.keys_of(["a", "b"])
    assert draws.uniform(keys, 5, np.array([0, 3]), 1)[1] == draws.uniform(keys[1:], 5, 3, 1)[0]
    assert draws.uniform(keys, 5, 0, 1)[0] != draws.uniform(keys, 6, 0, 1)[0]


def test_keys_are_the_same_on_every_machine() -> None:
    assert draws.keys_of(["5f1e", "图"]).tolist() == [draws.keys_of([name])[0] for name in ("5f1e", "图")]
    assert hex(int(draws.keys_of(["a"])[0])) == "0x" + _blake("a")


def _blake(text: str) -> str:
    import hashlib

    return hashlib.blake2b(text.encode(), digest_size=8).digest()[::-1].hex().lstrip("0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Put the hat of Picture 3 on Picture 1.", "Put the hat of Picture 2 on Picture 1."),
        ("把图3的帽子放到图1上，背景用图 2", "把图2的帽子放到图1上，背景用图 3"),
        ("use image 2 and the lamp of IMAGE 3", "use image 3 and the lamp of IMAGE 2"),
        ("make 3 pictures 200 px wide", "make 3 pictures 200 px wide"),
        ("Picture 4 stays", "Picture 4 stays"),
    ],
)
def test_instructions_follow_the_new_order(text: str, expected: str) -> None:
    assert renumber(text, [1, 0], first=2) == expected


@given(st.permutations(range(4)), st.integers(1, 5))
def test_renumbering_calls_each_reference_by_its_new_place(shown: list[int], first: int) -> None:
    text = ", ".join(f"Picture {number + first}" for number in range(4))
    now = renumber(text, shown, first)
    places = [int(word.split()[1]) - first for word in now.split(", ")]
    assert [shown[place] for place in places] == [0, 1, 2, 3]


def test_names_of_references_are_found() -> None:
    assert named("Picture 2 and 图4", 2, 3) == 0b101
    assert named("Picture 9, 3 trees", 2, 3) == 0
    assert named(None, 2, 3) == 0


def test_references_are_dropped_by_chance_unless_they_are_named() -> None:
    keys = draws.keys_of(map(str, range(4000)))
    references, needed = np.full(4000, 3, np.uint8), np.full(4000, 0b001, np.uint8)
    bits = kept(keys, references, needed, AlignmentSettings(drop=0.25), 0, 0)
    assert (bits & 1).all()
    for bit in (0b010, 0b100):
        assert np.mean((bits & bit) > 0) == pytest.approx(0.75, abs=0.03)
    assert (kept(keys, references, needed, AlignmentSettings(), 0, 0) == 0b111).all()


def test_orders_are_shuffled_evenly() -> None:
    keys = draws.keys_of(map(str, range(1200)))
    seen = Counter(tuple(order(int(key), 0b1011, AlignmentSettings(shuffle=True), 0, 0)) for key in keys)
    assert len(seen) == 6
    assert min(seen.values()) > 150
    assert order(int(keys[0]), 0b1011, AlignmentSettings(), 0, 0) == [0, 1, 3]
