"""How far the closed form was from runs of the real PyTorch: the bands of a report.

A plan belongs to a class of plans, and its bands are quantiles of what was seen of that
class: of the allocated peak, and of what PyTorch reserved, both as ratios to the
allocated peak that was estimated. `scripts/accuracy` keeps them in profiles/accuracy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import floor
from typing import TYPE_CHECKING, Any

from memplan.formulas.allocator import settings_of
from memplan.plan import TrainingPlan
from memplan.report import Band
from memplan.units import GiB

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

KINDS = {False: "trained", True: "generated"}
"""Tables of the measured figures, by whether a plan generates."""
SMALL_BYTES = 2 * GiB
"""Below it the workspaces, contexts of libraries and rounding weigh more."""
GENERATING, TRAINING = "plans that generate", "plans that train"
ALLOCATED_FRACTION = 0.95
"""Of a class, the part that its band of the allocated peak covers."""
RESERVED_FRACTION = 0.98
"""Of a class, the part that its band of reserved memory covers: 1% lie above it."""
DEFAULT_SETTING = "default"
SETTINGS_BY_DEFAULT = {"expandable_segments": "False", "backend": "native"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Where a class lay, as ratios to the allocated peak that was estimated."""

    of: str
    """The class whose quantiles these are: where a class has too few plans for them, a
    wider one, and the extremes of the class itself where they are further out. The
    widest class answers with its extremes."""
    num_plans: int
    """Of that class."""
    low: float
    median: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFigures:
    """What was seen of the plans of one class."""

    num_plans: int
    median_absolute_error_fraction: float
    """Of the allocated peak, as the next two."""
    lowest_error_fraction: float
    """Negative: estimated too low."""
    highest_error_fraction: float
    allocated: Spread
    reserved: Spread


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Bands put to the test: each plan against the band made of all the others.

    Of classes that are large enough for a quantile.
    """

    num_plans: int
    allocated_within_fraction: float
    reserved_above_fraction: float
    """Of the plans, the part that reserved more than its band's upper end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """What `scripts/accuracy` found over kept rehearsals."""

    torch: tuple[str, ...]
    compared_on: str
    """The day on which the formulas were held against them."""
    left_out: Mapping[str, LeftOut]
    """By setting of the allocator, where there are plans enough."""
    classes: Mapping[str, Mapping[str, ClassFigures]]
    """By setting of the allocator, and by class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredAccuracy:
    """What it found over the records that were measured on one card."""

    num_plans: int
    torch: tuple[str, ...]
    compared_on: str
    lowest_error_fraction: float
    highest_error_fraction: float
    median_absolute_error_fraction: float
    median_reserved_over_allocated: float
    ninth_decile_reserved_over_allocated: float


def classes_of(plan: TrainingPlan, allocated_bytes: int) -> tuple[str, ...]:
    """The classes that a plan belongs to, from the narrowest to the widest.

    What errs alike is together: who shards, whether the base is frozen and adapters are
    trained, and, of what is small, that it is.
    """
    if plan.generates:
        return (GENERATING,)
    if plan.zero_stage and plan.num_gpus > 1:
        by = {"fsdp2": "FSDP2", "deepspeed": "DeepSpeed"}[plan.sharding]
        return (f"plans sharded by {by}", "sharded plans", TRAINING)
    if allocated_bytes < SMALL_BYTES:
        what = "plans below 2 GiB"
    elif plan.trainable == "lora":
        what = "plans of adapters"
    else:
        what = "plans without adapters"
    return (f"{what}, not sharded", "plans not sharded", TRAINING)


def setting_of(alloc_conf: str | None) -> str:
    """Settings of the allocator without those that are its defaults, in one order."""
    settings = settings_of(alloc_conf or "") or {}
    changed = {
        name: value
        for name, value in sorted(settings.items())
        if SETTINGS_BY_DEFAULT.get(name) != value
    }
    return ",".join(map(":".join, changed.items())) or DEFAULT_SETTING


def rank_outside(num_plans: int, fraction: float) -> int:
    """How many of so many plans lie beyond either end of a band that covers a fraction.

    0: they are too few to tell.
    """
    # A millionth more: 0.01 x 100 is a rank, whatever binary fractions make of it.
    return floor((1 - fraction) / 2 * (num_plans + 1) + 1e-6)


@cache
def accuracy() -> Accuracy:
    """The shipped figures of rehearsals."""
    return accuracy_of(_read(_folder() / "rehearsed.toml"))


@cache
def measured_accuracy(gpu: str, *, generates: bool = False) -> MeasuredAccuracy | None:
    """The figures of the records that were measured on a card; None: there are none."""
    figures = _measured().get(KINDS[generates], {}).get(gpu)
    if figures is None:
        return None
    return MeasuredAccuracy(**{**figures, "torch": tuple(figures["torch"])})


def allocated_band(plan: TrainingPlan, allocated_bytes: int, gpu: str) -> Band:
    """Where the allocated peak lies, by the class of the plan.

    With settings of the allocator that no plan was rehearsed with, as without them. The
    worst errors of records of the card widen it, where there are any.
    """
    figures = _figures(plan, allocated_bytes, setting_of(plan.alloc_conf)) or _figures(
        plan, allocated_bytes, DEFAULT_SETTING
    )
    assert figures is not None
    spread = figures.allocated
    low, high = min(1.0, spread.low), max(1.0, spread.high)
    measured = measured_accuracy(gpu, generates=plan.generates)
    if measured is not None:
        low = min(low, 1 / (1 + measured.highest_error_fraction))
        high = max(high, 1 / (1 + measured.lowest_error_fraction))
    own, *_ = classes_of(plan, allocated_bytes)
    rehearsed = _basis(own, figures, spread, ALLOCATED_FRACTION)
    return Band(
        low_bytes=int(allocated_bytes * low),
        high_bytes=round(allocated_bytes * high),
        basis=f"{rehearsed}; {_checked(measured, gpu)}",
    )


def reserved_spread(
    plan: TrainingPlan, allocated_bytes: int
) -> tuple[Spread, str] | None:
    """What PyTorch reserved of plans of this class, and how that is known.

    None: no such plan was rehearsed with these settings of the allocator.
    """
    setting = setting_of(plan.alloc_conf)
    figures = _figures(plan, allocated_bytes, setting)
    if figures is None:
        return None
    own, *_ = classes_of(plan, allocated_bytes)
    basis = _basis(own, figures, figures.reserved, RESERVED_FRACTION)
    with_what = "" if setting == DEFAULT_SETTING else f", with {setting}"
    return figures.reserved, basis + with_what


def unknown_reserved(plan: TrainingPlan) -> str | None:
    """What is not known of the plan's settings of the allocator, if anything is not."""
    setting = setting_of(plan.alloc_conf)
    if _figures(plan, 0, setting) is not None:
        return None
    return (
        f"what PyTorch allocates and reserves otherwise with {setting}: no such plan "
        "was rehearsed with it; `memplan rehearse` tells"
    )


