"""The fastest way to run on a cluster that fits, without asking about every candidate.

What is proven leaves candidates out. A sample takes the least time in the largest
micro-batch, so that a recipe has a bound which no micro-batch of it beats. No plan
takes less than its model states, nor than its step beside the optimizer with the states
of that. And a micro-batch takes no less memory than a smaller one, but for a MiB or two
of the allocator's slack.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memplan.searching.candidates import Cluster, Recipe, divisors
from memplan.searching.needs import Needs, room_of
from memplan.searching.throughput import Clock

ROUNDING = 1e-9
"""Relative: two ways to add up the same seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One plan that can be run."""

    cluster: Cluster
    recipe: Recipe
    share: int
    """Samples of the global batch on each rank."""
    micro_batch: int
    step_s: float | None
    """None where it would be a guess."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shortage:
    """Nothing fits."""

    least_bytes: int | None
    """No candidate takes less on the device; None: none could be estimated."""
    room_bytes: int
    reason: str = ""
    """Why none could be."""


class Fastest:
    """Looks for it, cluster by cluster."""

    def __init__(self, global_batch: int, clock: Clock, needs: Needs) -> None:
        self._global_batch = global_batch
        self._clock = clock
        self._needs = needs

    def on(self, cluster: Cluster, recipes: Sequence[Recipe]) -> Candidate | Shortage:
        """The fastest that fits, of equally fast ones the gentlest.

        Where none fits whose speed is predicted, the gentlest of the others.

        Args:
            recipes: the gentlest first.
        """
        look = _Look(self._global_batch, self._clock, self._needs, cluster)
        best: Candidate | None = None
        best_rank = -1
        for least_s, rank, recipe in look.by_bound(recipes):
            if best is not None and best.step_s is not None:
                if least_s * (1 - ROUNDING) > best.step_s:
                    break
                found = look.better(recipe, best.step_s, rank < best_rank)
            else:
                found = look.largest(recipe)
            if found is not None:
                best, best_rank = found, rank
        if best is not None:
            return best
        for recipe in look.without_speed(recipes):
            found = look.largest(recipe)
            if found is not None:
                return found
        return look.shortage()

    def one(self, cluster: Cluster, recipe: Recipe) -> Candidate | Shortage:
        """The largest micro-batch of one recipe that fits."""
        look = _Look(self._global_batch, self._clock, self._needs, cluster)
        return look.largest(recipe) or look.shortage()


class _Look:
    """One cluster on its way."""

    def __init__(
        self, global_batch: int, clock: Clock, needs: Needs, cluster: Cluster
    ) -> None:
        self._clock = clock
        self._needs = needs
        self._cluster = cluster
        self._global_batch = global_batch
        self._share = global_batch // cluster.num_gpus
        self._sizes = divisors(self._share)
        self._least_bytes: int | None = None
        self._room_bytes = 0
        self._reason = ""

    def by_bound(
        self, recipes: Sequence[Recipe]
    ) -> Iterator[tuple[float, int, Recipe]]:
        """Those with a speed, by the least seconds that a step of theirs can take."""
        bounds = []
        for rank, recipe in enumerate(recipes):
            least_s = self._clock.least_step_s(
                recipe, self._cluster, self._share, self._global_batch
            )
            if least_s is not None:
                bounds.append((least_s, rank, recipe))
        yield from sorted(bounds, key=lambda bound: bound[:2])

    def without_speed(self, recipes: Sequence[Recipe]) -> Iterator[Recipe]:
        for recipe in recipes:
            if self._step_s(recipe, 1) is None:
                yield recipe

    def better(
        self, recipe: Recipe, than_s: float, wins_ties: bool
    ) -> Candidate | None:
        """The largest micro-batch that fits, if its step takes less."""
        find = bisect_left if wins_ties else bisect_right
        # Steps take less and less: minus their seconds are in order.
        first = find(
            self._sizes, -than_s, key=lambda size: -self._seconds(recipe, size)
        )
        return self._largest_of(recipe, self._sizes[first:])

    def largest(self, recipe: Recipe) -> Candidate | None:
        """The largest micro-batch that fits."""
        return self._largest_of(recipe, self._sizes)

    def shortage(self) -> Shortage:
        return Shortage(
            least_bytes=self._least_bytes,
            room_bytes=self._room_bytes,
            reason=self._reason,
        )

    def _largest_of(self, recipe: Recipe, sizes: Sequence[int]) -> Candidate | None:
        """A whole share accumulates nothing: it stands outside of their order."""
        if not sizes or not self._can_run(recipe):
            return None
        *accumulated, whole = sizes
        if self._fits(recipe, whole):
            return self._candidate(recipe, whole)
        if not accumulated or not self._fits(recipe, accumulated[0]):
            return None
        count = bisect_left(
            accumulated, True, lo=1, key=lambda size: not self._fits(recipe, size)
        )
        return self._candidate(recipe, accumulated[count - 1])

    def _candidate(self, recipe: Recipe, micro_batch: int) -> Candidate:
        return Candidate(
            cluster=self._cluster,
            recipe=recipe,
            share=self._share,
            micro_batch=micro_batch,
            step_s=self._step_s(recipe, micro_batch),
        )

    def _can_run(self, recipe: Recipe) -> bool:
        refusal = self._needs.refusal(recipe.plan, self._cluster.gpu)
        self._reason = self._reason or refusal or ""
        return refusal is None

    def _fits(self, recipe: Recipe, micro_batch: int) -> bool:
        plan = recipe.plan_on(self._cluster, self._share, micro_batch)
        self._room_bytes = room_of(plan)
        needs = self._needs
        for ask in (needs.standing_bytes, needs.least_bytes, needs.device_bytes):
            need = ask(plan)
            if isinstance(need, str):
                self._reason = self._reason or need
                return False
            if need > self._room_bytes:
                self._least_bytes = min(need, self._least_bytes or need)
                return False
        return True

    def _seconds(self, recipe: Recipe, micro_batch: int) -> float:
        seconds = self._step_s(recipe, micro_batch)
        assert seconds is not None, "bounded recipes have a speed"
        return seconds

    def _step_s(self, recipe: Recipe, micro_batch: int) -> float | None:
        return self._clock.step_s(recipe, self._cluster, self._share, micro_batch)
