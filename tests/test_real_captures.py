"""Captures of real runs on the virtual card: whole, exact, and fit to be shared."""

import getpass
import json
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from memplan import rehearse_program
from memplan.captures.breakdown import breakdown_of, flat
from memplan.captures.capture_file import CaptureFile, read_capture, write_capture
from memplan.captures.gathering import process_of_rank
from memplan.captures.redaction import redact
from memplan.errors import VirtualDeviceError
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch

pytestmark = pytest.mark.slow

PROGRAM = """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(999, 4001), nn.Linear(4001, 999)

        def forward(self, x):
            return x + self.down(self.up(x).relu())

    model = nn.Sequential(Block(), Block(), nn.Linear(999, 7)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(5):
        loss = model(torch.randn(333, 999, device="cuda")).square().mean()
        if loss.item() > 3:
            raise SystemExit("never")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
"""
FOLDER = "alice-secret/acme idea"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def captured(folder):
    """The capture of that program, run in a folder of telling name."""
    try:
        find_compiler()
        find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)
    file = folder / FOLDER / "train.py"
    file.parent.mkdir(parents=True)
    file.write_text(textwrap.dedent(PROGRAM))
    processes = []
    report = rehearse_program(
        [sys.executable, str(file), "--token", "pass-word"],
        gpu="rtx-4090",
        keep=processes.extend,
    )
    return CaptureFile(report=report, processes=tuple(processes))


@pytest.fixture(scope="module")
def file(captured, folder):
    write_capture(captured, folder / "run.mplan")
    return folder / "run.mplan"


def places(data, path=""):
    """Every field of plain data, whatever list it is in."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield f"{path}.{key}"
            yield from places(value, f"{path}.{key}")
    elif isinstance(data, list):
        for value in data:
            yield from places(value, path)


def test_nothing_that_was_seen_is_lost(captured, file):
    written = json.loads(json.dumps(captured.processes))
    read = read_capture(file)
    assert read.report == captured.report
    by_version = {".versions", ".components", ".segments"}
    assert set(places(written)) - by_version <= set(places(list(read.processes)))
    for before, after in zip(written, read.processes, strict=True):
        for name in ("blocks", "curve", "components", "holders", "versions"):
            assert after[name] == before[name]


@pytest.mark.parametrize("by", ["component", "module", "line"])
def test_rows_add_up_to_the_allocated_peak(file, by):
    capture = read_capture(file)
    found = breakdown_of(process_of_rank(capture, None), by, depth=3)
    assert found.allocated_bytes == capture.report.peak.allocated_bytes
    assert sum(row["bytes"] for row in flat(found.rows)) == found.allocated_bytes
    names = {row.name for row in found.rows}
    assert "not in the capture" not in names
    if by == "component":
        components = capture.report.components
        rows = {row.name: row.bytes for row in found.rows}
        for name in ("weights", "gradients", "optimizer_states", "activations"):
            assert rows.get(name, 0) == getattr(components, name)


def test_the_curve_reaches_the_peak(file):
    (process,) = read_capture(file).processes
    curve = process["curve"]
    assert max(curve["requested_bytes"]) == process["peak"]["requested_bytes"]
    assert curve["times_us"] is None
    assert process["is_virtual"]


def test_what_is_shared_tells_of_no_folder_and_of_nobody(captured, file, folder):
    shared = folder / "shared.mplan"
    write_capture(redact(captured), shared)

    def unpacked(path):
        with zipfile.ZipFile(path) as archive:
            return b"".join(map(archive.read, archive.namelist())).decode()

    private = {"pass-word", "--token", getpass.getuser()}
    for path in (folder / FOLDER, Path.home(), Path.cwd(), Path(sys.executable)):
        private |= {part for part in path.parts if len(part) > 3}
    private -= {"python", "python3", "memplan", "lib64", "main"}  # words of reports
    before, after = unpacked(file), unpacked(shared)
    assert "alice-secret" in before
    assert "pass-word" in before
    for word in private:
        assert f"/{word}" not in after, word
        assert f"{word}/" not in after, word
    assert "alice-secret" not in after
    assert "pass-word" not in after
    assert "train.py:" in after