def accuracy_of(figures: Mapping[str, Any]) -> Accuracy:
    """What a file of figures says."""
    return Accuracy(
        torch=tuple(figures["torch"]),
        compared_on=figures["compared_on"],
        left_out={
            setting: LeftOut(**tested)
            for setting, tested in figures.get("left_out", {}).items()
        },
        classes={
            setting: {name: _class(found) for name, found in by_class.items()}
            for setting, by_class in figures["classes"].items()
        },
    )


def measured_file() -> "Traversable":
    """Written by `scripts/accuracy` as soon as there are records."""
    return _folder() / "measured.toml"


def _figures(
    plan: TrainingPlan, allocated_bytes: int, setting: str
) -> ClassFigures | None:
    """Of the narrowest class of the plan that there are figures of."""
    by_class = accuracy().classes.get(setting, {})
    names = classes_of(plan, allocated_bytes)
    return next((by_class[name] for name in names if name in by_class), None)


def _basis(own: str, figures: ClassFigures, spread: Spread, fraction: float) -> str:
    """`95% of 131 plans sharded by FSDP2, rehearsed on a virtual CUDA device (...)`."""
    if not rank_outside(spread.num_plans, fraction):
        seen = f"the worst of {spread.num_plans} {spread.of}"
    else:
        seen = f"{fraction:.0%} of {spread.num_plans} {spread.of}"
    if spread.of != own:
        seen = f"the worst of {figures.num_plans} {own}, too few to tell, and {seen}"
    versions = ", ".join(accuracy().torch)
    return f"{seen}, rehearsed on a virtual CUDA device (torch {versions})"


def _checked(measured: MeasuredAccuracy | None, gpu: str) -> str:
    """What was measured; a card is named only where it was."""
    if measured is not None:
        plans = f"{measured.num_plans} plan{'s' * (measured.num_plans != 1)}"
        versions = ", ".join(measured.torch)
        return f"the worst errors of {plans} measured on {gpu} (torch {versions})"
    return f"not checked against {'this' if _measured() else 'a'} card"


@cache
def _measured() -> dict[str, dict[str, dict[str, Any]]]:
    """Figures by kind and card; empty where nothing has been measured."""
    file = measured_file()
    return _read(file) if file.is_file() else {}


def _folder() -> "Traversable":
    return files("memplan.profiles") / "accuracy"


def _read(file: "Traversable") -> dict[str, Any]:
    import tomllib  # reading takes milliseconds; only an estimate needs it

    return tomllib.loads(file.read_text(encoding="utf-8"))


def _class(figures: Mapping[str, Any]) -> ClassFigures:
    spreads = {name: Spread(**figures[name]) for name in ("allocated", "reserved")}
    return ClassFigures(**{**figures, **spreads})
