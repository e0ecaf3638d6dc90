"""One plan and many tricks: what each saves alone, and in which order they pay.

    comparison = compare(TrainingPlan(model="openflamingo-9b", gpu="a100-80gb"))
    comparison.alone[0].tricks, comparison.alone[0].need_bytes
    comparison.fits_after                   # how many tricks of `greedy` it takes

Estimated, rehearsed or measured: the three answer in the same form. Where a rehearsal
or a measurement is asked, the closed form still says which trick to try next.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.metadata import version

from memplan.comparing.comparison import (
    By,
    Comparison,
    Entry,
    LeftOut,
    Variant,
)
from memplan.comparing.engines import Engine, Found, engine_of
from memplan.comparing.greedy import chain
from memplan.comparing.peaks import note_on
from memplan.comparing.speed import speed_of
from memplan.comparing.steps import Tricked, with_trick
from memplan.comparing.table import table_of
from memplan.errors import MemplanError, PlanError
from memplan.estimating.changes import as_flags, command_words
from memplan.estimating.speed import NOT_COUNTED
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport
from memplan.runner.training.refusals import check_combination
from memplan.tricks.catalogue import ALL, find_tricks
from memplan.tricks.trick import EXACTNESSES, Trick

BY_ESTIMATE = (
    "the next trick is the one that saves most by estimate; the {engine} of it confirms"
)
NOT_SEEN = {"alloc_conf"}
NOT_ESTIMATED = "it saves fragmentation, which an estimate does not count in the need"


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a comparison is."""

    done: int
    total: int
    """As far as it is known: the chain grows while it is made."""
    what: str


Say = Callable[[Progress], None]


def compare(
    plan: TrainingPlan,
    *,
    tricks: Sequence[str] = (ALL,),
    by: By = "estimate",
    jobs: int | None = None,
    executor: Executor | None = None,
    say: Say = lambda progress: None,
) -> Comparison:
    """Look at a plan with each trick alone, and with one after another.

    Args:
        plan: what is to be made smaller.
        tricks: names of the catalogue, techniques, what becomes of results, or all.
        by: who looks.
        jobs: rehearsals at once; None: as many as the machine has room for.
        executor: runs rehearsals elsewhere, in processes or on a cluster.
        say: is told of each plan that was looked at.

    Raises:
        MemplanError: the plan itself cannot be looked at, a trick is unknown, or the
            executor fails.
    """
    if plan.model is None:
        raise PlanError(
            "Tricks are compared on a model: a parameter count has no step.",
            hint="Name a model of `memplan models`.",
        )
    asked = find_tricks(plan, tricks)
    return _Comparing(plan, engine_of(by, jobs, executor), say).compare(asked)


