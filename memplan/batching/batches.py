"""Which samples meet in a batch, and what the batch is padded to.

The rules are those of the field, under its names:

    random            transformers' Trainer: accelerate's seedable sampler, each epoch
                      `torch.randperm` of another seed (accelerate 1.15, data_loader.py)
    sequential        the order of the file
    group_by_length   `LengthGroupedSampler`: sorted within mega-batches of 50 batches
                      (transformers 5.23, trainer_pt_utils.py)
    tokens            as many samples as the longest of them allows (`--max-tokens` of
                      fairseq)
    packing           samples share rows of `seq_len` tokens (`packing_strategy` of TRL)
"""

from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress, islice
from operator import gt
from random import Random
from typing import Literal, get_args

from memplan.batching.dataset import MOST_SAMPLES, Sizes
from memplan.errors import PlanError, UnknownNameError
from memplan.plan import MAX_COUNT, TrainingPlan
from memplan.units import ceil_div, round_up

Sampling = Literal["random", "sequential", "group_by_length"]
Packing = Literal["none", "wrapped", "bfd"]
LENGTHS = ("seq_len", "target_seq_len")
"""Fields that are padded to a multiple, and cut."""
MEGA_BATCHES = 50
NAME_LENGTHS = "Name their column with --length-column."

Shape = tuple[int, ...]
"""Samples of a batch, then what each field of `Sizes.columns` is padded to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchingRule:
    """How samples become batches."""

    sampling: Sampling = "random"
    """`train_sampling_strategy` of the Trainer."""
    pad_to_multiple_of: int | None = None
    drop_longer: bool = False
    """Samples longer than the plan's `seq_len` are left out, not truncated."""
    packing: Packing = "none"
    """wrapped: all tokens cut into rows of `seq_len`; bfd: whole samples into rows that
    hold `seq_len` at most, best fit decreasing."""
    max_tokens_per_batch: int | None = None
    """As many samples as fit, each as long as the longest; in place of a batch size."""
    drop_last: bool = False
    seed: int = 42
    """Of the Trainer, unless `data_seed` or `seed` say otherwise."""
    epochs: int = 1
    """How many are drawn."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("sampling", self.sampling, get_args(Sampling)),
            ("packing", self.packing, get_args(Packing)),
        ):
            if value not in choices:
                raise UnknownNameError.of(name, value, choices)
        for name in ("pad_to_multiple_of", "max_tokens_per_batch", "epochs"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_COUNT:
                raise PlanError(
                    f"{name} must be 1 or more, not {value}.",
                    hint=f"Leave --{name.replace('_', '-')} out for its default.",
                )
        if self.packing != "none" and self.max_tokens_per_batch is not None:
            raise PlanError(
                "Packed rows are all as long as they may be: a budget of tokens is a "
                "number of rows.",
                hint="Use --per-device-train-batch-size with --packing.",
            )

    @property
    def is_drawn(self) -> bool:
        """Chance decides which samples meet."""
        return self.sampling != "sequential"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The samples as batches are made of them."""

    sizes: Sizes
    num_truncated: int = 0
    num_dropped: int = 0


def prepare(sizes: Sizes, rule: BatchingRule, plan: TrainingPlan) -> Prepared:
    """Cut, leave out or pack what is longer than the plan's `seq_len`.

    Raises:
        PlanError: data, rule and plan do not suit each other, or nothing is left.
    """
    if sizes.rows is None and not rule.is_drawn:
        raise PlanError("A histogram has no order.", hint="Use --sampling random.")
    num_at_once = plan.per_device_train_batch_size * plan.data_parallel
    if num_at_once > MOST_SAMPLES:
        raise PlanError(
            f"{num_at_once} samples at once are beyond measure.",
            hint="Use a smaller --per-device-train-batch-size.",
        )
    if rule.max_tokens_per_batch is not None and "seq_len" not in sizes.columns:
        raise PlanError("A budget of tokens needs lengths.", hint=NAME_LENGTHS)
    if rule.sampling == "group_by_length" and "seq_len" not in sizes.columns:
        raise PlanError("group_by_length needs lengths.", hint=NAME_LENGTHS)
    needs_limit = rule.packing != "none" or rule.drop_longer
    if needs_limit and (plan.seq_len is None or "seq_len" not in sizes.columns):
        raise PlanError(
            "Packing and leaving out go by the length of a row.",
            hint="Add --seq-len 2048, and lengths with --length-column.",
        )
    limits = {
        name: limit
        for name in LENGTHS
        if name in sizes.columns and (limit := getattr(plan, name)) is not None
    }
    if rule.packing == "wrapped":  # what is longer goes on in the next row
        return Prepared(sizes=_packed(sizes, rule.packing, limits["seq_len"]))
    longer = _longer(sizes, limits)
    if rule.drop_longer:
        prepared = Prepared(sizes=_without(sizes, longer), num_dropped=len(longer))
    else:
        prepared = Prepared(sizes=_cut(sizes, limits), num_truncated=len(longer))
    if rule.packing == "none":
        return prepared
    packed = _packed(prepared.sizes, rule.packing, limits["seq_len"])
    return replace(prepared, sizes=packed)


