"""Why what was considered is not recommended."""

from collections.abc import Sequence

from memplan.searching.candidates import SEARCHED, Cluster, Recipe
from memplan.searching.fastest import Candidate, Fastest, Shortage
from memplan.searching.recommendation import Choice, Loser
from memplan.units import format_gib


def over_budget(cluster: Cluster, budget: float | None) -> Loser | None:
    """None where it can be paid for, or nobody knows."""
    if budget is None or cluster.price is None:
        return None
    asked = cluster.price.usd_per_hour
    if asked <= budget:
        return None
    return Loser(
        what=cluster.name,
        lost="over budget",
        reason=f"{asked:.2f} USD/h, {asked - budget:.2f} too much",
    )


def too_large(cluster: Cluster, shortage: Shortage) -> Loser:
    """Nothing fits on it."""
    if shortage.least_bytes is None:
        return Loser(what=cluster.name, lost="not run", reason=shortage.reason)
    return Loser(what=cluster.name, lost="does not fit", reason=_lacking(shortage))


def dominated_by(choice: Choice, better: Choice) -> Loser:
    return Loser(
        what=choice.cluster,
        lost="dominated",
        reason=f"neither faster nor cheaper a sample than {better.cluster}",
    )


def beside(
    best: Candidate, recipes: Sequence[Recipe], fastest: Fastest
) -> tuple[Loser, ...]:
    """The best candidate with one trick more, one less, or another."""
    return tuple(
        _beside(best, what, fastest.one(best.cluster, recipe))
        for what, recipe in _neighbours(best.recipe, recipes)
    )


def _neighbours(own: Recipe, recipes: Sequence[Recipe]) -> list[tuple[str, Recipe]]:
    """Recipes that differ in one technique, and what they have instead."""
    used = _by_technique(own)
    found = []
    for recipe in recipes:
        other = _by_technique(recipe)
        changed = [name for name in SEARCHED if used.get(name) != other.get(name)]
        if len(changed) == 1:
            (technique,) = changed
            what = other.get(technique) or f"without {used[technique]}"
            found.append((what, recipe))
    return found


def _by_technique(recipe: Recipe) -> dict[str, str]:
    return {trick.technique: trick.name for trick in recipe.tricks}


def _beside(best: Candidate, what: str, found: Candidate | Shortage) -> Loser:
    if isinstance(found, Shortage):
        if found.least_bytes is None:
            return Loser(what=what, lost="not run", reason=found.reason)
        return Loser(what=what, lost="does not fit", reason=_lacking(found))
    if found.step_s is None or best.step_s is None:
        reason = f"none is predicted; it fits with {_samples(found)} a micro-batch"
        return Loser(what=what, lost="no speed", reason=reason)
    beside = f"with {_samples(found)} a micro-batch"
    slower = 1 - best.step_s / found.step_s
    if round(slower, 2) <= 0:
        return Loser(what=what, lost="no faster", reason=beside)
    return Loser(what=what, lost="slower", reason=f"by {slower:.0%}, {beside}")


def _samples(found: Candidate) -> str:
    return f"{found.micro_batch} sample{'s' * (found.micro_batch != 1)}"


def _lacking(shortage: Shortage) -> str:
    assert shortage.least_bytes is not None
    return f"at least {format_gib(shortage.least_bytes - shortage.room_bytes)} too much"
