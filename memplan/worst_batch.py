"""The batches that a dataset makes, and what the worst of them takes.

    sizes = read_sizes(Path("train.jsonl"), Columns(length="input_ids"))
    plan = TrainingPlan(model="gpt2", per_device_train_batch_size=8)
    found = worst_batch(plan, sizes)
    found.worst.device_bytes, found.worst.cause.row, found.possible.expected_per_epoch

Epochs are drawn as the Trainer draws them, every shape of a batch is estimated, and
what chance might bring together besides is bounded.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from memplan.batching.batches import (
    BatchingRule,
    Shape,
    epochs_of,
    prepare,
    shape_of,
)
from memplan.batching.bounds import (
    expected_per_epoch,
    largest_batches,
    padded_lengths,
)
from memplan.batching.dataset import Sizes, id_of
from memplan.batching.shapes import MOST_ESTIMATES, Needs, percentile
from memplan.batching.smaller import hints_of
from memplan.batching.worst import (
    Cause,
    Data,
    Hint,
    Percentile,
    WorstBatch,
    WorstDrawn,
    WorstPossible,
)
from memplan.errors import PlanError
from memplan.estimate import estimate
from memplan.plan import TrainingPlan

PERCENTS = (50, 90, 99)


def worst_batch(
    plan: TrainingPlan, sizes: Sizes, rule: BatchingRule | None = None
) -> WorstBatch:
    """Draw the batches of a dataset, and find those that take most.

    Args:
        plan: the run. Its micro-batch has as many samples as it says, its lengths are
            what samples are cut to; what the data says of sizes takes their place.
        rule: how samples become batches; None: as the Trainer does by default.

    Raises:
        MemplanError: the plan has no estimate, or the rule does not suit the data.
    """
    if plan.model is None or plan.generates:
        raise PlanError(
            "Batches of a dataset are those of the training of a model.",
            hint="Name a model of `memplan models`, and leave --workload out.",
        )
    return _Search(plan, sizes, rule or BatchingRule()).find()


class _Search:
    """One search on its way."""

    def __init__(self, plan: TrainingPlan, sizes: Sizes, rule: BatchingRule) -> None:
        self._plan = plan
        self._rule = rule
        self._skipped = sum(sizes.skipped.values())
        self._prepared = prepare(sizes, rule, plan)
        self._sizes = self._prepared.sizes
        self._needs = Needs(plan, self._sizes.columns)
        self._budget = 0

    def find(self) -> WorstBatch:
        counts, first = self._draw(self._sizes)
        if not counts:
            raise PlanError(
                f"{len(self._sizes)} samples make no batch where the last is dropped.",
                hint="Leave --drop-last out, or use a smaller batch.",
            )
        worst = self._needs.highest(counts)
        largest = largest_batches(self._sizes, self._rule, self._plan)
        bound = self._needs.highest([worst, *largest])
        report = estimate(self._needs.plan_of(bound))
        self._budget = report.headroom_bytes + report.peak.device_bytes
        return WorstBatch(
            plan=self._plan,
            rule=self._rule,
            data=self._data(),
            num_batches=counts.total(),
            num_shapes=len(counts),
            percentiles=self._percentiles(counts, worst),
            worst=self._drawn(worst, *first[worst]),
            possible=self._possible(bound) if largest else None,
            report=report,
            hints=() if report.fits else self._hints(bound),
            assumptions=tuple(self._assumptions(len(counts))),
            unsupported=(*self._unsupported(len(counts)), *report.unsupported),
        )

    def _draw(
        self, sizes: Sizes
    ) -> tuple[Counter[Shape], dict[Shape, tuple[int, int]]]:
        """How often each shape occurs, and where first: its epoch and batch, from 0."""
        counts, first = Counter[Shape](), dict[Shape, tuple[int, int]]()
        for epoch, batches in epochs_of(sizes, self._rule, self._plan):
            for index, batch in enumerate(batches):
                shape = shape_of(batch, sizes, self._rule)
                first.setdefault(shape, (epoch, index))
                counts[shape] += 1
        return counts, first

    def _memory(self, shape: Shape, device_bytes: int) -> dict[str, Any]:
        return {
            "shape": self._needs.named(shape),
            "device_bytes": device_bytes,
            "fits": device_bytes <= self._budget,
        }

    def _percentiles(
        self, counts: Counter[Shape], worst: Shape
    ) -> tuple[Percentile, ...]:
        """Estimates of groups may be too high; no batch takes more than the worst."""
        most = self._needs.of(worst)
        found = self._needs.of_each(counts)
        needs = {shape: min(need, most) for shape, need in found.items()}
        shapes = {percent: percentile(needs, counts, percent) for percent in PERCENTS}
        return tuple(
            Percentile(percent=percent, **self._memory(shape, needs[shape]))
            for percent, shape in shapes.items()
        )

    def _possible(self, shape: Shape) -> WorstPossible:
        return WorstPossible(
            expected_per_epoch=expected_per_epoch(shape, self._sizes, self._rule),
            **self._memory(shape, self._needs.of(shape)),
        )

    def _drawn(self, shape: Shape, epoch: int, index: int) -> WorstDrawn:
        of_rank, rank = divmod(index, self._plan.data_parallel)
        step, micro_batch = divmod(of_rank, self._plan.gradient_accumulation_steps)
        is_packed = self._rule.packing != "none"
        return WorstDrawn(
            epoch=epoch + 1,
            batch=index + 1,
            step=step + 1,
            micro_batch=micro_batch + 1,
            rank=rank,
            cause=None if is_packed else self._cause(epoch, index),
            **self._memory(shape, self._needs.of(shape)),
        )

    def _cause(self, epoch: int, index: int) -> Cause:
        """Of the largest samples of a batch, the one whose absence lowers it most."""
        members = self._batch(epoch, index)
        columns = self._sizes.columns
        largest = {max(members, key=v.__getitem__) for v in columns.values()}
        place = min(largest, key=lambda one: (self._rest_bytes(members, one), one))
        sizes = {name: values[place] for name, values in columns.items()}
        rest = [one for one in members if one != place]
        decisive = [
            name
            for name, values in columns.items()
            if all(values[one] < sizes[name] for one in rest)
        ] or list(columns)
        alike = zip(*(columns[name] for name in decisive), strict=True)
        least = [sizes[name] for name in decisive]
        rows = self._sizes.rows
        row = None if rows is None else rows[place]
        return Cause(
            row=row,
            id=None if row is None else id_of(self._sizes, row),
            sizes=sizes,
            num_alike=sum(
                all(v >= low for v, low in zip(values, least, strict=True))
                for values in alike
            ),
            without_bytes=self._worst_bytes_without(place),
        )

    def _batch(self, epoch: int, index: int) -> Sequence[int]:
        """The places of its samples; drawing once more needs no memory for all."""
        rule = replace(self._rule, seed=self._rule.seed + epoch, epochs=1)
        _, batches = next(epochs_of(self._sizes, rule, self._plan))
        return next(islice(batches, index, None))

    def _rest_bytes(self, members: Sequence[int], place: int) -> int:
        """With a sample in this one's place that is no larger than the others."""
        rest = [one for one in members if one != place]
        if not rest:
            return 0
        _, *values = shape_of(rest, self._sizes, self._rule)
        return self._needs.of((len(members), *values))

    def _worst_bytes_without(self, place: int) -> int:
        """In the same epochs, the sample as small as any in every size."""
        columns = {name: values[:] for name, values in self._sizes.columns.items()}
        for values in columns.values():
            values[place] = min(values)
        counts, _ = self._draw(replace(self._sizes, columns=columns))
        return self._needs.of(self._needs.highest(counts))

    def _data(self) -> Data:
        sizes = self._sizes
        return Data(
            source=sizes.source,
            num_samples=len(sizes),
            num_skipped=self._skipped,
            num_truncated=self._prepared.num_truncated,
            num_dropped=self._prepared.num_dropped,
            largest={name: max(values) for name, values in sizes.columns.items()},
            longest_of_a_batch=padded_lengths(sizes, self._rule, self._plan, PERCENTS),
        )

    def _hints(self, bound: Shape) -> tuple[Hint, ...]:
        found = hints_of(self._plan, self._sizes, self._rule, bound, self._budget)
        return tuple(found)

    def _assumptions(self, num_shapes: int) -> Iterator[str]:
        sizes, rule = self._sizes, self._rule
        if rule.max_tokens_per_batch is None and rule.sampling == "random":
            yield (
                f"epochs are shuffled as the Trainer does with data_seed {rule.seed}: "
                "accelerate's seedable sampler"
            )
        elif rule.is_drawn:
            yield "the order is drawn with a seed of its own: a run has another one"
        if "images_per_sample" in sizes.columns:
            yield (
                "each sample of a batch counts with as many pictures as the one that "
                "has most, and with one at least; pictures laid end to end take less"
            )
        if "image_size" in sizes.columns:
            yield (
                "a picture counts as a square of as many pixels, and as the largest of "
                "its batch; what an image processor makes smaller takes less"
            )
        if rule.packing == "bfd":
            yield "packed rows are padded to the longest of their batch"
        if num_shapes > MOST_ESTIMATES:
            yield (
                f"percentiles are upper bounds: {num_shapes} shapes share "
                f"{MOST_ESTIMATES} estimates, each of one as large as its group"
            )

    def _unsupported(self, num_shapes: int) -> Iterator[str]:
        grows = "expandable_segments:True" in (self._plan.alloc_conf or "")
        if num_shapes > 1 and not grows:
            yield (
                "fragmentation: batches of changing shape make PyTorch reserve more "
                "than any one of them needs; --alloc-conf expandable_segments:True "
                "keeps that small"
            )
        if self._plan.gradient_accumulation_steps > 1:
            yield (
                "the Trainer moves the inputs of all micro-batches of a step to the "
                "GPU at once; those of one are counted"
            )
