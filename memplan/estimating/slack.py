"""What blocks are larger than fresh ones: the step, played on the allocator's pool.

`block_bytes` knows requests that get a segment of their own. Of a block from the cache
up to 1 MiB is slack, which depends on all that was asked for before: so the weights,
two steps and the states between them are asked for in their order, as far as they are
above 1 MiB. That takes tens of milliseconds, and is done where it can matter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from memplan.estimating.moments import Moment
from memplan.estimating.step import Step
from memplan.formulas.allocator import (
    MAX_SLACK_BYTES,
    SMALL_REQUEST_BYTES,
    block_bytes,
)
from memplan.formulas.ddp import Ddp, ZeroRedundancy
from memplan.formulas.events import most_at_once
from memplan.formulas.fsdp2 import Fsdp2
from memplan.formulas.large_pool import Block, LargePool, Player, Slack
from memplan.formulas.optimizers import Optimizer, state_tensors
from memplan.formulas.sharding import Tensors, in_model_order
from memplan.formulas.tensors import ITEM_BYTES
from memplan.formulas.weights import STORED_DTYPE
from memplan.models import Model
from memplan.plan import TrainingPlan

MIN_BOUND_FRACTION = 0.05
"""Of the peak. The bound is a MiB for each block; slack was mostly a tenth of it, and
a quarter at most."""
NF4_BLOCK_ELEMENTS = 64
"""Elements that share one fp32 maximum (bitsandbytes 0.50, `Params4bit`)."""

Slacks = dict[tuple[int, str], Slack]
"""By step and phase."""


def with_slack(
    plan: TrainingPlan,
    model: Model,
    step: Step,
    optimizer: Optimizer,
    workspace_bytes: int,
    moments: list[Moment],
) -> list[Moment]:
    """The moments with what their blocks have beyond fresh ones.

    Slack is a temporary buffer, as all rounding of blocks.
    """
    highest = max(moment.allocated for moment in moments)
    bound = _most_blocks(step, optimizer) * MAX_SLACK_BYTES
    if not _can_be_played(plan, step) or bound < MIN_BOUND_FRACTION * highest:
        return moments
    slack = _played(plan, model, step, optimizer, workspace_bytes)
    return [_raised(moment, slack[moment.step, moment.phase]) for moment in moments]


def _can_be_played(plan: TrainingPlan, step: Step) -> bool:
    """Whether all large requests are known in their order.

    DeepSpeed gathers between those of the tape, and a pipeline runs several tapes.
    Other settings of the allocator split otherwise.
    """
    return (
        isinstance(step.sharder, Ddp | ZeroRedundancy | Fsdp2)
        and plan.workload == "train"
        and plan.pipeline_parallel == 1
        and plan.precision != "fp16-master"
        and not (plan.ema or plan.alloc_conf)
        and not (plan.offload_optimizer or plan.offload_parameters)
    )


def _most_blocks(step: Step, optimizer: Optimizer) -> int:
    """Large blocks that there can be at once, and so a MiB for each of slack."""
    standing = sum(p.count for p in step.parameters if _is_large(p.stored.num_bytes))
    for p in step.updated:
        standing += p.count * sum(map(_is_large, state_tensors(optimizer, p)))
    highest = level = 0
    for phase in step.phases:
        most, left = most_at_once(phase.events)
        highest = max(highest, level + most)
        level += left
    return standing + highest


def _is_large(size_bytes: int) -> bool:
    return size_bytes > SMALL_REQUEST_BYTES


def _raised(moment: Moment, slack: Slack) -> Moment:
    parts = moment.components
    temporary = parts.temporary_buffers + slack.at_peak_bytes
    allocated = moment.allocated + slack.at_peak_bytes
    return replace(
        moment,
        components=replace(parts, temporary_buffers=temporary),
        allocated=allocated,
        end=min(moment.end + slack.at_end_bytes, allocated),
    )


def _played(
    plan: TrainingPlan,
    model: Model,
    step: Step,
    optimizer: Optimizer,
    workspace_bytes: int,
) -> Slacks:
    """Slack at the height of every phase of the first and of the steady step."""
    pool = LargePool()
    player = Player(pool)
    slack: Slacks = {}
    read_as = plan.frozen_dtype or model.frozen_dtype or STORED_DTYPE[plan.precision]
    _load(pool, step, plan.quantization, ITEM_BYTES[read_as])
    *buckets, (batch_bytes, _) = step.buffer_tensors
    _take_all(pool, [batch_bytes])
    bucket_sizes = _sizes(buckets)
    # Where DDP does not look for unused weights it has one bucket until it has seen the
    # order of gradients (`torch/nn/parallel/distributed.py`, `bucket_size_limits`).
    if builds_again := plan.checkpointing[0] != "none":
        whole_bucket = _take_whole_bucket(pool, bucket_sizes)
    else:
        _take_all(pool, bucket_sizes)
    states = [
        size_bytes
        for parameter in in_model_order(step.updated)
        for size_bytes in state_tensors(optimizer, parameter)
    ]
    if optimizer.starts_with_states:
        _take_all(pool, states)
    _take_all(pool, [workspace_bytes // 2] * 2)
    for number in (1, 2):
        pool.slack()
        if number == 2 and builds_again:
            _give_back_all(pool, whole_bucket)
            _take_all(pool, reversed(bucket_sizes))
        left = _take_all(pool, _sizes(step.left_tensors))
        for phase in step.phases:
            player.play(phase.events)
            slack[number, phase.name] = pool.slack()
        if number == 1 and not optimizer.starts_with_states:
            _take_all(pool, states)
        _give_back_all(pool, _take_all(pool, _sizes(step.temporary_tensors)))
        player.free_all()
        _give_back_all(pool, left)
        slack[number, "optimizer"] = pool.slack()
    return slack


def _load(
    pool: LargePool,
    step: Step,
    quantization: str,
    read_item_bytes: int,
) -> None:
    """The weights, layer by layer: quantized ones first, adapters last.

    What is quantized is read whole before (`runner/training/quantize.py`). It is a
    tensor beside its constants, and sums count one for both.
    """
    ordered = [replace(p, count=1) for p in in_model_order(step.parameters)]
    quantized = [p for p in ordered if p.stored.is_quantized]
    others = [p for p in ordered if not p.stored.is_quantized]
    for p in quantized:
        n, stored_bytes = p.num_elements, p.stored.num_bytes
        whole = _take_all(pool, [read_item_bytes * n])
        if quantization == "int8":
            whole += _take_all(pool, [ITEM_BYTES["fp16"] * n])
            codes, constants = n, []
        else:
            codes, constants = n // 2, [4 * n // NF4_BLOCK_ELEMENTS]
        if _is_large(codes):
            beside = block_bytes(stored_bytes - codes)
            pool.take(codes, block_bytes(stored_bytes) - beside)
        _take_all(pool, constants)
        _give_back_all(pool, whole)
    for is_adapter in (False, True):
        some = [p for p in others if (".lora_" in p.name) == is_adapter]
        _take_all(pool, _sizes(step.sharder.weights(some)))


def _take_whole_bucket(pool: LargePool, sizes: Sequence[int]) -> list[Block]:
    """DDP's bucket of the first step, for which sums count those that follow."""
    large = [size_bytes for size_bytes in sizes if _is_large(size_bytes)]
    if not large:
        return []
    return [pool.take(sum(large), sum(map(block_bytes, large)))]


def _sizes(tensors: Tensors) -> list[int]:
    """One by one."""
    return [size_bytes for size_bytes, count in tensors for _ in range(count)]


def _take_all(pool: LargePool, sizes: Iterable[int]) -> list[Block]:
    return [pool.take(size_bytes) for size_bytes in sizes if _is_large(size_bytes)]


def _give_back_all(pool: LargePool, blocks: Iterable[Block]) -> None:
    for block in blocks:
        pool.give_back(block)
