"""What decides memory and is not the same in two reports: plans, cards, versions."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from memplan.plan import TrainingPlan
from memplan.report import MemoryReport

OF_THE_CARD = frozenset({"gpu", "gpu_memory_bytes", "context_bytes", "torch"})
"""Fields of a plan that come to `device`, which is compared in their place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Something of both reports that is no figure of memory."""

    name: str
    a: str
    b: str


def differing(a: MemoryReport, b: MemoryReport) -> Iterator[Pair]:
    """Every such thing, the plans first."""
    yield from _plans(a, b)
    pairs = (
        ("model", a.model.name, b.model.name),
        ("parameters", a.model.parameters, b.model.parameters),
        ("trained", a.model.trainable_parameters, b.model.trainable_parameters),
        ("card", a.device.gpu, b.device.gpu),
        ("card's bytes", a.device.total_bytes, b.device.total_bytes),
        ("allocator", a.device.allocator, b.device.allocator),
        ("GPUs", a.num_gpus, b.num_gpus),
        ("rank", a.rank, b.rank),
        ("memplan", a.memplan_version, b.memplan_version),
    )
    for name, of_a, of_b in pairs:
        if of_a != of_b:
            yield Pair(name=name, a=str(of_a), b=str(of_b))
    if not _is_same_version(a.device.torch, b.device.torch):
        yield Pair(name="torch", a=a.device.torch, b=b.device.torch)
    if a.versions and b.versions:  # an estimate states none
        for name in dict.fromkeys((*a.versions, *b.versions)):
            of_a, of_b = a.versions.get(name, "-"), b.versions.get(name, "-")
            if name != "torch" and of_a != of_b:
                yield Pair(name=name, a=of_a, b=of_b)


def _plans(a: MemoryReport, b: MemoryReport) -> Iterator[Pair]:
    """Fields of the plans; or of what was run, where one is no plan."""
    if a.plan is None and b.plan is None:
        if a.command != b.command:
            yield Pair(name="command", a=_command(a), b=_command(b))
        return
    if a.plan is None or b.plan is None:
        yield Pair(name="plan", a=_command(a), b=_command(b))
        return
    for item in fields(TrainingPlan):
        of_a, of_b = getattr(a.plan, item.name), getattr(b.plan, item.name)
        if item.name not in OF_THE_CARD and of_a != of_b:
            yield Pair(name=f"plan {item.name}", a=str(of_a), b=str(of_b))


def _command(report: MemoryReport) -> str:
    return " ".join(report.command) if report.command else f"plan {report.model.name}"


def _is_same_version(a: str, b: str) -> bool:
    """An estimate says 2.14 where a run says 2.14.1+cu130."""
    of_a, of_b = a.split("+")[0].split("."), b.split("+")[0].split(".")
    shared = min(len(of_a), len(of_b))
    is_exact = "+" in a and "+" in b
    return a == b if is_exact else of_a[:shared] == of_b[:shared]
