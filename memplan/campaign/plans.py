"""The campaign: the plans that are worth measuring on a card, most informative first.

    [base.gpt2]                                      # profiles/campaign.toml
    model = "gpt2"
    per_device_train_batch_size = 8

    [[group]]
    title = "precisions"
    of = ["gpt2"]
    [group.variations]
    fp32 = { precision = "fp32" }                    # the plan gpt2.fp32

A group is every variation of every base. Beside the fields of a plan a variation may
have `environment`, settings of the allocator, and `batch`, which sizes the batch to the
card: `fills` takes the largest that fits by estimate, `exceeds` one that cannot.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from memplan.errors import MemplanError, ProfileError
from memplan.estimate import needed_bytes
from memplan.plan import TrainingPlan

Batch = Literal["fills", "exceeds"]

FILLED = 0.9
"""Of the card, by estimate: what is reserved beyond it presses the allocator."""
EXCEEDED = 1.15
"""Beyond the error of any estimate seen so far (docs/estimate.md)."""
LARGEST_BATCH = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One plan of the campaign."""

    name: str
    group: str
    plan: TrainingPlan
    environment: Mapping[str, str] = field(default_factory=dict)
    """Settings of PyTorch's allocator."""
    batch: Batch | None = None
    """How the card decides the batch; None: the plan's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """An entry on a card: what it is estimated to take there."""

    entry: Entry
    needed_bytes: int | None
    """None where a plan has no estimate."""
    left_out: str = ""
    """Why it is not run; empty: it is."""


def read_campaign(file: Path | None = None) -> tuple[Entry, ...]:
    """All entries of a file, or of memplan's own, in their order.

    Raises:
        ProfileError: it cannot be read, has an unknown key, or a plan that is none.
    """
    import tomllib

    name = str(file or "profiles/campaign.toml")
    source = file or files("memplan.profiles") / "campaign.toml"
    try:
        return tuple(_entries(tomllib.loads(source.read_text(encoding="utf-8"))))
    except (OSError, ValueError, MemplanError) as error:
        raise ProfileError(
            f"{name} holds no campaign: {str(error).removesuffix('.')}.",
            hint="docs/measuring.md says what is in it.",
        ) from error


def sized_to(
    entries: Iterable[Entry], total_bytes: int, gpu: str | None = None
) -> tuple[Sized, ...]:
    """Each entry on a card of that size; what cannot fit there says so.

    Args:
        total_bytes: what the card has.
        gpu: its slug; None where it is not in the catalogue.
    """
    here = {} if gpu is None else {"gpu": gpu}
    return tuple(_sized(entry, here, total_bytes) for entry in entries)


def _sized(entry: Entry, here: Mapping[str, Any], total_bytes: int) -> Sized:
    entry = replace(entry, plan=replace(entry.plan, **here))
    try:
        entry = _with_batch(entry, total_bytes)
        needed = needed_bytes(entry.plan)
    except MemplanError:  # it may run all the same, and its record will say so
        return Sized(entry=entry, needed_bytes=None)
    left_out = ""
    if needed > total_bytes and entry.batch != "exceeds":
        left_out = "by estimate it does not fit this card"
    return Sized(entry=entry, needed_bytes=needed, left_out=left_out)


def _with_batch(entry: Entry, total_bytes: int) -> Entry:
    """The batch that the card decides, if it does."""
    if entry.batch is None:
        return entry

    def takes(batch: int) -> int:
        return needed_bytes(replace(entry.plan, per_device_train_batch_size=batch))

    if entry.batch == "fills":
        batch = max(_first_above(takes, FILLED * total_bytes) - 1, 1)
    else:
        batch = _first_above(takes, EXCEEDED * total_bytes)
    return replace(entry, plan=replace(entry.plan, per_device_train_batch_size=batch))


def _first_above(takes: Callable[[int], int], limit_bytes: float) -> int:
    """The smallest batch that takes more."""
    high = 1
    while high < LARGEST_BATCH and takes(high) <= limit_bytes:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) <= limit_bytes else (low, middle)
    return high


# ---- the file ----


_STRICT = {"extra": "forbid"}
"""For pydantic: a key that a class has not is an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    __pydantic_config__ = _STRICT
    title: str
    of: tuple[str, ...]
    variations: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    __pydantic_config__ = _STRICT
    base: dict[str, dict[str, Any]]
    group: tuple[_Group, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Beside:
    """What a variation has beside the fields of a plan."""

    __pydantic_config__ = _STRICT
    environment: dict[str, str] = field(default_factory=dict)
    batch: Batch | None = None


def _entries(data: dict[str, Any]) -> Iterator[Entry]:
    """Raises ValueError, or what a plan raises, at the first that is wrong."""
    file: _File = _checked(_File, data, "the file")
    seen = set()
    for group in file.group:
        for variation, changes in group.variations.items():
            for base in group.of:
                name = f"{base}.{variation}"
                if base not in file.base:
                    raise ValueError(f"{name} is of a base that is not there")
                if name in seen:
                    raise ValueError(f"{name} is there twice")
                seen.add(name)
                yield _entry(name, group.title, {**file.base[base], **changes})


def _entry(name: str, group: str, values: dict[str, Any]) -> Entry:
    own = {item.name for item in fields(_Beside)}
    beside: _Beside = _checked(
        _Beside, {key: values[key] for key in own & values.keys()}, name
    )
    plan: TrainingPlan = _checked(
        TrainingPlan, {k: v for k, v in values.items() if k not in own}, name
    )
    return Entry(
        name=name,
        group=group,
        plan=plan,
        environment=beside.environment,
        batch=beside.batch,
    )


def _checked(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """An instance of a dataclass; a key it has not is an error."""
    from pydantic import TypeAdapter, ValidationError

    unknown = values.keys() - {item.name for item in fields(kind)}
    if unknown:
        raise ValueError(f"{where} has the unknown key {min(unknown)}")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{key} of {where}: {first['msg']}") from error
    except MemplanError as error:
        raise ValueError(f"{where}: {error.message}") from error
