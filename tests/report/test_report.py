"""The report: what it counts, bins, samples and embeds, by value; and that no data can become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_fake import EDIT_SCHEMA, EDIT_STAGES, EVIL, FakeStage, FakeView, big_run, photo_run
from report_parse import Parsed

from ugaf.base.printing import harmless
from ugaf.imaging import images
from ugaf.pages import charts, distributions, thumbnails
from ugaf.pages.markup import Markup, element, join
from ugaf.report import page, sample, write_report
from ugaf.report.collect import collect


@pytest.fixture(scope="module")
def demo() -> FakeView:
    return photo_run()


@pytest.fixture(scope="module")
def html(demo: FakeView) -> str:
    return demo.storage.files[write_report(demo)].decode()


@pytest.fixture(scope="module")
def parsed(html: str) -> Parsed:
    return Parsed(html)


def test_report_is_written_once_and_again_only_when_it_changes() -> None:
    view = photo_run()
    assert write_report(view, gallery=4) == "report/index.html"
    first = view.storage.files["report/index.html"]
    write_report(view, gallery=4)
    assert view.storage.writes == 1
    write_report(view, gallery=2)
    assert view.storage.writes == 2
    write_report(view, gallery=4)
    assert view.storage.files["report/index.html"] == first


def test_page_loads_nothing_from_elsewhere(parsed: Parsed) -> None:
    for tag, attributes in parsed.tags:
        assert not {"src", "srcset", "action"} & set(attributes), tag
        target = attributes.get("href") or ""
        assert target == "" or target.startswith(("#", "data:"))
    assert "@import" not in parsed.raw["style"]
    assert "url(" not in parsed.raw["style"]
    policy = next(
        attributes["content"] for tag, attributes in parsed.tags if tag == "meta" and "http-equiv" in attributes
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_policy_allows_exactly_the_pages_own_style_and_script(html: str) -> None:
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert style is not None
    assert script is not None
    for directive, text in (("style", style[1]), ("script", script[1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive}-src 'sha256-{digest}'" in html.replace("&#x27;", "'")
    assert 'style="' not in html


def test_data_cannot_become_markup(html: str, parsed: Parsed) -> None:
    assert [tag for tag, _ in parsed.tags].count("script") == 2
    assert "<img" not in html
    assert "alert(1)</script>" not in html
    assert "\u2028" not in html
    assert any(card["values"].get("instruction") == harmless(EVIL) for card in parsed.data["cards"])
    assert "demo <run>" in parsed.text
    assert "<run>" not in html


@given(st.text())
def test_embedded_json_comes_back_and_cannot_end_its_script(text: str) -> None:
    embedded = page.embed({text: [text]})
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert json.loads(embedded) == {text: [text]}


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00")))
def test_markup_shows_any_text_as_text(text: str) -> None:
    parsed = Parsed(element("p", text, title=text))
    assert [tag for tag, _ in parsed.tags] == ["p"]
    shown = harmless(text)
    assert parsed.tags[0][1]["title"] == shown
    assert parsed.text in (shown + "\n", "")


def test_markup_leaves_out_none_and_joins_lists() -> None:
    assert join(["a<", None, [Markup("<b></b>"), False]]) == "a&lt;<b></b>"
    assert element("input", type="checkbox", checked=True, value=None) == '<input type="checkbox" checked="">'


def test_header_states_what_came_of_the_input(parsed: Parsed) -> None:
    text = " ".join(parsed.text.split())
    assert "6 of 9 photographs kept (66.7 %); 24 of 36 edits kept (66.7 %). 3 rows failed" in text
    assert "A demo & a test" in text
    assert "ray 2.60.0" in text


def test_funnel_gives_each_stage_its_account(demo: FakeView) -> None:
    table = Parsed(page.funnel(collect(demo, gallery=0, seed=0).steps)).text.split("\n")
    rows = [line.strip() for line in table if line.strip()]
    at = rows.index("refinement.change_mask")
    assert rows[at + 1 : at + 8] == ["29", "24", "5", "0", "0", "82.8 %", "66.7 %"]
    assert "9 photographs" in rows
    assert "36 edits from 6 photographs (6.0 each)" in rows


def test_reasons_list_rules_and_errors_with_their_rows(demo: FakeView) -> None:
    text = Parsed(page.reasons(collect(demo, gallery=0, seed=0).steps)).text
    rows = [line for line in text.split("\n") if line.strip()]
    at = rows.index("screen is not one of ok")
    assert rows[at - 1 : at + 4] == ["annotation.screen", "screen is not one of ok", "rejected", "5", "13.9 %"]
    at = rows.index("ImageError")
    assert rows[at - 1 : at + 4] == ["ingest", "ImageError", "failed", "2", "22.2 %"]


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200),
    st.one_of(
        st.none(), st.fixed_dictionaries({}, optional={"min": st.floats(-1e6, 1e6), "max": st.floats(-1e6, 1e6)})
    ),
)
@settings(deadline=None)
def test_histogram_loses_no_value(numbers: list[float], rule: dict[str, float] | None) -> None:
    values = np.array(numbers)
    kept = np.arange(len(values)) % 3 == 0
    one = distributions.distribution("s", "image", "c", rule, values, kept)
    assert one is not None
    assert one.counts.sum() + one.below + one.above == one.n == len(values)
    assert np.all(one.kept <= one.counts)
    assert np.all(np.diff(one.edges) > 0)
    low, high = (rule or {}).get("min", -np.inf), (rule or {}).get("max", np.inf)
    assert one.broken == sum(not (low <= value <= high) for value in numbers)
    assert "<svg" in charts.histogram(one)


def test_distribution_by_value() -> None:
    values = np.array([np.nan, np.inf, *range(101)], dtype=np.float64)
    one = distributions.distribution("s", "image", "c", {"min": 10}, values, values > 50, missing=4)
    assert one is not None
    assert (one.n, one.missing, one.broken) == (101, 6, 10)
    assert one.quantiles == pytest.approx((0, 5, 50, 95, 100))
    assert one.kept.sum() == 50


def test_one_outlier_does_not_press_the_others_into_one_bin() -> None:
    values = np.append(np.linspace(0, 1, 1000), 1e9)
    one = distributions.distribution("s", "image", "c", None, values, values < 0)
    assert one is not None
    assert one.edges[-1] < 2
    assert np.count_nonzero(one.counts) == len(one.counts)
    assert one.above >= 1


def test_small_whole_numbers_get_one_bin_each() -> None:
    one = distributions.distribution("s", "image", "c", None, np.array([0.0, 3, 3, 5]), np.zeros(4, dtype=bool))
    assert one is not None
    assert one.edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert one.counts.tolist() == [1, 0, 0, 2, 0, 1]


def test_no_finite_value_is_no_distribution() -> None:
    assert distributions.distribution("s", "image", "c", None, np.array([np.nan]), np.zeros(1, dtype=bool)) is None


def test_histogram_draws_thresholds_and_tints_their_rejected_sides() -> None:
    values = np.linspace(0, 1, 200)
    one = distributions.distribution("s", "image", "c", {"min": 0.25, "max": 0.75}, values, values > 0.5)
    assert one is not None
    svg = charts.histogram(one)
    shapes = [attributes for tag, attributes in Parsed(svg).tags if tag in ("rect", "line")]
    zones = [shape for shape in shapes if shape["class"] == "zone"]
    limits = [shape for shape in shapes if shape["class"] == "limit"]
    x = [charts.PAD + (charts.WIDTH - 2 * charts.PAD) * bound for bound in (0.25, 0.75)]
    assert [float(limit["x1"] or 0) for limit in limits] == pytest.approx(x, abs=0.01)
    assert float(zones[0]["x"] or 0) == charts.PAD
    assert float(zones[0]["width"] or 0) == pytest.approx(x[0] - charts.PAD, abs=0.02)
    assert float(zones[1]["x"] or 0) == pytest.approx(x[1], abs=0.01)
    assert "min 0.25" in svg


def test_categories_count_rows_and_kept_and_free_text_is_left_out(demo: FakeView) -> None:
    found = {one.column: one for one in collect(demo, gallery=0, seed=0).categories}
    assert found["screen"].values == (("ok", 31, 24), ("face", 5, 0))
    assert sum(rows for _, rows, _ in found["task"].values) == 36
    assert "instruction" not in found
    labels = distributions.Labels()
    for n in range(distributions.MAX_LABELS + 1):
        labels.add(str(n), 1000, 0)
    assert labels.ranked() == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (12345.0, "12,345"), (1234.5, "1,234"), (float("inf"), "inf"), (-3.0, "-3")],
)
def test_numbers(value: float, text: str) -> None:
    assert charts.number(value) == text


def test_percentages_never_claim_all_or_nothing_falsely() -> None:
    assert [charts.percent(n, 100_000) for n in (0, 1, 99_999, 100_000)] == ["0.0 %", "< 0.1 %", "> 99.9 %", "100.0 %"]
    assert charts.percent(0, 0) == "–"


def test_durations() -> None:
    assert [page.duration(s) for s in (0.4, 59.96, 245, 11_520)] == ["0.40 s", "1 min 00 s", "4 min 05 s", "3 h 12 min"]


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(0, 200))
def test_places_are_all_given_out_and_none_twice(sizes: list[int], places: int) -> None:
    shares = sample.fill(sizes, places)
    assert sum(shares) == min(places, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    cut = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert not cut or max(cut) - min(cut) <= 1


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(sample.STATUSES), st.sampled_from("abcde"), st.sampled_from("xyz")),
        st.integers(1, 5000),
        max_size=40,
    ),
    st.integers(0, 700),
)
def test_sample_uses_its_places_and_shows_each_reason(sizes: dict[sample.Stratum, int], places: int) -> None:
    shares = sample.allocate(sizes, places)
    assert sum(shares.values()) == min(places, sum(sizes.values()))
    assert all(0 <= shares[stratum] <= sizes[stratum] for stratum in sizes)
    if places >= 300:
        assert all(shares.values())


def test_sample_depends_on_ids_and_seed_only() -> None:
    rows = [(("kept", "", "ab"[n % 2]), f"id{n}") for n in range(2000)] + [(("failed", "x", ""), "bad")]

    def choose(order: list[tuple[sample.Stratum, str]], seed: int) -> list[str]:
        sampler = sample.Sampler(50, seed)
        for stratum, id in order:
            sampler.add(stratum, id)
        return sampler.choose()

    first = choose(rows, 0)
    assert first == choose(rows[::-1], 0)
    assert first != choose(rows, 1)
    assert len(first) == len(set(first)) == 50
    assert first[-1] == "bad"


def test_images_of_a_photograph_are_embedded_once(parsed: Parsed) -> None:
    cards, embedded = parsed.data["cards"], parsed.data["images"]
    assert len(cards) == 39
    assert all(url.startswith("data:image/webp;base64,") for url in embedded.values())
    of_photo = [card for card in cards if card["values"].get("parent") == f"{1:032x}"]
    sources = {card["source"] for card in of_photo if card["values"]["task"] != "add"}
    assert len(of_photo) == 6
    assert len(sources) == 1
    assert set(embedded) == {card[side] for card in cards for side in ("source", "edited")} - {None}


def test_null_image_columns_mean_the_photograph_itself(parsed: Parsed) -> None:
    cards = {
        (card["values"]["parent"], card["values"]["task"]): card
        for card in parsed.data["cards"]
        if card["kind"] == "pair"
    }
    parent = f"{2:032x}"
    add, other = cards[parent, "add"], cards[parent, "recolor"]
    assert add["edited"] == other["source"]
    assert add["source"] not in (None, add["edited"])
    size = next(table for table in photo_run().tables["image"].to_pylist() if table["id"] == parent)
    assert (add["width"], add["height"]) == (size["width"], size["height"])


def test_rows_that_were_not_edited_show_the_photograph_alone(parsed: Parsed) -> None:
    late = [card for card in parsed.data["cards"] if card["stage"] in ("annotation.screen", "generation.edit")]
    assert {card["status"] for card in late} == {"rejected", "failed", "pending"}
    assert all(card["source"] and card["edited"] is None and card["edited_note"] for card in late)


def test_undecodable_image_becomes_a_placeholder_with_its_reason(parsed: Parsed) -> None:
    bad = [card for card in parsed.data["cards"] if card["id"].startswith("bad")]
    notes = sorted(card["source_note"] for card in bad)
    assert notes[0].startswith("ImageError: damaged image header")
    assert notes[1] == "no image bytes"
    assert all(card["source"] is None and card["status"] == "failed" and card["rule"] == "ImageError" for card in bad)


def test_cards_carry_all_columns_but_no_bytes(parsed: Parsed) -> None:
    card = next(card for card in parsed.data["cards"] if card["kind"] == "pair" and card["status"] == "kept")
    expected = {"task", "instruction", "register", "boxes", "params", "quality", "rgb_entropy", "sources", "width"}
    assert expected <= set(card["values"])
    assert not {"image", "edited_image", "source_image", "objects"} & set(card["values"])


def test_gallery_of_zero_has_no_images(demo: FakeView) -> None:
    report = collect(demo, gallery=0, seed=0)
    assert report.gallery.cards == []
    assert Parsed(page.render(report)).data["images"] == {}


def test_negative_gallery_is_refused(demo: FakeView) -> None:
    with pytest.raises(ValueError, match="gallery is -1"):
        write_report(demo, gallery=-1)


def pairs_run() -> FakeView:
    """A run of pairs that somebody else made: no photographs' level, no target box, two sizes in one pair."""
    rng = np.random.default_rng(3)
    photo, edited = rng.integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    row = {
        "id": "p1", "status": "kept", "stage": "", "reason": None, "image": images.encode(photo), "width": 60,
        "edited_image": images.encode(edited[:20, :30]), "instruction": "Do", "boxes": [], "bbox_edit": [1, 2, 30, 20],
        "iou": None, "quality": float("nan"),
    }  # fmt: skip
    schema = pa.schema([field for field in EDIT_SCHEMA if field.name not in ("parent", "source_image")])
    schema = schema.append(pa.field("image", pa.large_binary())).append(pa.field("width", pa.int32()))
    ingest = FakeStage(
        "ingest", "edit", ["image", "edited_image", "instruction", "task", "boxes", "engine", "width"], ["width"]
    )
    return FakeView("pairs", [ingest, *EDIT_STAGES[2:]], {"edit": pa.Table.from_pylist([row], schema=schema)})


