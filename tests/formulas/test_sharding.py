"""What DDP, FSDP2 and DeepSpeed hold at rest, and while a small model runs."""

from dataclasses import replace

import pytest

from memplan import TrainingPlan
from memplan.estimating.step import trace_step
from memplan.formulas.backward import run_backward
from memplan.formulas.ddp import Ddp, ZeroRedundancy, bucket_bytes, largest_share
from memplan.formulas.deepspeed import DeepSpeed
from memplan.formulas.deepspeed_step import REDUCE_BUCKET_ELEMENTS, Bucket
from memplan.formulas.fsdp2 import Fsdp2
from memplan.formulas.gathering import Layer
from memplan.formulas.layers import token_embedding
from memplan.formulas.linear import linear
from memplan.formulas.optimizers import find_optimizer
from memplan.formulas.parameters import Parameter, Stored
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.weights import ModelStates, shard_states
from memplan.models import find_model
from memplan.units import MiB

RANKS = 4
V, D, L, LAYERS = 1024, 256, 128, 3
"""Vocabulary, hidden size, tokens and layers of the model below; a layer is D x D."""
TABLE, LAYER = 2 * V * D, 2 * D * D
"""Bytes in low precision."""


def weight(name, *shape, count=1, dtype="bf16", kept=None, trains=True, size=None):
    kept_bytes = {"fp32": 4, None: 2}[kept]
    num_elements = 1
    for side in shape:
        num_elements *= side
    size = kept_bytes * num_elements if size is None else size
    stored = Stored(dtype, trains, size, kept_dtype=kept)
    return Parameter(name, shape, count, stored)


def total(tensors):
    return sum(size * count for size, count in tensors)


# Replicated


def test_one_rank_has_no_buckets():
    assert Ddp(num_ranks=1).buffers([weight("w", 512, 512)]) == []


def test_buckets_hold_as_many_bytes_as_the_gradients():
    parameters = [weight("a", 2000, 3000), weight("layers.*.b", 500, 70, count=40)]
    assert total(Ddp(num_ranks=2).buffers(parameters)) == 2 * (6_000_000 + 1_400_000)


def test_a_bucket_closes_once_it_is_full_and_the_first_is_small():
    """1 MiB, then 25 MiB, in the order of the model."""
    size = 2 * 1024 * 1024
    parameters = [weight("layers.*.w", 1024, 1024, count=30)]
    assert list(bucket_bytes(parameters)) == [size, 13 * size, 13 * size, 3 * size]
    assert 12 * size < 25 * MiB <= 13 * size


def test_buckets_are_for_what_trains():
    parameters = [weight("a", 64, 64), weight("b", 64, 64, trains=False)]
    assert total(Ddp(num_ranks=2).buffers(parameters)) == 2 * 64 * 64


def test_buckets_have_a_place_for_what_no_loss_reaches():
    unused = replace(weight("pool", 64, 64), is_used=False)
    assert total(Ddp(num_ranks=2).buffers([unused])) == 2 * 64 * 64


def test_whole_tensors_go_to_the_rank_that_has_least():
    """The largest first: 10, then 6 and 3 beside it, then 2 where there are 9."""
    parameters = [weight("a", 6), weight("b", 10), weight("layers.*.c", 3, count=2)]
    share = largest_share([*parameters, weight("d", 2)], 2)
    assert [(p.name, p.count) for p in share] == [("a", 1), ("layers.*.c", 2)]


def test_a_large_tensor_is_a_share_of_its_own():
    parameters = [weight("table", 1000), weight("layers.*.w", 10, count=30)]
    share = ZeroRedundancy(num_ranks=64).updated(parameters)
    assert [p.name for p in share] == ["table"]


# FSDP2 at rest


def fsdp2(stage=3, **fields):
    return Fsdp2(num_ranks=RANKS, reshards_after_forward=stage == 3, **fields)


def test_shards_are_rows_in_the_weights_own_dtype():
    held = fsdp2().weights([weight("w", 10, 8, kept="fp32")])
    assert held == [(4 * 3 * 8, 1)]


def test_gradients_are_shards_like_the_weights():
    parameters = [weight("w", 12, 8, kept="fp32"), weight("v", 12, trains=False)]
    assert fsdp2().gradients(parameters) == [(4 * 3 * 8, 1)]


def test_the_optimizer_sees_fp32_shards():
    (seen,) = fsdp2().updated([weight("w", 12, 8, kept="fp32")])
    assert (seen.shape, seen.stored.dtype) == ((3, 8), "fp32")


def test_micro_batches_leave_whole_gradients_in_low_precision():
    parameters = [weight("w", 12, 8, kept="fp32")]
    assert fsdp2().left_gradients(parameters, True) == [(2 * 12 * 8, 1)]
    assert fsdp2().left_gradients(parameters, False) == []


