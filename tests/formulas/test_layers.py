"""What the building blocks save for backward, as sums written by hand."""

import pytest

from memplan.formulas.backward import run_backward
from memplan.formulas.layers import (
    ACTIVATIONS,
    activation,
    add,
    cast,
    concatenate,
    dropout,
    embedding,
    layer_norm,
    multiply,
    part,
    rms_norm,
    scale,
)
from memplan.formulas.linear import linear
from memplan.formulas.parameters import Stored
from memplan.formulas.setting import Setting
from memplan.formulas.tape import Tape

B, L, D, F = 2, 64, 256, 1024
N = B * L * D


def tape(autocast=None, trainable=("",), **options):
    return Tape(
        policy=lambda name, shape, is_linear: Stored(
            "fp32", any(part in name for part in trainable), 0
        ),
        setting=Setting(autocast=autocast, **options),
    )


def hidden(t, dtype="fp32", shape=(B, L, D)):
    """Hidden states that want a gradient."""
    return t.apply("hidden", (t.weight("hidden", (1,)),), shape, dtype)


def backward_peak(t, output):
    """Requested bytes at the height of backward, without gradients of weights."""
    loss = t.apply("sum", (output,), (), "fp32")
    del output
    t.end_phase("forward")
    run_backward(t, loss)
    t.end_phase("backward")
    at = t.phases[-1].peak.at
    return at.saved_bytes + at.temporary_bytes


# Linear layers


def test_a_linear_layer_saves_its_input():
    t = tape()
    y = linear(t, "up", hidden(t), F)
    assert y.shape == (B, L, F)
    assert t.live.saved_bytes == 4 * N
    assert t.live.temporary_bytes == y.num_bytes == 4 * B * L * F


def test_autocast_saves_a_low_precision_copy_at_every_use():
    t = tape("bf16")
    x = hidden(t)
    outputs = [linear(t, name, x, F, bias=False) for name in ("q", "k", "v")]
    assert t.live.saved_bytes == 3 * 2 * N
    del outputs


def test_autocast_keeps_one_cast_of_a_weight_until_backward():
    t = tape("bf16")
    y = linear(t, "up", hidden(t), F)
    t.exit_autocast()
    # The cast of the bias goes when autocast exits.
    assert t.live.temporary_bytes == y.num_bytes + 2 * D * F


def test_a_frozen_weight_needs_no_input():
    t = tape(trainable=("hidden",))
    y = linear(t, "up", hidden(t), F)
    assert t.live.saved_bytes == 0
    del y


def test_an_input_without_gradient_needs_no_weight():
    t = tape("bf16")
    y = linear(t, "up", t.input((B, L, D), "bf16"), F, bias=False)
    t.exit_autocast()
    assert t.live.temporary_bytes == y.num_bytes


def test_a_conv1d_is_a_linear_layer_with_its_weight_transposed():
    t = tape()
    linear(t, "plain", hidden(t), F)
    linear(t, "conv", hidden(t), F, transposed=True)
    assert t.parameters["plain.weight"].shape == (F, D)
    assert t.parameters["conv.weight"].shape == (D, F)


# Norms


def test_a_layer_norm_saves_its_input_and_two_numbers_a_row():
    t = tape()
    y = layer_norm(t, "norm", hidden(t))
    assert t.live.saved_bytes == 4 * N + 2 * 4 * B * L
    del y


def test_autocast_runs_a_layer_norm_in_fp32_from_a_copy():
    t = tape("bf16")
    y = layer_norm(t, "norm", hidden(t, "bf16"))
    assert y.dtype == "fp32"
    assert t.live.saved_bytes == 4 * N + 2 * 4 * B * L


@pytest.mark.parametrize(("dtype", "each"), [("bf16", 4 + 2), ("fp32", 4 + 4)])
def test_a_written_out_rms_norm_saves_its_input_in_fp32_and_the_normalised(dtype, each):
    t = tape()
    y = rms_norm(t, "norm", hidden(t, dtype))
    # And the reciprocal root of each row.
    assert t.live.saved_bytes == each * N + 4 * B * L
    del y


# Activations

SAVED = {
    "relu": 4,
    "tanh": 4,
    "sigmoid": 4,
    "gelu": 4,
    "gelu_pytorch_tanh": 4,
    "silu": 4,
    "swish": 4,
    # The relu, as its own output and as the input of the square.
    "relu2": 4,
    # The input and the gate.
    "quick_gelu": 4 + 4,
    # The input, 0.5 x, tanh, 1 + tanh.
    "gelu_new": 4 * 4,
    "gelu_python_tanh": 4 * 4,
    # The input, 0.5 x, a x, b x, 1 + b x x, tanh, 1 + tanh.
    "gelu_fast": 7 * 4,
}


