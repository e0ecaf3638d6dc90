"""What stands on a page: figures that add up, and nothing that is not known."""

import json
import re
from dataclasses import asdict, replace

import comparisons
import page_files
import pytest
from capture_files import CURVE, capture_file
from record_files import plan_of, report_of

from memplan.captures.capture_file import CaptureFile
from memplan.estimate import estimate
from memplan.report import ReservedMemory
from memplan.units import GiB, MiB, format_gib
from memplan.views.page.budget import budget_bytes, parts_of
from memplan.views.page.content import page_of
from memplan.views.page.inputs import Input, entries_of, read_inputs, redacted
from memplan.views.page.pareto import Point, front_of, points_of_comparison
from memplan.views.page.parts import Facts, Table


def page(*files, title=""):
    return page_of(read_inputs(files), title)


def inputs_of(*reports):
    return [
        Input(file=f"{n}.json", capture=CaptureFile(report=report, processes=()))
        for n, report in enumerate(reports)
    ]


def section(made, name):
    return next(one for one in made.sections if one.name == name)


def plot(made, name):
    return next(one for one in made.plots if one.name == name)


def column(table, name):
    place = table.head.index(name)
    return {row[0]: row[place] for row in table.rows}


# ---- the verdict ----


def test_the_verdict_has_the_equation_of_the_budget():
    report = report_of(plan_of(), source="estimated")
    (verdict,) = page_of(inputs_of(report)).verdicts
    sizes = re.findall(r"[\d.]+ GiB", verdict.need)
    assert sizes == [
        format_gib(report.device.total_bytes),
        format_gib(budget_bytes(report)),
        format_gib(report.peak.device_bytes - report.peak.reserved_bytes),
        format_gib(report.peak.reserved_bytes),
        format_gib(report.peak.device_bytes),
    ]
    assert verdict.margin == f"{format_gib(report.headroom_bytes)} to spare"
    assert verdict.run == "gpt2 on rtx-4090"


def test_a_comparison_leads_from_does_not_fit_to_a_recipe(tmp_path):
    (verdict,) = page(page_files.compared(tmp_path)).verdicts
    made = comparisons.comparison()
    assert not verdict.fits
    assert verdict.advice == (
        "It fits with checkpoint every layer and half the batch, twice the steps: "
        f"{format_gib(made.greedy[1].need_bytes)} on the device."
    )
    assert verdict.command == made.greedy[1].command


def test_where_no_trick_suffices_that_is_said():
    made = comparisons.comparison(fits_after=None)
    one = Input(file="tricks.json", comparison=made)
    (verdict,) = page_of([one]).verdicts
    assert "still too much" in verdict.advice
    assert not verdict.command


def test_a_run_out_of_memory_says_where(tmp_path):
    made = page(page_files.out_of_memory(tmp_path))
    (verdict,) = made.verdicts
    assert verdict.margin == "out of memory, backward of step 1"
    assert "this is where it stopped" in plot(made, "budget").note


# ---- plots and their tables ----


def test_a_stack_is_what_the_device_holds():
    for factor in (1.0, 1.07):
        report = report_of(plan_of(), factor=factor)
        assert sum(parts_of(report).values()) == report.peak.device_bytes


def test_the_table_of_the_budget_has_the_bytes_of_the_report(tmp_path):
    made = page(page_files.program(tmp_path))
    report = capture_file().report
    held = column(plot(made, "budget").table, "rehearsed")
    for name, size_bytes in asdict(report.components).items():
        shown_name = name.replace("_", " ").replace("functionality ", "functionality-")
        assert held[shown_name] == size_bytes
    assert held["on the device"] == report.peak.device_bytes
    assert held["budget"] == budget_bytes(report)


def test_many_reports_stand_below_each_other():
    made = page_of(inputs_of(*(report_of(plan_of(), factor=1 + n) for n in range(5))))
    table = plot(made, "budget").table
    assert len(table.rows) == 5
    assert table.head[-1] == "budget"


def test_a_curve_has_every_point_and_its_highest_marked(tmp_path):
    made = page(page_files.program(tmp_path))
    figure = plot(made, "step-0").draw()
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert [line.name for line in lines] == ["forward", "backward", "optimizer"]
    assert max(max(line.y) for line in lines) == max(CURVE["requested_bytes"]) / GiB
    assert "peak 2.83 GiB" in [note.text for note in figure.layout.annotations]


