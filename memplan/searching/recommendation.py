"""What a search found: the ways to train, in their order, and why the others lost.

Its JSON is public, as that of a report is: fields are added within a `schema_version`,
never removed.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from memplan.plan import TrainingPlan
from memplan.searching.prices import Price
from memplan.searching.throughput import Throughput

SCHEMA_VERSION = 1
MILLION = 10**6

RankBy = Literal["throughput", "price"]
Lost = Literal[
    "over budget",
    "does not fit",
    "not run",
    "dominated",
    "slower",
    "no faster",
    "no speed",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmation:
    """What a rehearsal of the same plan took."""

    device_bytes: int | None
    """None: there was none."""
    fits: bool | None
    reason: str = ""
    """Why there was none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The fastest way to run on one cluster, within the budget."""

    gpu: str
    num_gpus: int
    plan: TrainingPlan
    command: str
    """What estimates it again."""
    tricks: tuple[str, ...]
    need_bytes: int
    """On the device, with what PyTorch likely reserves beside its peak."""
    room_bytes: int
    """What the device has, the headroom left free."""
    throughput: Throughput | None
    """None where it would be a guess."""
    price: Price | None
    """None: nobody is known to offer the card."""
    is_stale: bool
    """The price was known long ago."""
    usd_per_million_samples: float | None
    usd_per_million_tokens: float | None
    is_on_front: bool = False
    """Nothing is both faster and cheaper a sample."""
    confirmed: Confirmation | None = None

    @property
    def cluster(self) -> str:
        return f"{self.num_gpus} x {self.gpu}"

    @property
    def is_refuted(self) -> bool:
        """A rehearsal of it did not fit."""
        return self.confirmed is not None and self.confirmed.fits is False


@dataclass(frozen=True, kw_only=True, slots=True)
class Loser:
    """What was considered and not recommended."""

    what: str
    """A cluster; or what the best choice would have in place of a trick."""
    lost: Lost
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """Ways to train a model with a global batch."""

    schema_version: int = SCHEMA_VERSION
    memplan_version: str
    kind: Literal["recommendation"] = "recommendation"
    """Tells its JSON from that of a report."""
    plan: TrainingPlan
    """What was asked for, of one GPU."""
    global_batch: int
    budget_usd_per_hour: float | None
    gpus: tuple[str, ...]
    max_gpus: int
    tricks: tuple[str, ...]
    """Those that were allowed and searched."""
    rank_by: RankBy
    choices: tuple[Choice, ...]
    """One a cluster, the best first."""
    clusters_lost: tuple[Loser, ...]
    beside_best: tuple[Loser, ...]
    """The best choice with one trick changed, and why it is not that."""
    num_considered: int
    """Plans: each was estimated, or left out by what is proven."""
    num_estimated: int
    assumptions: tuple[str, ...] = ()

    @property
    def best(self) -> Choice | None:
        """The first that no rehearsal refuted; None: nothing fits."""
        return next((one for one in self.choices if not one.is_refuted), None)


def as_dict(found: Recommendation) -> dict[str, Any]:
    """As plain data, dates as ISO 8601 writes them."""
    data = asdict(found)
    for choice in data["choices"]:
        if choice["price"] is not None:
            choice["price"]["as_of"] = choice["price"]["as_of"].isoformat()
    data["best"] = None if found.best is None else found.choices.index(found.best)
    return data
