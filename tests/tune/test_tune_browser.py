"""The tuning page in headless Chromium: its numbers are those of `ugaf.tune.funnel`, and what is pasted gives them.

Skipped where there is no browser, unless UGAF_REQUIRE_BROWSER=1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tune_tools import ALIKE, FAN, FIRST, LAST, SECOND, Written, linked_run, random_bounds, run_funnel, varied_run

from ugaf.base.errors import ConfigError
from ugaf.columns.view import RunView
from ugaf.pipeline import config
from ugaf.tune import data, tune
from ugaf.tune.funnel import predict

webdriver = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By

SPREAD = {"d": 4.0, "e": 4.0, "n": 6.0, "t": 5.0}
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunView]:
    """With failures, nulls, NaN, quantiles; the one with rows that are not measured, the others complete."""
    folder = tmp_path_factory.mktemp("runs")
    found = {
        "complete": varied_run(folder / "complete", seed=1, complete=True).view(),
        "partial": varied_run(folder / "partial", seed=2, photographs=90).view(),
        "linked": linked_run(folder / "linked").view(),
    }
    for view in found.values():
        tune(view)
    return found


@pytest.fixture
def page(browser: webdriver.Chrome, runs: dict[str, RunView]) -> Iterator[webdriver.Chrome]:
    opened(browser, runs["complete"])
    yield browser
    assert browser.get_log("browser") == []


def opened(browser: webdriver.Chrome, view: RunView) -> None:
    browser.get(Path(view.path, "tune/index.html").as_uri())


def settle(browser: webdriver.Chrome) -> None:
    """Until what was asked for has been drawn."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50)))"
    )


def field(browser: webdriver.Chrome, stage: str, column: str, side: str, kind: str = "number") -> Any:
    where = f'[data-stage="{stage}"][data-column="{column}"] input[type={kind}][data-side={side}]'
    return browser.find_element(By.CSS_SELECTOR, where)


def type_bound(browser: webdriver.Chrome, stage: str, column: str, side: str, text: str) -> None:
    browser.execute_script(
        "const [field, text] = arguments; field.value = text; field.dispatchEvent(new Event('input'));"
        "field.dispatchEvent(new Event('change'));",
        field(browser, stage, column, side),
        text,
    )


def shown_funnel(browser: webdriver.Chrome) -> list[list[str]]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#steps tbody tr')].map(row => [row.querySelector('.name').firstChild, "
        "...row.querySelectorAll('td')].map(node => node.textContent))"
    )


@pytest.mark.parametrize("name", ["complete", "partial", "linked"])
def test_the_script_counts_as_the_reference_does(
    browser: webdriver.Chrome, runs: dict[str, RunView], name: str
) -> None:
    opened(browser, runs[name])
    found = data.read(runs[name])
    rng = np.random.default_rng(7)
    tried = [found.present, *(random_bounds(found, rng, SPREAD) for _ in range(60))]
    told = browser.execute_script(
        "const { run } = tuning; return arguments[0].map(bounds => { run.replace(bounds); "
        "return [run.funnel(), Object.fromEntries(run.stages.map(stage => [stage.name, stage.fitted]))]; })",
        tried,
    )
    for bounds, (funnel, fitted) in zip(tried, told, strict=True):
        for stage, there in zip(predict(found, bounds), funnel, strict=True):
            assert (there["name"], there["given"], there["kept"]) == (stage.name, stage.given, stage.kept), bounds
            assert (there["failed"], there["pending"]) == (stage.failed, stage.pending)
            assert {(c, k): n for c, k, n in there["rejected"]} == stage.rejected
            numbers = {(c, k): n for c, kinds in fitted[stage.name].items() for k, n in kinds.items()}
            assert {key: n for key, n in numbers.items() if n is not None} == {
                key: n for key, n in stage.fitted.items() if np.isfinite(n)
            }


