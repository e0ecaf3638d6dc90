"""What DDP, FSDP2 and DeepSpeed hold at rest, and while a small model runs."""

from dataclasses import replace

import pytest

from memplan import TrainingPlan
from memplan.formulas.backward import run_backward
from memplan.formulas.ddp import Ddp, ZeroRedundancy, bucket_bytes, largest_share
from memplan.formulas.deepspeed import REDUCE_BUCKET_ELEMENTS, DeepSpeed
from memplan.formulas.fsdp2 import Fsdp2
from memplan.formulas.layers import embedding
from memplan.formulas.linear import linear
from memplan.formulas.optimizers import find_optimizer
from memplan.formulas.parameters import Parameter, Stored
from memplan.formulas.tape import Tape
from memplan.formulas.weights import ModelStates, shard_states
from memplan.models import find_model
from memplan.step import trace_step
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


def test_whole_tensors_go_to_the_rank_that_has_least():
    """10, then 6, then 4 and 4 beside the 6: the second rank has 14."""
    parameters = [weight("a", 6), weight("b", 10), weight("layers.*.c", 4, count=2)]
    share = largest_share(parameters, 2)
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


def traced(sharder, *, is_tied=False, gradients_exist=False, kept="fp32"):
    """A table, layers that are one matrix each, and a head, in low precision."""
    tape = Tape(
        policy=lambda name, shape, is_linear: Stored("bf16", True, 0, kept_dtype=kept),
        gathering=sharder.gathering(gradients_exist),
    )
    with tape.scope("embed"):
        table = tape.weight("weight", (V, D))
    x = embedding(tape, table, (1, L))
    x = tape.layers("layers", LAYERS, lambda t, x: linear(t, "w", x, D, bias=False), x)
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
    loss = 4
    at_the_end = ACTIVATIONS + LOGITS + TABLE
    assert phases["forward"].end.block_bytes == at_the_end + TABLE
    assert phases["loss"].end.block_bytes == at_the_end - LOGITS + 512 * (loss > 0)


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


def test_the_last_layer_runs_beside_the_next_and_the_one_before():
    """Its copy, the flat buffer of the layer before, what reduces of the head."""
    gathering = fsdp2().gathering(False)
    tape = Tape(
        policy=lambda name, shape, is_linear: Stored("bf16", True, 0),
        gathering=gathering,
    )
    x = tape.input((1, L, D), "bf16")
    x = tape.layers("layers", LAYERS, lambda t, x: linear(t, "w", x, D, bias=False), x)
    (last,) = (node.layer for node in tape.nodes if hasattr(node, "layer"))[:1] or [0]
