"""Plans and programs into reports, with a launcher that answers from captures."""

import json
import sys
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import pytest
from captures import MIB, capture, figures, out_of_memory_capture, step

import memplan.running.run
import memplan.running.shortage
from memplan import TrainingPlan, estimate, rehearse, rehearse_program
from memplan.errors import (
    CommandError,
    PlanError,
    ProgramError,
    UnknownNameError,
    VirtualDeviceError,
)
from memplan.runner.launch import Outcome
from memplan.units import GiB

PROGRAM = [sys.executable, "-c", "pass"]
NOTHING = {
    "device": None,
    "ended": "finished",
    "error": None,
    "rank": 0,
    "local_rank": 0,
    "world_size": 1,
}


class Launcher:
    """Stands in for the launcher and the card; keeps what it was asked for."""

    def __init__(self):
        self.programs = []
        self.cards = []
        self.outcomes = [self.outcome(capture())]

    @staticmethod
    def outcome(*captures, exit_code=0, is_repeatable=True):
        return Outcome(
            exit_code=exit_code, captures=captures, is_repeatable=is_repeatable
        )

    def launch(self, program):
        self.programs.append(program)
        return self.outcomes[min(len(self.programs), len(self.outcomes)) - 1]

    def virtual_environment(self, python, gpu, **options):
        self.cards.append({"python": python, "gpu": gpu, **options})

        return SimpleNamespace(
            variables={"LD_PRELOAD": "card"},
            assumptions=("the card is made up",),
            warnings=("the cache is full",),
        )


@pytest.fixture
def launcher(monkeypatch):
    made = Launcher()
    monkeypatch.setattr(memplan.running.run, "launch", made.launch)
    name = "virtual_environment"
    monkeypatch.setattr(memplan.running.run, name, made.virtual_environment)
    for name in memplan.running.run.ALLOCATOR_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return made


def test_a_program_is_started_as_it_was_written(launcher):
    report = rehearse_program(PROGRAM, gpu="rtx-4090", steps=5)
    [program] = launcher.programs
    assert list(program.command) == PROGRAM
    assert (program.steps, program.rank, program.world_size) == (5, None, None)
    assert report.command == tuple(PROGRAM)
    assert report.plan is None
    assert report.model.name == "Decoder"


def test_the_card_is_that_of_the_catalogue_or_of_the_given_size(launcher):
    rehearse_program(PROGRAM, gpu="rtx-4090", gpu_memory_bytes=3 * GiB)
    [card] = launcher.cards
    assert card["gpu"].total_bytes == 3 * GiB
    assert card["python"] == sys.executable
    assert card["num_devices"] == 1


def test_what_the_card_assumes_is_in_the_report_and_its_warnings_are_said(launcher):
    said = []
    report = rehearse_program(PROGRAM, say=said.append)
    assert "the card is made up" in report.assumptions
    assert said == ["the cache is full"]


def test_one_process_plays_a_rank_of_many(launcher):
    report = rehearse_program(PROGRAM, num_gpus=64, rank=9)
    [program] = launcher.programs
    assert (program.rank, program.world_size) == (9, 64)
    assert launcher.cards[0]["num_devices"] == 8
    assert any("plays rank 9 of 64" in line for line in report.assumptions)


def test_without_a_number_of_gpus_a_launcher_starts_its_own_ranks(launcher):
    ranks = [capture(rank=rank, world_size=2) for rank in (0, 1)]
    launcher.outcomes = [launcher.outcome(*ranks)]
    command = [*PROGRAM, "--nproc-per-node", "2"]
    report = rehearse_program(command)
    assert launcher.programs[0].world_size is None
    assert launcher.cards[0]["num_devices"] == 2
    assert report.num_gpus == 2
    assert any("rank 0 of 2 held most" in line for line in report.assumptions)


def test_a_plan_is_the_program_that_trains_it(launcher):
    plan = TrainingPlan(model="gpt2", gpu="a100-80gb", num_gpus=8, zero_stage=2)
    report = rehearse(plan, rank=3)
    [program] = launcher.programs
    python, *words = program.command[:3]
    assert (python, words) == (sys.executable, ["-m", "memplan.runner.training"])
    text = json.loads(program.command[3])
    assert TrainingPlan(**{**text, "lora_targets": ()}) == plan
    assert (program.rank, program.world_size) == (3, 8)
    assert report.plan == plan
    assert report.command is None


