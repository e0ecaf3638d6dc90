"""How far the closed form was from runs of the real PyTorch: the band of a report."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from memplan.report import Band

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

KINDS = {False: "trained", True: "generated"}
"""Tables of the measured figures, by whether a plan generates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """What `scripts/accuracy` found over kept rehearsals, or over measured records."""

    num_plans: int
    torch: tuple[str, ...]
    compared_on: str
    """The day on which the formulas were held against them."""
    lowest_error_fraction: float
    """Of the allocated peak; negative: estimated too low."""
    highest_error_fraction: float
    median_absolute_error_fraction: float
    median_reserved_over_allocated: float
    ninth_decile_reserved_over_allocated: float


@cache
def accuracy(*, generates: bool = False) -> Accuracy:
    """The shipped figures of rehearsals, of training or of generation."""
    name = "evaluated" if generates else "rehearsed"
    return _accuracy(_read(_folder() / f"{name}.toml"))


@cache
def measured_accuracy(gpu: str, *, generates: bool = False) -> Accuracy | None:
    """The figures of the records that were measured on a card; None: there are none."""
    figures = _measured().get(KINDS[generates], {}).get(gpu)
    return None if figures is None else _accuracy(figures)


def band_of(allocated_bytes: int, gpu: str, *, generates: bool = False) -> Band:
    """Where the allocated peak lies if the worst errors seen so far are the worst.

    Those measured on the card count beside those of the virtual one.
    """
    rehearsed = accuracy(generates=generates)
    measured = measured_accuracy(gpu, generates=generates)
    seen = [rehearsed] if measured is None else [rehearsed, measured]
    highest = max(0.0, *(figures.highest_error_fraction for figures in seen))
    lowest = min(0.0, *(figures.lowest_error_fraction for figures in seen))
    return Band(
        low_bytes=int(allocated_bytes / (1 + highest)),
        high_bytes=round(allocated_bytes / (1 + lowest)),
        basis=_basis(rehearsed, measured, gpu),
    )


def fragmentation_line(*, generates: bool = False) -> str:
    """What reserved memory was beyond the allocated peak."""
    seen = accuracy(generates=generates)
    median = seen.median_reserved_over_allocated - 1
    high = seen.ninth_decile_reserved_over_allocated - 1
    return (
        f"fragmentation: PyTorch reserved {median:.0%} more than it allocated in the "
        f"median of {seen.num_plans} rehearsed plans, up to {high:.0%} in nine of ten; "
        "it gives part of that back before it runs out of memory"
    )


def _basis(rehearsed: Accuracy, measured: Accuracy | None, gpu: str) -> str:
    """How the errors are known; a card is named only where it was measured."""
    of_rehearsals = (
        f"{rehearsed.num_plans} plans rehearsed on a virtual CUDA device "
        f"(torch {', '.join(rehearsed.torch)})"
    )
    if measured is not None:
        plans = f"{measured.num_plans} plan{'s' * (measured.num_plans != 1)}"
        return (
            f"the worst errors of {plans} measured on {gpu} "
            f"(torch {', '.join(measured.torch)}), and of {of_rehearsals}"
        )
    unchecked = (
        "not checked against this card"
        if _measured()
        else ("not checked against a card")
    )
    return (
        f"the worst errors of {of_rehearsals}, on which the formulas were put right; "
        f"{unchecked}"
    )


@cache
def _measured() -> dict[str, dict[str, dict[str, Any]]]:
    """Figures by kind and card; empty where nothing has been measured."""
    file = measured_file()
    return _read(file) if file.is_file() else {}


def measured_file() -> "Traversable":
    """Written by `scripts/accuracy` as soon as there are records."""
    return _folder() / "measured.toml"


def _folder() -> "Traversable":
    return files("memplan.profiles") / "accuracy"


def _read(file: "Traversable") -> dict[str, Any]:
    import tomllib  # reading takes milliseconds; only an estimate needs it

    return tomllib.loads(file.read_text(encoding="utf-8"))


def _accuracy(figures: dict[str, Any]) -> Accuracy:
    return Accuracy(**{**figures, "torch": tuple(figures["torch"])})
