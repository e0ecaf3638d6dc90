"""Two reports held against each other, term by term: a prediction and a measurement.

    difference = diff(estimated, measured)
    difference.allocated.difference_fraction

A difference is B less A, and its fraction is of A. Only like is compared with like:
what one of the two does not know is None, never another figure in its place. Steps are
matched by what they are, the first or the steady one, not by number: an estimate calls
its steady step 2, a run the last that it made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from memplan.differing import Pair, differing
from memplan.errors import UnknownNameError
from memplan.report import (
    Components,
    MarkedPhase,
    MemoryReport,
    PhaseMemory,
    RankMemory,
)

Role = Literal["first", "steady"]

PEAKS = ("requested", "allocated", "active", "reserved", "device")
RANK_TERMS = ("allocated", "reserved", "device")


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One figure of both reports; None where a report does not know it."""

    name: str
    a_bytes: int | None
    b_bytes: int | None

    @property
    def difference_bytes(self) -> int | None:
        if self.a_bytes is None or self.b_bytes is None:
            return None
        return self.b_bytes - self.a_bytes

    @property
    def difference_fraction(self) -> float | None:
        """Of A; None also where A is zero and B is not."""
        difference = self.difference_bytes
        if difference is None:
            return None
        if difference == 0:
            return 0.0
        return difference / abs(self.a_bytes) if self.a_bytes else None

    def is_beyond(self, limit_fraction: float) -> bool:
        """Whether B is further from A than a fraction of A, up or down."""
        difference = self.difference_bytes
        if difference is None or self.a_bytes is None:
            return False
        return abs(difference) > limit_fraction * abs(self.a_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class TermGroup:
    """The figures of one phase, of one marked stage, or of one rank."""

    name: str
    """`backward`, what the program marked, or `rank 3`."""
    role: Role | None
    """Of a phase: of which step."""
    terms: tuple[Term, ...]

    def term(self, name: str) -> Term:
        return next(term for term in self.terms if term.name == name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What two reports have in common, and where they part."""

    a: MemoryReport
    b: MemoryReport
    differing: tuple[Pair, ...]
    """What decides memory and is not the same: plans, cards, versions."""
    peak: tuple[Term, ...]
    """Requested, allocated, active, reserved and on the device."""
    components: tuple[Term, ...]
    """Their differences add up to that of the allocated peak."""
    parts: tuple[Term, ...]
    """What lies within those: rounding, fragmentation, outside, and the like."""
    phases: tuple[TermGroup, ...]
    marked: tuple[TermGroup, ...]
    ranks: tuple[TermGroup, ...]
    """Empty unless both reports have ranks."""

    @property
    def is_of_one_plan(self) -> bool:
        """Both are of the same plan, or of the same command, be it on other cards."""
        return not any(
            pair.name in ("plan", "command") or pair.name.startswith("plan ")
            for pair in self.differing
        )

    @property
    def allocated(self) -> Term:
        return self.term("allocated")

    @property
    def without_peak(self) -> tuple[MemoryReport, ...]:
        """Those that ran out of memory: their figures are of where they stopped.

        A rehearsal that went on without a limit has a peak after all.
        """
        return tuple(
            report
            for report in (self.a, self.b)
            if report.out_of_memory and report.out_of_memory.needed_bytes is None
        )

    def term(self, name: str) -> Term:
        """A term of the peak, of the components or of the parts, by its name."""
        terms = (*self.peak, *self.components, *self.parts)
        return next(term for term in terms if term.name == name)


def find_term(name: str) -> str:
    """The term that a user names, as `optimizer-states` or `optimizer_states`.

    Raises:
        UnknownNameError: there is none of that name.
    """
    known = (*PEAKS, *(field.name for field in fields(Components)), "outside")
    wanted = name.strip().lower().replace("-", "_")
    if wanted not in known:
        listed = (term.replace("_", "-") for term in known)
        raise UnknownNameError.of("term", name, listed)
    return wanted


def diff(a: MemoryReport, b: MemoryReport) -> Difference:
    """Hold two reports against each other; they may be of two plans, which is said."""
    return Difference(
        a=a,
        b=b,
        differing=tuple(differing(a, b)),
        peak=tuple(_term(kind, _peak(a, kind), _peak(b, kind)) for kind in PEAKS),
        components=tuple(
            _term(name, size_bytes, getattr(b.components, name))
            for name, size_bytes in asdict(a.components).items()
        ),
        parts=tuple(
            _term(name, a_bytes, b_bytes)
            for (name, a_bytes), (_, b_bytes) in zip(_parts(a), _parts(b), strict=True)
        ),
        phases=tuple(_phases(a, b)),
        marked=tuple(_marked(a.marked, b.marked)),
        ranks=tuple(_ranks(a.ranks, b.ranks)),
    )


def _term(name: str, a_bytes: int | None, b_bytes: int | None) -> Term:
    return Term(name=name, a_bytes=a_bytes, b_bytes=b_bytes)


def _peak(report: MemoryReport, kind: str) -> int | None:
    """Of an estimate, with the fragmentation that it expects."""
    size_bytes: int | None = getattr(report.peak, f"{kind}_bytes")
    if report.reserved is None or kind not in ("reserved", "device"):
        return size_bytes
    outside = report.device.context_bytes if kind == "device" else 0
    return report.reserved.likely_bytes + outside


def _parts(report: MemoryReport) -> tuple[tuple[str, int | None], ...]:
    """What is inside the components and peaks, as far as a report knows it."""
    is_run = report.source != "estimated"
    peak = report.peak
    return (
        ("rounding", peak.allocated_bytes - peak.requested_bytes),
        ("unattributed", report.unattributed_bytes if is_run else None),
        ("fragmentation", report.fragmentation_bytes),
        ("inactive splits", report.inactive_split_bytes),
        ("outside", report.device.context_bytes),
        ("libraries", report.device.libraries_bytes),
        ("before step 1", report.setup_peak_allocated_bytes),
    )


def role_of(report: MemoryReport, step: int) -> Role | None:
    """What a step is to its report; None of those between."""
    if step == 1:
        return "first"
    return "steady" if step == steady_step(report) else None


def steady_step(report: MemoryReport) -> int | None:
    """The step that the peak is of, where it is not the first; else the last."""
    if report.peak.step > 1:
        return report.peak.step
    return max((p.step for p in report.phases if p.step > 1), default=None)


def _phases(a: MemoryReport, b: MemoryReport) -> Iterator[TermGroup]:
    """Every phase that either has, of the first and of the steady step."""
    of_a, of_b = _by_role(a), _by_role(b)
    for key in sorted({**of_a, **of_b}, key=lambda key: key[0] != "first"):
        role, name = key
        yield TermGroup(
            name=name, role=role, terms=_figures(of_a.get(key), of_b.get(key))
        )


def _by_role(report: MemoryReport) -> dict[tuple[Role, str], dict[str, int | None]]:
    """The figures of each phase; those of several micro-batches at their highest."""
    grouped: dict[tuple[Role, str], list[PhaseMemory]] = {}
    for phase in report.phases:
        role = role_of(report, phase.step)
        if role is not None:
            grouped.setdefault((role, phase.phase), []).append(phase)
    return {key: _as_one(phases) for key, phases in grouped.items()}


PHASE_TERMS = tuple(
    field.name for field in fields(PhaseMemory) if field.name.endswith("_bytes")
)


def _as_one(phases: Sequence[PhaseMemory | MarkedPhase]) -> dict[str, int | None]:
    """The highest of the peaks, and where the last of them ended."""
    figures: dict[str, int | None] = {}
    for name in PHASE_TERMS:
        known = [getattr(phase, name, None) for phase in phases]
        sizes = [size for size in known if size is not None]
        if name.startswith("end_"):
            sizes = sizes[-1:]
        figures[name.removesuffix("_bytes")] = max(sizes, default=None)
    return figures


def _figures(
    a: dict[str, int | None] | None, b: dict[str, int | None] | None
) -> tuple[Term, ...]:
    names = [name.removesuffix("_bytes") for name in PHASE_TERMS]
    a, b = a or {}, b or {}
    return tuple(_term(name, a.get(name), b.get(name)) for name in names)


def _marked(a: Sequence[MarkedPhase], b: Sequence[MarkedPhase]) -> Iterator[TermGroup]:
    """What either program marked, by name; what was run several times, as one."""
    of_a, of_b = _by_name(a), _by_name(b)
    for name in {**of_a, **of_b}:
        terms = _figures(of_a.get(name), of_b.get(name))
        yield TermGroup(name=name, role=None, terms=terms)


def _by_name(marked: Sequence[MarkedPhase]) -> dict[str, dict[str, int | None]]:
    grouped: dict[str, list[MarkedPhase]] = {}
    for phase in marked:
        grouped.setdefault(phase.name, []).append(phase)
    return {name: _as_one(phases) for name, phases in grouped.items()}


def _ranks(a: Sequence[RankMemory], b: Sequence[RankMemory]) -> Iterator[TermGroup]:
    if not (a and b):
        return
    of_a, of_b = ({rank.rank: rank for rank in ranks} for ranks in (a, b))
    for number in sorted({**of_a, **of_b}):
        yield TermGroup(
            name=f"rank {number}",
            role=None,
            terms=tuple(
                _term(
                    name,
                    _of_rank(of_a.get(number), name),
                    _of_rank(of_b.get(number), name),
                )
                for name in RANK_TERMS
            ),
        )


def _of_rank(rank: RankMemory | None, name: str) -> int | None:
    """None of a rank of which nothing came back."""
    if rank is None or rank.ended == "died":
        return None
    size_bytes: int = getattr(rank, f"{name}_bytes")
    return size_bytes
