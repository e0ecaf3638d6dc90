"""The verb on programs of a few lines: snapshots, settings, memory's end, signals.

Each test names what it looks at beside its program; `programs/` has whole scripts.
"""

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from memplan import TrainingPlan, rehearse, rehearse_program
from memplan.captures.snapshot import read_snapshot, totals_of
from memplan.errors import ProgramError, VirtualDeviceError
from memplan.units import GiB, MiB
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch

pytestmark = pytest.mark.slow

SETTINGS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


@pytest.fixture(autouse=True)
def card(monkeypatch):
    """Skip where there is no CUDA build of torch; the allocator has its defaults."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    try:
        find_compiler()
        find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)


@pytest.fixture
def program(tmp_path):
    """A command that runs this code."""

    def write(code):
        file = tmp_path / "train.py"
        file.write_text(textwrap.dedent(code))
        return [sys.executable, str(file)]

    return write


# ---- snapshots ----

THREE_STEPS = """
    import json, sys, torch
    from torch import nn

    model = nn.Sequential(nn.Linear(999, 2000), nn.ReLU(), nn.Linear(2000, 7)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(3):
        loss = model(torch.randn(321, 999, device="cuda")).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = torch.empty(3 << 20, device="cuda"), torch.empty(5, device="cuda")
    stats = torch.cuda.memory_stats()
    print("stats", json.dumps([stats[f"{kind}_bytes.all.current"]
                               for kind in ("reserved", "active", "allocated")]))
"""


@pytest.mark.parametrize("settings", ["", "expandable_segments:True"])
def test_a_snapshot_is_torchs_own_and_adds_up(
    program, tmp_path, monkeypatch, capfd, settings
):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", settings)
    file = tmp_path / "out.pickle"
    rehearse_program(program(THREE_STEPS), steps=5, snapshot=file)
    [line] = [line for line in capfd.readouterr().err.splitlines() if "stats" in line]
    totals = totals_of(read_snapshot(file), 0)
    assert [totals.reserved_bytes, totals.active_bytes, totals.allocated_bytes] == eval(
        line.removeprefix("stats ")
    )
    segments = read_snapshot(file)["segments"]
    assert sum(s["total_size"] for s in segments) == totals.reserved_bytes
    assert sum(s["active_size"] for s in segments) == totals.active_bytes
    assert sum(s["allocated_size"] for s in segments) == totals.allocated_bytes
    for segment in segments:
        assert sum(b["size"] for b in segment["blocks"]) == segment["total_size"]


def test_torchs_own_tool_shows_a_snapshot(program, tmp_path):
    file = tmp_path / "out.pickle"
    rehearse_program(program(THREE_STEPS), snapshot=file)
    show = f"""
    import pickle
    from torch.cuda import _memory_viz as viz
    with open({str(file)!r}, "rb") as stream:
        snapshot = pickle.load(stream)
    frames = [f for e in snapshot["device_traces"][0] for f in e.get("frames", ())]
    assert any(f["filename"].endswith("train.py") for f in frames)
    assert "total_reserved: 126.0MiB" in viz.segsum(snapshot)
    assert "cudaMalloc" in viz.trace(snapshot)
    for page in (viz.trace_plot(snapshot), viz.segment_plot(snapshot)):
        assert "<html>" in page
    """
    code = textwrap.dedent(show)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_a_snapshot_that_cannot_be_written_costs_nothing_else(program, tmp_path, capfd):
    folder = tmp_path / "gone"
    folder.mkdir()
    code = f"import os; os.rmdir({str(folder)!r})\n" + textwrap.dedent(THREE_STEPS)
    report = rehearse_program(program(code), snapshot=folder / "out.pickle")
    assert report.peak.step == 3
    said = capfd.readouterr().err
    assert "out.pickle is not written: No such file or directory" in said
    assert "Traceback" not in said


# ---- the allocator's settings ----

TWO_THAT_COULD_MERGE = """
    import memplan, torch

    torch.cuda.set_per_process_memory_fraction(0.5)  # else nothing is collected

    def take(num_mib):
        return torch.empty(num_mib << 20, dtype=torch.uint8, device="cuda")

    with memplan.phase("merge"):
        both = take(100), take(100)
        del both
        kept = take(200)
    del kept
    torch.cuda.empty_cache()
    with memplan.phase("split"):
        large = take(256)
        del large
        kept = take(32)
    del kept
    torch.cuda.empty_cache()
    with memplan.phase("collect"):
        cached = take(1024)
        del cached
        kept = take(2048)
"""


@pytest.mark.parametrize(
    ("name", "settings", "reserved"),
    [
        (SETTINGS[0], "", (400, 256, 3072)),
        (SETTINGS[0], "expandable_segments:True", (200, 260, 2060)),
        (SETTINGS[1], "expandable_segments:True", (200, 260, 2060)),
        (SETTINGS[0], "max_split_size_mb:64", (400, 288, 3072)),
        (SETTINGS[0], "garbage_collection_threshold:0.2", (400, 256, 2048)),
    ],
)
def test_settings_act_and_are_stated(program, monkeypatch, name, settings, reserved):
    if settings:
        monkeypatch.setenv(name, settings)
    report = rehearse_program(
        program(TWO_THAT_COULD_MERGE), gpu_memory_bytes=8 * GiB, context_bytes=0
    )
    ends = [(m.end_allocated_bytes, m.end_reserved_bytes) for m in report.marked]
    assert [mark.name for mark in report.marked] == ["merge", "split", "collect"]
    assert [allocated // MiB for allocated, _ in ends] == [200, 32, 2048]
    assert tuple(held // MiB for _, held in ends) == reserved
    assert (settings or "default settings") in report.device.allocator


# ---- out of memory ----

FALLS = """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Linear(1024, 4096)
            self.down = nn.Linear(4096, 1024)
        def forward(self, x):
            return x + self.down(torch.tanh(self.up(x)))

    model = nn.Sequential(*(Block() for _ in range(4))).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(4):
        loss = model(torch.randn({rows}, 1024, device="cuda")).mean()
        loss.backward()
        optimizer.step()
"""


def test_memorys_end_in_a_forward_pass_has_its_module_and_its_line(program):
    rows = 32 * 1024  # 512 MiB for each wide activation, 128 for each narrow one
    code = FALLS.format(rows=rows)
    report = rehearse_program(program(code), gpu_memory_bytes=3 * GiB, context_bytes=0)
    error = report.out_of_memory
    assert not report.fits
    assert (error.step, error.phase) == (1, "forward")
    assert error.module == "3"
    assert error.line == "train.py:11 forward"
    assert error.asked_bytes == rows * 4096 * 4
    assert error.free_bytes < error.asked_bytes
    assert 0 <= error.allocated_bytes - error.components.total < MiB
    assert error.components.activations == 3 * (512 + 128) * MiB
    assert error.needed_bytes == report.peak.device_bytes > 3 * GiB


def test_memorys_end_in_a_backward_pass_has_the_line_that_called_it(program):
    code = """
        import torch
        from torch import nn

        # Made there: random numbers of 1 GiB take the host seconds.
        model = nn.Linear(16384, 16384, bias=False, device="cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(4):
            loss = model(torch.randn(64, 16384, device="cuda")).mean()
            loss.backward()
            optimizer.step()
    """
    report = rehearse_program(
        program(code), gpu_memory_bytes=2 * GiB, context_bytes=MiB
    )
    error = report.out_of_memory
    assert (error.step, error.phase) == (1, "backward")
    assert error.line == "train.py:10 <module>"
    assert error.asked_bytes == GiB
    assert error.components.weights == GiB
    assert error.holders[0].line == "train.py:6 <module>"


def test_what_a_run_needs_is_what_fits_to_the_byte(program):
    code = FALLS.format(rows=8 * 1024)
    small = {"gpu_memory_bytes": 600 * MiB, "context_bytes": 0}
    error = rehearse_program(program(code), **small).out_of_memory
    exact = {"context_bytes": 0, "headroom_fraction": 0}
    fits = rehearse_program(program(code), gpu_memory_bytes=error.needed_bytes, **exact)
    assert fits.fits
    assert fits.out_of_memory is None
    assert fits.peak.device_bytes == error.needed_bytes


def test_every_remedy_of_a_plan_is_true_and_no_traceback_is_shown(capfd):
    plan = TrainingPlan(
        model="gpt2",
        gpu="rtx-4090",
        gpu_memory_bytes=int(3.5 * GiB),
        per_device_train_batch_size=16,
        seq_len=512,
        precision="bf16-pure",
        optim="sgd",
        activation_checkpointing="full",
    )
    report = rehearse(plan)
    said = capfd.readouterr().err
    assert "CUDA out of memory" in said
    assert "Traceback" not in said
    error = report.out_of_memory
    changes = [r for r in error.remedies if not r.change.startswith("--gpu")]
    assert changes
    for remedy in changes:
        words = shlex.split(remedy.change)
        fields = {
            name.removeprefix("--").replace("-", "_"): value
            for name, value in zip(words[::2], words[1::2], strict=True)
        }
        counts = {n: int(v) if v.isdecimal() else v for n, v in fields.items()}
        changed = rehearse(replace(plan, **counts))
        assert changed.fits
        assert changed.peak.device_bytes == remedy.device_bytes


# ---- programs that end by themselves, or are ended ----


@pytest.mark.parametrize(
    ("ending", "says", "code"),
    [
        ("raise SystemExit('no data found')", "no data found", 1),
        ("raise LookupError('mine')", "exit code 1 (LookupError: mine)", 1),
        ("import os; os.kill(os.getpid(), 11)", "exit code 139, SIGSEGV", 139),
    ],
)
def test_a_program_that_fails_is_quoted(program, capfd, ending, says, code):
    begins = "import torch; torch.zeros(1, device='cuda')\n"
    with pytest.raises(ProgramError) as caught:
        rehearse_program(program(begins + ending))
    assert caught.value.exit_code == code
    assert says in f"{capfd.readouterr().err} {caught.value.message}"


def test_a_program_that_meets_no_peers_is_told_so(program):
    alone = rehearse_program(program(THREE_STEPS), num_gpus=8)
    said = [line for line in alone.assumptions if "no process group" in line]
    assert len(said) == 1
    meets = "import torch.distributed as dist; dist.init_process_group('nccl')\n"
    together = rehearse_program(
        program(meets + textwrap.dedent(THREE_STEPS)), num_gpus=8
    )
    assert not any("no process group" in line for line in together.assumptions)


def test_a_card_that_this_torch_has_no_kernels_for_counts_and_says_so(program):
    report = rehearse_program(program(THREE_STEPS), gpu="p100-16gb")
    assert report.peak.step == 3
    assert any("no kernels" in line for line in report.assumptions)


LOADS = """
    import time, torch
    from torch.utils.data import DataLoader, Dataset

    class Slow(Dataset):
        def __len__(self):
            return 10**6
        def __getitem__(self, index):
            time.sleep(0.01)
            return torch.zeros(3)

    for index, batch in enumerate(DataLoader(Slow(), batch_size=4, num_workers=2)):
        batch.cuda()
        if index == 4:
            print("works", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_and_folders_go_with_an_interrupted_rehearsal(
    program, tmp_path_factory, number
):
    # Workers hand tensors over at sockets in it, whose paths have 107 bytes at most.
    folder = tmp_path_factory.mktemp("t")
    mark = f"MEMPLAN_TEST_SIGNAL={os.getpid()}-{number}"
    name, value = mark.split("=")
    process = subprocess.Popen(
        [sys.executable, "-m", "memplan", "rehearse", "--", *program(LOADS)],
        env={**os.environ, name: value, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "works" in line:
            break
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert out == ""
    time.sleep(0.2)
    assert not processes_with(mark)
    assert not [*folder.glob("memplan-*")]


def processes_with(mark):
    """Processes that have this in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # it has ended meanwhile, or is another user's
    return found
