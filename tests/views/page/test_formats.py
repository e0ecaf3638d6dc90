"""The same page as HTML, Markdown, CSV and JSON."""

import csv
import html.parser
import io
import json
import re
from dataclasses import replace
from itertools import pairwise

import comparisons
import page_files
import pytest
from plotly.offline import get_plotlyjs

from memplan.comparing.files import as_dict as comparison_as_dict
from memplan.report import as_dict
from memplan.views.page.content import page_of
from memplan.views.page.data import as_data
from memplan.views.page.inputs import Input, read_inputs
from memplan.views.page.markdown import as_markdown
from memplan.views.page.sheet import as_csv


@pytest.fixture
def inputs(tmp_path):
    return read_inputs([page_files.program(tmp_path), page_files.compared(tmp_path)])


class Outline(html.parser.HTMLParser):
    """Elements and attributes of a page, without what is in its scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def of(self, *tags):
        return [found for tag, found in self.elements if tag in tags]


@pytest.fixture(scope="module")
def outline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return Outline(
        page_files.html_of(page_files.program(folder), page_files.compared(folder))
    )


# ---- Markdown and CSV ----


def test_markdown(inputs, snapshot):
    assert as_markdown(page_of(inputs)) == snapshot


def test_csv(inputs, snapshot):
    assert as_csv(inputs) == snapshot


def test_a_row_of_a_sheet_is_a_report_or_a_variant(inputs):
    rows = list(csv.DictReader(io.StringIO(as_csv(inputs))))
    assert [row["kind"] for row in rows] == [
        *("report", "baseline", "alone", "alone", "alone"),
        *("greedy", "greedy", "greedy"),
    ]
    peak = inputs[0].capture.report.peak
    assert int(rows[0]["device_bytes"]) == peak.device_bytes
    assert rows[-1]["tricks"] == "checkpointing-full half-batch 8-bit-adam"
    assert rows[-1]["speed_basis"] == "counted"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_sheet_computes_no_names(name):
    made = comparisons.comparison()
    report = made.baseline.report
    report = replace(report, model=replace(report.model, name=name))
    made = replace(made, baseline=replace(made.baseline, report=report))
    text = as_csv([Input(file="a.json", comparison=made)])
    assert next(csv.DictReader(io.StringIO(text)))["model"] == f"'{name}"


def test_markdown_leaves_names_as_they_are(tmp_path):
    text = as_markdown(page_of(read_inputs(page_files.hostile(tmp_path))))
    fenced = re.sub(r"(`+)[^\n]*?\1", "", text)
    assert not re.search(r"(?<!\\)<(?:script|img|a )", fenced)


# ---- JSON ----


def test_json_has_what_went_in(inputs):
    capture, compared = json.loads(json.dumps(as_data(inputs)))["inputs"]
    report = inputs[0].capture.report
    assert capture["report"] == json.loads(json.dumps(as_dict(report)))
    assert capture["file"] == "run.mplan"
    assert len(capture["curve"]["requested_bytes"]) == 5400
    assert sum(row["bytes"] for row in capture["modules"]) == (
        report.peak.allocated_bytes
    )
    expected = json.loads(json.dumps(comparison_as_dict(comparisons.comparison())))
    assert compared["comparison"] == expected


# ---- HTML ----


def test_the_library_is_there_once_and_nothing_is_fetched(outline, tmp_path):
    text = page_files.html_of(page_files.compared(tmp_path))
    assert text.count(get_plotlyjs()) == 1
    for _, attributes in outline.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in text.replace(get_plotlyjs(), "").partition("<body>")[0]


def test_the_policy_lets_nothing_in_but_its_own_scripts(outline):
    policy = next(m["content"] for m in outline.of("meta") if "content" in m)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    scripts = policy.split(";")[1]
    assert "unsafe" not in scripts
    assert scripts.count("sha256-") == 2


def test_the_same_files_are_the_same_page(tmp_path):
    file = page_files.compared(tmp_path)
    assert page_files.html_of(file) == page_files.html_of(file)


def test_it_is_outlined_for_those_who_hear_it(outline):
    assert outline.of("html") == [{"lang": "en"}]
    assert len(outline.of("main")) == len(outline.of("h1")) == 1
    assert outline.of("nav")[0]["aria-label"]
    headings = [tag for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    levels = [int(tag[1]) for tag in headings]
    assert all(b - a <= 1 for a, b in pairwise(levels))
    ids = {found["id"] for _, found in outline.elements if "id" in found}
    for link in outline.of("a"):
        assert link["href"][1:] in ids
    assert len(ids) == sum("id" in found for _, found in outline.elements)


def test_each_plot_is_followed_by_its_table(outline):
    tags = [tag for tag, _ in outline.elements if tag in ("figure", "table")]
    for place, tag in enumerate(tags):
        if tag == "figure":
            assert tags[place + 1] == "table"
    for plot in (f for f in outline.of("div") if f.get("class") == "plot"):
        assert plot["role"] == "img"
        assert len(plot["aria-label"]) > 40


def test_cells_have_their_bytes(outline):
    needs = {int(td["data-bytes"]) for td in outline.of("td") if "data-bytes" in td}
    made = comparisons.comparison()
    for variant in (made.baseline, *made.alone, *made.greedy):
        assert variant.need_bytes in needs


def test_hostile_names_open_no_element(tmp_path):
    text = page_files.html_of(*page_files.hostile(tmp_path))
    outline = Outline(text)
    assert len(outline.of("script")) == 4
    assert not outline.of("img")
    assert all(link["href"].startswith("#") for link in outline.of("a"))
    assert "{{ 7 * 7 }}" in text
