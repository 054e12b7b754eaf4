"""The report as a person uses it, in headless Chromium. Skipped where there is none, unless UGAF_REQUIRE_BROWSER=1."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_fake import EVIL, curation_run, photo_run

from ugaf.base.printing import harmless
from ugaf.report import write_report

webdriver = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    view = photo_run()
    path: Path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_bytes(view.storage.files[write_report(view)])
    return path.as_uri()


@pytest.fixture
def opened(browser: webdriver.Chrome, address: str) -> Iterator[webdriver.Chrome]:
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


def choose(browser: webdriver.Chrome, facet: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(browser.find_element(By.ID, facet)).select_by_value(value)


def cards(browser: webdriver.Chrome) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('.card')].map(card => card.dataset.id)")


def count(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "count").text


def test_filters_leave_the_rows_they_name(opened: webdriver.Chrome) -> None:
    assert len(cards(opened)) == 36
    choose(opened, "status", "rejected")
    assert count(opened) == "10 of 36 edits in the gallery"
    choose(opened, "stage", "annotation.screen")
    assert len(cards(opened)) == 5
    choose(opened, "stage", "")
    choose(opened, "rule", "iou < 0.5")
    assert len(cards(opened)) == 5
    choose(opened, "status", "")
    choose(opened, "rule", "")
    choose(opened, "task", "tone")
    assert len(cards(opened)) == 6
    opened.find_element(By.CSS_SELECTOR, "#filters button[type=reset]").click()
    assert len(cards(opened)) == 36


def test_photographs_that_are_out_are_a_choice_of_rows(opened: webdriver.Chrome) -> None:
    choose(opened, "task", "tone")
    choose(opened, "kind", "photograph")
    assert count(opened) == "3 of 3 photographs in the gallery"
    notes = [node.text for node in opened.find_elements(By.CSS_SELECTOR, ".placeholder")]
    assert len(notes) == 2
    assert "no image bytes" in notes


def test_search_finds_instructions_and_ids(opened: webdriver.Chrome) -> None:
    box = opened.find_element(By.ID, "search")
    box.send_keys("WATERCOLOUR paint")
    assert len(cards(opened)) == 6
    box.clear()
    box.send_keys("e" + f"{2:015x}" + f"{4:016x}")
    assert cards(opened) == ["e" + f"{2:015x}" + f"{4:016x}"]
    box.clear()
    box.send_keys("nothing like it")
    assert cards(opened) == []


def test_reason_button_filters_the_gallery(opened: webdriver.Chrome) -> None:
    button = opened.find_element(By.CSS_SELECTOR, 'button.show[data-rule="screen is not one of ok"]')
    opened.execute_script("arguments[0].click()", button)
    assert len(cards(opened)) == 5
    assert opened.find_element(By.ID, "stage").get_attribute("value") == "annotation.screen"


def test_order_by_a_measure(opened: webdriver.Chrome) -> None:
    choose(opened, "status", "kept")
    choose(opened, "order", "+quality")
    texts = opened.execute_script(
        "return [...document.querySelectorAll('.card .facts b')].map(b => b.parentNode.textContent)"
    )
    quality = [float(text.split()[1]) for text in texts if text.startswith("quality")]
    assert len(quality) == 24
    assert quality == sorted(quality)


def test_script_in_an_instruction_is_shown_as_text(opened: webdriver.Chrome) -> None:
    choose(opened, "task", "text")
    shown = opened.execute_script("return document.querySelector('.card .instruction').textContent")
    assert shown == harmless(EVIL)
    assert opened.execute_script("return document.querySelectorAll('main img, main script, dialog script').length") == 0
    opened.find_element(By.CSS_SELECTOR, ".card .open").click()
    assert opened.execute_script("return document.getElementById('details-title').textContent") == harmless(EVIL)


def test_details_open_flip_and_step(opened: webdriver.Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    choose(opened, "status", "kept")
    opened.find_element(By.CSS_SELECTOR, ".card .open").click()
    dialog = opened.find_element(By.ID, "details")
    assert dialog.get_attribute("open") is not None

    def labels() -> list[str]:
        return [node.text for node in dialog.find_elements(By.CSS_SELECTOR, "#stage-view .label")]

    assert labels() == ["source", "edited"]
    dialog.find_element(By.ID, "flip").click()
    assert labels() == ["source"]
    dialog.send_keys("f")
    assert labels() == ["edited"]
    names = {node.text for node in dialog.find_elements(By.TAG_NAME, "dt")}
    assert {"instruction", "task", "quality", "rgb_entropy", "params", "sources"} <= names
    first = dialog.find_element(By.ID, "position").text
    dialog.send_keys(Keys.ARROW_RIGHT)
    assert (first, dialog.find_element(By.ID, "position").text) == ("1 of 24", "2 of 24")
    dialog.send_keys(Keys.ESCAPE)
    assert dialog.get_attribute("open") is None


def test_boxes_lie_in_image_coordinates_and_can_be_hidden(opened: webdriver.Chrome) -> None:
    choose(opened, "task", "recolor")
    choose(opened, "status", "kept")
    corners = opened.execute_script("""
        const svg = document.querySelector('.card .frame svg');
        const rect = svg.querySelector('.target-box'), box = svg.querySelector('.target-box').getBoundingClientRect();
        const image = svg.querySelector('image').getBoundingClientRect();
        const scale = image.width / svg.viewBox.baseVal.width;
        return [(box.left - image.left) / scale - rect.x.baseVal.value, box.width / scale - rect.width.baseVal.value];
    """)
    assert max(map(abs, corners)) < 8
    box = opened.find_element(By.CSS_SELECTOR, ".card .target-box")
    assert box.is_displayed()
    opened.find_element(By.ID, "boxes").click()
    assert not box.is_displayed()


def test_every_control_has_a_name(opened: webdriver.Chrome) -> None:
    opened.find_element(By.CSS_SELECTOR, ".card .open").click()
    unnamed = opened.execute_script("""
        const named = n => n.textContent.trim() || n.getAttribute('aria-label') || (n.labels && n.labels.length);
        return [...document.querySelectorAll('button, select, input, a')].filter(n => !named(n)).map(n => n.outerHTML);
    """)
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast_in_both_themes(opened: webdriver.Chrome, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    colours = opened.execute_script("""
        const style = getComputedStyle(document.documentElement), out = {};
        const names = ['back', 'surface', 'sunken', 'text', 'muted', 'accent', 'kept', 'rejected', 'failed', 'pending'];
        for (const name of names) out[name] = style.getPropertyValue('--' + name).trim();
        return out;
    """)

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name in ("text", "muted", "accent", "kept", "rejected", "failed", "pending"):
        for ground in ("surface", "back"):
            bright, dim = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (scheme, name, ground)
    dark = luminance(colours["back"]) < 0.1
    assert dark == (scheme == "dark")


def test_a_near_duplicate_is_compared_with_the_kept_photograph(browser: webdriver.Chrome, tmp_path: Path) -> None:
    view = curation_run()
    page = tmp_path / "index.html"
    page.write_bytes(view.storage.files[write_report(view)])
    browser.get(page.as_uri())
    choose(browser, "rule", "neighbours: near-duplicate")
    assert len(cards(browser)) == 3
    labels = "return [...document.querySelectorAll('#stage-view .label')].map(label => label.textContent.split(':')[0])"
    browser.find_element(By.CSS_SELECTOR, ".card.twins .open").send_keys("\n")
    assert browser.execute_script(labels) == ["this one", "kept"]
    browser.find_element(By.ID, "flip").click()
    assert browser.execute_script(labels) == ["this one"]
    browser.find_element(By.ID, "flip").click()
    assert browser.execute_script(labels) == ["kept"]
    browser.find_element(By.ID, "close").click()
    folded = browser.find_element(By.CSS_SELECTOR, "details.more .charts")
    assert not folded.is_displayed()
    browser.find_element(By.CSS_SELECTOR, "details.more > summary").send_keys("\n")
    assert folded.is_displayed()
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [1280, 400])
def test_no_section_is_wider_than_the_window(browser: webdriver.Chrome, address: str, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(address)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.find_element(By.CSS_SELECTOR, "#balance figure td.n").is_displayed()
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_details_on_a_phone_stand_below_each_other(browser: webdriver.Chrome, address: str) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
    for card in ("#cards .card", "#cards .card:nth-child(7)"):
        browser.execute_script("document.querySelector(arguments[0]).click()", card)
        boxes = browser.execute_script(
            "return ['.details-head', '.details-modes', '#stage-view', '#details-columns'].map((name) => {"
            "const box = document.querySelector(name).getBoundingClientRect();"
            "return [box.top, box.bottom, box.right]; })"
        )
        for (_, bottom, right), (top, _, _) in itertools.pairwise(boxes):
            assert bottom <= top + 1
            assert right <= 390
        assert browser.execute_script(
            "const all = document.querySelector('#stage-view').getBoundingClientRect();"
            "return [...document.querySelectorAll('#stage-view .frame')].every((frame) => "
            "frame.getBoundingClientRect().bottom <= all.bottom + 1)"
        )
        browser.execute_script("document.querySelector('dialog').close()")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_dark_browser_prints_in_light_colours(browser: webdriver.Chrome, address: str) -> None:
    def ground(media: str) -> str:
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": dark})
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    browser.get(address)
    assert ground("screen") == "rgb(18, 19, 22)"
    assert ground("print") == "rgb(246, 246, 243)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_the_numbers_of_funnel_and_reasons_are_on_the_screen(opened: webdriver.Chrome, dark: bool) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
    try:
        over = opened.execute_script(
            "return ['funnel', 'reasons', 'time'].map(name => document.querySelector(`table.${name}`).parentElement)"
            ".map(box => box.scrollWidth - box.clientWidth)"
        )
        assert over == [0, 0, 0]
        shades = "return getComputedStyle(document.querySelector('.scroll')).backgroundAttachment"
        assert opened.execute_script(shades).startswith("local, local, scroll, scroll")
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize(("word", "lines"), [("background", 1), ("x" * 200, 2)])
def test_the_balance_breaks_no_word_that_fits(opened: webdriver.Chrome, word: str, lines: int) -> None:
    high, over = opened.execute_script(
        "const cell = document.querySelector('table.balance tbody th'), before = cell.textContent;"
        "const one = cell.clientHeight; cell.textContent = arguments[0];"
        "const box = cell.closest('.scroll'), found = [cell.clientHeight / one, box.scrollWidth - box.clientWidth];"
        "cell.textContent = before; return found",
        word,
    )
    assert (high < 1.2) == (lines == 1)
    assert over == 0
