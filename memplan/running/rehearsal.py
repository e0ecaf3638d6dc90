"""What was seen inside a program, as a report.

The runner writes one capture a process, plain JSON; this is where it becomes a
`MemoryReport`. The figures are PyTorch's own, and are never changed: components that
do not add up to what the allocator gave out leave a remainder, which is named.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from memplan.hardware import Gpu
from memplan.plan import TrainingPlan
from memplan.report import (
    Band,
    Components,
    Device,
    Holder,
    HostMemory,
    MarkedPhase,
    MemoryReport,
    ModelSize,
    OutOfMemory,
    PeakMemory,
    PhaseMemory,
    Source,
)
from memplan.runner.settings import STEADY_STEPS
from memplan.running.timing import timing_of
from memplan.units import format_gib

Capture = Mapping[str, Any]

_LEFT_OUT: Capture = {
    "steps": (),
    "unfinished": None,
    "marked": (),
    "setup": None,
    "peak": None,
    "error": None,
    "components": None,
    "holders": (),
    "retries": 0,
    "inactive_split_bytes": 0,
    "timing": None,
    "host": None,
    "outside": None,
    "out_of_memory": None,
    "unsupported": {"operators": (), "reads": (), "calls": ()},
    "assumptions": (),
}
"""What a process that never came to use the card leaves out."""
REHEARSED = (
    "PyTorch's own allocator on a virtual card, which plays of kernels, streams and "
    "driver what decides memory (docs/virtual-device.md); not measured on a card"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What was run, and on what."""

    gpu: Gpu
    plan: TrainingPlan | None = None
    command: tuple[str, ...] | None = None
    headroom_fraction: float = 0.05
    assumptions: tuple[str, ...] = ()


def completed(capture: Capture) -> Capture:
    """A capture with all of its parts."""
    return {**_LEFT_OUT, **capture}


def has_something_to_report(capture: Capture) -> bool:
    """Whether a process made a step, marked a phase, or ran out of memory."""
    return bool(
        _made_a_step(capture) or capture["marked"] or uncaught_out_of_memory(capture)
    )


def _made_a_step(capture: Capture) -> bool:
    """Whether an optimizer stepped; some do within the backward pass.

    One step without an optimizer is all of a program that never updates anything.
    """
    steps = capture["steps"]
    phases = [phase["phase"] for step in steps for phase in step["phases"]]
    return len(steps) > 1 or "optimizer" in phases


def uncaught_out_of_memory(capture: Capture) -> Mapping[str, Any] | None:
    """The error that ended a process, if one did; a program may catch others."""
    error: Mapping[str, Any] | None = capture["out_of_memory"]
    return None if error is None or error["caught"] else error


def most_loaded(captures: Iterable[Capture]) -> Capture:
    """Of several processes, the one that ran out of memory or held most on its card."""
    return max(
        captures,
        key=lambda capture: (
            uncaught_out_of_memory(capture) is not None,
            peak_of(capture).device_bytes,
        ),
    )


def source_of(capture: Capture) -> Source:
    """Measured on a card: never where the card was played, or may have been."""
    return "rehearsed" if capture.get("is_virtual", True) else "measured"


def report_of(capture: Capture, subject: Subject) -> MemoryReport:
    """The report of one process."""
    capture = completed(capture)
    peak = peak_of(capture)
    outside, libraries = _outside(capture)
    components, unattributed, rounding = _components(capture, peak)
    total, headroom = subject.gpu.total_bytes, subject.headroom_fraction
    left = total - int(total * headroom) - peak.device_bytes
    model = capture["model"] or {}
    return MemoryReport(
        source=source_of(capture),
        plan=subject.plan,
        command=subject.command,
        model=ModelSize(
            name=_name(subject, model),
            parameters=model.get("parameters") or 0,
            trainable_parameters=model.get("trainable_parameters") or 0,
        ),
        device=Device(
            gpu=subject.gpu.slug,
            total_bytes=total,
            context_bytes=outside,
            torch=capture["versions"].get("torch", "unknown"),
            allocator=_allocator(capture["allocator"]),
            libraries_bytes=libraries,
        ),
        components=components,
        peak=peak,
        phases=_phases(capture),
        fits=left >= 0,
        headroom_bytes=left,
        band=Band(
            low_bytes=peak.allocated_bytes,
            high_bytes=peak.allocated_bytes,
            basis=_basis(capture),
        ),
        assumptions=(
            *subject.assumptions,
            *_assumptions(capture),
            *_others(capture),
            *(_reads(capture) if subject.plan is None else ()),
        ),
        unsupported=_unsupported(capture["unsupported"]),
        num_gpus=capture["world_size"],
        rank=capture["rank"],
        headroom_fraction=headroom,
        versions=dict(capture["versions"]),
        holders=_holders(capture["holders"]),
        unattributed_bytes=unattributed,
        rounding_bytes=rounding,
        fragmentation_bytes=peak.reserved_bytes - peak.allocated_bytes,
        setup_peak_allocated_bytes=(capture["setup"] or {}).get("peak_allocated_bytes"),
        marked=tuple(MarkedPhase(**_only(MarkedPhase, m)) for m in capture["marked"]),
        timing=timing_of(capture["timing"], subject.plan, subject.gpu),
        host=_host(capture),
        retries=capture["retries"],
        inactive_split_bytes=capture["inactive_split_bytes"],
    )


