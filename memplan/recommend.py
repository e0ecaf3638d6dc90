"""A model, a global batch and a budget in; ways to train out, the best first.

    found = recommend(
        TrainingPlan(model="llama-2-7b", precision="fp32"),
        global_batch=256,
        gpus=["a100-80gb", "h100-80gb"],
        budget_usd_per_hour=20,
    )
    found.best.command, found.best.throughput.samples_per_s

What the plan says is kept, and tricks are laid on it as far as they are allowed. Memory
is the closed form's, throughput a roofline, prices are data. `confirm` has the first
choices rehearsed.
"""

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from datetime import date
from importlib.metadata import version

from memplan.comparing.comparison import need_of
from memplan.comparing.engines import Engine
from memplan.errors import PlanError
from memplan.estimating.changes import command_words
from memplan.hardware import Gpu, find_gpu
from memplan.models import find_model
from memplan.models.batch import seq_len_of
from memplan.plan import TrainingPlan
from memplan.searching.assumed import efficiency_lines, link_lines
from memplan.searching.calibration import efficiency_of
from memplan.searching.candidates import (
    SHARED,
    Cluster,
    Recipe,
    allowed_tricks,
    counts_of,
    divisors,
    recipes_of,
)
from memplan.searching.fastest import Candidate, Fastest, Shortage
from memplan.searching.links import read_links
from memplan.searching.needs import Needs, room_of
from memplan.searching.prices import Price, Prices, read_prices
from memplan.searching.ranking import dominator_of, ranked
from memplan.searching.reasons import beside, dominated_by, over_budget, too_large
from memplan.searching.recommendation import (
    MILLION,
    Choice,
    Confirmation,
    Loser,
    RankBy,
    Recommendation,
)
from memplan.searching.throughput import NOT_PREDICTED, Clock, Throughput
from memplan.tricks.trick import Trick

MAX_GPUS = 64
CHOSEN = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_gpus",
)
"""Fields of a plan that are searched for, and never given."""
SECONDS_OF_AN_HOUR = 3600

Say = Callable[[str], None]


def recommend(
    plan: TrainingPlan,
    *,
    global_batch: int,
    gpus: Sequence[str] = (),
    budget_usd_per_hour: float | None = None,
    max_gpus: int = MAX_GPUS,
    allow: Sequence[str] = (),
    prices: Prices | None = None,
    rank_by: RankBy = "throughput",
    today: date | None = None,
) -> Recommendation:
    """The best way on each cluster that fits and can be paid for.

    Args:
        plan: what is trained; its card is not looked at.
        global_batch: samples of an optimizer step, over all GPUs.
        gpus: cards; none: all that have a price.
        budget_usd_per_hour: of a whole cluster.
        allow: tricks beyond those that leave model and optimisation as they are, by
            name, technique or what becomes of results; `-name` leaves one out.
        prices: None: memplan's own.
        today: the day from which prices are stale; None: today.

    Raises:
        MemplanError: a name is unknown, or the plan cannot be searched.
    """
    _check(plan, global_batch, max_gpus)
    prices = prices or read_prices()
    search = _Search(
        plan=plan,
        global_batch=global_batch,
        gpus=_cards(gpus, prices),
        tricks=allowed_tricks(plan, allow),
        prices=prices,
        today=today or date.today(),
    )
    return search.run(max_gpus, budget_usd_per_hour, rank_by)


def confirm(
    found: Recommendation, engine: Engine, top: int, say: Say = lambda line: None
) -> Recommendation:
    """The first choices with what an engine sees of their plans.

    Args:
        engine: that of rehearsals.
        top: how many.
        say: is told of each.
    """
    asked = {choice.plan: choice for choice in found.choices[:top]}
    seen: dict[TrainingPlan, Confirmation] = {}
    for plan, report in engine.look(asked):
        if isinstance(report, str):
            seen[plan] = Confirmation(device_bytes=None, fits=None, reason=report)
        else:
            seen[plan] = Confirmation(device_bytes=need_of(report), fits=report.fits)
        say(f"{len(seen)} of {len(asked)}: {asked[plan].cluster}")
    return replace(
        found,
        choices=tuple(
            replace(choice, confirmed=seen.get(choice.plan)) for choice in found.choices
        ),
    )


