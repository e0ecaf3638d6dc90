"""The page in a real browser: what it draws, hears, asks for, and how it reads.

Chromium is that of the machine; nothing is downloaded. Where there is none, or no
playwright to drive it, these tests skip.
"""

import json
import os
import shutil
import time
from contextlib import contextmanager

import page_files
import pytest

from memplan.units import format_gib

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDE = {"width": 1100, "height": 900}
PHONE = {"width": 375, "height": 800}
AA, AA_LARGE = 4.5, 3.0
"""Contrast of text with what is behind it (WCAG 2, 1.4.3); of large text."""

TICK = "getComputedStyle(document.querySelector('.xtick text')).fill"
CONTRASTS = """() => {
  const canvas = document
    .createElement("canvas")
    .getContext("2d", { willReadFrequently: true });
  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const part = (c) => {
      c /= 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = channels(getComputedStyle(at).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    if (element.closest("script, .treemap")) continue;
    const style = getComputedStyle(element);
    const inPlot = element.closest("svg");
    const ink = luminance(channels(inPlot ? style.fill : style.color));
    const paper = luminance(behind(inPlot ? inPlot.parentElement : element));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    found.push([ratio, parseFloat(style.fontSize), walker.currentNode.data.trim()]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="there is no playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("there is no Chrome and no Chromium on this machine")
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with driver.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox"] if is_root else [],  # which root cannot have
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Files of pages, by what is on them."""
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "program": [page_files.program(folder)],
        "plan": page_files.of_one_plan(folder),
        "tricks": [page_files.compared(folder)],
        "ended": [page_files.out_of_memory(folder)],
        "hostile": page_files.hostile(folder),
    }
    for name, files in made.items():
        (folder / f"{name}.html").write_text(
            page_files.html_of(*files), encoding="utf-8"
        )
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture
def opened(browser, pages):
    """Opens a page; what it complains of, asks for and pops up is kept beside it."""

    @contextmanager
    def open_page(name, **how):
        context = browser.new_context(**{"viewport": WIDE, **how})
        page = context.new_page()
        page.complaints = []
        page.on("console", lambda said: page.complaints.append(said.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
        page.on(
            "request",
            lambda asked: (
                page.complaints.append(asked.url) if asked.url != page.url else None
            ),
        )
        address = pages[name].as_uri()
        page.goto(address)
        page.complaints = [said for said in page.complaints if said != address]
        until(page, "[...document.querySelectorAll('.plot')].every(p => p.data)")
        yield page
        assert page.complaints == []
        context.close()

    return open_page


def until(page, expression, seconds=10):
    """Wait for it; the page's policy forbids playwright's own way of waiting."""
    ends = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < ends, expression
        page.wait_for_timeout(20)


ALL = ("program", "plan", "tricks", "ended", "hostile")


@pytest.mark.parametrize("name", ALL)
def test_it_draws_every_plot_and_asks_nobody_also_on_a_phone(opened, name):
    how = {"viewport": PHONE, "is_mobile": True, "has_touch": True}
    with opened(name, **how) as page:
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"]  # it scrolls down only
        plots = page.locator(".plot").all()
        assert plots
        for plot in plots:
            assert plot.locator("svg").count() > 0
            assert plot.bounding_box()["width"] <= PHONE["width"]


@pytest.mark.parametrize("name", ["program", "plan", "tricks"])
def test_the_figures_shown_are_those_of_the_data(opened, name):
    with opened(name) as page:
        cells = page.eval_on_selector_all(
            "td[data-bytes]",
            "cells => cells.map(c => [Number(c.dataset.bytes), c.innerText])",
        )
        assert len(cells) > 10
        for size_bytes, text in cells:
            assert text == format_gib(size_bytes)
        data = json.loads(page.locator("#data").text_content())
        shown = {size_bytes for size_bytes, _ in cells}
        for one in data["inputs"]:
            compared = one.get("comparison")
            reports = (
                [one["report"]]
                if compared is None
                else [v["report"] for v in (compared["baseline"], *compared["greedy"])]
            )
            for report in reports:
                assert shown >= set(report["components"].values())
                assert report["peak"]["device_bytes"] in shown


def test_bars_are_as_long_and_commands_as_they_are(opened):
    with opened("program") as page:
        report = json.loads(page.locator("#data").text_content())["inputs"][0]["report"]
        drawn = page.evaluate(
            "Object.fromEntries(document.getElementById('plot-budget')"
            ".data.map(t => [t.name, t.x[0] * 2 ** 30]))"
        )
        for name, size_bytes in report["components"].items():
            if size_bytes:
                assert drawn[name.replace("_", " ")] == pytest.approx(size_bytes)
        commands = [pre.inner_text() for pre in page.locator("pre").all()]
        assert "memplan rehearse --gpu rtx-4090 -- python train.py" in commands


def test_hovering_says_what_and_how_much(opened):
    with opened("program") as page:
        page.locator("#plot-budget .barlayer .trace").nth(3).hover(force=True)
        said = page.locator("#plot-budget .hoverlayer .hovertext").first
        said.wait_for()
        assert "activations: 1.17 GiB" in said.text_content()
        page.locator("#plot-modules-0 .slice").nth(2).hover(force=True)
        said = page.locator("#plot-modules-0 .hoverlayer .hovertext").first
        said.wait_for()
        assert "of all" in said.text_content()


def test_the_legend_hides_and_shows_by_mouse_and_by_keyboard(opened):
    with opened("program") as page:
        entry = page.get_by_role("button", name="activations")
        visible = (
            "document.getElementById('plot-budget')"
            ".data.find(t => t.name === 'activations').visible ?? true"
        )
        entry.click()
        assert page.evaluate(visible) == "legendonly"
        assert entry.get_attribute("aria-pressed") == "false"
        page.locator("#theme").click()  # another theme draws the same
        assert page.evaluate(visible) == "legendonly"
        entry.focus()
        page.keyboard.press("Enter")
        assert page.evaluate(visible) is True
        assert entry.get_attribute("aria-pressed") == "true"


def test_the_theme_is_the_system_s_and_the_button_turns_it(opened):
    ink = f"{TICK} + getComputedStyle(document.body).backgroundColor"
    with opened("program", color_scheme="dark") as page:
        dark = page.evaluate(ink)
        assert page.locator("#theme").inner_text() == "Light theme"
        page.locator("#theme").focus()
        page.keyboard.press("Enter")
        light = page.evaluate(ink)
        assert light != dark
        page.emulate_media(color_scheme="light")  # what was chosen stays
        assert page.evaluate(ink) == light
        assert page.locator("#theme").inner_text() == "Dark theme"
        page.locator("#theme").click()
        assert page.evaluate(ink) == dark


@pytest.mark.parametrize("name", ["program", "tricks"])
def test_text_stands_out_from_what_is_behind_it(opened, name):
    with opened(name) as page:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            until(page, f"{TICK} === getComputedStyle(document.body).color")
            found = page.evaluate(CONTRASTS)
            assert len(found) > 50
            for ratio, size, text in found:
                assert ratio >= (AA_LARGE if size >= 24 else AA), text


def test_all_that_can_be_used_is_reached_with_tab(opened):
    with opened("program") as page:
        reached = []
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate(
                    "(document.activeElement.id || document.activeElement.tagName)"
                )
            )
        assert reached[0] == "A"  # past the head of the page
        assert "theme" in reached
        assert reached.count("BUTTON") >= 5
        assert "PRE" in reached
        page.locator("a.skip").focus()
        assert page.locator("a.skip").is_visible()


def test_print_is_light_and_has_all_of_it(opened):
    with opened("program", color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        width = "document.getElementById('plot-budget').layout.width"
        until(page, f"{width} === 660")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        assert not page.locator("#theme").is_visible()
        assert not page.locator("nav").is_visible()
        for ratio, _, text in page.evaluate(CONTRASTS):
            assert ratio >= AA, text
        page.emulate_media(media="screen", color_scheme="dark")
        until(page, f"{width} !== 660")


def test_hostile_names_stay_text(opened):
    with opened("hostile") as page:
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 4
        assert page.locator("a:not([href^='#'])").count() == 0
        text = page.locator("main").inner_text()
        assert page_files.HOSTILE in text
        assert page_files.HOSTILE_LINK in text
        drawn = "".join(page.locator(".plot text").all_text_contents())
        assert "<script>" in drawn
        legend = "".join(page.locator(".legend").all_text_contents())
        assert page_files.HOSTILE in legend


def test_without_scripts_the_tables_are_there(opened, browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["program"].as_uri())
    assert page.get_by_text("Plots need JavaScript").is_visible()
    assert page.locator("table").first.is_visible()
    assert not page.locator("#theme").is_visible()
    context.close()
