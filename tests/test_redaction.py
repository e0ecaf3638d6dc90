"""What a redacted capture says of a machine: nothing."""

import getpass
import io
import re
import socket
import zipfile
from dataclasses import replace

import pytest
from capture_files import capture_file
from captures import OUT_OF_MEMORY, capture

from memplan.captures.capture_file import read_capture, write_capture
from memplan.captures.process import process_of
from memplan.captures.redaction import REDACTED, redact, redact_report
from memplan.plan import TrainingPlan
from memplan.report import as_dict, to_json

HOME = "/home/alice-secret/Client Acme (2026)/new idea"
TMP = "/tmp/torchinductor_alice-secret/ab"
LINES = {
    f"{HOME}/train.py:12 main": "train.py:12 main",
    f"{HOME}/train.py:12 main (acme_private/layers.py:3 <lambda>)": (
        "train.py:12 main (layers.py:3 <lambda>)"
    ),
    "clients/acme_private/run.py:7 <module>": "run.py:7 <module>",
    f"{TMP}/cdef.py:695 call": "cdef.py:695 call",
    r"C:\Users\alice-secret\train.py:4 f": "train.py:4 f",
    "<ipython-input-3>:1 <module>": "<ipython-input-3>:1 <module>",
    "anything /home/alice-secret": REDACTED,
    "": "",
}
PRIVATE = (
    "alice-secret",
    "acme",
    "client",
    "new idea",
    "torchinductor",
    "gpu-node-17",
    "--token",
    "password",
    "4711",
)


def private_capture():
    """Folders, names and secrets wherever they may be."""
    content = capture(
        argv=[
            f"{HOME}/train.py",
            "--token",
            "password",
            "--data",
            "/data/alice-secret",
        ],
        job="gpu-node-17:29500",
        error=f"FileNotFoundError: [Errno 2] No such file: '{HOME}/data.json'",
        assumptions=[
            f"the program read values, first at {HOME}/train.py:12 main: they are 0",
            "read from ../alice-secret/data.json, as it was",
            "memory went to /mnt/alice-secret/new idea/x",
            "kept in ~/alice-secret",
        ],
        secret="password",
        out_of_memory={**OUT_OF_MEMORY, "caught": True, "line": f"{HOME}/train.py:9 f"},
    )
    content["peak"]["line"] = f"{HOME}/train.py:12 main"
    content["device"]["host"] = "gpu-node-17"
    for holder, line in zip(content["holders"], LINES, strict=False):
        holder["line"] = line
    content["blocks"] = [
        {
            "component": "weights",
            "module": "layers.0.mlp",
            "name": "weight",
            "line": line,
            "bytes": 5,
            "count": 1,
        }
        for line in LINES
    ]
    content["unsupported"]["operators"][0]["line"] = f"{HOME}/train.py:12 main"
    content["unsupported"]["reads"] = [{"line": f"{HOME}/train.py:12 main", "count": 2}]
    return content


@pytest.fixture
def private():
    return capture_file(
        private_capture(), command=("python", f"{HOME}/train.py", "--token", "password")
    )


def unpacked(file):
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
        return b"".join(map(archive.read, archive.namelist())).decode()


def pieces(*paths):
    """Every folder of some paths that is worth the name."""
    words = {piece for path in paths for piece in re.split(r"[/\\]", path)}
    return {word for word in words if len(word) > 3}


def test_nothing_private_is_in_the_file(private, tmp_path):
    write_capture(private, tmp_path / "private.mplan")
    write_capture(redact(private), tmp_path / "shared.mplan")
    before, after = (
        unpacked(tmp_path / name).casefold()
        for name in ("private.mplan", "shared.mplan")
    )
    for word in (*PRIVATE, *pieces(HOME, TMP) - {"home"}):
        assert word.casefold() in before
        assert word.casefold() not in after
    assert socket.gethostname().casefold() not in after
    assert f'"{getpass.getuser().casefold()}"' not in after


def test_a_file_says_that_it_is_redacted(private, tmp_path):
    write_capture(redact(private), tmp_path / "shared.mplan")
    assert read_capture(tmp_path / "shared.mplan").is_redacted


def test_figures_modules_and_lines_stay(private):
    shared = redact(private)
    (seen,), (after,) = private.processes, shared.processes
    before = process_of(seen)
    for name in ("steps", "components", "segments", "versions", "model", "marked"):
        assert after[name] == before[name]
    assert [block["line"] for block in after["blocks"]] == list(LINES.values())
    assert {block["module"] for block in after["blocks"]} == {"layers.0.mlp"}
    assert after["peak"] == {**before["peak"], "line": "train.py:12 main"}
    assert after["error"] == "FileNotFoundError"
    for name in ("components", "phases", "device", "model", "headroom_bytes"):
        assert as_dict(shared.report)[name] == as_dict(private.report)[name]
    assert shared.report.command == (REDACTED,)


def test_sentences_stay_readable(private):
    assert redact(private).processes[0]["assumptions"] == [
        "the program read values, first at train.py:12 main: they are 0",
        "read from data.json, as it was",
        f"memory went to {REDACTED}",
        f"kept in {REDACTED}",
    ]


def test_once_is_enough(private):
    assert redact(redact(private)) == redact(private)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/home/alice-secret/llama", "llama"),
        ("acme/secret-model", "secret-model"),
        ("gpt2", "gpt2"),
    ],
)
def test_of_a_plan_the_name_of_the_model_is_left(model, name):
    plan = TrainingPlan(model=model, trainable=r"layers\.\d+/x", gpu="rtx-4090")
    report = replace(capture_file().report, plan=plan, command=None)
    shared = redact_report(report)
    assert shared.plan == replace(plan, model=name)
    assert "alice" not in to_json(shared)
