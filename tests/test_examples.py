"""The worked examples of docs/examples print what stands on their pages."""

import re

import pytest
from example_pages import FOLDER, PAGES, Step, parts_of, run, slow_commands, text_of

pytestmark = pytest.mark.slow


def steps_of(page):
    parts = parts_of(page.read_text(encoding="utf-8"))
    return [part for part in parts if isinstance(part, Step)]


def test_there_is_a_page_for_each_system():
    assert {page.stem for page in PAGES} == {
        "flamingo",
        "mmicl",
        "openflamingo",
        "pe-net",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_estimates_are_those_of_today(page, tmp_path):
    """`scripts/examples --quick` writes them anew."""
    steps = steps_of(page)
    slow = slow_commands(steps)
    quick = [step for step in steps if step.command not in slow]
    assert quick
    for step in quick:
        assert run(step.command, tmp_path) == step.printed, step.command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_that_take_long_are_there(page, tmp_path):
    """Flags are read before --help is heard."""
    for command in slow_commands(steps_of(page)):
        if command.startswith("memplan "):
            words = command.split(" > ")[0].split(" | ")[0]
            assert "Usage" in run(f"{words} --help", tmp_path)


def test_figures_in_prose_are_printed_somewhere():
    printed = "\n".join(step.printed for page in PAGES for step in steps_of(page))
    figures = set[str]()
    for page in (FOLDER / "README.md", *PAGES):
        parts = parts_of(page.read_text(encoding="utf-8"))
        prose = "\n".join(part for part in parts if isinstance(part, str))
        figures.update(re.findall(r"(\d+\.\d\d)(?= GiB| \|)", prose))
    assert {figure for figure in figures if figure not in printed} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_its_parts(page):
    text = page.read_text(encoding="utf-8")
    assert text_of(parts_of(text)) == text