def epochs_of(
    sizes: Sizes, rule: BatchingRule, plan: TrainingPlan
) -> Iterator[tuple[int, Iterator[Sequence[int]]]]:
    """Each epoch that is drawn, from 0: its batches of places in `sizes`.

    With several ranks batch i is of rank i modulo their number.

    Raises:
        PlanError: a sample alone is more than the budget of tokens.
    """
    for epoch in range(rule.epochs):
        order = _order(sizes, rule, plan, rule.seed + epoch)
        if rule.max_tokens_per_batch is not None:
            yield epoch, _by_tokens(sizes, rule, order)
        else:
            yield epoch, _by_count(order, plan, rule.drop_last)


def shape_of(batch: Sequence[int], sizes: Sizes, rule: BatchingRule) -> Shape:
    """How many samples, each padded to the largest of them in every field."""
    return padded(
        (len(batch), *(max(map(v.__getitem__, batch)) for v in sizes.columns.values())),
        sizes,
        rule,
    )


def padded(shape: Shape, sizes: Sizes, rule: BatchingRule) -> Shape:
    """The shape with its lengths rounded up to `pad_to_multiple_of`."""
    multiple = rule.pad_to_multiple_of
    if multiple is None:
        return shape
    size, *values = shape
    fields = zip(sizes.columns, values, strict=True)
    return (size, *(round_up(v, multiple) if n in LENGTHS else v for n, v in fields))


def torch_permutation(count: int, seed: int) -> "array[int]":
    """What `torch.randperm` draws on the CPU from a generator with this seed.

    Torch's Mersenne twister is Python's; seeding (`init_genrand`) and the shuffle are
    its own (aten/src/ATen/core/MT19937RNGEngine.h, native/TensorFactories.cpp).
    """
    state = [seed & 0xFFFFFFFF]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ (state[-1] >> 30)) + i) & 0xFFFFFFFF)
    twister = Random()
    twister.setstate((3, (*state, 624), None))
    draw = twister.getrandbits
    order = array("q", range(count))
    for place in range(count - 1):
        other = place + draw(32) % (count - place)
        order[place], order[other] = order[other], order[place]
    return order


