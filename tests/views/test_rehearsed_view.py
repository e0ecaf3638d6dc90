"""A rehearsed report in a terminal of 80 columns."""

import io
from dataclasses import replace

import pytest
from captures import CAPTURE, capture, figures, out_of_memory_capture, step
from rich.console import Console

from memplan.hardware import find_gpu
from memplan.report import Remedy
from memplan.running.rehearsal import Subject, out_of_memory_of, report_of
from memplan.units import GiB, MiB
from memplan.views.terminal import show_report

SUBJECT = Subject(
    gpu=find_gpu("rtx-4090"),
    command=("python", "train.py"),
    assumptions=("CUDA context of 500 MiB assumed",),
)
REPORT = report_of(capture(), SUBJECT)
ERROR = replace(
    out_of_memory_of(out_of_memory_capture()),
    needed_bytes=30 * GiB,
    remedies=(
        Remedy(
            change="PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
            basis="rehearsed",
            device_bytes=22 * GiB,
        ),
        Remedy(
            change="--per-device-train-batch-size 4 --gradient-accumulation-steps 8",
            basis="rehearsed",
            device_bytes=20 * GiB,
        ),
        Remedy(change="--gpu l40s", basis="carried over", device_bytes=30 * GiB),
    ),
)


@pytest.fixture
def shown(monkeypatch):
    """What is printed for a report."""
    monkeypatch.setenv("NO_COLOR", "1")

    def show(report):
        console = Console(file=io.StringIO(), width=80, highlight=False)
        show_report(report, console)
        text = console.file.getvalue()
        assert max(len(line) for line in text.splitlines()) <= 80
        return text

    return show


def test_a_run_that_fits_is_as_seen_before(shown, snapshot):
    assert shown(REPORT) == snapshot


def test_out_of_memory_is_as_seen_before(shown, snapshot):
    report = replace(REPORT, fits=False, out_of_memory=ERROR)
    assert shown(report) == snapshot


@pytest.mark.parametrize(
    ("free_mib", "asked", "free"),
    [
        (4, "8.00 MiB", "4.00 MiB on the card, and"),
        (9, "8.00 MiB, of a segment of 20.00 MiB", "9.00 MiB on the card, and"),
        (64, "8.00 MiB", "64.00 MiB on the card, beyond the share"),
    ],
)
def test_why_free_memory_was_not_enough_is_said(shown, free_mib, asked, free):
    error = replace(
        ERROR,
        asked_bytes=8 * MiB,
        segment_bytes=20 * MiB,
        free_bytes=free_mib * MiB,
    )
    text = shown(replace(REPORT, fits=False, out_of_memory=error))
    assert f"Asked  {asked}" in text
    assert f"Free   {free}" in text


def test_out_of_memory_with_no_known_need_says_so(shown):
    error = replace(ERROR, needed_bytes=None, remedies=())
    report = report_of(out_of_memory_capture(), SUBJECT)
    text = shown(replace(report, fits=False, out_of_memory=error))
    assert "What it needs is not known" in text
    assert "No single change" in text


def test_marked_phases_are_a_table(shown):
    marked = [{"name": "generate", **figures(800, 810, 900, 90)}]
    seen = capture(steps=[], peak=None, components=None, holders=[], marked=marked)
    text = shown(report_of(seen, SUBJECT))
    assert "Marked in the program" in text
    assert "generate" in text


def test_micro_batches_are_one_line_at_their_highest(shown):
    phases = [*step(3, 400)["phases"][:3], *step(3, 500)["phases"]]
    steps = [*CAPTURE["steps"][:2], {"step": 3, "phases": phases}]
    text = shown(report_of(capture(steps=steps), SUBJECT))
    [backward] = [line for line in text.splitlines() if "backward x 2" in line]
    assert "2.93 GiB" in backward


def test_settings_of_the_allocator_are_shown_where_there_are_any(shown):
    assert "Allocator" not in shown(REPORT)
    text = shown(report_of(capture(allocator="max_split_size_mb:64"), SUBJECT))
    assert "caching allocator, max_split_size_mb:64" in text


def test_a_rank_of_many_names_the_cards(shown):
    report = replace(REPORT, num_gpus=64)
    assert "on 64 x rtx-4090" in shown(report).splitlines()[0]


def test_nothing_that_a_program_names_is_taken_for_markup(shown):
    holder = replace(REPORT.holders[0], name="[bold]", line="a[0].py:1 [red]")
    assert "[bold]" in shown(replace(REPORT, holders=(holder,)))
