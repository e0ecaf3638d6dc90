"""A capture into a report: nothing is lost, nothing is made up, all of it adds up."""

from dataclasses import asdict, replace

import pytest
from captures import (
    CAPTURE,
    MIB,
    OUT_OF_MEMORY,
    capture,
    figures,
    out_of_memory_capture,
)

from memplan.hardware import find_gpu
from memplan.plan import TrainingPlan
from memplan.report import Remedy, from_json, to_json
from memplan.running.rehearsal import (
    Subject,
    has_something_to_report,
    most_loaded,
    out_of_memory_of,
    report_of,
)

SUBJECT = Subject(gpu=find_gpu("rtx-4090"), command=("python", "train.py"))


def report(**changes):
    return report_of(capture(**changes), SUBJECT)


def test_components_add_up_to_what_was_allocated():
    made = report()
    assert made.components.total == made.peak.allocated_bytes
    assert made.components.weights == CAPTURE["components"]["weights"]


def test_temporary_buffers_take_in_the_unattributed_and_the_rounding_and_say_so():
    made = report()
    assert made.unattributed_bytes == 50 * MIB
    assert made.rounding_bytes == 20 * MIB
    assert made.components.temporary_buffers == (150 + 50 + 20) * MIB


def test_the_four_kinds_of_bytes_are_in_order():
    peak = report().peak
    assert peak.requested_bytes <= peak.allocated_bytes <= peak.reserved_bytes
    assert peak.device_bytes == peak.reserved_bytes + 500 * MIB


def test_fragmentation_is_reserved_minus_allocated():
    assert report().fragmentation_bytes == 80 * MIB


def test_every_phase_of_every_step_is_kept():
    made = report()
    assert [phase.step for phase in made.phases] == [1] * 4 + [2] * 4 + [3] * 4
    assert made.phases[2].phase == "backward"
    assert made.phases[2].peak_reserved_bytes == 3000 * MIB
    assert made.phases[2].end_requested_bytes == 1200 * MIB


def test_the_headroom_is_kept_of_the_card():
    made = report()
    total = made.device.total_bytes
    assert made.headroom_bytes == total - int(total * 0.05) - made.peak.device_bytes
    assert made.fits
    assert not report_of(capture(), replace(SUBJECT, headroom_fraction=0.9)).fits


@pytest.mark.parametrize(
    "made", [report(), report_of(out_of_memory_capture(), SUBJECT)]
)
def test_json_round_trip(made):
    assert from_json(to_json(made)) == made


def test_json_round_trip_with_remedies():
    error = replace(
        out_of_memory_of(out_of_memory_capture()),
        needed_bytes=5,
        remedies=(Remedy(change="--gpu l4", basis="carried over", device_bytes=5),),
    )
    made = replace(report(), out_of_memory=error, fits=False)
    assert from_json(to_json(made)) == made


def test_a_rehearsal_says_that_it_is_one_and_has_no_times():
    made = report()
    assert made.source == "rehearsed"
    assert made.band.low_bytes == made.band.high_bytes == made.peak.allocated_bytes
    assert "not measured on a card" in made.band.basis
    assert not [name for name in asdict(made) if name.endswith("_s")]


def test_what_the_card_does_not_play_is_named():
    nonzero, cufft = report().unsupported
    assert nonzero.startswith("aten::nonzero")
    assert "3 times, train.py:12 f" in nonzero
    assert cufft.startswith("cufftGetSize")
    assert "once" in cufft


def test_a_program_that_reads_values_is_told_what_it_read():
    read = {"count": 2, "line": "train.py:31 main"}
    made = report(unsupported={"operators": [], "reads": [read], "calls": []})
    assert made.unsupported == ()
    (said,) = [line for line in made.assumptions if "read values" in line]
    assert "2 times, first at train.py:31 main" in said


def test_fewer_than_three_steps_are_an_assumption():
    assert not any("training step" in line for line in report().assumptions)
    made = report(steps=CAPTURE["steps"][:1], ended="finished")
    assert any("made 1 training step:" in line for line in made.assumptions)


def test_an_error_that_the_program_caught_is_told_and_is_not_the_result():
    caught = {**OUT_OF_MEMORY, "caught": True}
    seen = capture(out_of_memory=caught)
    assert out_of_memory_of(seen) is None
    made = report_of(seen, SUBJECT)
    assert made.peak.step == 3
    assert any("went on by itself" in line for line in made.assumptions)


def test_retries_are_told():
    assert any("nearly full" in line for line in report(retries=4).assumptions)


def test_marked_phases_are_reported_where_there_is_no_step():
    marked = [
        {"name": "load", **figures(100, 101, 120, 90)},
        {"name": "generate", **figures(800, 810, 900, 90)},
    ]
    seen = capture(steps=[], peak=None, components=None, marked=marked)
    made = report_of(seen, SUBJECT)
    assert has_something_to_report(seen)
    assert [mark.name for mark in made.marked] == ["load", "generate"]
    assert (made.peak.phase, made.peak.step) == ("generate", 0)
    assert made.peak.allocated_bytes == 810 * MIB
    assert made.components.total == made.peak.allocated_bytes


def test_a_peak_of_no_step_is_one_of_step_zero():
    peak = {**CAPTURE["peak"], "step": None, "phase": "forward"}
    marked = [{"name": "forward", **figures(1, 1, 2, 1)}]
    made = report(steps=[], peak=peak, marked=marked)
    assert made.peak.step == 0


def test_nothing_seen_is_nothing_to_report():
    assert not has_something_to_report(capture(steps=[]))
    assert has_something_to_report(out_of_memory_capture())


def test_where_memory_ended():
    error = out_of_memory_of(out_of_memory_capture())
    assert (error.step, error.phase, error.module) == (1, "backward", "layers.3.mlp")
    assert error.asked_bytes == 300 * MIB
    assert error.components.temporary_buffers == 80 * MIB
    assert len(error.holders) == 1


def test_the_most_loaded_process_is_the_one_that_ran_out_else_the_highest():
    small = capture(peak={**CAPTURE["peak"], "reserved_bytes": 1 * MIB}, rank=1)
    assert most_loaded([small, capture()])["rank"] == 0
    out = {**out_of_memory_capture(), "rank": 2}
    assert most_loaded([small, capture(), out])["rank"] == 2


def test_components_that_know_too_much_still_add_up():
    known = {**CAPTURE["components"], "activations": 5000 * MIB}
    made = report(components=known)
    assert made.components.total == made.peak.allocated_bytes
    assert made.unattributed_bytes == 0


def test_a_model_has_the_name_that_its_plan_gives_it():
    plan = TrainingPlan(model="gpt2", gpu="rtx-4090")
    subject = Subject(gpu=SUBJECT.gpu, plan=plan)
    assert report_of(capture(), subject).model.name == "gpt2"


def test_an_unknown_model_has_the_name_of_its_command():
    assert report(model=None).model.name == "python train.py"