def test_one_change_after_the_other_counts_as_all_at_once(browser: webdriver.Chrome, runs: dict[str, RunView]) -> None:
    opened(browser, runs["complete"])
    found = data.read(runs["complete"])
    rng = np.random.default_rng(8)
    bounds: dict[str, Any] = {name: {c: dict(k) for c, k in of.items()} for name, of in found.present.items()}
    for _ in range(40):
        stage = found.stages[int(rng.choice([0, 1, 3]))]
        column = str(rng.choice(list(stage.columns)))
        side = str(rng.choice(["min", "max"]))
        bound = None if rng.random() < 0.2 else round(float(rng.normal(0.3, 2)), 2)
        told = browser.execute_script(
            "const { run } = tuning; run.set(...arguments); return run.funnel()", stage.name, column, side, bound
        )
        kinds = bounds.setdefault(stage.name, {}).setdefault(column, {})
        for kind in (side, f"{side}_quantile"):
            kinds.pop(kind, None)
        if bound is not None:
            kinds[side] = bound
        expected = [(one.given, one.kept, one.pending) for one in predict(found, bounds)]
        assert [(one["given"], one["kept"], one["pending"]) for one in told] == expected


@pytest.mark.parametrize("name", ["complete", "partial", "linked"])
def test_pasted_settings_give_the_predicted_funnel(
    browser: webdriver.Chrome, runs: dict[str, RunView], name: str
) -> None:
    view = runs[name]
    opened(browser, view)
    rng = np.random.default_rng(9)
    columns = [(s.name, column) for s in data.read(view).stages for column in s.columns]
    document = view.pipeline.document
    for _ in range(6):
        moves = []
        for place in rng.choice(len(columns), 3, replace=False):
            number = float(rng.normal(0.3, 2)) * 10.0 ** int(rng.choice([0, 0, 0, -8, 17]))
            moves.append([*columns[place], str(rng.choice(["min", "max"])), None if rng.random() < 0.25 else number])
        # The quantile rule of the unfinished run would wait there: a number takes its place.
        moves += [[SECOND, "d", "min", -3.5]] if name == "partial" else []
        funnel, block, lines, bounds = browser.execute_script(
            "const { run, changed } = tuning; run.replace(run.present); arguments[0].forEach(move => run.set(...move));"
            "changed(); return [run.funnel(), Settings.yaml(run), Settings.options(run), run.bounds]",
            moves,
        )
        if not block:
            assert not lines
            continue
        blocks = {stage: entry for one in yaml.safe_load(block)["stages"] for stage, entry in one.items()}
        stages = [{n: {**e, **blocks.get(n, {})}} for one in document["stages"] for n, e in one.items()]
        options = [line.removesuffix(" \\").removeprefix("--set ") for line in lines.splitlines()]
        if any(k.get("min", -np.inf) > k.get("max", np.inf) for of in bounds.values() for k in of.values()):
            with pytest.raises(ConfigError, match="no row could be kept"):
                config.parse({**document, "stages": stages})
            continue
        for changed in (config.parse({**document, "stages": stages}), config.parse(document, options)):
            assert {s: {c: k for c, k in of.items() if k} for s, of in bounds.items() if any(of.values())} == (
                data.present_bounds(changed.stages)
            )
            told = [(one["name"], one["given"], one["kept"], one["failed"], one["pending"]) for one in funnel]
            real = run_funnel(RunView(view.path, changed))
            assert told == [one[:5] for one in real], moves
            reasons = [sorted((c, k.split("_")[0], n) for c, k, n in one["rejected"]) for one in funnel]
            assert reasons == [one[5] for one in real]