def test_a_report_has_bars_of_phases_and_claims_no_curve():
    made = page_of(inputs_of(report_of(plan_of(), source="estimated")))
    over_time = plot(made, "step-0")
    assert "what lies between is not known" in over_time.note
    assert {trace.type for trace in over_time.draw().data} == {"bar", "scatter"}


def test_areas_of_a_treemap_add_up_to_what_was_allocated(tmp_path):
    made = page(page_files.program(tmp_path))
    areas = plot(made, "modules-0")
    (tree,) = areas.draw().data
    sizes = dict(zip(tree.ids, tree.values, strict=True))
    for key, size_bytes in sizes.items():
        parts = [
            sizes[other]
            for other, parent in zip(tree.ids, tree.parents, strict=True)
            if parent == key
        ]
        assert not parts or sum(parts) == size_bytes
    *rows, whole = areas.table.rows
    assert sum(size for _, size, _ in rows) == whole[1] == sizes[tree.ids[0]]


def test_of_an_estimate_nobody_knows_the_modules():
    made = page_of(inputs_of(report_of(plan_of(), source="estimated")))
    assert "modules" not in [one.name for one in made.sections]


def test_an_explained_estimate_is_drawn_term_by_term():
    report = estimate(plan_of(), explains=True)
    terms = plot(page_of(inputs_of(report)), "modules-0")
    (tree,) = terms.draw().data
    assert tree.values[0] == report.peak.device_bytes
    *rows, whole = terms.table.rows
    assert sum(row[-1] for row in rows) == whole[-1] == report.peak.device_bytes


def test_what_fits_before_fragmentation_alone_fits_narrowly():
    report = estimate(plan_of())
    room = report.peak.reserved_bytes + report.headroom_bytes
    report = replace(
        report,
        reserved=ReservedMemory(
            likely_bytes=room + 1, low_bytes=room, high_bytes=room + 2, basis="tests"
        ),
    )
    (verdict,) = page_of(inputs_of(report)).verdicts
    assert verdict.word == "fits, narrowly"
    assert verdict.margin.endswith("to spare before fragmentation")


def test_a_waterfall_begins_and_ends_at_what_the_plans_need(tmp_path):
    made = page(page_files.compared(tmp_path))
    fall = plot(made, "tricks-0")
    (steps,) = fall.draw().data
    chain = [comparisons.comparison().baseline, *comparisons.comparison().greedy]
    assert steps.x[0] == chain[0].need_bytes / GiB
    assert sum(steps.x[:-1]) == pytest.approx(steps.x[-1])
    needs = column(fall.table, "then on the device")
    assert list(needs.values()) == [variant.need_bytes for variant in chain]
    assert column(fall.table, "saves")["+ checkpoint every layer"] == 4300 * MiB
    assert list(column(fall.table, "fits").values()) == ["no", "no", "yes", "yes"]


def test_the_classic_table_has_the_figures_of_the_plan(tmp_path):
    made = page(page_files.compared(tmp_path))
    tables = [b for b in section(made, "tricks").blocks if isinstance(b, Table)]
    classic = next(one for one in tables if one.caption == "Does it help?")
    assert classic.rows[0] == (
        *("gradient checkpointing", "yes", 4300 * MiB, "costs", "-24%"),
        *("checkpoint every layer", None),
    )
    assert [one.caption for one in tables] == [
        "Each trick alone",
        "Does it help?",
        "What each trick costs",
        "Left out",
    ]


def test_nothing_beats_the_front_and_it_beats_the_rest():
    points = [
        Point(name=name, need_bytes=need, samples_per_s=rate, basis=basis, fits=True)
        for name, need, rate, basis in (
            ("small", 1, 1.0, "measured"),
            ("beaten", 3, 2.0, "measured"),
            ("middle", 2, 2.0, "measured"),
            ("fast", 4, 3.0, "measured"),
            ("counted", 1, 9.0, "counted"),
        )
    ]
    names = [point.name for point in front_of(points)]
    assert names == ["counted", "small", "middle", "fast"]


def test_tricks_of_one_title_are_two_points():
    made = comparisons.comparison()
    alike = replace(made, entries=tuple(replace(e, title="x") for e in made.entries))
    assert len(points_of_comparison(alike)) == len(points_of_comparison(made)) == 6


