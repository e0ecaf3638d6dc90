"""What only a card shows, in a terminal of 80 columns.

The figures are made up by hand: they show a form, and are no measurement.
"""

import io

import pytest
from captures import capture
from rich.console import Console

from memplan.hardware import find_gpu
from memplan.report import HostMemory, RankMemory, StepTiming, from_json, to_json
from memplan.running.rehearsal import Subject, report_of
from memplan.units import GiB, MiB
from memplan.views.measured import ranks, rates, times
from memplan.views.terminal import show_report

REPORT = report_of(
    capture(
        is_virtual=False,
        unsupported={"operators": [], "reads": [], "calls": []},
        outside={
            "at_start_bytes": 400 * MiB,
            "at_end_bytes": 500 * MiB,
            "others_bytes": 0,
            "basis": "by hand",
        },
        timing={
            "step_ms": [400.0, 410.0, 420.0],
            "stall_ms": [1.0, 2.0, 3.0],
            "warmup_steps": 2,
            "flops_per_step": 16 * 10**12,
        },
        host={"peak_resident_bytes": 3 * GiB, "pinned_bytes": 256 * MiB},
    ),
    Subject(gpu=find_gpu("rtx-4090"), command=("python", "train.py")),
)


@pytest.fixture
def shown(monkeypatch):
    """What is printed of something."""
    monkeypatch.setenv("NO_COLOR", "1")

    def show(thing):
        console = Console(file=io.StringIO(), width=80, highlight=False)
        if thing is REPORT:
            show_report(thing, console)
        else:
            console.print(thing)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        return [line.rstrip() for line in lines]

    return show


def test_times_rates_and_the_host_have_lines_of_their_own(shown):
    text = "\n".join(shown(REPORT))
    for line in (
        "Outside     0.39 GiB at CUDA's start, 0.10 GiB since: kernels, libraries",
        "Time        410.0 ms a step (median of 3; eight of ten from 402.0 ms to",
        "2.0 ms of it waiting for the next batch",
        "Rate        39.02 TFLOP/s",
        "Host        3.00 GiB of memory at most, and 0.25 GiB page-locked by PyTorch",
        "(measured)",
        "measured on NVIDIA GeForce RTX 4090, torch 2.14.1+cu130, 3 steps",
    ):
        assert line in text


def test_such_a_report_comes_back_from_json():
    assert from_json(to_json(REPORT)) == REPORT
    assert REPORT.host == HostMemory(
        peak_resident_bytes=3 * GiB, pinned_bytes=256 * MiB
    )


def test_a_plans_rates_are_per_gpu_and_of_the_card():
    timing = StepTiming(
        num_steps=10,
        median_ms=1520.0,
        low_ms=1500.0,
        high_ms=1600.0,
        samples_per_s=5.2631578,
        tokens_per_s=21_557.9,
        flops_per_step=6 * 10**14,
        flops_per_s=3.947e14,
        fraction_of_peak=0.399,
    )
    assert times(timing) == [
        "1.52 s a step (median of 10; eight of ten from 1.50 s to 1.60 s)"
    ]
    assert rates(timing) == [
        "5.263 samples/s, 21.56K tokens/s per GPU",
        "394.7 TFLOP/s, 40% of the card's dense rate",
    ]


def row(rank, gib, ended="stopped", error=""):
    size = gib * GiB
    return RankMemory(
        rank=rank,
        node=rank // 8,
        ended=ended,
        error=error,
        allocated_bytes=size,
        reserved_bytes=size,
        device_bytes=size,
    )


def test_every_rank_of_a_few_has_a_line(shown):
    lines = shown(ranks([row(0, 20), RankMemory(rank=1, node=0, ended="died")]))
    assert lines[1].split() == ["0", "0", *["20.00", "GiB"] * 3, "stopped"]
    assert lines[2].split() == ["1", "0", "-", "-", "-", "died"]


def test_of_many_the_highest_and_the_failed_are_shown(shown):
    rows = [row(rank, 10 + rank % 3) for rank in range(64)]
    rows[33] = row(33, 1, "crashed", "LookupError: " + "a long story " * 9)
    lines = shown(ranks(rows))
    assert any(line.split()[:2] == ["33", "4"] for line in lines)
    assert lines[-1] == "  and 56 more, of 10.00 GiB to 12.00 GiB on the device"


def test_what_others_hold_of_a_card_is_theirs():
    outside = {
        "at_start_bytes": 400 * MiB,
        "at_end_bytes": 420 * MiB,
        "others_bytes": 80 * MiB,
        "basis": "by hand",
    }
    made = report_of(
        capture(is_virtual=False, outside=outside),
        Subject(gpu=find_gpu("rtx-4090"), command=("python",)),
    )
    assert made.device.context_bytes == 420 * MiB
    assert made.device.libraries_bytes == 20 * MiB
    assert any("0.08 GiB of the card, which is not" in a for a in made.assumptions)
    unknown = report_of(
        capture(is_virtual=False, outside={**outside, "others_bytes": None}),
        Subject(gpu=find_gpu("rtx-4090"), command=("python",)),
    )
    assert unknown.device.context_bytes == 500 * MiB
    assert any("cannot be told apart" in a for a in unknown.assumptions)


def test_retries_and_split_blocks_are_in_the_report():
    assert (REPORT.retries, REPORT.inactive_split_bytes) == (0, 60 * MiB)
