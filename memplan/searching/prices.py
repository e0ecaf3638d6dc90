"""What GPUs cost by the hour: who offers them, and since when and whence that is known.

    prices = read_prices()                       # profiles/prices/*.toml
    prices.of("h100-80gb", 8).usd_per_hour

A file is one provider and its offers. A user's own file takes the place of all of them.
"""

import math
import re
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.errors import MemplanError, PlanError, ProfileError
from memplan.hardware import find_gpu
from memplan.units import MiB, round_up
from memplan.untrusted import visible

if TYPE_CHECKING:
    from pydantic import TypeAdapter

STALE_DAYS = 180
MOST_BYTES = MiB
MOST_USD = 10**6
MOST_GPUS = 1024
"""A price that is higher, or an instance that is larger, would be a typing error."""
FORM = "Its form is that of profiles/prices: a provider, and a list of offers."
_BUDGET = re.compile(
    r"(?P<before>[^\d\s.,+-]*)\s*(?P<amount>\d+(?:\.\d+)?)\s*(?P<after>[^\d\s/]*)\s*"
    r"/\s*(?:h|hr|hour)",
    re.IGNORECASE,
)
_DOLLARS = {"$", "usd", "us$"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A card that a provider rents out on demand."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    gpu: str
    """Of the catalogue."""
    gpus: int = 1
    """Of an instance: so many at a time are sold."""
    usd_per_gpu_hour: float
    as_of: date
    """The day on which the source said so."""
    source: str

    def __post_init__(self) -> None:
        if not 0 < self.usd_per_gpu_hour <= MOST_USD:
            raise ValueError(f"{self.usd_per_gpu_hour!r} is no price")
        if not 1 <= self.gpus <= MOST_GPUS:
            raise ValueError(f"an instance of {self.gpus} GPUs is none")


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceList:
    """What one provider asks."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    provider: str
    offers: tuple[Offer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What a number of GPUs costs, by the cheapest offer."""

    provider: str
    usd_per_hour: float
    """Of all of them, and of those that an instance has beside them."""
    billed_gpus: int
    as_of: date
    source: str

    def is_stale(self, today: date) -> bool:
        """Whether it was known too long ago to be relied on."""
        return (today - self.as_of).days > STALE_DAYS


@dataclass(frozen=True, slots=True)
class Prices:
    """All offers."""

    lists: tuple[PriceList, ...]

    def of(self, gpu: str, num_gpus: int) -> Price | None:
        """The cheapest way to so many cards; None: nobody is known to offer them."""
        offered = [
            _price(prices.provider, offer, num_gpus)
            for prices in self.lists
            for offer in prices.offers
            if offer.gpu == gpu
        ]
        return min(
            offered,
            key=lambda price: (price.usd_per_hour, price.provider),
            default=None,
        )


def read_prices(file: Path | None = None) -> Prices:
    """Those of a user's own file, else memplan's.

    Raises:
        ProfileError: a file cannot be read, or says what is no price.
    """
    if file is None:
        folder = files("memplan.profiles") / "prices"
        shipped = sorted(
            (entry for entry in folder.iterdir() if entry.name.endswith(".toml")),
            key=lambda entry: entry.name,
        )
        lists = [
            _list_of(f"profiles/prices/{entry.name}", entry.read_bytes())
            for entry in shipped
        ]
        return Prices(tuple(lists))
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise _broken(file, error.strerror or str(error)) from error
    if len(content) > MOST_BYTES:
        raise _broken(file, "it is larger than any list of prices")
    return Prices((_list_of(file, content),))


def budget_of(text: str) -> float:
    """`20USD/h`, `20 USD/hour`, `$20/h`: US dollars an hour.

    Raises:
        PlanError: it is no such sum, or of another currency.
    """
    found = _BUDGET.fullmatch(text.strip())
    hint = "Write it like 20USD/h or $20/h."
    if found is None:
        raise PlanError(f"{text!r} is no budget by the hour.", hint=hint)
    currencies = {found[side].lower() for side in ("before", "after")} - {""}
    if not currencies:
        raise PlanError(f"{text!r} names no currency.", hint=hint)
    if not currencies <= _DOLLARS:
        raise PlanError(
            f"Prices are in US dollars, and {text!r} is not: no rates of exchange are "
            "kept here.",
            hint=hint,
        )
    amount = float(found["amount"])
    if not 0 < amount < math.inf:
        raise PlanError(f"Nothing can be had for {text!r}.", hint=hint)
    return amount


def _price(provider: str, offer: Offer, num_gpus: int) -> Price:
    billed = round_up(num_gpus, offer.gpus)
    return Price(
        provider=provider,
        usd_per_hour=billed * offer.usd_per_gpu_hour,
        billed_gpus=billed,
        as_of=offer.as_of,
        source=offer.source,
    )


def _list_of(file: object, content: bytes) -> PriceList:
    """Raises ProfileError: file, key and problem."""
    import tomllib

    from pydantic import ValidationError

    try:
        data: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(file, str(error)) from error
    try:
        found = _adapter().validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise _broken(file, f"{visible(place)}: {first['msg']}") from error
    offers = []
    for index, offer in enumerate(found.offers):
        try:
            slug = find_gpu(offer.gpu).slug
        except MemplanError as error:
            problem = error.message.removesuffix(".")
            raise _broken(file, f"offers.{index}.gpu: {problem}") from error
        offers.append(
            Offer(
                gpu=slug,
                gpus=offer.gpus,
                usd_per_gpu_hour=offer.usd_per_gpu_hour,
                as_of=offer.as_of,
                source=visible(offer.source),
            )
        )
    return PriceList(provider=visible(found.provider), offers=tuple(offers))


@cache
def _adapter() -> "TypeAdapter[PriceList]":
    from pydantic import TypeAdapter

    return TypeAdapter(PriceList)


def _broken(file: object, problem: str) -> ProfileError:
    return ProfileError(f"{file} is no list of prices: {problem}.", hint=FORM)
