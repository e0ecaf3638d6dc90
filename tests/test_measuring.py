"""A round over plans whose runs are made up: what it survives, keeps and passes over.

Each plan runs in a process that is forked off this one, so a function put here in the
place of `profile` is what runs there. `tests/test_measure.py` runs the real one.
"""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from memplan.campaign.measuring import FIRST_S, Measuring, Pace, ahead_of
from memplan.campaign.plans import Entry, Sized
from memplan.errors import ProgramError
from memplan.estimate import estimate
from memplan.plan import TrainingPlan
from memplan.report import OutOfMemory
from memplan.units import GiB
from memplan.validation.records import read_record, records_under
from memplan.views.campaign import counts_of, line_of, listed, summary_of

PLAN = TrainingPlan(model="gpt2", gpu="rtx-4090")


def sized(name, needed_bytes=2**30, plan=PLAN, left_out="", **entry):
    entry = Entry(name=name, group="a group", plan=plan, **entry)
    return Sized(entry=entry, needed_bytes=needed_bytes, left_out=left_out)


def report_of(plan):
    return replace(estimate(plan), source="rehearsed")


@pytest.fixture
def profiled(monkeypatch):
    """Puts a function in the place of `profile`; the plan's batch says which run."""

    def put(*runs):
        def profile(plan, ranks, say):
            assert ranks == plan.num_gpus
            return runs[plan.per_device_train_batch_size - 1](plan)

        monkeypatch.setitem(
            sys.modules, "memplan.profile", SimpleNamespace(profile=profile)
        )
        return [
            sized(
                f"plan-{number}",
                plan=replace(PLAN, per_device_train_batch_size=number),
            )
            for number in range(1, len(runs) + 1)
        ]

    return put


def measured(folder, plans, **settings):
    return list(Measuring(folder, **{"ahead": 0, **settings}).run(plans))


def hangs(plan):
    while True:
        time.sleep(1)


def deaf(plan):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hangs(plan)


def fails(plan):
    raise ProgramError("python left with exit code 1 (ValueError: no).", hint="See.")


def is_killed(plan):
    os.kill(os.getpid(), signal.SIGKILL)


def has_a_bug(plan):
    raise ZeroDivisionError("a bug")


def out_of_memory(plan):
    report = report_of(plan)
    end = OutOfMemory(
        step=1,
        phase="forward",
        module="",
        line="",
        asked_bytes=1,
        segment_bytes=2,
        free_bytes=0,
        allocated_bytes=1,
        reserved_bytes=1,
        message="CUDA out of memory.",
        components=report.components,
    )
    return replace(report, out_of_memory=end)


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_a_round_goes_on_whatever_becomes_of_a_plan(profiled, tmp_path, ahead):
    plans = profiled(
        report_of, out_of_memory, fails, is_killed, has_a_bug, hangs, report_of
    )
    outcomes = measured(tmp_path, plans, limit_s=1, ahead=ahead)
    assert [outcome.state for outcome in outcomes] == [
        "finished",
        "out of memory",
        "failed",
        "failed",
        "failed",
        "timeout",
        "finished",
    ]
    records = {record.entry: record for _, record in records_under(tmp_path).records}
    assert records["plan-1"].report == report_of(plans[0].entry.plan)
    assert records["plan-2"].ended == "out_of_memory"
    assert records["plan-2"].report.out_of_memory.message == "CUDA out of memory."
    assert "ValueError: no" in records["plan-3"].error
    assert records["plan-4"].error == "its process was killed by SIGKILL"
    assert records["plan-5"].error == "its process left with exit code 1"
    assert records["plan-6"].error == "it had not ended after 1 s"
    assert not any(records[f"plan-{n}"].report for n in (3, 4, 5, 6))
    assert "ZeroDivisionError" in (tmp_path / "logs" / "plan-5.log").read_text()
    assert not (tmp_path / "logs" / "plan-1.log").exists()


def test_a_process_that_does_not_listen_is_killed(profiled, tmp_path, monkeypatch):
    monkeypatch.setattr("memplan.campaign.attempt.PATIENCE_S", 0.5)
    begins = time.monotonic()
    outcomes = measured(tmp_path, profiled(deaf), limit_s=0.5)
    assert outcomes[0].state == "timeout"
    assert time.monotonic() - begins < 5