def _basis(capture: Capture) -> str:
    """What the figures are figures of."""
    if source_of(capture) == "rehearsed":
        return REHEARSED
    steps = len(capture["steps"])
    torch = capture["versions"].get("torch", "of unknown version")
    return (
        f"measured on {capture['device']['name']}, torch {torch}, "
        f"{steps} step{'s' * (steps != 1)}"
    )


def _outside(capture: Capture) -> tuple[int, int | None]:
    """What this process held outside the allocator, and the part its libraries took.

    What other processes held of the card is theirs.
    """
    total: int = capture["device"]["outside_bytes"]
    split = capture.get("outside")
    if split is None:
        return total, None
    came = split["at_end_bytes"] - split["at_start_bytes"]
    return max(total - (split["others_bytes"] or 0), 0), max(came, 0)


def _others(capture: Capture) -> list[str]:
    """Of a card that was not this process's alone."""
    split = capture["outside"]
    if split is None or split["others_bytes"] == 0:
        return []
    if split["others_bytes"] is None:
        return ["what others held of the card cannot be told apart, and is counted"]
    size = format_gib(split["others_bytes"])
    return [f"other processes held {size} of the card, which is not counted"]


def _host(capture: Capture) -> HostMemory | None:
    """Of a real run: beside a virtual card the process keeps that card's books."""
    seen = capture["host"]
    if seen is None or source_of(capture) == "rehearsed":
        return None
    return HostMemory(**_only(HostMemory, seen))


def out_of_memory_of(capture: Capture) -> OutOfMemory | None:
    """Where a process ran out of memory, if it did."""
    error = uncaught_out_of_memory(capture)
    if error is None:
        return None
    known = dict(error["components"])
    unattributed = known.pop("unattributed", 0)
    known["temporary_buffers"] = known.get("temporary_buffers", 0) + unattributed
    return OutOfMemory(
        step=error["step"] or 0,
        phase=error["phase"] or "setup",
        module=error["module"] or "",
        line=error["line"] or "",
        asked_bytes=error["asked_bytes"],
        segment_bytes=error["segment_bytes"],
        free_bytes=error["free_bytes"],
        allocated_bytes=error["allocated_bytes"],
        reserved_bytes=error["reserved_bytes"],
        message=error["message"],
        components=Components(**_only(Components, known)),
        holders=_holders(error["holders"]),
    )


def lowest_capability(capture: Capture) -> tuple[int, int]:
    """The lowest compute capability that the PyTorch of a process has kernels for."""
    major, minor = capture["device"].get("lowest_capability") or (0, 0)
    return major, minor


def _name(subject: Subject, model: Mapping[str, Any]) -> str:
    """As a plan names it; of a program, the model's class, if the runner saw one."""
    if subject.plan is not None and subject.plan.model is not None:
        return subject.plan.model
    return model.get("name") or " ".join(subject.command or ("model",))


def peak_of(capture: Capture) -> PeakMemory:
    """The peak of the steady step, else of what was marked, else where memory ended."""
    outside, _ = _outside(capture)
    steady, error = capture["peak"], uncaught_out_of_memory(capture)
    if steady is not None:
        return _peak_memory(steady, outside, steady["phase"], steady["step"] or 0)
    if error is not None:
        allocated = error["allocated_bytes"]
        at_error = {**error, "requested_bytes": allocated}
        phase = error["phase"] or "setup"
        return _peak_memory(at_error, outside, phase, error["step"] or 0)
    if not capture["marked"]:
        return _peak_memory(_highest(capture["setup"] or {}), outside, "setup", 0)
    highest = max(capture["marked"], key=lambda mark: mark["peak_allocated_bytes"])
    return _peak_memory(_highest(highest), outside, highest["name"], 0)


