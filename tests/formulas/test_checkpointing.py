"""What checkpointed layers keep, and what they make when they run again."""

import pytest

from memplan.formulas.attention import attend
from memplan.formulas.backward import run_backward
from memplan.formulas.layers import activation, add
from memplan.formulas.linear import linear
from memplan.formulas.parameters import Stored, module_path
from memplan.formulas.setting import Setting
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape

B, L, D, H, F = 2, 128, 256, 4, 1024
HIDDEN, INNER = 4 * B * L * D, 4 * B * L * F
SUMS = 4 * B * H * L


def block(t, x):
    """Attention and an MLP, in fp32 on an A100: seven products a layer."""
    heads = (B, H, L, D // H)
    query, key, value = (
        t.view(linear(t, name, x, D, bias=False), heads) for name in ("q", "k", "v")
    )
    attended = attend(t, query, key, value)
    del query, key, value
    hidden = add(t, x, linear(t, "o", attended, D, bias=False))
    inner = activation(t, "silu", linear(t, "up", hidden, F, bias=False))
    return add(t, hidden, linear(t, "down", inner, D, bias=False))


def traced(num_layers, mode, every=1):
    t = Tape(
        policy=lambda name, shape, is_linear: Stored("fp32", True, 0),
        setting=Setting(
            checkpointing=mode, checkpoint_every=every, compute_capability=(8, 0)
        ),
    )
    x = linear(t, "stem", t.input((B, L, D), "fp32"), D, bias=False)
    x = repeat_layers(t, "layers", num_layers, block, x)
    loss = t.apply("sum", (x,), (), "fp32")
    del x
    t.end_phase("forward")
    kept = t.phases[0].end.saved_bytes
    run_backward(t, loss)
    t.end_phase("backward")
    assert t.live.saved_bytes == 0
    return t, kept


def test_a_checkpointed_layer_keeps_its_input_alone():
    _, kept = traced(5, "full")
    assert kept == 5 * HIDDEN


def test_a_layer_without_a_checkpoint_keeps_what_its_operators_save():
    _, kept = traced(5, "none")
    # The input of q, k and v; query, key, value, output and sums; the input of the
    # MLP; what silu takes and gives.
    assert kept == 5 * (HIDDEN + 4 * HIDDEN + SUMS + HIDDEN + 2 * INNER)


def test_a_selective_checkpoint_keeps_products_and_attention_too():
    _, kept = traced(5, "selective")
    # The input; q, k, v, attention and its sums, o, up and down.
    assert kept == 5 * (HIDDEN + 3 * HIDDEN + HIDDEN + SUMS + HIDDEN + INNER + HIDDEN)


def test_the_last_product_of_a_selective_checkpoint_is_kept_and_not_used_again():
    selective, _ = traced(1, "selective")
    none, _ = traced(1, "none")
    peaks = [t.phases[1].peak.at.saved_bytes for t in (selective, none)]
    # Beside what backward saves: the outputs of o, which is added, and of down, which
    # no one asks for when the layer runs again. What is added is let go at once.
    assert peaks[0] - peaks[1] == HIDDEN


@pytest.mark.parametrize(
    ("num_layers", "every", "num_checkpointed"),
    [(6, 2, 3), (7, 2, 4), (7, 3, 3), (7, 4, 2), (3, 5, 1), (5, 1, 5)],
)
def test_the_first_of_every_n_layers_is_checkpointed(
    num_layers, every, num_checkpointed
):
    _, whole = traced(1, "none")
    _, kept = traced(num_layers, "full", every)
    rest = num_layers - num_checkpointed
    assert kept == num_checkpointed * HIDDEN + rest * whole


@pytest.mark.parametrize("every", [1, 2, 3, 4, 7, 9])
def test_groups_of_layers_have_the_parameters_of_all(every):
    t, _ = traced(7, "full", every)
    layers = [p for p in t.parameters.values() if p.name.startswith("layers")]
    counted = sum(p.num_elements * p.count for p in layers)
    assert counted == 7 * (4 * D * D + 2 * D * F)
    names = {module_path(p.name) for p in layers}
    assert names == {
        f"layers.*.{name}.weight" for name in ("q", "k", "v", "o", "up", "down")
    }


def test_layers_of_a_second_stack_are_counted_on():
    t = Tape(
        policy=lambda name, shape, is_linear: Stored("fp32", True, 0),
        setting=Setting(checkpointing="full", checkpoint_every=2),
    )
    x = linear(t, "stem", t.input((B, L, D), "fp32"), D, bias=False)
    before = t.live.saved_bytes
    x = repeat_layers(t, "encoder", 1, block, x)
    encoder = t.live.saved_bytes - before
    x = repeat_layers(t, "decoder", 1, block, x)
    decoder = t.live.saved_bytes - before - encoder
    # The third layer of three would be next.
    assert encoder == HIDDEN
    assert decoder > 8 * HIDDEN
    del x
