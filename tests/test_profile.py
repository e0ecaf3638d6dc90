"""Plans and programs on a card, with a launcher that answers from captures."""

import json
import sys

import pytest
from captures import capture, out_of_memory_capture

import memplan.profile
import memplan.running.run
from memplan import TrainingPlan, profile, profile_program
from memplan.errors import DeviceError, PlanError, ProgramError
from memplan.hardware import custom_gpu, find_gpu
from memplan.profile import Interrupted, UnfinishedError
from memplan.runner.launch import Outcome
from memplan.running.card_at_hand import CardAtHand
from memplan.units import GiB

PROGRAM = [sys.executable, "-c", "pass"]
TIMING = {
    "step_ms": [100.0, 120.0],
    "stall_ms": [0.0, 0.0],
    "warmup_steps": 2,
    "flops_per_step": 10**12,
}


class Machine:
    """A card that is not there, and a launcher that starts nothing."""

    def __init__(self):
        self.card = CardAtHand(
            gpu=find_gpu("a100-80gb"),
            is_catalogued=True,
            is_virtual=False,
            num_devices=1,
        )
        self.programs = []
        self.outcome = self.ends(capture(is_virtual=False, timing=TIMING))

    @staticmethod
    def ends(*captures, exit_code=0, **more):
        return Outcome(
            exit_code=exit_code, captures=captures, is_repeatable=True, **more
        )

    def launch(self, program):
        self.programs.append(program)
        return self.outcome


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(memplan.running.run, "launch", made.launch)
    module = sys.modules["memplan.profile"]
    monkeypatch.setattr(module, "card_at_hand", lambda interpreter: made.card)
    for name in memplan.running.run.ALLOCATOR_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return made


def test_what_a_card_showed_is_measured_and_has_times(machine):
    plan = TrainingPlan(model="gpt2", per_device_train_batch_size=4)
    report = profile(plan)
    assert report.source == "measured"
    assert report.timing.median_ms == 110.0
    assert report.timing.samples_per_s == pytest.approx(4 / 0.110)
    assert report.timing.fraction_of_peak == pytest.approx(1e12 / 0.110 / 312e12)
    assert report.band.basis.startswith("measured on NVIDIA GeForce RTX 4090, torch ")
    assert report.device.total_bytes == machine.card.gpu.total_bytes


@pytest.mark.parametrize("is_virtual", [True, None])
def test_what_a_virtual_card_showed_is_rehearsed_whoever_asked(machine, is_virtual):
    seen = capture() if is_virtual is None else capture(is_virtual=is_virtual)
    machine.outcome = machine.ends(seen)
    report = profile_program(PROGRAM)
    assert report.source == "rehearsed"
    assert report.timing is None
    assert "not measured on a card" in report.band.basis


def test_the_program_runs_as_it_is_with_steps_to_time(machine):
    profile_program(PROGRAM, steps=4, timed_steps=20)
    [program] = machine.programs
    assert list(program.command) == PROGRAM
    assert (program.steps, program.timed_steps) == (4, 20)
    assert (program.rank, program.world_size) == (None, None)
    assert (program.is_virtual, program.has_nccl) == (False, False)
    assert "LD_PRELOAD" not in program.environment


def test_a_plans_program_makes_all_steps_and_is_asked_again_of_its_card(machine):
    report = profile(TrainingPlan(model="gpt2"), steps=3, timed_steps=10)
    [program] = machine.programs
    words = list(program.command)
    assert words[:3] == [sys.executable, "-m", "memplan.runner.training"]
    assert words[4:] == ["--steps", "16", "--watched-steps", "3"]
    assert report.plan.gpu == "a100-80gb"
    profile(TrainingPlan(model="gpt2"), timed_steps=0)
    assert machine.programs[-1].command[4:6] == ("--steps", "3")


def test_a_card_of_no_catalogue_is_the_plans_by_its_size(machine):
    machine.card = CardAtHand(
        gpu=custom_gpu(None, 20 * GiB),
        is_catalogued=False,
        is_virtual=False,
        num_devices=1,
    )
    report = profile(TrainingPlan(model="gpt2"))
    assert report.plan.gpu_memory_bytes == report.device.total_bytes == 20 * GiB


def test_another_card_than_the_plans_is_said(machine):
    said = []
    report = profile(TrainingPlan(model="gpt2", gpu="rtx-4090"), say=said.append)
    assert said == [
        "the plan names rtx-4090; the report is about the card at hand, a100-80gb"
    ]
    assert said[0] in report.assumptions
    assert report.device.gpu == "a100-80gb"
    said.clear()
    profile(TrainingPlan(model="gpt2", gpu="a100"), say=said.append)
    profile(TrainingPlan(model="gpt2"), say=said.append)
    assert said == []


