"""The content of a capture, in the words of its format."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from memplan.runner.capture import OUT_OF_MEMORY
from memplan.runner.device import is_virtual, lowest_capability, unsupported_calls
from memplan.runner.history import write_snapshot
from memplan.runner.host import host_memory
from memplan.runner.out_of_memory import OutOfMemory
from memplan.runner.outside import Outside
from memplan.runner.phases import Step, Stretch, Timeline
from memplan.runner.settings import Settings
from memplan.runner.signals import Signals
from memplan.runner.steady import figures_of, peak_of
from memplan.runner.values import Values
from memplan.runner.versions import versions_in_use
from memplan.runner.witness import Witness


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Everything that has seen something."""

    settings: Settings
    timeline: Timeline
    signals: Signals
    witness: Witness
    out_of_memory: OutOfMemory
    outside: Outside
    values: Values | None
    has_met_peers: Callable[[], bool] | None = None
    """Of a process that plays one rank of many."""

    def content(self, ended: str, about: str | None = None) -> dict[str, Any]:
        """All that was seen until now, as if the program ended here.

        The peak is that of the steady step, or of the mark `about`.
        """
        is_used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        timeline = self.timeline.closed()
        rank, local_rank, world_size = _place(self.settings)
        content = {
            "rank": rank,
            "local_rank": local_rank,
            "world_size": world_size,
            "node": int(os.environ.get("GROUP_RANK", 0)),
            "job": _job(),
            "is_virtual": is_virtual(),
            "versions": versions_in_use(),
            "device": None,
            "allocator": "default",
            "model": self._model(),
            "steps": [],
            "host": host_memory(),
        }
        if not is_used:  # and asking for versions does not count
            return content
        device = _busiest_device(timeline)
        self.signals.look_around()
        snapshot = torch.cuda.memory._snapshot(device)
        is_out = ended == OUT_OF_MEMORY
        if self.settings.snapshot is not None and not is_out:
            write_snapshot(snapshot, self.settings.snapshot, rank)
        steady = peak_of(timeline, self.witness.tags, snapshot, device, about)
        return {
            **content,
            **_stretches_of(timeline, device),
            **steady,
            **_allocator_state(snapshot, device),
            "device": _device(device),
            "outside": self.outside.content(device),
            "out_of_memory": self.out_of_memory.last
            and {**self.out_of_memory.last, "caught": not is_out},
            "assumptions": [
                *steady["assumptions"],
                *self._answers(),
                *self._alone(),
            ],
            "unsupported": self._unsupported(),
        }

    def _model(self) -> dict[str, Any] | None:
        """The largest of the models that are trained, or else used."""
        ordered = sorted(
            self.signals.sizes, key=lambda some: (some[0], some[1].parameters)
        )
        return asdict(ordered[-1][1]) if ordered else None

    def _answers(self) -> list[str]:
        return [] if self.values is None else list(self.values.answers)

    def _alone(self) -> list[str]:
        if self.has_met_peers is None or self.has_met_peers():
            return []
        return [
            "the program made no process group: it shared nothing with other GPUs, and "
            "NCCL's buffers are counted all the same"
        ]

    def _unsupported(self) -> dict[str, Any]:
        """On a real card nothing is."""
        if self.values is None:
            return {"operators": [], "reads": [], "calls": []}
        return {
            "operators": self.values.operators(),
            "reads": self.values.reads(),
            "calls": unsupported_calls(),
        }


def _busiest_device(timeline: Timeline) -> int:
    """Of the devices of this process, the one whose peak is highest."""
    peaks: dict[int, int] = {}
    for stretch in _all_stretches(timeline):
        for device, reading in stretch.readings.items():
            peak = max(peaks.get(device, 0), reading.peak_reserved_bytes)
            peaks[device] = peak
    return max(peaks, key=lambda device: (peaks[device], -device), default=0)


def _all_stretches(timeline: Timeline) -> Iterator[Stretch]:
    yield timeline.setup
    yield from timeline.marked
    for step in (*timeline.steps, timeline.unfinished):
        yield from step.phases if step else ()


def _stretches_of(timeline: Timeline, device: int) -> dict[str, Any]:
    return {
        "steps": [_step(step, device) for step in timeline.steps],
        "unfinished": timeline.unfinished and _step(timeline.unfinished, device),
        "setup": figures_of(timeline.setup, device),
        "marked": [
            {"name": stretch.name, **figures_of(stretch, device)}
            for stretch in timeline.marked
        ],
    }


def _place(settings: Settings) -> tuple[int, int, int]:
    """Rank, local rank and world size."""
    if settings.rank is not None and settings.world_size is not None:
        return settings.rank, 0, settings.world_size
    distributed = torch.distributed
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), local_rank, distributed.get_world_size()
    return (
        int(os.environ.get("RANK", 0)),
        local_rank,
        int(os.environ.get("WORLD_SIZE", 1)),
    )


def _job() -> str:
    """What the processes of one job have in common."""
    environ = os.environ
    if "TORCHELASTIC_RUN_ID" in environ:
        return environ["TORCHELASTIC_RUN_ID"]
    if "MASTER_ADDR" in environ:
        return f"{environ['MASTER_ADDR']}:{environ.get('MASTER_PORT', '')}"
    return ""


def _step(step: Step, device: int) -> dict[str, Any]:
    return {
        "step": step.number,
        "phases": [
            {"phase": phase.name, **figures_of(phase, device)} for phase in step.phases
        ],
    }


def _device(index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    return {
        "index": index,
        "name": torch.cuda.get_device_name(index),
        "total_bytes": total,
        "lowest_capability": lowest_capability(),
        "outside_bytes": total - free - torch.cuda.memory_reserved(index),
    }


def _allocator_state(snapshot: dict[str, Any], device: int) -> dict[str, Any]:
    """Its settings, whoever made them; the segments it lists, and how tight it was."""
    segments = [s for s in snapshot["segments"] if s["device"] == device]
    stats = torch.cuda.memory_stats(device)
    settings = snapshot["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"]
    return {
        "allocator": settings or "default",
        "segments": {
            "reserved_bytes": sum(s["total_size"] for s in segments),
            "allocated_bytes": sum(s["allocated_size"] for s in segments),
            "active_bytes": sum(s["active_size"] for s in segments),
        },
        "retries": stats.get("num_alloc_retries", 0),
        "inactive_split_bytes": stats.get("inactive_split_bytes.all.current", 0),
    }