def test_a_column_that_was_switched_off_gets_only_the_rule_that_was_set(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    view = varied_run(tmp_path, seed=3, complete=True, **{FIRST: {"a": None}}).view()
    tune(view)
    opened(browser, view)
    browser.execute_script("tuning.run.set(...arguments)", FIRST, "a", "min", 0.25)
    lines = browser.execute_script("return Settings.options(tuning.run)")
    block = browser.execute_script("return Settings.yaml(tuning.run)")
    options = [line.removesuffix(" \\").removeprefix("--set ") for line in lines.splitlines()]
    document = view.pipeline.document
    stages = yaml.safe_load(block)["stages"] + document["stages"][1:]
    for changed in (config.parse(document, options), config.parse({**document, "stages": stages})):
        assert data.present_bounds(changed.stages)[FIRST]["a"] == {"min": 0.25}


def test_an_infinite_bound_is_shown_as_no_limit_and_pasted_as_it_was(browser: webdriver.Chrome, tmp_path: Path) -> None:
    bounds = {"min": float("-inf"), "max": float("inf")}
    view = varied_run(tmp_path, seed=4, complete=True, **{FIRST: {"a": bounds}}).view()
    tune(view)
    opened(browser, view)
    assert field(browser, FIRST, "a", "min").get_attribute("value") == ""
    browser.execute_script("tuning.run.set(...arguments)", FIRST, "a", "max", 1.5)
    block = yaml.safe_load(browser.execute_script("return Settings.yaml(tuning.run)"))
    assert block["stages"][0][FIRST]["keep"]["a"] == {"min": float("-inf"), "max": 1.5}


def test_a_slider_gives_short_numbers_and_the_funnel_follows_in_the_event(page: webdriver.Chrome) -> None:
    slider = field(page, FIRST, "a", "min", "range")
    before, after, text, bound = page.execute_script(
        """
        const slider = arguments[0], cell = () => document.querySelectorAll('#steps tbody tr')[1].cells[1].textContent;
        const before = cell();
        slider.value = Math.round(Number(slider.max) * 0.6);
        slider.dispatchEvent(new Event('input'));
        const field = slider.closest('.knob').querySelector('input[type=number][data-side=min]');
        return [before, cell(), field.value, tuning.run.bounds[arguments[1]].a.min];
        """,
        slider,
        FIRST,
    )
    assert int(after) < int(before)
    assert float(text) == bound
    assert len(text) <= 6
    assert page.execute_script("return Settings.yaml(tuning.run)").count(f"a: {{min: {text}, max: 2}}") == 1


def test_bounds_that_cross_are_said(page: webdriver.Chrome) -> None:
    def said() -> str:
        return page.find_element(By.CSS_SELECTOR, f'[data-stage="{FIRST}"][data-column="n"] .crossed').text

    type_bound(page, FIRST, "n", "min", "3")
    type_bound(page, FIRST, "n", "max", "2")
    assert "min is over max" in said()
    type_bound(page, FIRST, "n", "max", "3")
    assert said() == ""


@pytest.mark.parametrize(
    ("column", "side", "text", "told"),
    [
        ("n", "min", "13", "min 13: the measure is 0..12, so no row that has a value can be kept"),
        ("n", "max", "12.5", "max 12.5: the measure is 0..12, so every row passes it"),
        ("b", "min", "-2", "min -2: the measure is 0 or more, so every row passes it"),
        ("b", "max", "-2", "max -2: the measure is 0 or more, so no row that has a value can be kept"),
        ("n", "max", "12", ""),
        ("b", "max", "1000", ""),
        ("free", "min", "-1000", ""),
    ],
)
def test_a_bound_outside_of_its_measure_is_said_as_a_run_says_it(
    page: webdriver.Chrome, column: str, side: str, text: str, told: str
) -> None:
    type_bound(page, FIRST, column, side, text)
    where = f'[data-stage="{FIRST}"][data-column="{column}"] .crossed'
    assert page.find_element(By.CSS_SELECTOR, where).get_attribute("textContent") == told
    document = {"name": "x", "inputs": ["sample://"], "stages": [{FIRST: {"keep": {column: {side: float(text)}}}}]}
    warned = [line.split(": ", 1)[1] for line in config.parse(document).stages[0].warnings]
    assert warned == ([told.split(": ", 1)[1]] if told else [])


def test_keys_move_a_slider_and_its_loose_end_is_no_limit(page: webdriver.Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    slider = field(page, FIRST, "n", "min", "range")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert field(page, FIRST, "n", "min").get_attribute("value") == "4"
    slider.send_keys(Keys.HOME)
    assert field(page, FIRST, "n", "min").get_attribute("value") == ""
    assert slider.get_attribute("aria-valuetext") == "no limit"
    settle(page)
    assert "n: null" in page.find_element(By.ID, "paste").text


def test_the_whole_page_follows_a_change_and_goes_back(page: webdriver.Chrome, runs: dict[str, RunView]) -> None:
    now = run_funnel(runs["complete"])
    assert [int(row[1]) for row in shown_funnel(page)[1:]] == [stage[2] for stage in now]
    type_bound(page, LAST, "s", "max", "0.5")
    type_bound(page, SECOND, "d", "min", "-1")
    settle(page)
    found = data.read(runs["complete"])
    changed = {LAST: {"s": {"max": 0.5}, "t": {"min": 1}}, SECOND: {"d": {"min": -1, "max": 9}}}
    told = predict(found, {**found.present, **changed})
    assert [int(row[1]) for row in shown_funnel(page)[1:]] == [stage.kept for stage in told]
    fewer = now[-1][2] - told[-1].kept
    assert shown_funnel(page)[-1][2] == f"−{fewer}"
    summary = page.find_element(By.ID, "summary").text
    assert summary.startswith(f"With 2 columns changed, {told[-1].kept} edits would be kept, {fewer} fewer than now.")
    assert page.find_element(By.ID, "live").text == f"{told[-1].kept} edits −{fewer}"
    page.find_element(By.CSS_SELECTOR, "[data-form=options]").click()
    lines = page.find_element(By.ID, "paste").text.splitlines()
    assert f"--set {LAST}.keep.s.max=0.5" in lines
    assert f"--set {SECOND}.keep.d.min_quantile=null \\" in lines
    page.execute_script("document.querySelector('[data-column=s] figcaption button').click()")
    settle(page)
    assert "columns" not in page.find_element(By.ID, "summary").text
    page.execute_script("document.getElementById('reset').click()")
    settle(page)
    assert [int(row[1]) for row in shown_funnel(page)[1:]] == [stage[2] for stage in now]
    assert page.find_element(By.ID, "paste").text == ""
    assert field(page, SECOND, "d", "min").get_attribute("value") == str(found_quantile(found))


def found_quantile(found: data.Data) -> float:
    return predict(found, found.present)[1].fitted["d", "min_quantile"]


def test_sample_images_stand_on_both_sides_of_the_cut_and_follow_it(page: webdriver.Chrome) -> None:
    read = """
        const knob = document.querySelector(`[data-stage="${arguments[0]}"][data-column=a]`);
        knob.scrollIntoView({ block: 'center' });
        const values = group => [...group.querySelectorAll('figcaption')].map(one => Number(one.textContent));
        const groups = [...knob.querySelectorAll('.strip > div')];
        return groups.map(group => [group.querySelector('h4').className, values(group)]);
    """
    page.execute_script(read, FIRST)
    settle(page)
    for bound in (-0.5, 0.3):
        type_bound(page, FIRST, "a", "min", str(bound))
        settle(page)
        groups = dict(page.execute_script(read, FIRST))
        assert len(groups["rejected"]) == len(groups["kept"]) == 4
        assert max(groups["rejected"]) < bound <= min(groups["kept"])
    assert page.execute_script(
        "return [...document.querySelectorAll('.strip img')].every(n => n.alt && n.src.startsWith('data:image/webp'))"
    )


def test_strings_from_data_are_shown_as_text(page: webdriver.Chrome) -> None:
    rule = page.find_element(By.CSS_SELECTOR, ".fixed code").text
    assert rule == f"word: {{none_of: [{EVIL}]}}"
    type_bound(page, FIRST, "a", "min", "0")
    settle(page)
    assert EVIL in page.find_element(By.ID, "paste").text
    assert page.execute_script("return document.querySelectorAll('main script').length") == 0


def test_every_control_and_drawing_has_a_name_of_its_own(page: webdriver.Chrome) -> None:
    unnamed = page.execute_script("""
        const named = n => n.textContent.trim() || n.getAttribute('aria-label') || (n.labels && n.labels.length);
        const nodes = [...document.querySelectorAll('button, select, input, a, svg[role=img]')];
        return nodes.filter(n => !named(n)).map(n => n.outerHTML);
    """)
    assert unnamed == []
    names = page.execute_script("return [...document.querySelectorAll('input')].map(n => n.getAttribute('aria-label'))")
    assert len(names) == len(set(names))


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window(browser: webdriver.Chrome, runs: dict[str, RunView], width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        opened(browser, runs["complete"])
        settle(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        places = browser.execute_script(
            "return ['funnel', 'stages'].map(id => { const at = document.getElementById(id).getBoundingClientRect();"
            "return [at.left, at.top, at.width]; })"
        )
        beside = places[0][0] > places[1][0] + places[1][2]
        assert beside == (width == 1280)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_sample_says_so_with_its_error(
    browser: webdriver.Chrome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ugaf.tune as package

    view = varied_run(tmp_path, seed=6, photographs=900, fragments=3, complete=True).view()
    found = data.read(view)
    limited = package.fit_page
    monkeypatch.setattr(package, "fit_page", lambda d, s: limited(d, s, max_rows=700))
    result = tune(view)
    assert any("sample of" in note for note in result.notes)
    opened(browser, view)
    kept, error, factor, sampled = browser.execute_script("""
        const { run } = tuning, last = run.stages.at(-1), rows = run.levels[0].rows;
        return [last.counts.kept, run.error(last, 900), 900 / rows, rows];
    """)
    assert sampled < 500
    real = predict(found, found.present)[-1].kept
    # Four standard errors; an independent formula for the error, over photographs.
    assert abs(kept * factor - real) < 4 * error
    part = limited(found, None, max_rows=700)[0]
    last, parents = predict(part, part.present)[-1], part.levels[1].parent
    assert parents is not None
    assert last.kept == kept
    stage = part.stages[-1]
    state_ok = np.zeros(len(stage.state), dtype=bool)
    s, t = stage.columns["s"], stage.columns["t"]
    good = ((s.values <= 0.8) | s.null) & ((t.values >= 1) | t.null)
    state_ok[stage.measured[good]] = True
    per_photograph = np.bincount(parents[last.rows[state_ok[last.rows]]], minlength=sampled)
    assert per_photograph.sum() == kept
    assert error == pytest.approx(900 * np.sqrt(per_photograph.var(ddof=1) / sampled * (1 - sampled / 900)))
    assert "±" in browser.find_element(By.ID, "tiles").text
    assert "≈" in shown_funnel(browser)[-1][1]


def test_near_duplicates_are_decided_anew(browser: webdriver.Chrome, runs: dict[str, RunView]) -> None:
    opened(browser, runs["linked"])
    note = browser.find_element(By.CSS_SELECTOR, "#stage-1 .fixed").text
    assert note.startswith("Rule near: {distinct: {")
    before = browser.execute_script("return tuning.run.funnel()[1]")
    type_bound(browser, FIRST, "a", "max", "0.2")
    after = browser.execute_script("return tuning.run.funnel()[1]")
    assert before["name"] == ALIKE
    assert 0 < after["given"] < before["given"]
    lost = {f"{c} {k}": n for c, k, n in after["rejected"]}["near distinct"]
    assert browser.find_element(By.CSS_SELECTOR, "#stage-1 .fixed").text.endswith(f": {lost} rejected.")


def test_a_run_without_rows_has_a_page_too(browser: webdriver.Chrome, tmp_path: Path) -> None:
    view = Written(tmp_path, [FIRST, SECOND, FAN, LAST]).view()
    assert tune(view).rules
    opened(browser, view)
    assert [row[1] for row in shown_funnel(browser)] == ["0"] * 5
    type_bound(browser, FIRST, "a", "min", "1")
    settle(browser)
    assert "a: {min: 1, max: 2}" in browser.find_element(By.ID, "paste").text
    assert browser.get_log("browser") == []
