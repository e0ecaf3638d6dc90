"""Does a plan fit, for a script that has to decide: fits, does not, cannot say.

    found = memplan.check(TrainingPlan(model="llama-2-7b", gpu="a100-40gb"))
    sys.exit(found.exit_code)

An estimate is not sure of everything, and says so: what PyTorch reserves beside the
peak may not fit though the peak does, keys of a configuration may be unknown. `strict`
lets nothing of that pass; `lower_bound` fails only on what certainly cannot fit.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from typing import Any, Literal

from memplan.errors import MemplanError, PlanError
from memplan.estimate import estimate
from memplan.estimating.card import card_of
from memplan.estimating.changes import Fields, as_flags, command_words
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.units import format_gib

SCHEMA_VERSION = 1

By = Literal["estimate", "rehearse"]
Verdict = Literal["fits", "narrow", "does not fit", "cannot say"]
"""narrow: it fits, and would not with what PyTorch reserves beside the peak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fix:
    """Tricks with which the plan would fit, by estimate."""

    tricks: tuple[str, ...]
    """Of `memplan compare`: the one that changes results least where one is enough."""
    flags: str
    """What to add to the command line."""
    command: str
    """The whole of it."""
    device_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A verdict, and what it rests on."""

    schema_version: int = SCHEMA_VERSION
    memplan_version: str
    kind: Literal["check"] = "check"
    verdict: Verdict
    exit_code: int
    """0 fits, 1 does not, 2 cannot say."""
    by: By
    strict: bool
    lower_bound: bool
    low_bytes: int
    """What it takes on the device at least."""
    doubts: tuple[str, ...]
    """What the verdict does not know of the plan, a sentence each."""
    not_read: tuple[str, ...]
    """Keys of its configuration that can move memory, and are not in the plan."""
    fix: Fix | None
    """Where it does not fit."""
    report: MemoryReport


def check(
    plan: TrainingPlan,
    *,
    by: By = "estimate",
    strict: bool = False,
    lower_bound: bool = False,
    not_read: Sequence[str] = (),
) -> Check:
    """Hold a plan against its card.

    Args:
        plan: what is to fit; its card, and the headroom on it, are in it.
        by: the closed form, or PyTorch on the virtual card.
        strict: what fits narrowly does not fit, at the upper end of what PyTorch may
            reserve; and what is not known is no yes.
        lower_bound: only what certainly cannot fit does not; all else passes.
        not_read: keys of the plan's configuration that can move memory, and are not
            in the plan.

    Raises:
        MemplanError: there is no figure: nobody can say.
    """
    if strict and lower_bound:
        raise PlanError(
            "What is sure to fit and what is sure not to are two questions.",
            hint="Ask with --strict, or with --lower-bound.",
        )
    report = _report(plan, by)
    low_bytes = _low_bytes(plan, report)
    if lower_bound:
        verdict = _without_doubt(report, low_bytes)
    else:
        verdict = _verdict(report, strict, not_read)
    return Check(
        memplan_version=version("memplan"),
        verdict=verdict,
        exit_code=_exit_code(verdict, strict, lower_bound),
        by=by,
        strict=strict,
        lower_bound=lower_bound,
        low_bytes=low_bytes,
        doubts=tuple(_doubts(report)),
        not_read=tuple(not_read),
        fix=None if report.fits else _fix(plan),
        report=report,
    )


def to_json(found: Check, *, indent: int | None = 2) -> str:
    """The check as JSON text, with its whole report."""
    return json.dumps(as_dict(found), indent=indent)


def as_dict(found: Check) -> dict[str, Any]:
    """As plain data, in the order of the contract."""
    return asdict(found)


def _report(plan: TrainingPlan, by: By) -> MemoryReport:
    """Raises MemplanError where there is none."""
    if by == "estimate":
        return estimate(plan)
    from memplan.comparing.engines import engine_of

    [(_, found)] = engine_of(by, jobs=1).look([plan])
    if isinstance(found, str):
        words = shlex.join(command_words(plan, by))
        raise PlanError(f"{found}.", hint=f"Try it by itself: {words}")
    return found


def _low_bytes(plan: TrainingPlan, report: MemoryReport) -> int:
    """The lower end of the band, or the model states alone, and the card's context.

    A context that is only assumed, and NCCL's buffers, may be smaller: left out.
    """
    states = report.components
    held = states.weights + states.gradients + states.optimizer_states
    context = plan.context_bytes
    if context is None:
        context = card_of(plan).context_bytes or 0
    return max(report.band.low_bytes, held) + context


def _without_doubt(report: MemoryReport, low_bytes: int) -> Verdict:
    """Of all the card, headroom included."""
    if low_bytes > report.device.total_bytes:
        return "does not fit"
    if report.fits and _is_whole(report):
        return "narrow" if report.fits_narrowly else "fits"
    return "cannot say"


def _verdict(report: MemoryReport, strict: bool, not_read: Sequence[str]) -> Verdict:
    """Without doubts where they do not count."""
    if strict and (not_read or (report.fits and report.unsupported)):
        return "cannot say"
    if not report.fits:
        return "does not fit"
    if not _is_whole(report):
        return "cannot say"
    is_narrow = report.fits_narrowly or (strict and _most_beside(report) > 0)
    return "narrow" if is_narrow else "fits"


def _most_beside(report: MemoryReport) -> int:
    """What PyTorch may reserve beside the peak, beyond what there is room for."""
    if report.reserved is None:
        return 0
    beside = report.reserved.high_bytes - report.peak.reserved_bytes
    return beside - report.headroom_bytes


def _is_whole(report: MemoryReport) -> bool:
    """A bare parameter count has no activations: that it fits says nothing."""
    return report.plan is not None and report.plan.model is not None


def _exit_code(verdict: Verdict, strict: bool, lower_bound: bool) -> int:
    match verdict:
        case "fits":
            return 0
        case "narrow":
            return 1 if strict else 0
        case "does not fit":
            return 1
        case "cannot say":
            return 0 if lower_bound else 2


def _doubts(report: MemoryReport) -> list[str]:
    doubts = [f"not in the figures: {line}" for line in report.unsupported]
    if report.fits and _most_beside(report) > 0:
        word = "likely reserves" if report.fits_narrowly else "may reserve"
        doubts.append(
            f"PyTorch {word} more than there is room for beside the peak, up to "
            f"{format_gib(_most_beside(report))} too much; it gives unused segments "
            "back before it runs out of memory"
        )
    missing = -report.headroom_bytes
    if 0 < missing <= report.peak.allocated_bytes - report.band.low_bytes:
        doubts.append(
            f"{format_gib(missing)} too much is within the band of the estimate; "
            "--by rehearse tells"
        )
    return doubts


def _fix(plan: TrainingPlan) -> Fix | None:
    """The trick that changes least of those that are enough alone, else the chain."""
    from memplan.compare import compare

    try:
        found = compare(plan)
    except MemplanError:  # a parameter count, or a model without a formula
        return None
    if found.gentlest is not None:
        [chosen] = [one for one in found.alone if one.tricks == (found.gentlest,)]
    elif found.fits_after is not None:
        chosen = found.greedy[found.fits_after - 1]
    else:
        return None
    changed = chosen.report.plan
    assert changed is not None
    return Fix(
        tricks=chosen.tricks,
        flags=as_flags(_difference(plan, changed)),
        command=shlex.join(command_words(changed, "check")),
        device_bytes=chosen.need_bytes,
    )


def _difference(plan: TrainingPlan, changed: TrainingPlan) -> Fields:
    """Of one trick, or of several of which the later take the place of earlier ones."""
    return {
        item.name: getattr(changed, item.name)
        for item in fields(plan)
        if getattr(changed, item.name) != getattr(plan, item.name)
    }