def test_what_has_a_record_is_not_run_again(profiled, tmp_path):
    measured(tmp_path, profiled(report_of, fails))
    before = {file: file.read_bytes() for file in tmp_path.glob("*.json")}
    outcomes = measured(tmp_path, profiled(is_killed, is_killed, report_of))
    assert [outcome.state for outcome in outcomes] == [
        "recorded",
        "recorded",
        "finished",
    ]
    assert all(file.read_bytes() == content for file, content in before.items())
    assert outcomes[0].device_bytes == report_of(PLAN).peak.device_bytes


def test_what_failed_is_measured_anew_when_asked(profiled, tmp_path):
    measured(tmp_path, profiled(report_of, fails))
    outcomes = measured(tmp_path, profiled(is_killed, report_of), again=True)
    assert [outcome.state for outcome in outcomes] == ["recorded", "finished"]
    assert read_record(tmp_path / "plan-2.json").ended == "finished"


def test_a_record_of_another_plan_is_kept_and_named(profiled, tmp_path):
    plans = profiled(report_of)
    measured(tmp_path, plans)
    other = replace(plans[0].entry, plan=replace(PLAN, precision="fp32"))
    outcome = measured(tmp_path, [replace(plans[0], entry=other)])[0]
    assert outcome.state == "recorded"
    assert "another plan" in outcome.said


def test_a_record_of_another_card_s_size_is_the_same_plan(profiled, tmp_path):
    plans = profiled(report_of)
    measured(tmp_path, plans)
    there = replace(plans[0].entry.plan, gpu="h100-80gb", gpu_memory_bytes=2**36)
    elsewhere = replace(plans[0], entry=replace(plans[0].entry, plan=there))
    outcome = measured(tmp_path, [elsewhere])[0]
    assert outcome.said.startswith("finished")


def test_a_file_that_is_no_record_is_left_alone(profiled, tmp_path):
    (tmp_path / "plan-1.json").write_text("{}")
    outcome = measured(tmp_path, profiled(report_of))[0]
    assert outcome.state == "recorded"
    assert "plan-1.json" in outcome.said
    assert (tmp_path / "plan-1.json").read_text() == "{}"


def test_what_cannot_fit_or_cannot_run_is_passed_over_with_the_reason(tmp_path):
    unrunnable = replace(PLAN, num_gpus=2, tensor_parallel=2)
    outcomes = measured(
        tmp_path,
        [sized("large", left_out="it is too large"), sized("odd", plan=unrunnable)],
    )
    assert [(o.state, o.said.split(":")[0]) for o in outcomes] == [
        ("left out", "it is too large"),
        ("cannot run", "Tensor parallelism is not run"),
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_is_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "memplan.runner.training.refusals.find_spec",
        lambda name: None if name == "peft" else name,
    )
    lora = sized("lora", plan=replace(PLAN, trainable="lora"))
    outcome = measured(tmp_path, [lora])[0]
    assert (outcome.state, outcome.said) == (
        "cannot run",
        "LoRA needs peft, which is not installed.",
    )


def test_nothing_begins_that_would_not_end_in_time(profiled, tmp_path):
    plans = profiled(report_of, report_of)
    minutes = 0.9 * FIRST_S / 60
    outcomes = measured(tmp_path, plans, minutes=minutes)
    assert [outcome.state for outcome in outcomes] == ["no time", "no time"]
    assert list(tmp_path.glob("*.json")) == []


def test_a_small_plan_may_still_begin_where_a_large_one_may_not(profiled, tmp_path):
    plans = profiled(lambda plan: time.sleep(0.5) or report_of(plan), fails, report_of)
    large = replace(plans[1], needed_bytes=2**30 * 1000)
    outcomes = measured(
        tmp_path, [plans[0], large, plans[2]], minutes=1.1 * FIRST_S / 60
    )
    assert [outcome.state for outcome in outcomes] == [
        "finished",
        "no time",
        "finished",
    ]


def test_a_plan_that_meets_the_end_of_the_minutes_has_no_record(profiled, tmp_path):
    plans = profiled(hangs)
    round_ = Measuring(tmp_path, minutes=1 / 60, ahead=0)
    round_._pace.add(2**30, 0.1)
    outcomes = list(round_.run(plans))
    assert outcomes[0].state == "no time"
    assert "minutes were over" in outcomes[0].said
    assert list(tmp_path.glob("*.json")) == []


