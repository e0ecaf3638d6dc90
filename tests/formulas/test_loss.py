"""Losses over a vocabulary, as sums written by hand: N rows, V words."""

import pytest

from memplan.formulas.backward import run_backward
from memplan.formulas.decoder import predict
from memplan.formulas.loss import (
    causal_lm_loss,
    cross_entropy,
    keep_as_fp32,
    last_token,
    mean_squared_error,
)
from memplan.formulas.parameters import Stored
from memplan.formulas.setting import Batch, Setting
from memplan.formulas.tape import Tape

B, L, V = 2, 64, 1024
N = B * L
ROW = 512
"""A scalar takes a block of its own."""
LABELS = (8 * B * (L + 1) + ROW - 1) // ROW * ROW + 8 * N
"""Padded by one a sample, and shifted into a copy."""


def tape(autocast=None, **setting):
    return Tape(
        policy=lambda name, shape, is_linear: Stored("fp32", True, 0),
        setting=Setting(autocast=autocast, **setting),
    )


def logits(t, dtype):
    """What the head hands over: it wants a gradient."""
    return t.apply("head", (t.weight("weight", (1,)),), (B, L, V), dtype)


def backward_peak(t, loss):
    """Blocks at the height of backward."""
    t.end_phase("forward")
    run_backward(t, loss)
    t.end_phase("backward")
    return t.phases[-1].peak.at.block_bytes


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_logits_are_copied_to_fp32_for_the_loss(dtype):
    t = tape()
    head = logits(t, dtype)
    loss = causal_lm_loss(t, head)
    # Logits, their fp32 copy, and the log-softmax.
    assert t.peak.at.block_bytes == (2 + 4 + 4) * N * V + LABELS + 2 * ROW
    del loss, head


def test_fp32_logits_are_not_copied():
    t = tape()
    head = logits(t, "fp32")
    loss = causal_lm_loss(t, head)
    assert t.peak.at.block_bytes == (4 + 4) * N * V + LABELS + 2 * ROW
    del loss, head


def test_of_the_loss_only_the_log_softmax_is_saved():
    t = tape()
    loss = causal_lm_loss(t, logits(t, "bf16"))
    # Beside it the shifted labels, and the sum of their weights, a scalar.
    assert t.live.saved_bytes == 4 * N * V + 8 * N + 4
    del loss


def test_backward_is_highest_with_three_tensors_over_the_vocabulary():
    t = tape()
    peak = backward_peak(t, causal_lm_loss(t, logits(t, "fp32")))
    # The log-softmax, its gradient, and that of the logits, beside the loss.
    assert peak == 3 * 4 * N * V + ROW


def test_autocast_saves_low_precision_and_fp32_log_softmax():
    t = tape("bf16")
    loss = cross_entropy(t, logits(t, "bf16"))
    assert t.live.saved_bytes == (2 + 4) * N * V + 4
    del loss


def test_a_squared_error_saves_its_input_in_fp32_under_autocast():
    t = tape("bf16")
    loss = mean_squared_error(t, logits(t, "bf16"))
    assert t.live.saved_bytes == 4 * N * V
    del loss


def test_outputs_are_copied_to_fp32_where_autocast_made_them_low():
    t = tape("bf16")
    head = logits(t, "bf16")
    keep_as_fp32(t, head)
    assert t.peak.at.block_bytes == (2 + 4) * N * V
    assert t.live.block_bytes == 2 * N * V
    del head


def test_the_loss_begins_beside_its_copy_of_the_logits():
    t = tape()
    loss = causal_lm_loss(t, logits(t, "bf16"))
    (forward,) = t.phases
    assert forward.name == "forward"
    assert forward.end.block_bytes == (2 + 4) * N * V + LABELS
    del loss


def test_ddp_clones_each_output_and_one_that_is_there_twice_goes_once():
    t = tape("bf16", clones_outputs=True)
    head = logits(t, "bf16")
    keep_as_fp32(t, head, head)
    copies = clones = 2 * 4 * N * V
    assert t.peak.at.block_bytes == copies + clones
    assert t.live.block_bytes == 2 * N * V
    del head


def test_the_hidden_states_are_gone_where_outputs_are_cloned():
    """The head's input, copied to low precision, is a local of the model's."""
    t = tape("bf16", clones_outputs=True)
    hidden = t.tensor((B, L, V), "fp32")
    held = hidden.storage
    loss = predict(t, Batch(size=B, seq_len=L), hidden, V)
    assert held.num_holders == 0
    del loss


def test_generation_looks_at_the_last_token_alone():
    t = tape()
    assert last_token(t, logits(t, "bf16")).shape == (B, 1, V)