def test_run_of_pairs_without_photographs() -> None:
    report = collect(pairs_run(), gallery=10, seed=0)
    (card,) = report.gallery.cards
    assert card.source is not None
    assert card.edited not in (None, card.source)
    assert (card.width, card.height) == (60, 40)
    assert card.values["quality"] == "nan"
    assert report.totals == {"edit": {"kept": 1, "rejected": 0, "failed": 0, "pending": 0}}
    text = Parsed(page.render(report)).text
    assert "1 of 1 edit kept" in text


def test_run_without_rows() -> None:
    view = photo_run()
    view.tables = {level: table.slice(0, 0) for level, table in view.tables.items()}
    text = Parsed(view.storage.files[write_report(view)].decode()).text
    assert "There is nothing to show." in text
    assert "0 of 0 photographs kept" in text


def test_run_of_curation_alone_shows_kept_photographs_too() -> None:
    view = photo_run()
    view.stages = [stage for stage in view.stages if stage.level == "image" and stage.name != "annotation.instruct"]
    del view.tables["edit"]
    report = collect(view, gallery=10, seed=0)
    assert {card.status for card in report.gallery.cards} == {"kept", "rejected", "failed"}
    assert len(report.gallery.cards) == 9


def test_thumbnails_shrink_until_they_fit(demo: FakeView) -> None:
    photos = [blob for blob in demo.tables["image"]["image"].to_pylist() if blob]
    made = thumbnails.Thumbnails(640)
    made.add(photos)
    before = sum(len(thumbnail.data) for thumbnail in made.made.values())
    assert len(made.failed) == 1
    made.shrink(before // 3)
    assert sum(len(thumbnail.data) for thumbnail in made.made.values()) <= before // 3
    for thumbnail in made.made.values():
        assert max(images.probe(thumbnail.data).width, images.probe(thumbnail.data).height) <= made.side
        assert max(thumbnail.width, thumbnail.height) >= 450


def test_more_images_get_smaller_sides() -> None:
    assert [thumbnails.side_for(n) for n in (10, 400, 1100, 1200, 10**6)] == [640, 640, 320, 280, 96]


def test_hundred_thousand_rows_make_a_small_page() -> None:
    view = big_run()
    text = view.storage.files[write_report(view)].decode()
    assert len(text) < 3_000_000
    parsed = Parsed(text)
    assert len(parsed.data["cards"]) == 600
    shown = {(card["status"], card["stage"], card["values"].get("task")) for card in parsed.data["cards"]}
    edits = view.tables["edit"].select(["status", "stage", "task"]).to_pylist()
    assert {tuple(row.values()) for row in edits} <= shown
    assert "Showing 500 of 100,000 edits and 100 of " in parsed.text