def test_quantized_weights_are_left_whole():
    quantized = weight("w", 12, 8, trains=False, size=50)
    stored = replace(quantized.stored, is_quantized=True)
    held = fsdp2().weights([replace(quantized, stored=stored)])
    assert held == [(50, 1)]


def test_what_is_offloaded_leaves_nothing_at_rest():
    parameters = [weight("w", 12, 8, kept="fp32")]
    sharder = fsdp2(offloads=True)
    assert sharder.weights(parameters) == sharder.gradients(parameters) == []
    assert sharder.updated(parameters) == []


# FSDP2 at work


def layer(t, x):
    return linear(t, "w", x, D, bias=False)


def traced(sharder, *, is_tied=False, gradients_exist=False, kept="fp32"):
    """A table, layers that are one matrix each, and a head, in low precision."""
    tape = Tape(
        policy=lambda name, shape, is_linear: Stored("bf16", True, 0, kept_dtype=kept),
        gathering=sharder.gathering(gradients_exist),
    )
    with tape.scope("embed"):
        table = tape.weight("weight", (V, D), is_tied=is_tied)
    x = token_embedding(tape, table, (1, L))
    x = repeat_layers(tape, "layers", LAYERS, layer, x)
    shared = table if is_tied else None
    x = linear(tape, "head", x, V, bias=False, weight=shared)
    tape.end_phase("forward")
    loss = tape.apply("sum", (x,), (), "fp32")
    del x
    tape.gathering.end_forward(tape)
    tape.end_phase("loss")
    run_backward(tape, loss, gradients_exist=gradients_exist)
    tape.end_phase("backward")
    return {phase.name: phase for phase in tape.phases}


ACTIVATIONS = 2 * L * D * (LAYERS + 1)
"""The input of every layer, and of the head."""
LOGITS = 2 * L * V


def test_the_head_is_gathered_while_the_loss_is_computed():
    """Its copy, and the flat buffer until the model returns."""
    phases = traced(fsdp2())
    forward, loss = phases["forward"].end, phases["loss"].end
    assert forward.block_bytes == ACTIVATIONS + LOGITS + 2 * TABLE
    assert loss.block_bytes == ACTIVATIONS + TABLE + 512


def test_without_resharding_all_layers_are_gathered_at_the_end():
    """So is the embedding."""
    resharded, kept = (traced(fsdp2(stage))["loss"].end for stage in (3, 2))
    assert kept.block_bytes == resharded.block_bytes + LAYERS * LAYER + TABLE


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("gradients_exist", [False, True])
def test_shards_alone_are_left(stage, is_tied, gradients_exist):
    """Twice the bytes a rank: reduced in low precision, then cast to fp32."""
    phases = traced(fsdp2(stage), is_tied=is_tied, gradients_exist=gradients_exist)
    tables = 1 if is_tied else 2
    whole = tables * TABLE + LAYERS * LAYER
    left = whole if gradients_exist else 0
    end = phases["backward"].end
    assert end.gradient_bytes + left == 2 * whole // RANKS
    assert end.block_bytes - end.gradient_bytes <= 512


ONE = Layer((weight("layers.*.w", D, D, kept="fp32"),), True, False)
"""A layer of `traced`."""


@pytest.mark.parametrize(
    ("stage", "index", "copies"), [(3, 2, 1), (2, 0, 1), (2, 2, 3)]
)
def test_a_layer_runs_forward_beside_its_copies_and_the_flat_buffer(
    stage, index, copies
):
    gathering = fsdp2(stage).gathering(False)
    assert gathering.beside_forward(ONE, index, LAYERS, LAYER) == (copies + 1) * LAYER


