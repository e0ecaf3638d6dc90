"""How far the closed form was from runs of the real PyTorch: the band of a report."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from memplan.report import Band


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """What `scripts/accuracy` found over the kept rehearsals."""

    num_plans: int
    torch: tuple[str, ...]
    lowest_error_fraction: float
    """Of the allocated peak; negative: estimated too low."""
    highest_error_fraction: float
    median_absolute_error_fraction: float
    median_reserved_over_allocated: float
    ninth_decile_reserved_over_allocated: float


@cache
def accuracy(*, generates: bool = False) -> Accuracy:
    """The shipped figures, of training or of generation."""
    import tomllib  # reading takes milliseconds; only an estimate needs it

    name = "evaluated" if generates else "rehearsed"
    file = files("memplan.profiles") / "accuracy" / f"{name}.toml"
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    data["torch"] = tuple(data["torch"])
    return Accuracy(**data)


def band_of(allocated_bytes: int, *, generates: bool = False) -> Band:
    """Where the allocated peak lies if the worst errors seen so far are the worst."""
    seen = accuracy(generates=generates)
    return Band(
        low_bytes=int(allocated_bytes / (1 + max(seen.highest_error_fraction, 0))),
        high_bytes=round(allocated_bytes / (1 + min(seen.lowest_error_fraction, 0))),
        basis=f"the worst errors of {seen.num_plans} plans rehearsed on a virtual CUDA "
        f"device (torch {', '.join(seen.torch)}), on which the formulas were put "
        "right; not checked against a card",
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
