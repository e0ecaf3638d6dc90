"""Two reports side by side in a terminal of 80 columns."""

import io
from dataclasses import replace

import pytest
from captures import capture, figures
from rich.console import Console

from memplan.diff import diff
from memplan.hardware import find_gpu
from memplan.report import RankMemory
from memplan.running.rehearsal import Subject, report_of
from memplan.units import MiB
from memplan.views.difference import show_difference

SUBJECT = Subject(gpu=find_gpu("rtx-4090"), command=("python", "train.py"))
REPORT = report_of(capture(), SUBJECT)
LONG = "a.very.long.name.of.a.module.that.goes.on.and.on." * 4


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    def show(a, b, names=("a.json", "b.mplan")):
        console = Console(file=io.StringIO(), width=80, highlight=False)
        show_difference(diff(a, b), names, console)
        text = console.file.getvalue()
        assert max(len(line) for line in text.splitlines()) <= 80
        return text

    return show


def row_of(text, name):
    [line] = [line for line in text.splitlines() if line.strip().startswith(name)]
    return " ".join(line.split())


def test_a_row_has_both_figures_the_difference_and_its_part_of_the_first(shown):
    peak = replace(REPORT.peak, reserved_bytes=3600 * MiB)
    text = shown(REPORT, replace(REPORT, peak=peak))
    expected = "reserved 2.93 GiB 3.52 GiB +600.00 MiB +20.0%"
    assert row_of(text.split("Held at")[0], "reserved") == expected


def test_what_one_does_not_know_is_a_dash(shown):
    known = replace(REPORT, peak=replace(REPORT.peak, active_bytes=MiB))
    unknown = replace(REPORT, peak=replace(REPORT.peak, active_bytes=None))
    assert row_of(shown(known, unknown), "active") == "active 1.00 MiB - - -"
    assert "  active " not in shown(unknown, unknown)


def test_ranks_have_a_row_for_each_of_their_figures(shown):
    ranks = tuple(
        RankMemory(
            rank=rank,
            node=0,
            ended=ended,
            allocated_bytes=size * MiB,
            reserved_bytes=2 * size * MiB,
            device_bytes=3 * size * MiB,
        )
        for rank, ended, size in ((0, "finished", 512), (1, "died", 0))
    )
    text = shown(replace(REPORT, ranks=ranks), replace(REPORT, ranks=ranks))
    assert row_of(text, "rank 0, allocated") == (
        "rank 0, allocated 0.50 GiB 0.50 GiB 0 B 0.0%"
    )
    assert row_of(text, "rank 1, device") == "rank 1, device - - - -"


def test_marked_stages_stand_in_a_table_of_their_own(shown):
    marked = [{"name": "generate", **figures(800, 810, 900, 90)}]
    seen = report_of(capture(marked=marked), SUBJECT)
    assert row_of(shown(REPORT, seen), "generate") == "generate - 0.79 GiB - -"


def test_long_names_are_folded_and_not_cut(shown):
    named = replace(
        REPORT,
        command=("python", LONG),
        model=replace(REPORT.model, name=LONG),
        peak=replace(REPORT.peak, module=LONG, line=f"{LONG}.py:1 f"),
        versions={"torch": "2.14.1+cu130", "x" * 90: LONG},
    )
    text = "".join(shown(REPORT, named, (LONG, LONG)).split())
    assert f"Arehearsed{LONG}" in text
    assert f"at{LONG}({LONG}.py:1f)" in text
    assert f"{LONG}onrtx-4090" in text


def test_a_difference_of_programs_is_said_to_be_of_two_plans(shown):
    other = replace(REPORT, command=("python", "other.py"))
    assert "two different plans" in shown(REPORT, other)
    assert "Not the same" not in shown(REPORT, REPORT)