def test_a_layer_is_copied_out_beside_the_flat_buffer_of_the_one_before():
    """Which counts where the layer itself takes less."""
    gathering = fsdp2().gathering(False)
    beside = [gathering.beside_forward(ONE, 1, LAYERS, own) for own in (0, LAYER // 2)]
    assert beside == [3 * LAYER, 2 * LAYER + LAYER // 2]


def test_the_head_is_copied_out_beside_the_flat_buffer_of_the_last_layer():
    tape = Tape(policy=lambda *_: ONE)
    gathering = fsdp2().gathering(False)
    gathering.leave_layers(tape, ONE, LAYERS)
    gathering.use_weight(tape, weight("head", V, D, kept="fp32"))
    assert tape.peak.at.block_bytes == 2 * TABLE + LAYER
    assert tape.live.block_bytes == 2 * TABLE


def test_a_unit_beside_the_layers_is_gathered_for_its_own_backward_alone():
    """The last gradient of the part has it reduced."""
    tape = Tape(policy=lambda *_: ONE)
    unit = [weight(name, D, D, kept="fp32") for name in ("pool.a", "pool.b")]
    gathering = fsdp2().gathering(False)
    for parameter in unit:
        gathering.use_weight(tape, parameter)
    gathering.end_forward(tape)
    gathering.leave_unit(tape, unit)
    assert tape.live.block_bytes == 0
    gathering.receive_gradient(tape, unit[0])
    assert tape.live.block_bytes == 2 * LAYER
    gathering.receive_gradient(tape, unit[1])
    gathered_grads = 2 * LAYER  # which autograd would have put on the tape
    shards = 2 * (2 * LAYER) // RANKS
    reducing = 2 * LAYER
    assert tape.live.block_bytes == reducing + shards - gathered_grads


def test_layers_of_a_part_that_is_taken_whole_are_gathered_before_it_runs():
    tape = Tape(
        policy=lambda name, shape, is_linear: Stored(
            "bf16", True, 0, kept_dtype="fp32"
        ),
        gathering=fsdp2().gathering(False),
    )
    with tape.whole():
        x = tape.tensor((1, L, D), "bf16")
        x = repeat_layers(tape, "tower.layers", LAYERS, layer, x)
    assert tape.live.block_bytes == 2 * LAYERS * LAYER + 2 * L * D * (LAYERS + 1)


def test_a_layer_of_a_group_runs_backward_between_two_others():
    """A group of checkpointed layers is traced once: there is always one before it."""
    gathering = fsdp2().gathering(False)
    gathering.receive_gradient(Tape(policy=lambda *_: ONE), ONE.parameters[0])
    nested = replace(ONE, is_nested=True)
    assert gathering.beside_backward(nested, 0, 1, 0) == 3 * LAYER


def test_a_layer_runs_backward_beside_the_ones_around_it():
    """Its copy, the flat buffer of the one before, the gradients of the one after."""
    gathering = fsdp2().gathering(False)
    gathering.receive_gradient(Tape(policy=lambda *_: ONE), ONE.parameters[0])
    assert gathering.beside_backward(ONE, 1, LAYERS, 0) == 3 * LAYER
    # Nothing comes before the first, and what reduces beside the last is on the tape.
    assert gathering.beside_backward(ONE, 0, LAYERS, 0) == 2 * LAYER
    assert gathering.beside_backward(ONE, 2, LAYERS, 0) == 2 * LAYER


def test_the_gradient_of_a_tied_weight_is_the_third_beside_two():
    """That of the head waits; the engine does not add to a view in place."""
    tied = traced(Ddp(num_ranks=1), is_tied=True, kept=None)["backward"].peak
    loss = 512
    assert tied.at.block_bytes == 3 * TABLE + LAYERS * LAYER + loss


# DeepSpeed

TRAINED = [weight("table", V, D), weight("layers.*.w", D, D, count=LAYERS)]
ELEMENTS = V * D + LAYERS * D * D


def deepspeed(stage, **fields):
    return DeepSpeed(num_ranks=RANKS, stage=stage, **fields)


@pytest.mark.parametrize("stage", [1, 2])
def test_below_stage_3_weights_are_one_flat_buffer(stage):
    assert deepspeed(stage).weights(TRAINED) == [(2 * ELEMENTS, 1)]


def test_stage_3_keeps_small_weights_whole():
    """A hundred thousand elements are small."""
    parameters = [weight("table", V, D), weight("norm", D)]
    held = deepspeed(3).weights(parameters)
    assert total(held) == 2 * (V * D + D) // RANKS + 2 * D


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_fp32_partition_is_what_the_optimizer_updates(stage):
    sharder = deepspeed(stage)
    (flat,) = sharder.updated(TRAINED)
    assert (flat.shape, flat.stored.dtype) == ((ELEMENTS // RANKS,), "fp32")
    assert total(sharder.masters(TRAINED)) == 4 * ELEMENTS // RANKS


def test_stage_3_steps_a_sub_group_at_a_time():
    sharder = DeepSpeed(num_ranks=2, stage=3)
    parameters = [weight("layers.*.w", 1_000_000, 500, count=10)]
    assert [p.num_elements * p.count for p in sharder.updated(parameters)] == [
        2_000_000_000,
        500_000_000,
    ]
    assert [p.num_elements for p in sharder.stepped(parameters)] == [1_000_000_000]


PART = ELEMENTS // RANKS
CUT = V * D + 2 * D * D - PART
"""The third rank has the end of the table, a layer, and the start of the next."""


def test_norms_are_computed_in_fp64():
    """8 bytes for each element of the largest gradient, as far as it is owned."""
    needed = total(deepspeed(1).step_temporaries(TRAINED, []))
    assert needed == 2 * CUT + 8 * PART


def test_the_optimizer_steps_beside_fp32_gradients_in_place_of_the_others():
    """4 bytes of a gradient and the optimizer's own 20, less 2 that are freed."""
    needed = total(deepspeed(1).step_temporaries(TRAINED, [(20 * PART, 1)]))
    assert needed == 4 * PART + 20 * PART - 2 * PART


def test_gradients_pass_through_a_bucket_of_5e8_elements():
    """Beside the largest gradient, that of the embedding, and its activations."""
    peak = traced(deepspeed(2), kept=None)["backward"].peak.at
    bucket = 2 * REDUCE_BUCKET_ELEMENTS
    assert bucket < peak.block_bytes < bucket + MiB + 2 * TABLE + LAYERS * LAYER
    assert peak.gradient_bytes <= 2 * (2 * V * D + LAYERS * D * D) // RANKS


def test_stage_1_keeps_whole_gradients_until_the_end():
    """At the highest point the embedding's is being made."""
    peak = traced(deepspeed(1), kept=None)["backward"].peak.at
    assert peak.gradient_bytes == TABLE + LAYERS * LAYER


def test_stage_1_leaves_a_partition():
    end = traced(deepspeed(1), kept=None)["backward"].end
    assert end.gradient_bytes == (2 * TABLE + LAYERS * LAYER) // RANKS


def test_stage_2_leaves_its_bucket_and_reduces_it_before_the_optimizer_steps():
    """The copy is gone when the partition, with what its borders cut, is made."""
    end = traced(deepspeed(2), kept=None)["backward"].end
    bucket = 2 * REDUCE_BUCKET_ELEMENTS
    assert bucket < end.block_bytes < bucket + MiB
    needed = total(deepspeed(2).step_temporaries(TRAINED, []))
    assert needed == bucket + max(2 * CUT, 2 * ELEMENTS - 2 * PART)


def test_a_partition_of_earlier_micro_batches_stands_beside_the_copy():
    sharder = deepspeed(2, accumulates=True)
    needed = total(sharder.step_temporaries(TRAINED, []))
    assert needed == 2 * REDUCE_BUCKET_ELEMENTS + 2 * CUT + 2 * ELEMENTS


def test_stage_3_copies_what_is_left_in_the_bucket_before_the_optimizer_steps():
    """Of 600 million elements, those that came after the bucket was full."""
    parameters = [weight("w", 20_000, 15_000), weight("v", 20_000, 15_000)]
    needed = total(DeepSpeed(num_ranks=64, stage=3).step_temporaries(parameters, []))
    assert needed == 2 * 300_000_000


def test_a_full_bucket_is_copied_once_more():
    bucket = Bucket()
    assert bucket.fill(2 * 300_000_000) == 0
    assert bucket.fill(2 * 300_000_000) == 2 * 300_000_000
    assert bucket.filled == 300_000_000


# Model states


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [2, 16])
def test_deepspeed_holds_zeros_model_states(stage, ranks):
    """Two bytes of weights, two of gradients, twelve of the optimizer's."""
    step = traced_step(sharding="deepspeed", zero_stage=max(stage, 1), num_gpus=ranks)
    P = step.num_parameters
    zero = shard_states(ModelStates(2 * P, 2 * P, 12 * P), max(stage, 1), ranks)
    norms = 65 * 4096 * 2 if stage == 3 else 0
    assert step.weights.requested_bytes == pytest.approx(
        zero.weights + norms, abs=ranks
    )
    partition = -(-2 * P // ranks)
    assert step.gradients.requested_bytes == pytest.approx(partition, abs=2)
    assert step.optimizer_states.requested_bytes == pytest.approx(
        zero.optimizer_states, abs=12
    )


def test_fsdp2_holds_a_share_of_fp32_model_states():
    step = traced_step(zero_stage=3, num_gpus=8)
    share = 4 * step.num_parameters // 8
    held = (step.weights, step.gradients, step.optimizer_states)
    assert [some.requested_bytes for some in held] == [share, share, 2 * share]


def traced_step(**fields):
    plan = TrainingPlan(model="llama-2-7b", seq_len=256, **fields)
    optimizer = find_optimizer(plan.optim)
    return trace_step(plan, find_model(plan.model), optimizer, (8, 0), (2, 14), 108)


def test_one_rank_offloads_its_parameters_too():
    step = traced_step(zero_stage=3, num_gpus=1, offload_parameters=True)
    held = (step.weights, step.gradients, step.optimizer_states)
    assert [some.requested_bytes for some in held] == [0, 0, 0]