def length_grouped(lengths: Sequence[int], batch_size: int, seed: int) -> "array[int]":
    """The order of `get_length_grouped_indices`, for a generator with this seed."""
    num_batches = min(len(lengths) // (batch_size * 4), MEGA_BATCHES) or 1
    count = num_batches * batch_size
    order = torch_permutation(len(lengths), seed)
    mega = [
        sorted(order[start : start + count], key=lengths.__getitem__, reverse=True)
        for start in range(0, len(order), count)
    ]
    # The longest of all comes first, so that what runs out of memory does so at once.
    longest = max(range(len(mega)), key=lambda i: lengths[mega[i][0]])
    mega[0][0], mega[longest][0] = mega[longest][0], mega[0][0]
    return array("q", chain.from_iterable(mega))


def _order(
    sizes: Sizes, rule: BatchingRule, plan: TrainingPlan, seed: int
) -> Sequence[int]:
    match rule.sampling:
        case "random":
            return torch_permutation(len(sizes), seed)
        case "group_by_length":
            unit = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
            return length_grouped(sizes.columns["seq_len"], unit, seed)
        case "sequential":
            return range(len(sizes))


def _by_count(
    order: Sequence[int], plan: TrainingPlan, drop_last: bool
) -> Iterator[Sequence[int]]:
    """As many samples each; several ranks get as many batches (`BatchSamplerShard`).

    The last round is filled up from the first samples, or dropped.
    """
    size, ranks = plan.per_device_train_batch_size, plan.data_parallel
    num_whole = len(order) // (size * ranks) * ranks
    for start in range(0, num_whole * size, size):
        yield order[start : start + size]
    rest = order[num_whole * size :]
    if drop_last or not rest:
        return
    if ranks == 1:
        yield rest
        return
    first = order[: size * ranks]
    repeated = chain.from_iterable(
        first for _ in range(ceil_div(size * ranks, len(first)))
    )
    filled = list(islice(chain(rest, repeated), size * ranks))
    for start in range(0, len(filled), size):
        yield filled[start : start + size]


def _by_tokens(
    sizes: Sizes, rule: BatchingRule, order: Sequence[int]
) -> Iterator[Sequence[int]]:
    """Filled in order, until the next sample would go beyond the budget."""
    budget, multiple = rule.max_tokens_per_batch, rule.pad_to_multiple_of or 1
    assert budget is not None
    lengths = sizes.columns["seq_len"]
    batch, longest = list[int](), 0
    for sample in order:
        length = round_up(lengths[sample], multiple)
        if length > budget:
            where = f"row {sizes.rows[sample]}" if sizes.rows else "a sample"
            raise PlanError(
                f"{sizes.source}, {where}: {length} tokens are more than "
                f"max_tokens_per_batch, {budget}.",
                hint=f"Cut samples with --seq-len {budget // multiple * multiple}.",
            )
        if max(longest, length) * (len(batch) + 1) > budget:
            yield batch
            batch, longest = [], 0
        batch.append(sample)
        longest = max(longest, length)
    if batch and not rule.drop_last:
        yield batch


def _longer(sizes: Sizes, limits: Mapping[str, int]) -> "array[int]":
    """The places of samples beyond a limit."""
    if not limits:
        return array("q")
    columns = [sizes.columns[name] for name in limits]
    most = tuple(limits.values())
    return array(
        "q",
        (
            place
            for place, values in enumerate(zip(*columns, strict=True))
            if any(map(gt, values, most))
        ),
    )


def _cut(sizes: Sizes, limits: Mapping[str, int]) -> Sizes:
    columns = dict(sizes.columns)
    for name, limit in limits.items():
        columns[name] = array("q", (min(value, limit) for value in columns[name]))
    return replace(sizes, columns=columns)


def _without(sizes: Sizes, places: "array[int]") -> Sizes:
    kept = bytearray(b"\1") * len(sizes)
    for place in places:
        kept[place] = 0
    if not any(kept):
        raise PlanError(
            f"Every sample of {sizes.source} is longer than seq_len.",
            hint="Allow more with --seq-len, or leave --drop-longer out.",
        )
    rows = sizes.rows
    return replace(
        sizes,
        columns={n: array("q", compress(v, kept)) for n, v in sizes.columns.items()},
        rows=None if rows is None else array("q", compress(rows, kept)),
    )


def _packed(sizes: Sizes, packing: Packing, seq_len: int) -> Sizes:
    """Rows in place of samples; pictures and targets are not packed by anybody."""
    others = [name for name in sizes.columns if name != "seq_len"]
    if others:
        raise PlanError(
            f"Packing is of tokens alone, and there is {others[0]} too.",
            hint="Leave --packing out.",
        )
    lengths = sizes.columns["seq_len"]
    if packing == "bfd":
        return replace(
            sizes, columns={"seq_len": _best_fit_decreasing(lengths, seq_len)}
        )
    num_rows = ceil_div(sum(lengths), seq_len) or 1
    if num_rows > MOST_SAMPLES:
        raise PlanError(
            f"{sizes.source} has {num_rows} rows of {seq_len} tokens.",
            hint=f"Look at a part of it: {MOST_SAMPLES} rows are the most.",
        )
    return replace(sizes, columns={"seq_len": array("q", [seq_len]) * num_rows})


def _best_fit_decreasing(lengths: Sequence[int], capacity: int) -> "array[int]":
    """The lengths of rows, each sample in the fullest row that has room for it."""
    num_rows = Counter[int]()  # by how much room they have
    rooms = list[int]()  # of any row, sorted
    for length in sorted(lengths, reverse=True):
        place = bisect_left(rooms, length)
        room = capacity
        if place < len(rooms):
            room = rooms[place]
            num_rows[room] -= 1
            if not num_rows[room]:
                del rooms[place]
        left = room - length
        if not num_rows[left]:
            insort(rooms, left)
        num_rows[left] += 1
    return array("q", (capacity - room for room in num_rows.elements()))
