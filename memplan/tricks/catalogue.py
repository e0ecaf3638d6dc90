"""All tricks, and those that somebody names.

A new one is an entry in the module of its kind, or in a new module that is listed here.
"""

from collections.abc import Sequence

from memplan.errors import UnknownNameError
from memplan.plan import TrainingPlan
from memplan.tricks import (
    adapters,
    attention,
    batches,
    checkpointing,
    execution,
    frozen,
    images,
    losses,
    optimizers,
    precisions,
    rewritten,
    sharding,
)
from memplan.tricks.trick import EXACTNESSES, TECHNIQUES, Trick

ALL = "all"
WITHOUT = "-"


def catalogue(plan: TrainingPlan) -> tuple[Trick, ...]:
    """Every trick, in the order of techniques; some are of the plan's model alone.

    Raises:
        MemplanError: the plan's model is unknown.
    """
    tricks = (
        *batches.TRICKS,
        *checkpointing.TRICKS,
        *precisions.TRICKS,
        *optimizers.TRICKS,
        *sharding.TRICKS,
        *attention.TRICKS,
        *adapters.TRICKS,
        *frozen.tricks_of(plan),
        *losses.TRICKS,
        *execution.TRICKS,
        *images.TRICKS,
        *rewritten.TRICKS,
    )
    return tuple(sorted(tricks, key=lambda trick: TECHNIQUES.index(trick.technique)))


def find_tricks(plan: TrainingPlan, asked: Sequence[str] = (ALL,)) -> tuple[Trick, ...]:
    """Those that are asked for: by name, by technique, or by what becomes of results.

    `-lora` leaves one out again; of `-lora` alone all others are left.

    Raises:
        UnknownNameError: nothing has that name.
        MemplanError: the plan's model is unknown.
    """
    tricks = catalogue(plan)
    known = {ALL, *map(_key, (*TECHNIQUES, *EXACTNESSES))}
    known |= {_key(trick.name) for trick in tricks}
    wanted, unwanted = set[str](), set[str]()
    for name in asked:
        key = _key(name.removeprefix(WITHOUT))
        if key not in known:
            raise UnknownNameError.of("trick", name.removeprefix(WITHOUT), known)
        (unwanted if name.startswith(WITHOUT) else wanted).add(key)
    return tuple(
        trick
        for trick in tricks
        if _names(trick) & (wanted or {ALL}) and not _names(trick) & unwanted
    )


def _names(trick: Trick) -> set[str]:
    """All words that mean a trick."""
    return {ALL, _key(trick.name), _key(trick.technique), _key(trick.exactness)}


def _key(name: str) -> str:
    """`Gradient checkpointing` and `gradient-checkpointing` are one."""
    return name.strip().lower().replace(" ", "-")
