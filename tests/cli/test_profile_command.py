"""`memplan profile` as a user types it."""

import json
import os
import sys

import pytest
from captures import capture, out_of_memory_capture

from memplan import from_json
from memplan.captures.capture_file import read_capture
from memplan.errors import ProgramError
from memplan.hardware import find_gpu
from memplan.running.card_at_hand import CardAtHand
from memplan.running.run import Performed

PROGRAM = ("--", sys.executable, "-c", "pass")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Let runs on a card that is not there come to a capture."""
    monkeypatch.chdir(tmp_path)
    import memplan.profile  # noqa: F401 loaded, for its names are replaced

    module = sys.modules["memplan.profile"]
    runs = []

    def to(*captures, failure=None, is_interrupted=False):
        def perform(run, say):
            runs.append(run)
            return Performed(
                chosen=captures[0],
                captures=captures,
                assumptions=(),
                failure=failure,
                is_interrupted=is_interrupted,
            )

        here = CardAtHand(
            gpu=find_gpu("rtx-4090"),
            is_catalogued=True,
            is_virtual=False,
            num_devices=1,
        )
        monkeypatch.setattr(module, "card_at_hand", lambda interpreter: here)
        monkeypatch.setattr(module, "perform", perform)
        return runs

    return to


def test_a_capture_is_written_beside_and_the_next_commands_are_said(
    memplan, measured, tmp_path
):
    measured(capture(is_virtual=False))
    out = memplan("profile", "--", sys.executable, "my_train.py")
    assert out.code == 2  # there is no such file
    (tmp_path / "my_train.py").write_text("pass")
    out = memplan("profile", "--", sys.executable, "my_train.py")
    assert out.code == 0
    [file] = tmp_path.glob("*.mplan")
    assert file.name == f"memplan-my_train.{os.getpid()}.mplan"
    assert f"next: memplan show {file.name} --by module" in out.stderr
    assert out.stdout.startswith("fits  Decoder on rtx-4090")
    kept = read_capture(file)
    assert kept.report.source == "measured"
    assert [process["pid"] for process in kept.processes] == [4711]


def test_a_plan_gives_its_name_to_the_file(memplan, measured, tmp_path):
    measured(capture(is_virtual=False))
    out = memplan("profile", "gpt2", "--seq-len", "64")
    assert out.code == 0
    assert [*tmp_path.glob("memplan-gpt2.*.mplan")]


def test_any_other_name_is_the_json_report(memplan, measured, tmp_path):
    measured(capture(is_virtual=False))
    assert memplan("profile", "-o", "report.json", *PROGRAM).code == 0
    assert json.loads((tmp_path / "report.json").read_text())["source"] == "measured"
    assert not [*tmp_path.glob("*.mplan")]


def test_json_on_stdout_is_the_report_and_quiet_its_bytes(memplan, measured):
    measured(capture(is_virtual=False))
    out = memplan("profile", "--json", *PROGRAM)
    assert from_json(out.stdout).source == "measured"
    out = memplan("profile", "--format", "quiet", "-f", *PROGRAM)
    assert out.stdout == f"{3500 * 2**20}\n"


@pytest.mark.parametrize(
    ("flags", "attribute", "value"),
    [
        (("--ranks", "8", "--rank", "3"), "rank", 3),
        (("--ranks", "8"), "world_size", 8),
        (("--steps", "5"), "steps", 5),
        (("--timed_steps", "0"), "timed_steps", 0),
    ],
)
def test_flags_reach_the_run(memplan, measured, flags, attribute, value):
    runs = measured(capture(is_virtual=False))
    assert memplan("profile", *flags, *PROGRAM).code == 0
    assert getattr(runs[0], attribute) == value
    assert runs[0].cards is None


def test_out_of_memory_leaves_with_one_and_a_capture(memplan, measured, tmp_path):
    seen = {**out_of_memory_capture(), "is_virtual": False}
    measured(seen)
    out = memplan("profile", "-o", "run.mplan", *PROGRAM)
    assert out.code == 1
    assert "out of memory, backward of step 1" in out.stdout
    assert "`memplan rehearse` says" in out.stdout
    assert read_capture(tmp_path / "run.mplan").report.out_of_memory is not None


def test_a_failure_leaves_with_its_code_and_a_capture(memplan, measured, tmp_path):
    failure = ProgramError("python left with exit code 7.", hint="x", exit_code=7)
    measured(capture(ended="crashed", is_virtual=False), failure=failure)
    out = memplan("profile", "-o", "run.mplan", *PROGRAM)
    assert (out.code, out.stdout) == (7, "")
    assert read_capture(tmp_path / "run.mplan").processes[0]["ended"] == "crashed"


def test_each_node_writes_a_file_of_its_own(memplan, measured, tmp_path):
    measured(capture(is_virtual=False, node=1, rank=8, world_size=16))
    assert memplan("profile", "-o", "run.mplan", *PROGRAM).code == 0
    assert (tmp_path / "run-node1.mplan").exists()
    measured({**capture(is_virtual=False, node=1, rank=8), "is_alone": True})
    assert memplan("profile", "-o", "run.mplan", *PROGRAM).code == 0
    assert (tmp_path / "run.mplan").exists()


def test_what_comes_to_the_place_meanwhile_stays_and_nothing_is_lost(
    memplan, measured, tmp_path, monkeypatch
):
    measured(capture(is_virtual=False))
    module = sys.modules["memplan.profile"]
    perform = module.perform

    def while_another_writes(run, say):
        (tmp_path / "run.mplan").write_text("of another")
        return perform(run, say)

    monkeypatch.setattr(module, "perform", while_another_writes)
    assert memplan("profile", "-o", "run.mplan", *PROGRAM).code == 0
    assert (tmp_path / "run.mplan").read_text() == "of another"
    assert read_capture(tmp_path / f"run.{os.getpid()}.mplan").report.fits


def test_redacted_neither_file_nor_output_has_the_command(memplan, measured, tmp_path):
    measured(capture(is_virtual=False, argv=["/home/someone/train.py"]))
    out = memplan("profile", "--redact", "-o", "run.mplan", "--json", *PROGRAM)
    assert out.code == 0
    kept = read_capture(tmp_path / "run.mplan")
    assert kept.is_redacted
    assert sys.executable not in str(kept)


def test_an_output_that_exists_is_refused_before_the_run(memplan, measured, tmp_path):
    runs = measured(capture(is_virtual=False))
    file = tmp_path / "run.mplan"
    file.write_text("mine")
    assert memplan("profile", "-o", "run.mplan", *PROGRAM).code == 2
    assert memplan("profile", "--snapshot", "run.mplan", *PROGRAM).code == 2
    assert runs == []
    assert memplan("profile", "-o", "run.mplan", "-f", *PROGRAM).code == 0
    assert read_capture(file).report.source == "measured"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "There is nothing to profile"),
        (("train.py",), "memplan profile -- python train.py"),
        (("--",), "no command"),
        (("--seq-len", "5", *PROGRAM), "seq-len belongs to a plan"),
        (("--gpu", "t4", *PROGRAM), "gpu belongs to a plan"),
        (("gpt2", "--gpu", "all"), "memplan estimate --gpu all"),
        (("gpt2", "--rank", "1"), "no rank 1 of 1"),
        (("gpt2", "--ranks", "0"), "no 0 ranks"),
        (("gpt2", "--gpu-memory", "24GiB"), "--gpu-memory"),
        (("-o", "no/such/run.mplan", *PROGRAM), "cannot be written"),
        (("lama-2-7b",), "Did you mean llama-2-7b"),
    ],
)
def test_mistakes_get_one_sentence_one_hint_and_exit_code_two(process, words, says):
    out = process("profile", *words)
    assert out.code == 2
    assert out.stdout == ""
    error, hint = out.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert says in out.stderr


def test_no_cuda_device_is_one_sentence_that_names_rehearse(process, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = process("profile", "gpt2")
    assert (out.code, out.stdout) == (2, "")
    error, hint = out.stderr.splitlines()
    assert "CUDA" in error
    assert "memplan rehearse" in hint or "CUDA build" in hint


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="is root")
def test_a_folder_that_is_not_ours_is_refused_before_the_run(process, tmp_path):
    tmp_path.chmod(0o500)
    out = process("profile", "-o", str(tmp_path / "run.mplan"), *PROGRAM)
    assert out.code == 2
    assert "Permission denied" in out.stderr


def test_help_shows_the_flags_of_a_plan_and_its_own(memplan):
    out = memplan("profile", "--help").stdout
    for flag in ("--zero-stage", "--ranks", "--timed-steps", "--snapshot", "--redact"):
        assert flag in out