def test_an_evaluation_says_its_lengths_and_what_tricks_would_save(launcher):
    plan = TrainingPlan(model="openflamingo-3b", workload="mme", num_shots=4)
    report = rehearse(plan)
    assert json.loads(launcher.programs[0].command[3])["workload"] == "mme"
    assert report.plan == plan
    assert report.assumptions[0].startswith("a batch of 1 of MME's questions")
    changes = {saving.trick: saving.changes_answers for saving in report.savings}
    assert changes["--quantization nf4"]
    estimated = {saving.trick: saving for saving in estimate(plan).savings}
    off_by = report.peak.device_bytes - estimate(plan).peak.device_bytes
    for saving in report.savings:
        same = estimated[saving.trick]
        assert saving.saved_bytes == same.saved_bytes
        if not saving.is_used:
            assert saving.device_bytes == same.device_bytes + off_by


def test_training_has_no_tricks_of_a_generation(launcher):
    assert rehearse(TrainingPlan(model="gpt2")).savings == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": None, "parameters": 7}, "no model that could be run"),
        ({"torch": "2.12"}, "the torch that is installed"),
        ({"accounting": "zero"}, "is a convention"),
    ],
)
def test_what_only_an_estimate_can_answer_is_refused(launcher, changes, says):
    with pytest.raises(PlanError, match=says):
        rehearse(replace(TrainingPlan(model="gpt2"), **changes))
    assert launcher.programs == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gpu": "rtx-409"}, UnknownNameError),
        ({"rank": 1}, PlanError),
        ({"rank": -1, "num_gpus": 4}, PlanError),
        ({"num_gpus": 0}, PlanError),
        ({"rank": 4, "num_gpus": 4}, PlanError),
        ({"steps": 0}, PlanError),
        ({"gpu_memory_bytes": 0}, PlanError),
        ({"gpu_memory_bytes": 24}, PlanError),
        ({"gpu_memory_bytes": 2 * GiB, "context_bytes": 2 * GiB}, PlanError),
        ({"headroom_fraction": 1.0}, PlanError),
        ({"require": ("rich==0",)}, CommandError),
    ],
)
def test_mistakes_are_found_before_anything_starts(launcher, options, error):
    with pytest.raises(error):
        rehearse_program(PROGRAM, **options)
    assert launcher.programs == []


@pytest.mark.parametrize(
    ("captures", "says", "hint"),
    [
        ((), "never imported torch", "PYTHONPATH"),
        ((NOTHING,), "never used CUDA", "cuda:0"),
        ((capture(steps=[]),), "no training step", "memplan.phase"),
        (
            (capture(steps=[{"step": 1, "phases": step(1, 0)["phases"][:3]}]),),
            "no training step",
            "memplan.phase",
        ),
    ],
)
def test_a_program_in_which_there_was_nothing_to_see(launcher, captures, says, hint):
    launcher.outcomes = [launcher.outcome(*captures)]
    with pytest.raises(ProgramError, match=says) as caught:
        rehearse_program(PROGRAM)
    assert caught.value.exit_code == 2
    assert hint in caught.value.hint


def test_marked_phases_are_enough_to_report(launcher):
    marked = [{"name": "generate", **figures(800, 810, 900, 90)}]
    seen = capture(steps=[], peak=None, components=None, marked=marked)
    launcher.outcomes = [launcher.outcome(seen)]
    assert rehearse_program(PROGRAM).peak.phase == "generate"


def test_a_program_that_fails_leaves_with_its_own_code_and_last_line(launcher):
    crashed = capture(ended="crashed", error="ValueError: mine", steps=[])
    launcher.outcomes = [launcher.outcome(crashed, exit_code=7)]
    with pytest.raises(ProgramError, match="ValueError: mine") as caught:
        rehearse_program(PROGRAM)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("code", "says", "hint"),
    [(139, "code 139, SIGSEGV", "own error"), (137, "code 137, SIGKILL", "outside")],
)
def test_the_signal_that_ended_a_program_is_named(launcher, code, says, hint):
    launcher.outcomes = [launcher.outcome(exit_code=code)]
    with pytest.raises(ProgramError, match=says) as caught:
        rehearse_program(PROGRAM)
    assert hint in caught.value.hint


def test_a_program_that_fails_after_some_steps_has_failed(launcher):
    crashed = capture(ended="crashed", error="ValueError: mine")
    launcher.outcomes = [launcher.outcome(crashed, exit_code=1)]
    with pytest.raises(ProgramError):
        rehearse_program(PROGRAM)


def test_what_a_script_does_after_the_last_step_may_fail(launcher):
    launcher.outcomes = [launcher.outcome(capture(), exit_code=1)]
    report = rehearse_program(PROGRAM)
    assert any("left with exit code 1" in line for line in report.assumptions)


def test_a_process_without_a_card_does_not_count(launcher):
    launcher.outcomes = [launcher.outcome(NOTHING, capture())]
    report = rehearse_program(PROGRAM)
    assert not any("processes" in line for line in report.assumptions)


