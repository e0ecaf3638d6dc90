"""The ledger of a tape: its items are what the sums are the sums of."""

from dataclasses import replace

import pytest

from memplan.formulas.backward import run_backward
from memplan.formulas.layers import activation, add
from memplan.formulas.ledger import Ledger, gradient, without_gradients
from memplan.formulas.linear import linear
from memplan.formulas.parameters import Stored
from memplan.formulas.stacks import stack
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import GRADIENT, SAVED, TEMPORARY
from memplan.formulas.trace import Totals


def trained(name, shape, is_linear):
    size = 4
    for length in shape:
        size *= length
    return Stored("fp32", True, size)


def tape():
    return Tape(policy=trained, ledger=Ledger())


def block(t, x):
    """A residual block of two matrices."""
    inner = activation(t, "silu", linear(t, "up", x, 32, bias=False))
    return add(t, x, linear(t, "down", inner, 16, bias=False))


def sums(totals):
    """What the items of a moment come to."""
    found = Totals()
    for (item, kind), count in (totals.items or {}).items():
        found = found.plus(
            Totals(
                item.block_bytes,
                item.requested_bytes if kind == SAVED else 0,
                item.requested_bytes if kind == TEMPORARY else 0,
                item.requested_bytes if kind == GRADIENT else 0,
            ),
            count,
        )
    return found


def without_items(totals):
    return replace(totals, items=None)


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
def test_items_sum_to_the_totals_of_every_phase(checkpointing):
    t = tape()
    x = linear(t, "first", t.input((2, 3, 16), "fp32"), 16, bias=False)
    x = stack(t, "blocks", 5, block, x, checkpointing=checkpointing)
    t.end_phase("forward")
    run_backward(t, x)
    t.end_phase("backward")
    for phase in t.phases:
        for totals in (phase.peak.at, phase.end):
            assert sums(totals) == without_items(totals)


def test_a_layer_counts_its_items_as_often_as_it_stands():
    t = tape()
    x = linear(t, "first", t.input((2, 3, 16), "fp32"), 16, bias=False)
    x = stack(t, "blocks", 5, block, x)
    counts = {
        item.place: count
        for (item, kind), count in t.live.items.items()
        if kind == SAVED and item.shape == (2, 3, 32)
    }
    assert counts == {"blocks.*.up linear": 5, "blocks.* silu": 5}
    del x


def test_without_a_ledger_nothing_is_kept():
    t = Tape(policy=trained)
    x = linear(t, "first", t.input((2, 3, 16), "fp32"), 16, bias=False)
    stack(t, "blocks", 5, block, x)
    assert t.live.items is None


def test_a_reduced_gradient_is_gone_and_its_shard_is_there():
    held = {(gradient("w", 4096), GRADIENT): 3}
    (((shard, kind), count),) = without_gradients(held, [("w", 4096, 3)], 512).items()
    assert (shard.requested_bytes, kind, count) == (512, GRADIENT, 1)


def test_equal_names_are_the_same_gradient():
    assert gradient("w", 4096) == gradient("w", 4096)
    assert gradient("w", 4096) != gradient("v", 4096)