def test_one_card_plays_a_rank_and_the_report_says_so(machine):
    report = profile(TrainingPlan(model="gpt2", zero_stage=2), ranks=8, rank=3)
    [program] = machine.programs
    assert (program.rank, program.world_size) == (3, 8)
    assert json.loads(program.command[3])["num_gpus"] == 8
    [line] = [line for line in report.assumptions if "plays" in line]
    assert line == (
        "one card plays rank 3 of 8: collectives do nothing, NCCL's buffers are not "
        "in it"
    )
    assert report.ranks == ()
    profile_program(PROGRAM, ranks=8)
    assert (machine.programs[-1].rank, machine.programs[-1].world_size) == (0, 8)


def test_one_rank_is_the_program_itself(machine):
    report = profile_program(PROGRAM, ranks=1)
    assert machine.programs[0].world_size is None
    assert not any("plays" in line for line in report.assumptions)


def test_several_cards_that_are_there_are_started_by_torchrun(machine):
    machine.card = CardAtHand(
        gpu=machine.card.gpu, is_catalogued=True, is_virtual=False, num_devices=4
    )
    profile(TrainingPlan(model="gpt2", num_gpus=2))
    [program] = machine.programs
    assert program.command[1:8] == (
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "memplan.runner.training"),
    )
    assert program.world_size is None


@pytest.mark.parametrize(
    ("plan", "options", "says", "hint"),
    [
        ({"num_gpus": 8}, {}, "of 8 GPUs, and there is 1", "--ranks 8"),
        ({"num_gpus": 4}, {"ranks": 8}, "one of 8 ranks", "--ranks 4"),
        ({}, {"ranks": 0}, "no 0 ranks", "--ranks 8"),
        ({}, {"rank": 1}, "no rank 1 of 1", "--ranks"),
        ({}, {"ranks": 4, "rank": 4}, "no rank 4 of 4", "0 to 3"),
        ({}, {"steps": 0}, "0 steps show nothing", "--steps 3"),
        ({}, {"timed_steps": -1}, "-1 steps", "--timed-steps 0"),
        ({"torch": "2.12"}, {}, "torch that is installed", "--require"),
        ({"gpu_memory_bytes": GiB}, {}, "--gpu-memory", "Leave it out"),
        ({"context_bytes": GiB}, {}, "--context-memory", "Leave it out"),
    ],
)
def test_mistakes_are_found_before_anything_starts(machine, plan, options, says, hint):
    with pytest.raises(PlanError, match=says) as caught:
        profile(TrainingPlan(model="gpt2", **plan), **options)
    assert hint in caught.value.hint
    assert machine.programs == []


def test_without_a_card_rehearsing_is_named(machine, monkeypatch):
    def none(interpreter):
        raise DeviceError("There is no CUDA device here.", hint="memplan rehearse")

    monkeypatch.setattr(sys.modules["memplan.profile"], "card_at_hand", none)
    with pytest.raises(DeviceError, match="no CUDA device"):
        profile_program(PROGRAM)


def test_memorys_end_is_a_result_and_nothing_is_run_again(machine):
    seen = {**out_of_memory_capture(), "is_virtual": False}
    machine.outcome = machine.ends(seen, exit_code=1)
    report = profile_program(PROGRAM)
    assert len(machine.programs) == 1
    assert not report.fits
    error = report.out_of_memory
    assert (error.step, error.phase) == (1, "backward")
    assert (error.needed_bytes, error.remedies) == (None, ())
    assert not error.were_changes_tried


def test_a_failure_keeps_what_was_seen(machine):
    crashed = capture(ended="crashed", error="LookupError: mine", is_virtual=False)
    machine.outcome = machine.ends(crashed, exit_code=7)
    kept = []
    with pytest.raises(UnfinishedError, match=r"code 7 .LookupError: mine") as error:
        profile_program(PROGRAM, keep=kept.extend)
    assert error.value.exit_code == 7
    assert error.value.report.source == "measured"
    assert [process["ended"] for process in kept] == ["crashed"]


def test_a_failure_with_nothing_seen_has_nothing_to_keep(machine):
    machine.outcome = machine.ends(capture(steps=[]), exit_code=7)
    kept = []
    with pytest.raises(ProgramError, match="exit code 7") as error:
        profile_program(PROGRAM, keep=kept.extend)
    assert not isinstance(error.value, UnfinishedError)
    assert kept == []


def test_ctrl_c_keeps_what_was_finished(machine):
    seen = capture(ended="interrupted", is_virtual=False)
    machine.outcome = machine.ends(seen, exit_code=130, is_interrupted=True)
    kept = []
    with pytest.raises(Interrupted) as stopped:
        profile_program(PROGRAM, keep=kept.extend)
    assert "interrupted after 3 watched steps" in stopped.value.report.assumptions
    assert len(kept) == 1
    machine.outcome = machine.ends(exit_code=130, is_interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        profile_program(PROGRAM)