def test_addresses_that_change_from_run_to_run_are_told(launcher):
    launcher.outcomes = [launcher.outcome(capture(), is_repeatable=False)]
    report = rehearse_program(PROGRAM)
    assert any("same addresses" in line for line in report.assumptions)


def out_of_memory(launcher, *others):
    """The first run ends out of memory; what the others come to."""
    launcher.outcomes = [
        launcher.outcome(out_of_memory_capture(), exit_code=1),
        *others,
    ]


@pytest.mark.parametrize(
    ("steps", "code", "is_the_end"),
    [([], 3, True), ([], 0, False), ([step(1, 0), step(2, 400)], 3, False)],
)
def test_who_catches_the_error_and_then_fails_ran_out_of_memory(
    launcher, steps, code, is_the_end
):
    caught = out_of_memory_capture()
    caught["out_of_memory"]["caught"] = True
    caught = {**caught, "ended": "finished", "steps": steps}
    fits = launcher.outcome(capture())
    launcher.outcomes = [launcher.outcome(caught, exit_code=code), fits, fits]
    if is_the_end:
        assert rehearse_program(PROGRAM).out_of_memory is not None
    else:
        with pytest.raises(ProgramError):
            rehearse_program(PROGRAM)


def test_out_of_memory_is_run_again_without_a_limit_and_with_growing_segments(launcher):
    fits = launcher.outcome(capture())
    out_of_memory(launcher, fits, fits)
    said = []
    report = rehearse_program(PROGRAM, gpu="rtx-4090", say=said.append)
    limits = [card["total_bytes"] for card in launcher.cards]
    assert limits[0] is None
    assert limits[1] > 1000 * GiB
    assert limits[2] is None
    settings = launcher.programs[2].environment["PYTORCH_CUDA_ALLOC_CONF"]
    assert settings == "expandable_segments:True"
    assert [program.is_quiet for program in launcher.programs] == [False, True, True]
    assert len(said) == 3
    assert not report.fits
    assert report.out_of_memory.asked_bytes == 300 * MIB
    assert report.out_of_memory.needed_bytes == 3500 * MIB
    assert report.peak.step == 3
    first, *cards = report.out_of_memory.remedies
    assert first.change == "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    assert all(remedy.change.startswith("--gpu") for remedy in cards)
    assert any("second rehearsal" in line for line in report.assumptions)