def test_who_stops_listening_stops_what_was_started(profiled, tmp_path):
    round_ = Measuring(tmp_path, ahead=2)
    running = round_.run(profiled(report_of, hangs, hangs, hangs))
    assert next(running).state == "finished"
    begins = time.monotonic()
    running.close()
    assert time.monotonic() - begins < 5
    assert [file.name for file in tmp_path.glob("*.json")] == ["plan-1.json"]


def test_settings_of_the_allocator_reach_the_process_alone(
    profiled, tmp_path, monkeypatch
):
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)

    def tell(plan):
        raise ProgramError(os.environ["PYTORCH_ALLOC_CONF"], hint="")

    plan = profiled(tell)[0]
    environment = {"PYTORCH_ALLOC_CONF": "roundup_power2_divisions:8"}
    plan = replace(plan, entry=replace(plan.entry, environment=environment))
    assert measured(tmp_path, [plan])[0].said == "roundup_power2_divisions:8"
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_one_plan_has_the_card_at_a_time(profiled, tmp_path):
    """The program waits for its turn itself, after its imports: here, the run does."""
    from memplan.runner.training.turn import wait_for_turn

    log = tmp_path / "turns"

    def takes_a_turn(plan):
        wait_for_turn()
        number = plan.per_device_train_batch_size
        with log.open("a") as file:
            file.write(f"+{number} ")
            file.flush()
            time.sleep(0.2)
            file.write(f"-{number} ")
        return report_of(plan)

    measured(tmp_path, profiled(*[takes_a_turn] * 4), ahead=2)
    assert log.read_text().split() == [
        f"{sign}{number}" for number in (1, 2, 3, 4) for sign in "+-"
    ]


# ---- how long plans take ----


def test_nothing_is_known_at_first():
    assert Pace().expected(2**30) == FIRST_S


def test_a_larger_plan_is_expected_to_take_longer():
    pace = Pace()
    pace.add(10 * GiB, 2.0)
    pace.add(20 * GiB, 15.0)
    assert pace.expected(20 * GiB) == 15.0
    assert pace.expected(40 * GiB) == 35.0
    assert pace.expected(5 * GiB) == 15.0  # never less than what was seen


def test_those_nearest_in_size_count():
    pace = Pace()
    for _ in range(3):
        pace.add(GiB, 4.0)
    pace.add(64 * GiB, 90.0)
    assert pace.expected(GiB) == 4.0
    assert pace.expected(65 * GiB) == 91.0


@pytest.mark.parametrize(("processors", "ahead"), [(1, 0), (2, 0), (4, 1), (16, 2)])
def test_few_processors_prepare_fewer_plans(processors, ahead):
    assert ahead_of(processors) == ahead


# ---- what is said ----


def test_a_summary_is_a_table_that_no_word_breaks(profiled, tmp_path):
    plans = profiled(report_of, out_of_memory)
    outcomes = [
        *measured(tmp_path, plans),
        replace(measured(tmp_path, [sized("a", left_out="a | b\nc")])[0]),
    ]
    text = summary_of("Title", ["A line."], outcomes)
    assert counts_of(outcomes) == "1 finished, 1 out of memory, 1 left out"
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 4
    assert {row.replace("\\|", "").count("|") for row in rows} == {7}
    assert line_of(outcomes[2]).endswith("a | b\nc")
    gib = report_of(plans[0].entry.plan).peak.device_bytes / 2**30
    assert f"{gib:.2f} GiB" in line_of(outcomes[0])


def test_plans_are_listed_by_group():
    text = listed([sized("one"), sized("two", None, left_out="too large")])
    assert text.splitlines()[0] == "a group:"
    assert text.splitlines()[1].split() == ["one", "1.00", "GiB"]
    assert text.splitlines()[2].split()[:2] == ["two", "?"]


def test_a_record_is_json_that_says_rehearsed_or_measured(profiled, tmp_path):
    measured(tmp_path, profiled(report_of))
    record = json.loads((tmp_path / "plan-1.json").read_text())
    assert record["report"]["source"] == "rehearsed"
    assert record["ended"] == "finished"