def test_every_activation_is_tested():
    assert set(SAVED) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", SAVED)
def test_an_activation_saves_so_many_bytes_an_element(name):
    t = tape()
    y = activation(t, name, hidden(t))
    assert t.live.saved_bytes == SAVED[name] * N
    del y


def test_autocast_runs_the_power_of_gelu_new_in_fp32():
    t = tape("bf16")
    y = activation(t, "gelu_new", hidden(t, "bf16"))
    # The fp32 input of the power, 0.5 x in bf16; tanh and 1 + tanh in fp32.
    assert y.dtype == "fp32"
    assert t.live.saved_bytes == (4 + 2 + 4 + 4) * N


# Elementwise operators


def test_a_sum_saves_nothing_and_hands_its_gradient_on():
    def scaled_and_added(x):
        return add(t, scale(t, x), x)

    t = tape()
    # The incoming gradient, which waits at the input, and that of the scaled input.
    peak = backward_peak(t, scaled_and_added(hidden(t)))
    assert peak == 2 * 4 * N + 4
    assert t.phases[0].end.saved_bytes == 0


def test_a_product_saves_the_factors_whose_other_wants_a_gradient():
    t = tape()
    table = t.tensor((1, L, D), "fp32")
    y = multiply(t, hidden(t), table)
    assert t.live.saved_bytes == 4 * L * D
    z = multiply(t, hidden(t), hidden(t))
    assert t.live.saved_bytes == 4 * L * D + 2 * 4 * N
    del y, z


def test_dropout_saves_a_byte_an_element():
    t = tape()
    y = dropout(t, hidden(t), 0.1)
    assert t.live.saved_bytes == N
    del y


@pytest.mark.parametrize(
    ("probability", "is_training"), [(0.0, True), (0.1, False), (0.0, False)]
)
def test_dropout_of_nothing_is_nothing(probability, is_training):
    t = tape(is_training=is_training)
    x = hidden(t)
    assert dropout(t, x, probability) is x


def test_a_cast_to_the_same_dtype_is_nothing():
    t = tape()
    x = hidden(t, "bf16")
    assert cast(t, x, "bf16") is x
    assert cast(t, x, "fp32").num_bytes == 4 * N


def test_a_slice_is_a_view_whose_gradient_is_as_large_as_the_whole():
    t = tape()
    # The gradient of the half, and that of the whole.
    peak = backward_peak(t, part(t, hidden(t), (B, L, D // 2)))
    assert peak == 4 * N // 2 + 4 * N + 4
    assert t.phases[0].end.temporary_bytes == 4


def test_joining_copies_in_the_widest_dtype():
    t = tape()
    joined = concatenate(t, [hidden(t), hidden(t, "bf16")], (B, 2 * L, D))
    assert joined.dtype == "fp32"
    assert t.live.temporary_bytes == 4 * 2 * N


# Embeddings


def test_an_embedding_saves_indices_that_are_not_the_batch_s():
    t = tape()
    table = t.weight("table", (1000, D))
    rows = embedding(t, table, (B, L))
    assert t.live.saved_bytes == 0
    positions = t.tensor((1, L), "int64")
    rows = embedding(t, table, (1, L), positions)
    del positions
    assert t.live.saved_bytes == 8 * L
    del rows


@pytest.mark.parametrize("num_indices", [3072, 3073])
def test_many_indices_are_sorted_and_summed_in_parts(num_indices):
    t = tape()
    table = t.weight("table", (1000, D))
    peak = backward_peak(t, embedding(t, table, (1, num_indices)))
    partial_sums = num_indices // 10 + 1000
    scratch = 4 * 8 * num_indices + 4 * partial_sums * D if num_indices > 3072 else 0
    incoming, gradient = 4 * num_indices * D, 4 * 1000 * D
    assert peak == incoming + gradient + scratch + 4


def test_neither_bf16_nor_fp16_holds_the_other():
    """Frozen weights in bf16 among what autocast makes fp16: T5's norms, say."""
    t = tape("fp16")
    x, y = hidden(t, "bf16"), hidden(t, "fp16")
    assert add(t, x, y).dtype == "fp32"
    assert concatenate(t, [x, y], (B, L, 2 * D)).dtype == "fp32"
    assert linear(t, "up", x, F).dtype == "fp16"
