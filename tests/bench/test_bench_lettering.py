"""OCR scores of text edits: the target in an instruction, and distances by an independent reckoning."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugaf.bench.lettering import target_of, text_scores


@pytest.mark.parametrize(
    ("instruction", "target"),
    [
        ('Change "OPEN" to "CLOSED"', "CLOSED"),
        ("Replace the word 'SALE' with 'SOLD OUT' on the sign", "SOLD OUT"),
        ("把“春天”改成“夏天”", "夏天"),
        ("Add “2nd Edition” below the dog's name", "2nd Edition"),
        ("Remove the text 'SALE'", None),
        ("删除“春天”", None),
        ("Make the letters red", None),
        ("It's the dog's sign", None),
    ],
)
def test_the_target_is_what_is_quoted_last(instruction: str, target: str | None) -> None:
    assert target_of(instruction) == target


def test_a_text_among_others_is_read_in_full() -> None:
    assert text_scores("Sold out!", "WELCOME sold　OUT today") == {
        "similarity": 1, "completion": 1, "words": 1, "mean": 1,
    }  # fmt: skip


def test_wrong_and_lost_letters_count() -> None:
    found = text_scores("夏天好", "春天好")
    assert found["similarity"] == pytest.approx(2 / 3)
    assert found["completion"] == pytest.approx(2 / 3)
    assert found["words"] == pytest.approx(2 / 3)
    assert text_scores("abc", "") == {"similarity": 0, "completion": 0, "words": 0, "mean": 0}


def test_a_word_wanted_twice_and_read_once_is_half() -> None:
    assert text_scores("go go", "go")["words"] == 0.5


@given(st.text("abc", min_size=1, max_size=5), st.text("abc", max_size=6))
def test_similarity_is_the_best_of_all_stretches(wanted: str, seen: str) -> None:
    stretches = {seen[a:b] for a in range(len(seen) + 1) for b in range(a, len(seen) + 1)}
    least = min(_levenshtein(wanted, stretch) for stretch in stretches)
    assert text_scores(wanted, seen)["similarity"] == pytest.approx(1 - least / len(wanted))


@cache
def _levenshtein(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(_levenshtein(a[1:], b) + 1, _levenshtein(a, b[1:]) + 1, _levenshtein(a[1:], b[1:]) + (a[0] != b[0]))
