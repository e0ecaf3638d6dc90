"""The page of accuracy: what it says with records, without, and with pictures."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from record_files import keep, out_of_memory_on, plan_of, record_of

from memplan.comparing.engines import Rehearsals
from memplan.estimating.accuracy import accuracy
from memplan.validation.records import Found, measured_folder, records_under
from memplan.validation.validate import validate
from memplan.views.accuracy_page import (
    GRID,
    KINDS_OF_PICTURE,
    NAMES,
    NO_PICTURE,
    OF_THE_GRID,
    page_of,
    write_page,
)
from memplan.views.pictures import (
    MOST_ROWS,
    Picture,
    PictureError,
    as_svg,
    pictures_of,
    problem,
)

DOCS = Path(__file__).parents[2] / "docs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    folder = keep(
        tmp_path_factory.mktemp("records"),
        plain=record_of(plan_of(), factor=1.004),
        full=record_of(plan_of(activation_checkpointing="full"), factor=1.08),
        pure=record_of(plan_of(precision="bf16-pure"), factor=0.97),
        ended=out_of_memory_on(plan_of(per_device_train_batch_size=512)),
    )
    (folder / "cut_[x](y)|.json").write_text("{")
    return validate(
        records_under(folder),
        rehearse=lambda plans: (
            (plan, record_of(plan, source="rehearsed").report) for plan in plans
        ),
    )


def without_pictures(monkeypatch):
    def refuse(picture):
        raise PictureError("plotly is not installed: pip install 'memplan[images]'")

    monkeypatch.setattr(import_module("memplan.views.accuracy_page"), "as_svg", refuse)


def test_the_page_of_the_tree_is_what_is_written_today():
    """But for the grid: `scripts/accuracy` holds it against the formulas of its day."""
    folder = measured_folder()
    found = records_under(folder) if folder.is_dir() else Found()
    drawn = [name for name in NAMES if (DOCS / "accuracy" / f"{name}.svg").is_file()]
    text = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    before, grid, after = re.split(rf"(?s){GRID}(?=\n)(.*?)(?=## How to read)", text)
    has_rehearsals = "\n- rehearsed: " in before
    rehearse = Rehearsals().look if has_rehearsals else None
    today = page_of(validate(found, rehearse=rehearse), drawn, "accuracy")
    assert before + after == today
    pictures = re.findall(r"\]\(accuracy/(.*?)\.svg\)", grid)
    assert pictures == [f"{OF_THE_GRID}{kind}" for kind in KINDS_OF_PICTURE]
    assert set(pictures) <= set(drawn)
    assert f"The {MOST_ROWS} furthest off" in grid


def test_without_records_it_says_so_and_calls_nothing_measured():
    text = page_of(validate(Found()), (), "accuracy")
    assert "**Nothing here is measured.** No run on a real card" in text
    seen = accuracy()
    assert f"Compared on {seen.compared_on}, of torch {', '.join(seen.torch)}." in text
    for setting, by_class in seen.classes.items():
        for name, figures in by_class.items():
            assert f"| {name} | {figures.num_plans} | " in text
        if setting not in seen.left_out:
            assert "too few plans with these settings" in text
            continue
        tested = seen.left_out[setting]
        within = f"{tested.allocated_within_fraction:.1%} of {tested.num_plans} alloc"
        assert within in " ".join(text.split())
    assert "rehearsals, not measurements" in " ".join(text.split())
    assert "Measured records" not in text
    assert NO_PICTURE not in text
    assert GRID not in text


def test_the_grid_stands_beside_the_records(validation):
    text = page_of(validation, NAMES, "accuracy", grid=validation)
    assert text.count("### Error by component") == 2
    assert "](accuracy/errors.svg)" in text
    assert "](accuracy/grid-errors.svg)" in text
    assert text.index("## Measured records") < text.index(GRID)
    # Each case with what makes it again, in both.
    for case in validation.cases:
        assert text.count(f"`{case.command}`") == 2


def test_every_picture_has_its_table_below_it(validation):
    text = page_of(validation, NAMES, "accuracy")
    for picture in pictures_of(validation):
        section = text.split(f"### {picture.title}\n")[1].split("\n#")[0]
        image, table = section.strip().split("\n\n")[:2]
        assert image.startswith("![")
        assert image.endswith(f"](accuracy/{picture.name}.svg)")
        assert table.startswith("| ")
        assert len(table.splitlines()) > 3


def test_alternative_texts_say_what_is_to_be_seen(validation):
    errors, within, peaks, components, settings = pictures_of(validation)
    assert "of 6 predictions over the allocated peak" in errors.alternative
    assert "estimated: half of the plans within 3.09%" in within.alternative
    assert "estimated: 3 plans, median error 3.09%, worst -7.41%" in peaks.alternative
    assert "rehearsed: 3 plans" in peaks.alternative
    assert re.search(r"is -2\.\d+%, of optimizer states", components.alternative)
    assert "--activation-checkpointing full" in settings.alternative


def test_tables_have_the_same_number_of_cells_in_every_row(validation):
    text = page_of(validation, (), "accuracy")
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert len(tables) >= 8
    for table in tables:
        rows = re.sub(r"\\\\|\\\|", "", table).splitlines()
        assert len({row.count("|") for row in rows}) == 1


def test_names_are_no_markdown(validation):
    text = page_of(validation, (), "accuracy")
    assert r"cut\_\[x\](y)\|.json" in text


def test_it_names_no_folder_of_this_machine(validation, tmp_path):
    text = page_of(validation, NAMES, "accuracy")
    assert str(validation.cases[0].path.parent) not in text
    assert str(Path.home()) not in text


def test_without_the_extra_the_tables_stand_alone(validation, tmp_path, monkeypatch):
    without_pictures(monkeypatch)
    old = tmp_path / "accuracy" / "peaks.svg"
    old.parent.mkdir()
    old.write_text("of an older page")
    [said] = write_page(validation, tmp_path / "accuracy.md")
    assert "pip install 'memplan[images]'" in said
    text = (tmp_path / "accuracy.md").read_text()
    assert text.count(NO_PICTURE) == 5
    assert ".svg" not in text
    assert not old.exists()


def test_without_records_there_is_nothing_to_draw(tmp_path, monkeypatch):
    without_pictures(monkeypatch)
    assert list(write_page(validate(Found()), tmp_path / "accuracy.md")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["accuracy.md"]


def test_a_library_that_is_missing_is_named(monkeypatch):
    module = import_module("memplan.views.pictures")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert problem() == "plotly is not installed: pip install 'memplan[images]'"


def test_a_browser_that_is_missing_is_named(monkeypatch):
    class Figure:
        def to_image(self, format):
            raise RuntimeError("\n\nKaleido requires Google Chrome.\n\nRun this:\n")

    monkeypatch.setattr(
        import_module("memplan.views.pictures"), "problem", lambda: None
    )
    picture = Picture(name="peaks", title="", alternative="", draw=Figure)
    with pytest.raises(PictureError) as raised:
        as_svg(picture)
    assert str(raised.value) == (
        "kaleido made no picture (Kaleido requires Google Chrome): it needs Chrome or "
        "Chromium, which plotly_get_chrome installs"
    )


# ---- with plotly ----


@pytest.fixture(scope="module")
def figures(validation):
    pytest.importorskip("plotly", reason="the extra `images` is not installed")
    return {picture.name: picture.draw() for picture in pictures_of(validation)}


def test_a_dumbbell_joins_a_measurement_and_its_prediction(figures, validation):
    traces = figures["peaks"].data
    lines = [trace for trace in traces if trace.mode == "lines"]
    dots = {trace.name: trace for trace in traces if trace.mode == "markers"}
    assert list(dots) == ["estimated", "rehearsed", "measured"]
    assert len(lines) == 6
    for line in lines:
        measured, predicted = line.x
        assert measured in dots["measured"].x
        assert predicted in (*dots["estimated"].x, *dots["rehearsed"].x)


def test_kinds_are_told_apart_by_more_than_colour(figures):
    markers = [t.marker for t in figures["peaks"].data if t.mode == "markers"]
    assert len({marker.symbol for marker in markers}) == 3
    assert len({marker.color for marker in markers}) == 3


def test_every_error_is_a_point(figures, validation):
    estimated, rehearsed = figures["components"].data
    assert len(estimated.x) == 3 * 6
    total = sum(
        error
        for name, error in zip(estimated.y, estimated.x, strict=True)
        if name == "weights"
    )
    cases = validation.of("estimated")
    expected = [case.error_fraction("weights") for case in cases]
    assert total == pytest.approx(sum(error for error in expected if error is not None))
    assert rehearsed.boxpoints == "all"


def test_every_prediction_is_a_point_of_its_class(figures, validation):
    traces = {trace.name: trace for trace in figures["errors"].data}
    assert sum(len(trace.x) for trace in traces.values()) == 6
    assert set(traces) == {case.kind for case in validation.cases if case.kind}


def test_a_distribution_rises_to_all_plans(figures):
    for trace in figures["within"].data:
        assert list(trace.y) == [1 / 3, 2 / 3, 1]
        assert list(trace.x) == sorted(trace.x)


def test_of_many_points_the_outliers_alone_are_drawn(validation):
    pytest.importorskip("plotly", reason="the extra `images` is not installed")
    many = replace(validation, cases=validation.cases * 40)
    figures = {picture.name: picture.draw() for picture in pictures_of(many)}
    assert figures["components"].data[0].boxpoints == "outliers"
    dots = [t for t in figures["peaks"].data if t.mode == "markers"]
    assert len(dots[-1].x) == MOST_ROWS


def test_labels_are_no_html(tmp_path):
    pytest.importorskip("plotly", reason="the extra `images` is not installed")
    keep(tmp_path, **{"<b>x": record_of(plan_of())})
    _, _, peaks, *_ = pictures_of(validate(records_under(tmp_path)))
    assert peaks.draw().data[0].y[0] == "&lt;b&gt;x, rtx-4090"


@pytest.mark.slow
def test_pictures_stand_still_and_are_the_same_each_time(validation, tmp_path):
    pytest.importorskip("kaleido", reason="the extra `images` is not installed")
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("there is no Chrome and no Chromium, with which kaleido draws")
    said = list(write_page(validation, tmp_path / "accuracy.md"))
    assert said == []
    text = (tmp_path / "accuracy.md").read_text()
    for name in KINDS_OF_PICTURE:
        svg = (tmp_path / "accuracy" / f"{name}.svg").read_text()
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert not re.search(r"<script|href=\"http", svg)
        assert f"](accuracy/{name}.svg)" in text
    errors = next(iter(pictures_of(validation)))
    assert as_svg(errors) == (tmp_path / "accuracy" / "errors.svg").read_text()
