"""Records against predictions: errors, verdicts, what is refused or skipped."""

import json
import shlex
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import (
    CONTEXT,
    TOTAL,
    keep,
    out_of_memory_on,
    plan_of,
    record_of,
    report_of,
)
from typer.testing import CliRunner

from memplan.cli.app import app
from memplan.errors import ProgramError
from memplan.hardware import find_gpu
from memplan.validation.cases import COMPONENTS, PEAKS
from memplan.validation.records import Found, records_under
from memplan.validation.replay import Replays
from memplan.validation.validate import validate

FEW = settings(max_examples=25, deadline=None, derandomize=True, database=None)
HUGE = plan_of(per_device_train_batch_size=512)


def validated(folder, **options):
    return validate(records_under(folder), **options)


class Rehearsals:
    """Answers in the place of rehearsals, the last first; keeps what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def __call__(self, plans):
        self.asked += plans
        return reversed([*zip(plans, self.answers, strict=True)])


@FEW
@given(st.floats(0.5, 2))
def test_an_error_is_prediction_less_measurement_of_the_measured(factor):
    [case] = validate_one(record_of(plan_of(), factor=factor)).cases
    error = case.error_fraction("allocated")
    assert error == pytest.approx(1 / factor - 1, abs=1e-6)


@FEW
@given(st.floats(0.5, 2), st.integers(1, 8))
def test_errors_of_components_add_up_to_that_of_the_peak(factor, batch):
    record = record_of(plan_of(per_device_train_batch_size=batch), factor=factor)
    [case] = validate_one(record).cases
    total = sum(case.error_fraction(name) for name in COMPONENTS)
    assert total == pytest.approx(case.error_fraction("allocated"), abs=1e-9)


def validate_one(record, **options):
    """A record that no folder holds."""
    found = Found(records=((Path(f"{record.entry}.json"), record),))
    return validate(found, **options)


def test_a_plan_is_predicted_on_the_card_that_it_ran_on():
    [case] = validate_one(record_of(plan_of(gpu="h100-80gb"))).cases
    assert case.plan.gpu == "h100-80gb"
    assert case.plan.gpu_memory_bytes == TOTAL
    assert case.plan.context_bytes == CONTEXT
    assert case.plan.torch == "2.14"
    assert case.difference.term("outside").difference_bytes == 0


def test_the_card_s_own_size_needs_no_flag():
    report = report_of(plan_of())
    device = replace(report.device, total_bytes=find_gpu("rtx-4090").total_bytes)
    [case] = validate_one(
        record_of(plan_of(), report=replace(report, device=device))
    ).cases
    assert case.plan.gpu_memory_bytes is None


def test_a_command_makes_the_prediction_again():
    record = record_of(plan_of(precision="bf16-pure", lora_rank=8, trainable="lora"))
    [case] = validate_one(record).cases
    words = [*shlex.split(case.command)[1:], "--format", "quiet"]
    assert (
        int(CliRunner().invoke(app, words).stdout)
        == case.difference.b.peak.device_bytes
    )


def test_figures_over_many_cases(tmp_path):
    factors = (1.0, 1.005, 1.02, 1.05, 0.9)
    records = {f"r{n}": record_of(plan_of(), factor=f) for n, f in enumerate(factors)}
    errors = validated(keep(tmp_path, **records)).errors("estimated", "allocated")
    expected = sorted(abs(1 / f - 1) for f in factors)
    assert errors.num_cases == 5
    assert errors.median_fraction == pytest.approx(expected[2], abs=1e-6)
    assert errors.mean_fraction == pytest.approx(sum(expected) / 5, abs=1e-6)
    assert errors.ninety_fifth_fraction == pytest.approx(expected[4], abs=1e-6)
    assert errors.lowest_fraction == pytest.approx(1 / 1.05 - 1, abs=1e-6)
    assert errors.highest_fraction == pytest.approx(1 / 0.9 - 1, abs=1e-6)
    assert errors.worst_fraction == errors.highest_fraction
    # 1.005 is too low by less than 1%, which is none.
    assert errors.under_rate == pytest.approx(2 / 5)


def test_the_worst_come_first_and_missed_ones_before_them(tmp_path):
    keep(
        tmp_path,
        near=record_of(plan_of(), factor=1.01),
        far=record_of(plan_of(), factor=1.3),
        missed=out_of_memory_on(plan_of()),
    )
    names = [case.entry for case in validated(tmp_path).worst_first()]
    assert names == ["missed", "far", "near"]


@pytest.mark.parametrize(
    ("plan", "verdict"), [(HUGE, "foretold"), (plan_of(), "missed")]
)
def test_out_of_memory_is_right_where_it_was_said_not_to_fit(plan, verdict):
    [case] = validate_one(out_of_memory_on(plan)).cases
    assert case.verdict == verdict
    assert [case.error_fraction(term) for term in PEAKS] == [None] * 3


def test_a_run_that_came_through_should_not_have_been_refused():
    record = record_of(HUGE, factor=0.05)
    [case] = validate_one(record).cases
    assert case.verdict == "false alarm"
    [fine] = validate_one(record_of(plan_of())).cases
    assert fine.verdict == "ran"


def test_headroom_alone_is_no_false_alarm():
    """It asks for room to spare; the card itself was large enough."""
    [case] = validate_one(record_of(plan_of(headroom_fraction=0.99))).cases
    assert case.verdict == "ran"


def test_a_limit_is_passed_by_under_estimates_and_by_missed_ones(tmp_path):
    keep(
        tmp_path,
        high=record_of(plan_of(), factor=0.5),
        low=record_of(plan_of(), factor=1.2),
        near=record_of(plan_of(), factor=1.02),
    )
    validation = validated(tmp_path)
    assert [case.entry for case in validation.beyond(0.05)] == ["low"]
    assert validation.beyond(0.2) == ()
    keep(tmp_path, missed=out_of_memory_on(plan_of()))
    assert [case.entry for case in validated(tmp_path).beyond(0.2)] == ["missed"]


def test_what_says_rehearsed_is_no_measurement(tmp_path):
    keep(tmp_path, played=record_of(plan_of(), source="rehearsed"))
    validation = validated(tmp_path)
    assert validation.cases == ()
    [skipped] = validation.skipped
    assert "says rehearsed, which is no measurement" in skipped.reason


def test_measured_and_rehearsed_records_are_never_mixed(tmp_path):
    keep(
        tmp_path,
        played=record_of(plan_of(), source="rehearsed"),
        real=record_of(plan_of()),
    )
    validation = validated(tmp_path, against="rehearsed")
    assert validation.reference == "rehearsed"
    assert [case.entry for case in validation.cases] == ["played"]
    assert "it is measured" in validation.skipped[0].reason


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (
            record_of(plan_of(), ended="failed", report=None, error="no"),
            "it failed: no",
        ),
        (record_of(plan_of(), ended="timeout", report=None), "took too long"),
        (record_of(plan_of(), ended="out_of_memory", report=None), "has no report"),
        (record_of(plan_of(), ended="failed"), "it failed"),
    ],
)
def test_runs_of_which_nothing_can_be_said_are_skipped(record, says):
    validation = validate_one(record)
    assert validation.cases == ()
    assert says in validation.skipped[0].reason


def test_a_card_that_is_not_known_is_named():
    report = report_of(plan_of())
    unknown = replace(report, device=replace(report.device, gpu="warp-core"))
    validation = validate_one(record_of(plan_of(), report=unknown))
    assert "no GPU named 'warp-core'" in validation.skipped[0].reason


def test_files_that_are_no_records_are_counted(tmp_path):
    keep(tmp_path, good=record_of(plan_of()))
    (tmp_path / "cut.json").write_text("{")
    validation = validated(tmp_path)
    assert validation.num_records == 1
    assert [skipped.path.name for skipped in validation.skipped] == ["cut.json"]


def test_rehearsals_stand_beside_estimates():
    plan = plan_of()
    report = report_of(plan, factor=1.1)
    told = []
    rehearse = Rehearsals(replace(report, source="rehearsed"))
    validation = validate_one(
        record_of(plan, factor=1.1), rehearse=rehearse, say=told.append
    )
    assert validation.engines == ("estimated", "rehearsed")
    assert validation.errors("rehearsed", "allocated").worst_fraction == 0
    assert validation.errors("estimated", "allocated").worst_fraction < -0.09
    assert told == ["rehearsed 1 of 1: gpt2"]
    [asked] = rehearse.asked
    assert (asked.torch, asked.context_bytes, asked.alloc_conf) == (None, CONTEXT, None)


def test_settings_of_the_allocator_are_those_of_the_record():
    report = report_of(plan_of())
    allocator = "caching allocator, expandable_segments:True"
    report = replace(report, device=replace(report.device, allocator=allocator))
    rehearse = Rehearsals(report)
    validation = validate_one(record_of(plan_of(), report=report), rehearse=rehearse)
    assert rehearse.asked[0].alloc_conf == "expandable_segments:True"
    for case in validation.cases:
        assert "--alloc-conf expandable_segments:True" in case.command
    assert "--alloc-conf expandable_segments:True" in validation.by_trick("estimated")


def test_what_cannot_be_rehearsed_here_is_skipped_for_that_alone():
    rehearse = Rehearsals("There is no compiler")
    validation = validate_one(record_of(plan_of()), rehearse=rehearse)
    assert [case.engine for case in validation.cases] == ["estimated"]
    assert validation.skipped[0].reason == "not rehearsed: There is no compiler."


def test_records_of_one_plan_are_rehearsed_once(tmp_path):
    report = report_of(plan_of(), source="rehearsed")
    keep(tmp_path, one=record_of(plan_of()), two=record_of(plan_of(), factor=2))
    rehearse = Rehearsals(report)
    validation = validated(tmp_path, rehearse=rehearse)
    assert len(rehearse.asked) == 1
    assert [case.entry for case in validation.of("rehearsed")] == ["one", "two"]


def test_cases_stand_as_their_records_whichever_is_rehearsed_first(tmp_path):
    plans = [plan_of(per_device_train_batch_size=size) for size in (1, 2, 3)]
    records = {f"r{n}": record_of(plan) for n, plan in enumerate(plans)}
    rehearse = Rehearsals(*(record.report for record in records.values()))
    validation = validated(keep(tmp_path, **records), rehearse=rehearse)
    assert [case.entry for case in validation.of("rehearsed")] == ["r0", "r1", "r2"]
    assert {case.error_fraction("allocated") for case in validation.cases} == {0}


def test_cases_are_found_by_what_their_plans_set(tmp_path):
    keep(
        tmp_path,
        plain=record_of(plan_of()),
        full=record_of(plan_of(activation_checkpointing="full", precision="bf16-pure")),
    )
    found = validated(tmp_path).by_trick("estimated")
    assert list(found) == [
        "no trick",
        "--activation-checkpointing full",
        "--precision bf16-pure",
    ]
    assert [case.entry for case in found["no trick"]] == ["plain"]


def test_cases_are_found_by_the_class_whose_band_they_have(tmp_path):
    keep(
        tmp_path,
        large=record_of(plan_of(per_device_train_batch_size=8)),
        split=record_of(plan_of(num_gpus=2, zero_stage=3)),
    )
    found = validated(tmp_path).by_kind("estimated")
    assert {kind: [case.entry for case in cases] for kind, cases in found.items()} == {
        "plans sharded by FSDP2": ["split"],
        "plans without adapters, not sharded": ["large"],
    }


def test_phases_are_named_rightly_or_not(tmp_path):
    right = report_of(plan_of())
    wrong = replace(right, peak=replace(right.peak, phase="setup"))
    keep(
        tmp_path,
        right=record_of(plan_of(), report=right),
        wrong=record_of(plan_of(), report=wrong),
        ended=out_of_memory_on(HUGE),
    )
    validation = validated(tmp_path)
    named = {case.entry: case.names_phase for case in validation.cases}
    assert named == {"right": True, "wrong": False, "ended": None}
    assert validation.phase_rate("estimated") == 0.5


# ---- rehearsals that are kept ----


@pytest.fixture
def replayed(monkeypatch):
    """How often a plan is really rehearsed."""
    module = import_module("memplan.validation.replay")
    runs = []

    def rehearse(plan, *how):
        runs.append(plan)
        return report_of(plan_of(), source="rehearsed")

    monkeypatch.setattr(module, "rehearsed_apart", rehearse)
    return runs


def test_a_rehearsal_is_made_once(tmp_path, replayed):
    first = Replays(tmp_path).rehearse(plan_of())
    assert Replays(tmp_path).rehearse(plan_of()) == first
    assert len(replayed) == 1


@pytest.mark.parametrize("change", ["plan", "versions", "code", "card", "nothing"])
def test_whatever_decides_it_makes_it_anew(tmp_path, replayed, monkeypatch, change):
    replays = Replays(tmp_path)
    replays.rehearse(plan_of())
    module = import_module("memplan.validation.kept")
    plan = plan_of()
    match change:
        case "plan":
            plan = plan_of(seq_len=8)
        case "versions":
            monkeypatch.setattr(module, "_versions", lambda: {"torch": "3"})
        case "code":
            monkeypatch.setattr(module, "_code", lambda: "other")
        case "card":
            gpu = replace(find_gpu("rtx-4090"), total_bytes=1)
            monkeypatch.setattr(module, "find_gpu", lambda slug: gpu)
    replays.rehearse(plan)
    assert len(replayed) == (1 if change == "nothing" else 2)


def test_a_model_s_file_that_changes_makes_it_anew(tmp_path, replayed):
    file = tmp_path / "config.json"
    for layers in (2, 3):
        file.write_text(json.dumps({"model_type": "gpt2", "n_layer": layers}))
        Replays(tmp_path / "kept").rehearse(plan_of(model=str(file)))
    assert len(replayed) == 2


def test_a_kept_file_that_was_cut_is_made_anew(tmp_path, replayed):
    Replays(tmp_path).rehearse(plan_of())
    [file] = tmp_path.iterdir()
    file.write_text(file.read_text()[:100])
    Replays(tmp_path).rehearse(plan_of())
    assert len(replayed) == 2


def test_a_folder_that_cannot_be_written_costs_only_the_next_run(tmp_path, replayed):
    taken = tmp_path / "taken"
    taken.write_text("no folder")
    assert Replays(taken).rehearse(plan_of()).source == "rehearsed"


def test_what_a_rehearsal_says_of_its_failure_is_kept(tmp_path):
    with pytest.raises(ProgramError, match="Tensor parallelism is not run") as raised:
        Replays(tmp_path).rehearse(plan_of(num_gpus=2, tensor_parallel=2))
    assert "memplan rehearse gpt2" in raised.value.hint
