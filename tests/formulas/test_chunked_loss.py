"""A loss in parts, as sums written by hand: N rows, D hidden size, V words."""

import pytest

from memplan.formulas.backward import run_backward
from memplan.formulas.decoder import predict
from memplan.formulas.linear import linear
from memplan.formulas.parameters import Stored
from memplan.formulas.setting import Batch, Setting
from memplan.formulas.tape import Tape

B, L, D, V = 2, 64, 256, 1024
N = B * L
SMALL = 8192
"""More than all labels and scalars together."""


def traced(num_parts, *, autocast=None, is_trained=True, **setting):
    """A tape on which the hidden states have gone through head and loss, and back."""

    def stored(name, shape, is_linear):
        return Stored("fp32", is_trained or not name.startswith("lm_head"), 0)

    t = Tape(
        policy=stored,
        setting=Setting(autocast=autocast, cross_entropy_chunks=num_parts, **setting),
    )
    hidden = linear(t, "stem", t.input((B, L, D), "fp32"), D, bias=False)
    loss = predict(t, Batch(size=B, seq_len=L), hidden, V)
    del hidden
    t.exit_autocast()
    t.end_phase("loss")
    run_backward(t, loss)
    t.end_phase("backward")
    del loss
    return t


def peaks(t):
    return {phase.name: phase.peak.at.block_bytes for phase in t.phases}


@pytest.mark.parametrize("num_parts", [2, 4, 8])
def test_of_all_logits_those_of_one_part_are_there_at_once(num_parts):
    hidden, logits = 4 * N * D, 4 * N * V // num_parts
    found = peaks(traced(num_parts))
    # The first part's logits end the forward pass; the log-softmax stands beside them.
    assert found["forward"] == pytest.approx(hidden + logits, abs=SMALL)
    assert found["loss"] == pytest.approx(hidden + 2 * logits, abs=SMALL)


def test_nothing_over_the_vocabulary_is_saved():
    for phase in traced(4).phases:
        if phase.name == "loss":
            assert phase.end.saved_bytes == 4 * N * D + 8 * N + 8


def test_gradients_of_the_head_are_added_up_and_those_of_rows_wait():
    """The second gradient of the weight is added into a new one: the first is a view.

    After it each of the 8 parts adds its own in place, and leaves that of its rows.
    """
    weight, hidden, part = 4 * V * D, 4 * N * D, 4 * N * V // 8
    found = peaks(traced(8))
    adding = hidden + 2 * hidden // 8 + 3 * weight
    assert found["backward"] == pytest.approx(adding, abs=SMALL + part)


def test_all_parts_share_the_gradient_of_autocasts_copy():
    """In bf16: two gradients and their sum, and the copy that the part has made."""
    weight, hidden = 2 * V * D, 4 * N * D
    t = traced(8, autocast="bf16")
    adding = hidden + 2 * hidden // 8 + 3 * weight
    assert peaks(t)["backward"] == pytest.approx(
        max(adding, 4 * V * D + weight + 2 * hidden), abs=SMALL + 6 * N * V // 8
    )
    assert t.phases[-1].end.gradient_bytes == 4 * V * D + 4 * D * D


def test_a_head_that_is_not_trained_gets_no_gradient():
    t = traced(4, is_trained=False)
    assert t.phases[-1].end.gradient_bytes == 4 * D * D


def test_parts_need_not_divide_the_rows():
    found = peaks(traced(3))
    assert found["loss"] == pytest.approx(4 * N * D + 2 * 4 * V * -(-N // 3), abs=SMALL)


def test_everything_is_let_go():
    for autocast in (None, "bf16"):
        for offloads in (False, True):
            t = traced(4, autocast=autocast, offloads_activations=offloads)
            live = t.live
            assert (live.saved_bytes, live.temporary_bytes) == (0, 0)
            assert live.gradient_bytes == 4 * V * D + 4 * D * D


def test_on_the_host_the_hidden_states_are_no_activation():
    t = traced(4, offloads_activations=True)
    loss = next(phase for phase in t.phases if phase.name == "loss")
    assert loss.end.saved_bytes == 0
