"""`memplan profile` in the environment of a virtual card: the whole way, and faults.

What runs here is what runs on a real card; the card is a virtual one, so the reports
say that they were rehearsed, and have no times.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from memplan.captures.capture_file import read_capture
from memplan.hardware import find_gpu
from memplan.units import MiB

pytestmark = pytest.mark.slow

TRAINS = """
    import os, signal, sys, time, torch
    import torch.distributed as dist
    from torch import nn

    def train(num_steps, rows=64, before=lambda step: None):
        model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 8)).cuda()
        if dist.is_initialized():
            model = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(model.parameters())
        for step in range(1, num_steps + 1):
            before(step)
            loss = model(torch.randn(rows, 256, device="cuda")).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
"""
TWO_RANKS = """
    dist.init_process_group("nccl")
    rank = dist.get_rank()
    torch.cuda.set_device(rank)
"""


class Done:
    """A command that has ended, in a folder of its own."""

    def __init__(self, folder, popen):
        self.stdout, self.stderr = popen.communicate(timeout=300)
        self.code = popen.returncode
        self.folder = folder

    def captures(self):
        return {file.name: read_capture(file) for file in self.folder.glob("*.mplan")}

    def capture(self):
        [capture] = self.captures().values()
        return capture


@pytest.fixture
def start(card_variables, tmp_path):
    """Start `memplan profile` on virtual cards, in the folder of its program."""
    started = []

    def run(*words, code=None, num_devices=1, gpu_memory=None):
        variables = dict(card_variables)
        given = {"count": num_devices, "total_bytes": gpu_memory}
        described = dict(
            pair.split("=") for pair in variables["MEMPLAN_DEVICE"].split(";")
        )
        described |= {key: str(value) for key, value in given.items() if value}
        variables["MEMPLAN_DEVICE"] = ";".join(
            f"{key}={value}" for key, value in described.items()
        )
        if code is not None:
            program = textwrap.dedent(TRAINS) + textwrap.dedent(code)
            (tmp_path / "train.py").write_text(program)
        popen = subprocess.Popen(
            [sys.executable, "-m", "memplan", "profile", *words],
            cwd=tmp_path,
            env={**os.environ, **variables, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(popen)
        return popen

    yield run
    for popen in started:
        popen.kill()
        popen.communicate()


@pytest.fixture
def profiled(start, tmp_path):
    """The same, to its end."""

    def run(*words, **options):
        return Done(tmp_path, start(*words, **options))

    return run


PYTHON = ("--", sys.executable, "train.py")
TORCHRUN = ("--", sys.executable, "-m", "torch.distributed.run", "--standalone")


def test_a_program_is_measured_the_whole_way_and_says_that_it_was_rehearsed(profiled):
    done = profiled("--json", *PYTHON, code="train(50)")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["source"] == "rehearsed"
    assert report["timing"] is None
    assert report["device"]["gpu"] == "rtx-4090"
    assert {phase["step"] for phase in report["phases"]} == {1, 2, 3}
    assert report["peak"]["allocated_bytes"] == sum(report["components"].values())
    assert report["host"] is None  # it has the books of the virtual card in it
    assert report["device"]["context_bytes"] == 500 * MiB
    capture = done.capture()
    assert capture.report.peak.allocated_bytes == report["peak"]["allocated_bytes"]
    [process] = capture.processes
    assert (process["ended"], process["is_virtual"]) == ("stopped", True)
    assert "next: memplan show" not in done.stderr  # that is for people


def test_a_profile_and_a_rehearsal_of_one_plan_have_the_same_bytes(profiled):
    words = ("gpt2", "--seq-len", "64", "--precision", "bf16-pure")
    done = profiled(*words, "--json")
    assert done.code == 0, done.stderr
    seen = json.loads(done.stdout)
    command = [sys.executable, "-m", "memplan", "rehearse", *words, "--gpu", "rtx-4090"]
    rehearsed = json.loads(
        subprocess.run(
            [*command, "--context-memory", "500MiB", "--json"],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    for field in ("peak", "components", "phases", "holders", "model", "fits"):
        assert seen[field] == rehearsed[field], field


def test_memorys_end_is_said_written_and_nothing_is_run_again(profiled):
    code = "train(9, rows=2 << 20)"
    done = profiled("-o", "run.mplan", *PYTHON, code=code, gpu_memory=3000 * MiB)
    assert done.code == 1
    assert "does not fit" in done.stdout
    assert "out of memory, forward of" in done.stdout
    assert "`memplan rehearse` says" in done.stdout
    assert "Rehearsing" not in done.stderr
    report = done.capture().report
    assert report.out_of_memory.line.startswith("train.py:")
    assert not report.fits
    assert report.device.gpu == "nvidia-geforce-rtx-4090"  # one of that size


def test_a_crash_in_step_2_leaves_its_code_and_what_was_seen(profiled):
    code = "train(9, before=lambda step: step == 2 and sys.exit('no data left'))"
    done = profiled("-o", "run.mplan", *PYTHON, code=code)
    assert (done.code, done.stdout) == (1, "")
    assert "no data left" in done.stderr
    assert "What was seen until then is in run.mplan" in done.stderr
    assert "error: python" in done.stderr
    assert "left with exit code 1" in done.stderr
    assert {phase.step for phase in done.capture().report.phases} == {1}


def test_a_crash_by_an_exception_is_quoted_with_the_step_it_was_in(profiled):
    code = """
        def fail(step):
            if step == 2:
                raise LookupError("mine")
        train(9, before=fail)
    """
    done = profiled("-o", "run.mplan", *PYTHON, code=code)
    assert done.code == 1
    assert "left with exit code 1 (LookupError: mine)" in done.stderr
    [process] = done.capture().processes
    assert (process["ended"], process["error"]) == ("crashed", "LookupError: mine")


def test_a_crash_before_the_first_step_has_nothing_to_write(profiled):
    done = profiled("-o", "run.mplan", *PYTHON, code="train(9, rows='many')")
    assert done.code == 1
    assert done.captures() == {}
    assert "What was seen" not in done.stderr


def test_ctrl_c_writes_what_was_finished(start, tmp_path):
    code = """
        def wait(step):
            if step == 3:
                print("waiting", flush=True)
                time.sleep(120)
        train(9, before=wait)
    """
    popen = start("-o", "run.mplan", *PYTHON, code=code)
    for line in popen.stderr:
        if "waiting" in line:
            break
    popen.send_signal(signal.SIGINT)
    done = Done(tmp_path, popen)
    assert (done.code, done.stdout) == (130, "")
    assert "What was seen until then is in run.mplan" in done.stderr
    capture = done.capture()
    assert [process["ended"] for process in capture.processes] == ["interrupted"]
    assert {phase.step for phase in capture.report.phases} >= {1, 2}
    assert "interrupted after 2 watched steps" in capture.report.assumptions


def test_every_rank_of_torchrun_is_in_one_report(profiled):
    code = TWO_RANKS + "    train(50, rows=64 << 10 * rank)\n"
    words = (*TORCHRUN, "--nproc-per-node", "2", "train.py")
    done = profiled("-o", "run.mplan", *words, code=code, num_devices=2)
    assert done.code == 0, done.stderr
    report = done.capture().report
    assert [(row.rank, row.ended) for row in report.ranks] == [
        (0, "stopped"),
        (1, "stopped"),
    ]
    assert report.ranks[1].allocated_bytes > report.ranks[0].allocated_bytes
    assert (report.rank, report.num_gpus) == (1, 2)
    assert "Every rank, at its own peak" in done.stdout
    assert len(done.capture().processes) == 2


def test_a_rank_that_is_killed_leaves_the_others_and_is_named(profiled):
    code = """
    def kill(step):
        if rank == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 0 and step == 3:
            time.sleep(60)
    train(9, before=kill)
    """
    words = (*TORCHRUN, "--nproc-per-node", "2", "train.py")
    done = profiled("-o", "run.mplan", *words, code=TWO_RANKS + code, num_devices=2)
    assert done.code == 1
    assert "rank 1 of 2 died" in done.stderr
    assert "killed from outside" in done.stderr
    report = done.capture().report
    assert [(row.rank, row.ended) for row in report.ranks] == [
        (0, "interrupted"),
        (1, "died"),
    ]
    assert report.rank == 0
    assert {phase.step for phase in report.phases} >= {1, 2}
    assert any("nothing came back of rank 1" in line for line in report.assumptions)


def test_a_plan_of_two_gpus_is_started_on_both(profiled):
    words = ("gpt2", "--seq-len", "32", "--num-gpus", "2", "--precision", "bf16-pure")
    done = profiled(*words, "--steps", "1", "--timed-steps", "0", num_devices=2)
    assert done.code == 0, done.stderr
    report = done.capture().report
    assert [row.rank for row in report.ranks] == [0, 1]
    assert (report.plan.num_gpus, report.num_gpus) == (2, 2)


def test_a_plan_of_more_gpus_than_there_are_names_ranks_and_with_them_runs(profiled):
    words = ("gpt2", "--seq-len", "32", "--zero-stage", "2")
    done = profiled(*words, "--num-gpus", "8")
    assert (done.code, done.captures()) == (2, {})
    assert "--ranks 8" in done.stderr
    done = profiled(*words, "--ranks", "8", "--steps", "2", "--timed-steps", "0")
    assert done.code == 0, done.stderr
    report = done.capture().report
    assert (report.num_gpus, report.rank, report.ranks) == (8, 0, ())
    assert any(line.startswith("one card plays rank 0") for line in report.assumptions)


def test_the_output_exists_or_cannot_be_written(profiled, tmp_path):
    (tmp_path / "run.mplan").write_text("mine")
    done = profiled("-o", "run.mplan", *PYTHON, code="train(9)")
    assert done.code == 2
    assert "exists already" in done.stderr
    assert (tmp_path / "run.mplan").read_text() == "mine"
    done = profiled("-o", "gone/run.mplan", *PYTHON, code="train(9)")
    assert done.code == 2
    assert "cannot be written" in done.stderr


def test_the_card_of_these_tests_is_the_one_of_the_catalogue(profiled):
    done = profiled("--gpu", "t4", "gpt2", "--seq-len", "32", "--steps", "1", "--json")
    assert done.code == 0, done.stderr
    said = "the plan names t4; the report is about the card at hand, rtx-4090"
    assert said in done.stderr
    report = json.loads(done.stdout)
    assert report["plan"]["gpu"] == "rtx-4090"
    assert report["device"]["total_bytes"] == find_gpu("rtx-4090").total_bytes
