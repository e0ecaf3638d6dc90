"""`memplan rehearse` as a user types it."""

import json
import sys
from importlib import import_module

import pytest
from captures import capture, out_of_memory_capture

from memplan import from_json
from memplan.errors import ProgramError
from memplan.running.run import Performed, VirtualCards

PROGRAM = ("rehearse", "--gpu", "rtx-4090", "--", sys.executable, "-c", "pass")


@pytest.fixture
def rehearsed(monkeypatch):
    """Let rehearsals come to certain captures, one after the other."""
    runs = []

    def to(*captures):
        def perform(run, say):
            runs.append(run)
            found = captures[min(len(runs), len(captures)) - 1]
            if isinstance(found, Exception):
                raise found
            return Performed(chosen=found, captures=(found,), assumptions=())

        monkeypatch.setattr(import_module("memplan.rehearse"), "perform", perform)
        return runs

    return to


def test_json_on_stdout_is_the_report(memplan, rehearsed):
    rehearsed(capture())
    out = memplan("rehearse", "--json", *PROGRAM[1:])
    report = from_json(out.stdout)
    assert out.code == 0
    assert report.source == "rehearsed"
    assert report.command == PROGRAM[4:]


def test_quiet_prints_the_bytes_of_the_device(memplan, rehearsed):
    rehearsed(capture())
    out = memplan("rehearse", "--format", "quiet", *PROGRAM[1:])
    assert out.stdout == f"{3500 * 2**20}\n"


def test_the_command_keeps_its_own_flags(memplan, rehearsed):
    runs = rehearsed(capture())
    words = (sys.executable, "-c", "pass", "--gpu", "x", "--json", "--", "--zero_stage")
    memplan("rehearse", "--gpu", "t4", "--", *words)
    assert runs[0].words == words
    assert runs[0].subject.gpu.slug == "t4"


@pytest.mark.parametrize(
    ("flags", "attribute", "value"),
    [
        (("--steps", "7"), "steps", 7),
        (("--num-gpus", "64", "--rank", "3"), "rank", 3),
        (("--num_gpus", "64"), "world_size", 64),
        (
            ("--context-memory", "700MiB"),
            "cards",
            VirtualCards(num_devices=1, context_bytes=700 * 2**20),
        ),
    ],
)
def test_flags_reach_the_run(memplan, rehearsed, flags, attribute, value):
    runs = rehearsed(capture())
    memplan("rehearse", *flags, *PROGRAM[1:])
    assert getattr(runs[0], attribute) == value


def test_a_plan_takes_the_flags_of_estimate(memplan, rehearsed):
    rehearsed(capture())
    flags = ("--gpu", "a100-80gb", "--zero_stage", "2", "--num_gpus", "8", "--json")
    out = memplan("rehearse", "gpt2", *flags)
    plan = from_json(out.stdout).plan
    assert (plan.model, plan.zero_stage, plan.num_gpus) == ("gpt2", 2, 8)


def test_out_of_memory_and_not_fitting_leave_with_one(memplan, rehearsed):
    rehearsed(out_of_memory_capture(), capture(), capture())
    out = memplan(*PROGRAM)
    assert out.code == 1
    assert out.stdout.startswith("does not fit")
    rehearsed(capture())
    tight = memplan("rehearse", "--headroom", "90%", *PROGRAM[1:])
    assert tight.code == 1
    assert tight.stdout.startswith("does not fit")


def test_a_program_that_fails_leaves_with_its_own_code(memplan, rehearsed):
    rehearsed(ProgramError("python left with exit code 7.", hint="x", exit_code=7))
    out = memplan(*PROGRAM)
    assert (out.code, out.stdout) == (7, "")


def test_an_output_file_that_exists_is_refused_before_the_run(
    memplan, rehearsed, tmp_path
):
    runs = rehearsed(capture())
    file = tmp_path / "report.json"
    file.write_text("mine")
    assert memplan("rehearse", "-o", str(file), *PROGRAM[1:]).code == 2
    assert memplan("rehearse", "--snapshot", str(file), *PROGRAM[1:]).code == 2
    assert runs == []
    assert memplan("rehearse", "-o", str(file), "-f", *PROGRAM[1:]).code == 0
    assert json.loads(file.read_text())["source"] == "rehearsed"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "Name a model of `memplan models`, or a command"),
        (("train.py",), "-- python train.py"),
        (("python", "train.py", "more"), "-- python train.py more"),
        (("--",), "no command"),
        (("--", "train.py"), "train.py"),
        (("--", "no-such-command"), "no-such-command"),
        (("--seq-len", "5", "--", "python"), "seq-len belongs to a plan"),
        (("gpt2", "--", "python"), "model belongs to a plan"),
        (("gpt2", "--torch", "2.12"), "--require 'torch==2.12.*'"),
        (("--gpu", "rtx-409", "--", sys.executable, "-c", "1"), "rtx-4090"),
        (("--require", "torch=", "--", sys.executable, "-c", "1"), "torch=="),
        (("gpt2", "--rank", "1"), "rank 1 of 1"),
        (("--rank", "1", *PROGRAM[3:]), "with --num-gpus"),
        (("--rank", "8", "--num-gpus", "8", *PROGRAM[3:]), "Ranks are 0 to 7"),
        (("gpt2", "--gpu", "all"), "memplan estimate --gpu all"),
        (("--num-gpus", "0", *PROGRAM[3:]), "Nothing runs on 0 GPUs"),
        (("--gpu-memory", "24", *PROGRAM[3:]), "with its unit"),
        (("gpt2", "--gpu-memory", "24"), "with its unit"),
        (("--snapshot", "no/such/folder.pickle", *PROGRAM[3:]), "cannot be written"),
        (("--snapshot", ".", *PROGRAM[3:]), "Is a directory"),
        (("-o", "no/such/report.json", *PROGRAM[3:]), "cannot be written"),
        (("lama-2-7b",), "Did you mean llama-2-7b"),
    ],
)
def test_mistakes_get_one_sentence_one_hint_and_exit_code_two(process, words, says):
    out = process("rehearse", *words)
    assert out.code == 2
    assert out.stdout == ""
    error, hint = out.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert says in out.stderr


def test_help_shows_the_flags_of_a_plan_and_its_own(memplan):
    out = memplan("rehearse", "--help").stdout
    for flag in ("--zero-stage", "--rank", "--snapshot", "--require", "--steps"):
        assert flag in out
