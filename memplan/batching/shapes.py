"""What batches of many shapes take, each shape estimated once.

An estimate takes milliseconds, and a large dataset has thousands of shapes. Up to
`MOST_ESTIMATES` each is estimated. Of more, neighbours share one estimate, that of a
shape which is at least as large as each of them: percentiles may then be too high,
never too low. What takes most is found exactly even so: the members of the group with
the highest estimate are estimated themselves, until no group can hold more.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from memplan.batching.batches import Shape
from memplan.errors import MemplanError, PlanError
from memplan.estimate import needed_bytes
from memplan.estimating.changes import Fields
from memplan.models import find_model
from memplan.plan import TrainingPlan
from memplan.units import ceil_div, round_up

MOST_ESTIMATES = 512


class Needs:
    """What a plan takes with batches of other shapes.

    Args:
        fields: what the numbers of a shape are, after the number of samples.

    Raises:
        MemplanError: there is no such model.
    """

    def __init__(self, plan: TrainingPlan, fields: Iterable[str]) -> None:
        assert plan.model is not None
        self._plan = plan
        self._model = find_model(plan.model, plan.revision)
        self._fields = tuple(fields)
        self._known = dict[Shape, int]()

    def plan_of(self, shape: Shape) -> TrainingPlan:
        """The plan whose micro-batch has this shape."""
        size, *values = shape
        found = dict(zip(self._fields, values, strict=True))
        if "images_per_sample" in found or "image_size" in found:
            self._fit_pictures(found)
        sizes: Fields = {
            name: max(value, 1)
            for name, value in found.items()
            if value or name != "image_size"
        }
        return replace(self._plan, per_device_train_batch_size=size, **sizes)

    def _fit_pictures(self, sizes: dict[str, int]) -> None:
        """Pictures as large as the model takes them, and prompts that hold them.

        A square may take a few tokens more than the picture that it stands for: a
        prompt with room for the next smaller one is counted longer. A plan has a
        picture at least, and so has a batch without any.
        """
        config, family = self._model.config, self._model.family
        multiple = family.image_multiple(config)
        side = sizes.get("image_size") or self._own("image_size")
        side = side or family.default_image_size(config)
        above, below = round_up(side, multiple), max(side // multiple, 1) * multiple
        if sizes.get("image_size"):
            sizes["image_size"] = above
        num_pictures = sizes.get("images_per_sample", self._own("images_per_sample"))
        held, holding = (
            max(num_pictures, 1) * family.image_tokens(config, size)
            for size in (below, above)
        )
        if "seq_len" in sizes and (not num_pictures or held <= sizes["seq_len"]):
            sizes["seq_len"] = max(sizes["seq_len"], holding)

    def _own(self, field: str) -> int:
        """What the plan says of a size, or the preset; 0: neither does."""
        own: int = getattr(self._plan, field) or self._model.defaults.get(field, 0)
        return own

    def of(self, shape: Shape) -> int:
        """Bytes on the device.

        Raises:
            MemplanError: there is no estimate of such a batch.
        """
        if shape not in self._known:
            try:
                self._known[shape] = needed_bytes(self.plan_of(shape))
            except MemplanError as error:
                said = ", ".join(f"{n} {v}" for n, v in self.named(shape).items())
                raise PlanError(
                    f"A batch of the data ({said}) has no estimate: {error.message}",
                    hint=error.hint,
                ) from error
        return self._known[shape]

    def named(self, shape: Shape) -> dict[str, int]:
        """The shape by fields of a plan."""
        names = ("per_device_train_batch_size", *self._fields)
        return dict(zip(names, shape, strict=True))

    def of_each(self, shapes: Iterable[Shape]) -> dict[Shape, int]:
        """Of many shapes, by groups where there are too many to estimate each."""
        found = dict[Shape, int]()
        for group in groups_of(shapes):
            need = self.of(largest_of(group))
            found.update(dict.fromkeys(group, need))
        return found

    def highest(self, shapes: Iterable[Shape]) -> Shape:
        """The shape that takes most; the largest of those that take the same."""
        groups = [(self.of(largest_of(group)), group) for group in groups_of(shapes)]
        groups.sort(reverse=True)
        best, need = groups[0][1][0], -1
        for bound, group in groups:
            if bound < need:
                break
            for shape in group:
                if (self.of(shape), shape) > (need, best):
                    best, need = shape, self.of(shape)
        return best


def groups_of(shapes: Iterable[Shape]) -> list[list[Shape]]:
    """Neighbours together, `MOST_ESTIMATES` groups at most.

    They differ in the number that takes most values, the length as a rule.
    """
    distinct = list(set(shapes))
    spread = [len(set(values)) for values in zip(*distinct, strict=True)]
    places = sorted(range(len(spread)), key=spread.__getitem__)
    distinct.sort(key=lambda shape: [shape[place] for place in places])
    size = ceil_div(len(distinct), MOST_ESTIMATES)
    return [distinct[i : i + size] for i in range(0, len(distinct), size)]


def largest_of(shapes: Sequence[Shape]) -> Shape:
    """At least as large as each, in every number."""
    return tuple(max(values) for values in zip(*shapes, strict=True))


def percentile(
    needs: Mapping[Shape, int], counts: Mapping[Shape, int], percent: int
) -> Shape:
    """Of the batches so many percent take no more than this one (nearest rank)."""
    rank = ceil_div(sum(counts.values()) * percent, 100)
    for shape in sorted(counts, key=lambda shape: (needs[shape], shape)):
        rank -= counts[shape]
        if rank <= 0:
            return shape
    raise ValueError("percentiles are of 1 to 100 percent of at least one batch")
