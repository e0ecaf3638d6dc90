"""Capture files, made by hand."""

from dataclasses import replace

from captures import MIB, capture

from memplan.captures.capture_file import CaptureFile, write_capture
from memplan.hardware import find_gpu
from memplan.running.ranks import with_ranks
from memplan.running.rehearsal import Subject, completed, report_of


def block(module, size, component="activations", line="model.py:57 forward"):
    return {
        "component": component,
        "module": module,
        "name": "weight",
        "line": line,
        "bytes": size * MIB,
        "count": 1,
    }


BLOCKS = [
    *(block(f"model.layers.{n}.mlp", 100 - n) for n in range(24)),
    block("model.embed_tokens", 500, "weights", "train.py:5 main"),
    block("", 40, "temporary_buffers", ""),
    block("", 60, "unattributed", ""),
]
CURVE = {
    "requested_bytes": [
        *range(400 * MIB, 2900 * MIB, MIB),
        *range(2900 * MIB, 0, -MIB),
    ],
    "times_us": None,
    "phases": [
        {"step": 3, "phase": "forward", "begins": 0, "ends": 2500},
        {"step": 3, "phase": "backward", "begins": 2500, "ends": 5000},
        {"step": 3, "phase": "optimizer", "begins": 5000, "ends": 5400},
    ],
}


def rank(number, **changes):
    """One of four ranks on two machines."""
    seen = capture(
        rank=number, local_rank=number % 2, local_world_size=2, world_size=4, job="a:1"
    )
    return {**seen, "node": number // 2, "blocks": BLOCKS, "curve": CURVE, **changes}


def written(path, *processes):
    """Where a file is that has the captures of some processes."""
    whole = capture_file(*processes)
    report = with_ranks(whole.report, whole.processes)
    write_capture(replace(whole, report=report), path)
    return str(path)


def capture_file(*processes, command=("python", "train.py")):
    """Of some processes; the report is that of the first."""
    seen = [completed(process) for process in processes or [capture()]]
    subject = Subject(gpu=find_gpu("rtx-4090"), command=command)
    return CaptureFile(report=report_of(seen[0], subject), processes=tuple(seen))