class _Search:
    """One search on its way."""

    def __init__(
        self,
        *,
        plan: TrainingPlan,
        global_batch: int,
        gpus: Sequence[Gpu],
        tricks: Sequence[Trick],
        prices: Prices,
        today: date,
    ) -> None:
        model = find_model(plan.model or "", plan.revision)
        has_tokens = "tokens" in model.family.inputs
        self._plan = plan
        self._global_batch = global_batch
        self._gpus = gpus
        self._tricks = tricks
        self._prices = prices
        self._today = today
        self._links = read_links()
        self._efficiencies = {gpu.slug: efficiency_of(gpu.slug) for gpu in gpus}
        self._tokens = seq_len_of(plan, model) if has_tokens else None
        self._clock = Clock(self._links, self._efficiencies, self._tokens)
        self._needs = Needs(gpus)
        self._fastest = Fastest(global_batch, self._clock, self._needs)
        self._alone = recipes_of(plan, tricks)
        self._shared = recipes_of(replace(plan, num_gpus=SHARED), tricks)

    def run(
        self, max_gpus: int, budget: float | None, rank_by: RankBy
    ) -> Recommendation:
        clusters = self._clusters(max_gpus)
        lost: list[Loser] = []
        shortages: list[tuple[Cluster, Shortage]] = []
        candidates: dict[str, Candidate] = {}
        for cluster in clusters:
            if over := over_budget(cluster, budget):
                lost.append(over)
                continue
            found = self._fastest.on(cluster, self._recipes(cluster))
            if isinstance(found, Candidate):
                candidates[cluster.name] = found
            else:
                shortages.append((cluster, found))
        choices = ranked(
            [self._choice(one) for one in candidates.values()],
            rank_by,
            has_budget=budget is not None,
        )
        for choice in choices:
            if (better := dominator_of(choice, choices)) is not None:
                lost.append(dominated_by(choice, better))
        lost += [too_large(cluster, shortage) for cluster, shortage in shortages]
        around: tuple[Loser, ...] = ()
        if choices:
            best = candidates[choices[0].cluster]
            around = beside(best, self._recipes(best.cluster), self._fastest)
        return Recommendation(
            memplan_version=version("memplan"),
            plan=self._plan,
            global_batch=self._global_batch,
            budget_usd_per_hour=budget,
            gpus=tuple(gpu.slug for gpu in self._gpus),
            max_gpus=max_gpus,
            tricks=tuple(trick.name for trick in self._tricks),
            rank_by=rank_by,
            choices=choices,
            clusters_lost=tuple(lost),
            beside_best=around,
            num_considered=sum(map(self._num_candidates, clusters)),
            num_estimated=self._needs.num_estimated,
            assumptions=self._assumptions(clusters, choices),
        )

    def _clusters(self, max_gpus: int) -> list[Cluster]:
        counts = counts_of(self._global_batch, max_gpus, self._links.gpus_per_node)
        return [
            Cluster(gpu=gpu, num_gpus=count, price=self._prices.of(gpu.slug, count))
            for gpu in self._gpus
            for count in counts
        ]

    def _recipes(self, cluster: Cluster) -> Sequence[Recipe]:
        return self._alone if cluster.num_gpus == 1 else self._shared

    def _num_candidates(self, cluster: Cluster) -> int:
        sizes = divisors(self._global_batch // cluster.num_gpus)
        return len(self._recipes(cluster)) * len(sizes)

    def _choice(self, found: Candidate) -> Choice:
        cluster, recipe = found.cluster, found.recipe
        plan = recipe.plan_on(cluster, found.share, found.micro_batch)
        need_bytes = self._needs.device_bytes(plan)
        assert isinstance(need_bytes, int), "what fits has a size"
        throughput = self._clock.throughput(
            recipe, cluster, found.share, found.micro_batch
        )
        price = cluster.price
        per_sample = _usd_per_sample(throughput, price)
        return Choice(
            gpu=cluster.gpu.slug,
            num_gpus=cluster.num_gpus,
            plan=plan,
            command=shlex.join(command_words(plan, "estimate")),
            tricks=tuple(trick.name for trick in recipe.tricks),
            need_bytes=need_bytes,
            room_bytes=room_of(plan),
            throughput=throughput,
            price=price,
            is_stale=price is not None and price.is_stale(self._today),
            usd_per_million_samples=per_sample and MILLION * per_sample,
            usd_per_million_tokens=per_sample
            and self._tokens
            and MILLION * per_sample / self._tokens,
        )

    def _assumptions(
        self, clusters: Iterable[Cluster], choices: Sequence[Choice]
    ) -> tuple[str, ...]:
        lines = [
            *efficiency_lines(self._efficiencies.values()),
            *link_lines(clusters, self._links),
            "no communication hides behind computing",
        ]
        if any(choice.throughput is None for choice in choices):
            lines.append(NOT_PREDICTED)
        lines.append(
            "a cluster is of GPUs of one kind, billed by the instance, all of them "
            "data-parallel ranks"
        )
        return tuple(lines)


def _check(plan: TrainingPlan, global_batch: int, max_gpus: int) -> None:
    """Raises PlanError: the plan cannot be searched."""
    if plan.model is None or plan.generates:
        raise PlanError(
            "What is recommended is a way to train a model.",
            hint="Name a model of `memplan models`, and leave --workload out.",
        )
    for name, value in (("global batch", global_batch), ("most GPUs", max_gpus)):
        if value < 1:
            raise PlanError(
                f"The {name} must be 1 or more, not {value}.", hint="Write it like 8."
            )
    defaults = {item.name: item.default for item in fields(plan)}
    for name in CHOSEN:
        if getattr(plan, name) != defaults[name]:
            raise PlanError(
                f"{name} is searched for, and the plan gives it.",
                hint=f"Leave it at {defaults[name]}.",
            )


def _cards(names: Sequence[str], prices: Prices) -> tuple[Gpu, ...]:
    """Raises UnknownNameError: a card is not in the catalogue."""
    priced = sorted({offer.gpu for some in prices.lists for offer in some.offers})
    found = {gpu.slug: gpu for gpu in map(find_gpu, names or priced)}
    if not found:
        raise PlanError(
            "No card is named, and none has a price.", hint="Name some with --gpus."
        )
    return tuple(found.values())


def _usd_per_sample(throughput: Throughput | None, price: Price | None) -> float | None:
    if throughput is None or price is None:
        return None
    return price.usd_per_hour / SECONDS_OF_AN_HOUR / throughput.samples_per_s
