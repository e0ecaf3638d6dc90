"""A gradient is summed to its tensor's shape after the function that made it."""

from memplan.formulas.backward import run_backward
from memplan.formulas.linear import linear
from memplan.formulas.parameters import Stored
from memplan.formulas.reductions import row_sum_bytes
from memplan.formulas.setting import Setting
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape

ROWS, D, F = 4096, 64, 1024
SUM = row_sum_bytes(ROWS, F, 4, (9, 0), 132)


INPUT, HIDDEN = 4 * ROWS * D, 4 * ROWS * D
MADE = 4 * (ROWS * D + F * D + F)
LOSS = 4


def layer(t, x):
    return linear(t, "up", linear(t, "inner", x, D, bias=False), F)


def backward_peak(checkpointing):
    """Requested bytes at the height of backward, the sum for the bias of `up`."""
    tape = Tape(
        policy=lambda name, shape, is_linear: Stored("fp32", True, 0),
        setting=Setting(checkpointing=checkpointing),
    )
    x = linear(tape, "stem", tape.input((1, ROWS, D), "fp32"), D, bias=False)
    y = repeat_layers(tape, "layer", 1, layer, x)
    del x
    loss = tape.apply("sum", (y,), (), "fp32")
    del y
    tape.end_phase("forward")
    run_backward(tape, loss)
    tape.end_phase("backward")
    at = tape.phases[-1].peak.at
    return at.saved_bytes + at.temporary_bytes + at.gradient_bytes


def test_what_a_function_saved_is_alive_while_its_bias_gradient_is_summed():
    incoming = 4 * ROWS * F
    assert backward_peak("none") == LOSS + INPUT + HIDDEN + incoming + MADE + SUM


def test_what_a_checkpoint_computed_again_is_let_go_before_that_sum():
    assert backward_peak("full") == backward_peak("none") - HIDDEN