class _Comparing:
    """One comparison on its way."""

    def __init__(self, plan: TrainingPlan, engine: Engine, say: Say) -> None:
        self._plan = plan
        self._engine = engine
        self._say = say
        self._found: dict[TrainingPlan, Found] = {}
        self._total = 0

    def compare(self, tricks: Sequence[Trick]) -> Comparison:
        suiting, left_out = self._suiting(tricks)
        names = {self._plan: "the plan as it is"}
        for trick, tricked in suiting.items():
            names.setdefault(tricked.plan, trick.name)
        self._look(names)
        report = self._baseline()
        baseline = self._variant(Tricked(plan=self._plan), report)
        alone: dict[Trick, MemoryReport] = {}
        for trick, tricked in suiting.items():
            found = self._found[tricked.plan]
            if isinstance(found, str):
                left_out[trick] = found
            else:
                alone[trick] = found
        variants = {
            trick.name: self._variant(suiting[trick], found, baseline)
            for trick, found in alone.items()
        }
        greedy = self._chain(baseline, alone)
        lacking = tuple(
            LeftOut(name=trick.name, reason=left_out[trick])
            for trick in tricks
            if trick in left_out
        )
        return Comparison(
            memplan_version=version("memplan"),
            by=self._engine.by,
            plan=self._plan,
            entries=tuple(_entry(trick) for trick in alone),
            baseline=baseline,
            alone=tuple(sorted(variants.values(), key=lambda one: one.need_bytes)),
            greedy=greedy,
            fits_after=_fits_after(baseline, greedy),
            gentlest=_gentlest(baseline, variants, alone),
            table=table_of(baseline, variants, tricks, lacking),
            left_out=lacking,
            assumptions=self._assumptions(baseline),
        )

    def _suiting(
        self, tricks: Sequence[Trick]
    ) -> tuple[dict[Trick, Tricked], dict[Trick, str]]:
        """The tricks that the plan can have, and why it cannot have the others."""
        is_run = _refusal(self._plan) is None
        suiting, left_out = dict[Trick, Tricked](), dict[Trick, str]()
        for trick in tricks:
            try:
                tricked = with_trick(Tricked(plan=self._plan), trick)
            except MemplanError as error:
                left_out[trick] = error.message.removesuffix(".")
                continue
            if self._engine.by == "estimate" and set(tricked.changes[0]) <= NOT_SEEN:
                left_out[trick] = NOT_ESTIMATED
                continue
            # What no library runs is no way out, though a formula has an answer.
            refusal = _refusal(tricked.plan) if is_run else None
            if refusal is not None:
                left_out[trick] = refusal
            else:
                suiting[trick] = tricked
        return suiting, left_out

    def _look(self, names: dict[TrainingPlan, str]) -> None:
        """Ask the engine for those plans that are not known yet."""
        unknown = [plan for plan in names if plan not in self._found]
        self._total += len(unknown)
        for plan, found in self._engine.look(unknown):
            self._found[plan] = found
            self._say(
                Progress(done=len(self._found), total=self._total, what=names[plan])
            )

    def _baseline(self) -> MemoryReport:
        """Raises PlanError where the plan itself cannot be looked at."""
        found = self._found[self._plan]
        if isinstance(found, str):
            words = " ".join(command_words(self._plan, self._engine.by))
            raise PlanError(f"{found}.", hint=f"Try it by itself: {words}")
        return found

    def _chain(
        self, baseline: Variant, alone: dict[Trick, MemoryReport]
    ) -> tuple[Variant, ...]:
        variants = [baseline]
        for tricked, report in chain(
            baseline.report, self._plan, alone, self._found, self._one
        ):
            variants.append(self._variant(tricked, report, variants[-1]))
        return tuple(variants[1:])

    def _one(self, plan: TrainingPlan) -> Found:
        if _refusal(self._plan) is None and (refusal := _refusal(plan)):
            return refusal
        self._look({plan: "one after another"})
        return self._found[plan]

    def _variant(
        self, tricked: Tricked, report: MemoryReport, before: Variant | None = None
    ) -> Variant:
        return Variant(
            tricks=tricked.names,
            flags=as_flags(tricked.changes[-1]) if tricked.changes else "",
            command=_command(tricked.plan, self._engine.by),
            report=report,
            speed=speed_of(tricked.plan, report, self._plan),
            note=note_on(before.report, report) if before else "",
        )

    def _assumptions(self, baseline: Variant) -> tuple[str, ...]:
        lines = []
        if self._engine.by != "estimate":
            noun = {"rehearse": "rehearsal", "profile": "measurement"}[self._engine.by]
            lines.append(BY_ESTIMATE.format(engine=noun))
        if baseline.speed is not None and baseline.speed.basis == "counted":
            lines.append(f"speeds are bounds from counts: {NOT_COUNTED}")
        return tuple(lines)


def _command(plan: TrainingPlan, by: By) -> str:
    return shlex.join(command_words(plan, by))


def _refusal(plan: TrainingPlan) -> str | None:
    """Why no library runs it, whether or not it is installed here."""
    try:
        check_combination(plan)
    except MemplanError as error:
        return error.message.removesuffix(".")
    return None


def _entry(trick: Trick) -> Entry:
    return Entry(
        name=trick.name,
        title=trick.title,
        technique=trick.technique,
        exactness=trick.exactness,
        cost=trick.cost,
        source=trick.source,
    )


def _fits_after(baseline: Variant, greedy: Sequence[Variant]) -> int | None:
    """How many tricks it takes; None: all of them are not enough."""
    for count, variant in enumerate((baseline, *greedy)):
        if variant.report.fits:
            return count
    return None


def _gentlest(
    baseline: Variant, variants: Mapping[str, Variant], tricks: Iterable[Trick]
) -> str | None:
    """Of those that fit alone; one that does so narrowly is the last resort."""
    if baseline.report.fits:
        return None

    def price(trick: Trick) -> tuple[bool, int, float, int]:
        variant = variants[trick.name]
        speed = variant.speed.samples_per_s if variant.speed else 0.0
        rank = EXACTNESSES.index(trick.exactness)
        return variant.report.fits_narrowly, rank, -speed, variant.need_bytes

    fitting = [trick for trick in tricks if variants[trick.name].report.fits]
    return min(fitting, key=price).name if fitting else None