def test_the_users_own_settings_of_the_allocator_are_kept(launcher, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    fits = launcher.outcome(capture())
    out_of_memory(launcher, fits, fits)
    rehearse_program(PROGRAM)
    settings = launcher.programs[2].environment["PYTORCH_CUDA_ALLOC_CONF"]
    assert settings == "max_split_size_mb:64,expandable_segments:True"


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_the_settings_of_a_plan_count_before_those_around_it(
    launcher, monkeypatch, name
):
    monkeypatch.setenv(name, "max_split_size_mb:64")
    launcher.outcomes = [launcher.outcome(capture())]
    rehearse(TrainingPlan(model="gpt2", alloc_conf="expandable_segments:True"))
    settings = launcher.programs[0].environment[name]
    assert settings == "expandable_segments:True"


def test_a_plan_whose_segments_grow_is_not_told_to_let_them(launcher):
    fits = launcher.outcome(capture())
    out_of_memory(launcher, fits, fits)
    plan = TrainingPlan(model="gpt2", alloc_conf="expandable_segments:True")
    report = rehearse(plan)
    assert launcher.programs[1].environment == launcher.programs[0].environment
    changes = [remedy.change for remedy in report.out_of_memory.remedies]
    assert not any("ALLOC_CONF" in change for change in changes)


def test_the_newer_name_of_the_settings_is_kept_too(launcher, monkeypatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    fits = launcher.outcome(capture())
    out_of_memory(launcher, fits, fits)
    rehearse_program(PROGRAM)
    environment = launcher.programs[2].environment
    settings = "max_split_size_mb:64,expandable_segments:True"
    assert environment["PYTORCH_ALLOC_CONF"] == settings
    assert "PYTORCH_CUDA_ALLOC_CONF" not in environment


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),
        ("PYTORCH_CUDA_ALLOC_CONF", "backend:cudaMallocAsync"),
        ("PYTORCH_ALLOC_CONF", "backend:cudaMallocAsync"),
    ],
)
def test_an_allocator_without_a_history_is_refused(launcher, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(VirtualDeviceError, match=r"no memory|no history") as caught:
        rehearse_program(PROGRAM)
    assert name in f"{caught.value.message} {caught.value.hint}"
    assert launcher.programs == []


def test_growing_segments_are_not_tried_twice_or_in_vain(launcher, monkeypatch):
    out_of_memory(launcher, launcher.outcome(capture()))
    rehearse_program(PROGRAM, gpu_memory_bytes=2 * GiB)
    assert len(launcher.programs) == 2  # what it needs at once is more than the card
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    launcher.programs.clear()
    rehearse_program(PROGRAM)
    assert len(launcher.programs) == 2


def test_a_share_that_the_program_set_itself_is_its_remedy(launcher):
    limited = out_of_memory_capture()
    limited["out_of_memory"]["free_bytes"] = 9000 * MIB
    fits = launcher.outcome(capture())
    launcher.outcomes = [launcher.outcome(limited, exit_code=1), fits, fits]
    changes = [r.change for r in rehearse_program(PROGRAM).out_of_memory.remedies]
    assert changes[-1] == "no set_per_process_memory_fraction in the program"
    assert not any(change.startswith("--gpu") for change in changes)


def test_growing_segments_that_are_not_enough_are_no_remedy(launcher):
    out_of_memory(
        launcher,
        launcher.outcome(capture()),
        launcher.outcome(out_of_memory_capture(), exit_code=1),
    )
    report = rehearse_program(PROGRAM, gpu="rtx-4090")
    changes = [remedy.change for remedy in report.out_of_memory.remedies]
    assert all(change.startswith("--gpu") for change in changes)


def test_where_the_second_run_fails_the_first_is_the_report(launcher):
    failed = launcher.outcome(exit_code=3)
    out_of_memory(launcher, failed, failed)
    report = rehearse_program(PROGRAM, gpu="rtx-4090")
    assert not report.fits
    assert report.out_of_memory.needed_bytes is None
    assert report.out_of_memory.remedies == ()
    assert report.peak.phase == "backward"
    assert report.peak.allocated_bytes == 2200 * MIB


class TestChangesOfAPlan:
    PLAN = TrainingPlan(
        model="gpt2",
        gpu="rtx-4090",
        gpu_memory_bytes=4 * GiB,
        per_device_train_batch_size=8,
        seq_len=512,
    )

    @pytest.fixture(autouse=True)
    def everything_is_installed(self, launcher, monkeypatch):
        verb = import_module("memplan.rehearse")
        monkeypatch.setattr(verb, "check", lambda plan: None)
        monkeypatch.setattr(memplan.running.shortage, "check", lambda plan: None)
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

    @staticmethod
    def plans_of(launcher):
        return [json.loads(program.command[3]) for program in launcher.programs]

    def test_each_is_rehearsed_and_of_a_kind_the_least_that_fits_is_named(
        self, launcher
    ):
        too_large = launcher.outcome(out_of_memory_capture(), exit_code=1)
        fits = launcher.outcome(capture())
        # Without a limit; checkpointing; the batch, halved and halved again.
        out_of_memory(launcher, fits, too_large, too_large, fits)
        said = []
        report = rehearse(self.PLAN, say=said.append)
        plans = self.plans_of(launcher)
        assert plans[2]["activation_checkpointing"] == "full"
        batches = [plan["per_device_train_batch_size"] for plan in plans]
        assert batches[:5] == [8, 8, 8, 4, 2]
        assert 1 not in batches
        changes = [remedy.change for remedy in report.out_of_memory.remedies]
        batch = "--per-device-train-batch-size 2 --gradient-accumulation-steps 4"
        assert changes[0] == batch
        assert report.out_of_memory.remedies[0].basis == "rehearsed"
        assert "Rehearsing with --activation-checkpointing full." in said

    def test_what_leaves_less_than_the_headroom_does_not_fit(self, launcher):
        fits = launcher.outcome(capture())  # 3500 MiB
        out_of_memory(launcher, fits)
        tight = replace(self.PLAN, headroom_fraction=0.2)
        changes = [r.change for r in rehearse(tight).out_of_memory.remedies]
        assert changes
        assert all(change.startswith("--gpu") for change in changes)

    def test_what_cannot_be_run_here_is_not_tried(self, launcher, monkeypatch):
        def refuse(plan):
            raise PlanError("no", hint="no")

        monkeypatch.setattr(memplan.running.shortage, "check", refuse)
        out_of_memory(launcher, launcher.outcome(capture()))
        rehearse(self.PLAN)
        assert len(launcher.programs) == 2


def test_a_snapshot_is_of_the_first_run_alone(launcher, tmp_path):
    fits = launcher.outcome(capture())
    out_of_memory(launcher, fits, fits)
    rehearse_program(PROGRAM, snapshot=tmp_path / "snapshot.pickle")
    assert [bool(program.snapshot) for program in launcher.programs] == [
        True,
        False,
        False,
    ]