def _highest(phase: Mapping[str, Any]) -> dict[str, int]:
    """The peaks of a phase under the names of a peak."""
    kinds = ("requested_bytes", "allocated_bytes", "reserved_bytes", "active_bytes")
    return {kind: phase.get(f"peak_{kind}", 0) for kind in kinds}


def _peak_memory(
    seen: Mapping[str, Any], outside: int, phase: str, step: int
) -> PeakMemory:
    return PeakMemory(
        requested_bytes=seen["requested_bytes"],
        allocated_bytes=seen["allocated_bytes"],
        reserved_bytes=seen["reserved_bytes"],
        device_bytes=seen["reserved_bytes"] + outside,
        phase=phase,
        step=step,
        module=seen.get("module") or "",
        line=seen.get("line") or "",
        active_bytes=seen.get("active_bytes"),
    )


def _components(capture: Capture, peak: PeakMemory) -> tuple[Components, int, int]:
    """The components; of temporary buffers, what is unattributed and what is rounding.

    They add up to the allocated peak: what no tensor accounts for is in temporary
    buffers, so that nothing is left out.
    """
    error = uncaught_out_of_memory(capture)
    known = capture["components"] or (error["components"] if error else {})
    owned = {
        field.name: known.get(field.name, 0)
        for field in fields(Components)
        if field.name != "temporary_buffers"
    }
    temporary = peak.allocated_bytes - sum(owned.values())
    rounding = peak.allocated_bytes - peak.requested_bytes
    unattributed = temporary - rounding - known.get("temporary_buffers", 0)
    components = Components(temporary_buffers=temporary, **owned)
    return components, max(unattributed, 0), rounding


def _phases(capture: Capture) -> tuple[PhaseMemory, ...]:
    """Every phase of every step, in order; the last step may have been cut short."""
    steps = [*capture["steps"]]
    if capture["unfinished"] is not None:
        steps.append(capture["unfinished"])
    return tuple(
        PhaseMemory(step=step["step"], **_only(PhaseMemory, phase))
        for step in steps
        for phase in step["phases"]
    )


def _holders(seen: Iterable[Mapping[str, Any]]) -> tuple[Holder, ...]:
    return tuple(
        Holder(
            bytes=holder["bytes"],
            component=holder["component"],
            module=holder["module"] or "",
            name=holder["name"] or "",
            shape=None if holder["shape"] is None else tuple(holder["shape"]),
            dtype=holder["dtype"],
            line=holder["line"] or "",
            count=holder["count"],
        )
        for holder in seen
    )


def _only(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a dataclass has fields for: a capture may know more."""
    return {
        field.name: values[field.name] for field in fields(kind) if field.name in values
    }


def _allocator(settings: str) -> str:
    if settings in ("", "default"):
        return "caching allocator, default settings"
    return f"caching allocator, {settings}"


def _assumptions(capture: Capture) -> list[str]:
    """What the figures rest on, said by the runner and by the run itself."""
    lines = list(capture["assumptions"])
    steps, error = len(capture["steps"]), capture["out_of_memory"]
    if not uncaught_out_of_memory(capture) and 0 < steps < STEADY_STEPS:
        lines.append(
            f"the program made {steps} training step{'s' * (steps > 1)}: the peak of "
            "later ones may be higher, as optimizer states appear in the first"
        )
    if error is not None and error["caught"]:
        asked = format_gib(error["asked_bytes"])
        lines.append(
            f"the program ran out of memory in {error['phase'] or 'setup'} of step "
            f"{error['step'] or 0}, asking for {asked}, and went on by itself"
        )
    if capture["retries"]:
        lines.append(
            f"PyTorch gave cached memory back and asked again {capture['retries']} "
            "times: the card is nearly full"
        )
    return lines


def _reads(capture: Capture) -> list[str]:
    """That a program of the user's may have decided by values."""
    return [
        f"the program read values of the card {_times(read['count'])}, first at "
        f"{read['line'] or 'a line of no file'}: what kernels compute reads as 0, and "
        "what it decides by that may differ on a card"
        for read in capture["unsupported"]["reads"]
    ]


def _unsupported(seen: Mapping[str, Any]) -> tuple[str, ...]:
    """Operators whose result depends on values, and calls that are not played."""
    lines = []
    for operator in seen["operators"]:
        line = f", {operator['line']}" if operator.get("line") else ""
        lines.append(
            f"{operator['name']}: what it allocates depends on values, which a virtual "
            f"card does not compute ({_times(operator['count'])}{line})"
        )
    for call in seen["calls"]:
        lines.append(
            f"{call['name']}: a CUDA call that the virtual card does not play "
            f"({_times(call['count'])})"
        )
    return tuple(lines)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