def test_speeds_are_said_to_be_counted_or_measured(tmp_path):
    compared = page(page_files.compared(tmp_path))
    assert "counted, not measured" in plot(compared, "speed-0").note
    timed = page(
        page_files.timed(tmp_path, "a", 10.0, 1.0),
        page_files.timed(tmp_path, "b", 12.0, 1.2),
    )
    assert "measured on a card" in plot(timed, "speed").note


def test_without_speeds_there_is_no_front():
    report = report_of(plan_of())
    made = page_of(inputs_of(report, replace(report, source="rehearsed")))
    assert "speed" not in [one.name for one in made.sections]


def test_a_dumbbell_has_the_errors_of_every_prediction(tmp_path):
    made = page(*page_files.of_one_plan(tmp_path))
    table = plot(made, "accuracy-0").table
    assert table.head[1:] == (
        *("measured", "rehearsed", "estimated"),
        *("error, rehearsed", "error, estimated"),
    )
    row = next(row for row in table.rows if row[0] == "allocated")
    measured, rehearsed, estimated = row[1:4]
    assert row[4] == f"{(rehearsed - measured) / measured:+.2%}"
    assert row[5] == f"{(estimated - measured) / measured:+.2%}"


def test_different_plans_are_not_held_against_each_other():
    reports = (
        report_of(plan_of()),
        report_of(plan_of(per_device_train_batch_size=2), source="estimated"),
    )
    made = page_of(inputs_of(*reports))
    assert "accuracy" not in [one.name for one in made.sections]


def test_every_plot_has_words_and_a_table(tmp_path):
    made = page(
        *page_files.of_one_plan(tmp_path),
        page_files.program(tmp_path),
        page_files.compared(tmp_path),
    )
    assert len({one.name for one in made.plots}) == len(made.plots)
    for one in made.plots:
        assert len(one.alternative) > 40
        assert one.table.rows
        assert all(len(row) == len(one.table.head) for row in one.table.rows)


# ---- names, commands, privacy ----


def test_reports_alike_are_told_apart_by_their_files(tmp_path):
    (tmp_path / "other").mkdir()
    files = [*page_files.of_one_plan(tmp_path), *page_files.of_one_plan(tmp_path)[:1]]
    labels = [entry.label for entry in entries_of(read_inputs(files))]
    assert labels == [
        "estimated (estimated.json), 1",
        "rehearsed",
        "measured",
        "estimated (estimated.json), 4",
    ]


def test_commands_make_the_figures_again(tmp_path):
    made = page(page_files.program(tmp_path), page_files.compared(tmp_path))
    facts = section(made, "environment").blocks
    commands = {one.title: one.command for one in facts if isinstance(one, Facts)}
    assert "memplan rehearse --gpu rtx-4090 -- python train.py" in commands.values()
    assert commands["+ checkpoint every layer"] == (
        "memplan estimate gpt2 --per-device-train-batch-size 16 "
        "--activation-checkpointing full --gpu rtx-4090"
    )
    assert commands["This page"] == "memplan report run.mplan tricks.json"


def test_folders_of_the_machine_are_not_on_the_page(tmp_path):
    text = page_files.html_of(
        page_files.program(tmp_path), page_files.compared(tmp_path)
    )
    assert str(tmp_path) not in text


def test_redacted_it_tells_of_no_folders(tmp_path):
    whole = capture_file(command=("python", "/home/me/train.py"))
    given = Input(file="run.mplan", capture=whole)
    kept, gone = (page_of([one]) for one in (given, redacted(given)))
    assert "/home/me" in repr(kept.sections)
    assert "/home/me" not in repr(gone.sections)


def test_a_comparison_is_redacted_too():
    made = comparisons.comparison()
    plan = replace(made.plan, model="/home/me/model")
    baseline = replace(made.baseline, report=replace(made.baseline.report, plan=plan))
    given = Input(
        file="tricks.json", comparison=replace(made, plan=plan, baseline=baseline)
    )
    assert "/home/me" not in repr(redacted(given))


def test_labels_of_plots_are_no_html(tmp_path):
    plots = page(*page_files.hostile(tmp_path)).plots
    drawn = json.dumps([json.loads(one.draw().to_json()) for one in plots])
    assert "&lt;script" in drawn
    for markup in ("<script", "<img", "<a href", "</script"):
        assert markup not in drawn
