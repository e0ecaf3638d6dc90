"""Activations on the host: what a node saved is back while it runs."""

import pytest

from memplan.formulas.backward import run_backward
from memplan.formulas.layers import activation
from memplan.formulas.linear import linear
from memplan.formulas.parameters import Stored
from memplan.formulas.setting import Setting
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape

B, L, D, F = 2, 128, 256, 1024
HIDDEN, INNER, UP = 4 * B * L * D, 4 * B * L * F, 4 * D * F


def block(t, x):
    inner = activation(t, "silu", linear(t, "up", x, F, bias=False))
    return linear(t, "down", inner, D, bias=False)


def traced(num_layers, checkpointing="none", *, offloads=True, is_leaf=False):
    t = Tape(
        policy=lambda name, shape, is_linear: Stored("fp32", True, 0),
        setting=Setting(checkpointing=checkpointing, offloads_activations=offloads),
    )
    x = t.tensor((B, L, D), "fp32")
    x = t.require_gradient(x) if is_leaf else linear(t, "stem", x, D, bias=False)
    x = repeat_layers(t, "layers", num_layers, block, x)
    loss = t.apply("sum", (x,), (), "fp32")
    del x
    t.end_phase("forward")
    run_backward(t, loss)
    t.end_phase("backward")
    return t


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_the_forward_pass_leaves_nothing_on_the_device(checkpointing):
    assert traced(5, checkpointing).phases[0].end.saved_bytes == 0
    kept = traced(5, checkpointing, offloads=False).phases[0].end.saved_bytes
    # The input of the first product, that of each layer, and what is inside of it.
    assert kept == 6 * HIDDEN + (checkpointing == "none") * 10 * INNER


def test_a_node_has_back_what_it_saved_and_the_weight_among_it():
    """Of a layer the first product is highest, beside the other's gradient and the
    loss: its own gradients, and back from the host its input and its weight."""
    gradients = INNER + HIDDEN + UP
    peak = traced(1).phases[-1].peak.at
    assert peak.block_bytes == UP + gradients + HIDDEN + UP + 512


def test_depth_costs_gradients_alone():
    few, many = (traced(count).phases[-1].peak.at for count in (3, 7))
    assert many.block_bytes - few.block_bytes == 4 * 2 * UP


def test_a_checkpointed_layer_has_its_input_back():
    few, many = (
        traced(count, "full").phases[-1].peak.at.block_bytes for count in (3, 7)
    )
    assert many - few == 4 * 2 * UP
    kept = traced(7, "full", offloads=False).phases[-1].peak.at.block_bytes
    assert kept > traced(7, "full").phases[-1].peak.at.block_bytes


def test_a_leaf_stays_with_its_own_node():
    """What `enable_input_require_grads` marks: no checkpoint, and no host, frees it."""
    forward = traced(5, "full", is_leaf=True).phases[0]
    assert forward.end.saved_bytes == HIDDEN


def test_what_selective_checkpointing_keeps_stays():
    kept = traced(5, "selective").phases[0].end.saved_bytes
    assert kept == 5 * (INNER + HIDDEN)
