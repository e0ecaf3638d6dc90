"""The content of a capture, in the words of its format."""

import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch

from memplan.runner.attribution import Attribution, components_of, largest_holders
from memplan.runner.counters import Reading
from memplan.runner.history import NEVER, History
from memplan.runner.phases import Step, Stretch, Timeline
from memplan.runner.settings import Settings
from memplan.runner.signals import Signals
from memplan.runner.tags import Tags
from memplan.runner.versions import versions_in_use
from memplan.runner.witness import Witness

STEADY_STEPS = 3


def seen(
    settings: Settings, timeline: Timeline, signals: Signals, witness: Witness
) -> dict[str, Any]:
    """All that was seen; called once, at the end."""
    timeline.finish()
    rank, local_rank, world_size = _place(settings)
    content: dict[str, Any] = {
        "rank": rank,
        "local_rank": local_rank,
        "world_size": world_size,
        "versions": versions_in_use(),
        "device": None,
        "allocator": _allocator_settings(),
        "model": _model(signals),
        "steps": [],
        "unfinished": None,
        "setup": None,
        "marked": [],
        "peak": None,
    }
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return content
    device = _busiest_device(timeline)
    witness.look_around(signals.trained, signals.evaluated, signals.optimizers)
    snapshot = torch.cuda.memory._snapshot(device)
    return content | {
        "device": _device(device),
        "steps": [_step(step, device) for step in timeline.steps],
        "unfinished": timeline.unfinished and _step(timeline.unfinished, device),
        "setup": _figures(timeline.setup, device),
        "marked": [
            {"name": stretch.name, **_figures(stretch, device)}
            for stretch in timeline.marked
        ],
        **_attributed(timeline, witness.tags, snapshot, device),
        **_allocator_state(snapshot, device),
    }


def _model(signals: Signals) -> dict[str, Any] | None:
    """The largest of the models that are trained, or else used."""
    ordered = sorted(
        signals.sizes, key=lambda some: (some[0], some[1].parameters), reverse=True
    )
    return asdict(ordered[0][1]) if ordered else None


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


def _allocator_settings() -> str:
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if os.environ.get(name):
            return os.environ[name]
    return "default"


def _stretches(timeline: Timeline) -> Iterable[Stretch]:
    yield timeline.setup
    yield from timeline.marked
    for step in timeline.steps:
        yield from step.phases
    if timeline.unfinished:
        yield from timeline.unfinished.phases


def _busiest_device(timeline: Timeline) -> int:
    """Of the devices of this process, the one whose peak is highest."""
    peaks: dict[int, int] = {}
    for stretch in _stretches(timeline):
        for device, reading in stretch.readings.items():
            peak = max(peaks.get(device, 0), reading.peak_reserved_bytes)
            peaks[device] = peak
    return max(peaks, key=lambda device: (peaks[device], -device), default=0)


def _device(index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    return {
        "index": index,
        "name": torch.cuda.get_device_name(index),
        "total_bytes": total,
        "outside_bytes": total - free - torch.cuda.memory_reserved(index),
    }


def _step(step: Step, device: int) -> dict[str, Any]:
    return {
        "step": step.number,
        "phases": [
            {"phase": phase.name, **_figures(phase, device)} for phase in step.phases
        ],
    }


def _figures(stretch: Stretch, device: int) -> dict[str, int]:
    return asdict(stretch.readings.get(device, Reading(0, 0, 0, 0, 0, 0)))


def _steady(timeline: Timeline, device: int) -> tuple[int | None, list[Stretch]]:
    """The steady step, which is the last one; or else the highest that was marked."""
    if timeline.steps:
        return timeline.steps[-1].number, timeline.steps[-1].phases
    marked = sorted(timeline.marked, key=lambda stretch: _requested(stretch, device))
    return None, marked[-1:]


def _requested(stretch: Stretch, device: int) -> int:
    return _figures(stretch, device)["peak_requested_bytes"]


def _attributed(
    timeline: Timeline, tags: Tags, snapshot: dict[str, Any], device: int
) -> dict[str, Any]:
    """Where the peak of the steady step was reached, and what it was held by."""
    step, stretches = _steady(timeline, device)
    if not stretches:
        return {"peak": None, "components": None, "holders": [], "assumptions": []}
    highest = max(stretches, key=lambda stretch: _requested(stretch, device))
    history = History(snapshot, device)
    ends = highest.ends or NEVER
    moment = history.highest(since=highest.begins, until=ends)
    attribution = Attribution(history, tags)
    held = attribution.held(moment)
    place, line = attribution.place_of(moment)
    figures = _figures(highest, device)
    peak = {
        "step": step,
        "phase": highest.name,
        "module": place.module,
        "line": line,
        "requested_bytes": figures["peak_requested_bytes"],
        "allocated_bytes": figures["peak_allocated_bytes"],
        "reserved_bytes": max(
            _figures(stretch, device)["peak_reserved_bytes"] for stretch in stretches
        ),
    }
    return {
        "peak": peak,
        "components": components_of(held),
        "holders": largest_holders(held),
        "assumptions": _incomplete(moment.num_bytes, figures["peak_requested_bytes"])
        + _unsteady(timeline, device),
    }


def _incomplete(seen_bytes: int, requested_bytes: int) -> list[str]:
    if seen_bytes == requested_bytes:
        return []
    return [
        f"what is held at the peak adds up to {seen_bytes} bytes, of {requested_bytes} "
        "requested: the allocator's history does not reach back to it"
    ]


def _unsteady(timeline: Timeline, device: int) -> list[str]:
    """Batches of unequal size make unequal steps; the first has no states yet."""
    if len(timeline.steps) < STEADY_STEPS:
        return []
    before, last = (
        max(_requested(phase, device) for phase in step.phases)
        for step in timeline.steps[-2:]
    )
    if before == last:
        return []
    number = timeline.steps[-1].number
    return [
        f"steps differ: step {number} requested {last} bytes at its peak, step "
        f"{number - 1} {before}"
    ]


def _allocator_state(snapshot: dict[str, Any], device: int) -> dict[str, Any]:
    """The segments as the allocator lists them, and how tight it was."""
    segments = [s for s in snapshot["segments"] if s["device"] == device]
    stats = torch.cuda.memory_stats(device)
    return {
        "segments": {
            "reserved_bytes": sum(s["total_size"] for s in segments),
            "allocated_bytes": sum(s["allocated_size"] for s in segments),
            "active_bytes": sum(s["active_size"] for s in segments),
        },
        "retries": stats.get("num_alloc_retries", 0),
        "inactive_split_bytes": stats.get("inactive_split_bytes.all.current", 0),
    }
