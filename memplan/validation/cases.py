"""One record held against one prediction, and the errors of many such cases."""

import math
import shlex
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from memplan.diff import Difference
from memplan.estimating.accuracy import classes_of
from memplan.estimating.changes import as_flags, command_words
from memplan.plan import TrainingPlan
from memplan.report import Components

Engine = Literal["estimated", "rehearsed"]
Verdict = Literal["ran", "false alarm", "foretold", "missed"]

VERBS: dict[Engine, str] = {"estimated": "estimate", "rehearsed": "rehearse"}
PEAKS = ("allocated", "reserved", "device")
COMPONENTS = tuple(asdict(Components()))
UNDER_FRACTION = 0.01
"""A prediction lower than the measurement by more is an under-estimate."""
TRICKS = (
    "precision",
    "trainable",
    "quantization",
    "frozen_dtype",
    "optim",
    "ema",
    "gradient_accumulation_steps",
    "activation_checkpointing",
    "attn_implementation",
    "zero_stage",
    "offload_optimizer",
    "offload_parameters",
    "tensor_parallel",
    "pipeline_parallel",
    "alloc_conf",
)
"""Fields of a plan that are set to save memory, or that move much of it."""
PLAIN = "no trick"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One record held against one prediction of its plan."""

    path: Path
    entry: str
    measured_at: str
    engine: Engine
    plan: TrainingPlan
    """As it was predicted: on the record's card."""
    verdict: Verdict
    difference: Difference | None
    """The prediction, held against the record; None where one of them has no peak."""

    @property
    def command(self) -> str:
        """What makes this prediction again."""
        return shlex.join(command_words(self.plan, VERBS[self.engine]))

    @property
    def kind(self) -> str | None:
        """The class of plans whose band it has; None where nothing was predicted."""
        if self.difference is None:
            return None
        allocated_bytes = self.difference.allocated.b_bytes or 0
        return classes_of(self.plan, allocated_bytes)[0]

    @property
    def names_phase(self) -> bool | None:
        """Whether the peak lies in the phase that was predicted."""
        if self.difference is None:
            return None
        return self.difference.a.peak.phase == self.difference.b.peak.phase

    @property
    def tricks(self) -> tuple[str, ...]:
        """What the plan sets, as flags."""
        default = TrainingPlan(model=self.plan.model)
        names = (
            as_flags({name: getattr(self.plan, name)})
            for name in TRICKS
            if getattr(self.plan, name) != getattr(default, name)
        )
        return tuple(names) or (PLAIN,)

    def error_fraction(self, term: str) -> float | None:
        """Of a peak, of that peak; of a component, of the allocated peak."""
        if self.difference is None:
            return None
        if term in PEAKS:
            return self.difference.term(term).difference_fraction
        off_by = self.difference.term(term).difference_bytes
        whole = self.difference.allocated.a_bytes
        return off_by / whole if whole and off_by is not None else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """Errors of one term over many cases, as fractions."""

    num_cases: int
    median_fraction: float
    """This, the mean and the 95th percentile are of sizes, whatever the sign."""
    mean_fraction: float
    ninety_fifth_fraction: float
    lowest_fraction: float
    highest_fraction: float
    under_rate: float
    """Of the cases, the part that is an under-estimate by more than 1%."""

    @property
    def worst_fraction(self) -> float:
        return max(self.lowest_fraction, self.highest_fraction, key=abs)


def errors_of(cases: Iterable[Case], term: str) -> Errors | None:
    """Errors of one term; None where no case has it."""
    found = [case.error_fraction(term) for case in cases]
    errors = [error for error in found if error is not None]
    if not errors:
        return None
    magnitudes = sorted(map(abs, errors))
    return Errors(
        num_cases=len(errors),
        median_fraction=statistics.median(magnitudes),
        mean_fraction=statistics.fmean(magnitudes),
        ninety_fifth_fraction=magnitudes[math.ceil(0.95 * len(errors)) - 1],
        lowest_fraction=min(errors),
        highest_fraction=max(errors),
        under_rate=sum(error < -UNDER_FRACTION for error in errors) / len(errors),
    )
