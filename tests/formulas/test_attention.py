"""What attention saves and makes, kernel by kernel, as sums written by hand."""

import pytest

from memplan.errors import PlanError
from memplan.formulas.attention import attend, causal_mask, rotary
from memplan.formulas.backward import run_backward
from memplan.formulas.parameters import Stored
from memplan.formulas.setting import Setting
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import ITEM_BYTES

B, H, G, L, K = 2, 8, 2, 256, 64
QUERY, GROUPED, SCORES = B * H * L * K, B * G * L * K, B * H * L * L
LOSS = 4
A100, H100, T4 = (8, 0), (9, 0), (7, 5)


def tape(attention="auto", capability=A100, autocast=None):
    return Tape(
        policy=lambda name, shape, is_linear: Stored("fp32", True, 0),
        setting=Setting(
            attention=attention, compute_capability=capability, autocast=autocast
        ),
    )


def heads(t, dtype, num_heads, batch=B, size=K):
    """A projection: it wants a gradient, and saves nothing itself."""
    weight = t.weight(f"w{num_heads}", (1,))
    return t.apply("project", (weight,), (batch, num_heads, L, size), dtype)


def attended(t, dtype, *, kv_heads=H, batch=B, size=K, kv_dtype=None, **options):
    """Query, key and value, and the attention over them; then only its output lives."""
    options.setdefault("causal", True)
    query = heads(t, dtype, H, batch, size)
    key, value = (heads(t, kv_dtype or dtype, kv_heads, batch, size) for _ in range(2))
    return attend(t, query, key, value, **options)


def saved(t):
    """Bytes that live for backward alone."""
    return t.live.saved_bytes


def backward_peak(t, output):
    """Requested bytes at the height of backward, with a gradient of the output."""
    loss = t.apply("sum", (output,), (), "fp32")
    del output
    t.end_phase("forward")
    run_backward(t, loss)
    t.end_phase("backward")
    at = t.phases[-1].peak.at
    return at.saved_bytes + at.temporary_bytes


@pytest.mark.parametrize(
    ("kernel", "capability"), [("flash", A100), ("cudnn", H100), ("efficient", A100)]
)
def test_a_fused_kernel_saves_its_inputs_its_output_and_a_sum_for_each_row(
    kernel, capability
):
    t = tape(kernel, capability)
    output = attended(t, "bf16", kv_heads=G)
    assert output.shape == (B, L, H * K)
    assert saved(t) == 2 * (2 * QUERY + 2 * GROUPED) + 4 * B * H * L


def test_fp32_queries_of_grouped_heads_are_not_repeated():
    t = tape()
    output = attended(t, "fp32", kv_heads=G)
    assert saved(t) == 4 * (2 * QUERY + 2 * GROUPED) + 4 * B * H * L
    del output


def test_autocast_saves_casts_of_what_is_fp32():
    t = tape(autocast="bf16")
    output = attended(t, "fp32")
    assert output.dtype == "bf16"
    assert saved(t) == 2 * 4 * QUERY + 4 * B * H * L


def test_a_mask_makes_grouped_heads_repeat():
    t = tape()
    mask = t.input((B, 1, L, L), "bf16")
    output = attended(t, "bf16", kv_heads=G, mask=mask)
    assert saved(t) == 2 * 4 * QUERY + 4 * B * H * L
    del output


def test_a_boolean_mask_becomes_one_to_add_at_every_call():
    t = tape()
    mask = t.input((B, 1, L, L), "bool")
    outputs = [attended(t, "bf16", mask=mask) for _ in range(3)]
    each = 2 * (4 * QUERY + B * L * L) + 4 * B * H * L
    assert saved(t) == 3 * each
    del outputs


def test_flash_pads_heads_to_a_multiple_of_8():
    t = tape("flash")
    output = attended(t, "bf16", size=100)
    padded, rows = B * H * L * 104, B * H * L * 100
    assert saved(t) == 2 * 4 * padded + 4 * B * H * L
    assert t.live.temporary_bytes == 2 * rows
    del output


def test_the_math_kernel_saves_fp32_copies_in_head_order_and_the_softmax():
    t = tape("math")
    output = attended(t, "bf16")
    assert saved(t) == 4 * (3 * QUERY + SCORES)
    assert t.live.temporary_bytes == output.num_bytes == 2 * QUERY


def test_the_math_kernel_goes_back_with_three_gradients_of_the_scores():
    t = tape("math")
    peak = backward_peak(t, attended(t, "fp32"))
    # The incoming gradient, the product with the softmax, and the result; the saved
    # softmax, query and key; dv is made already.
    assert peak == 4 * (4 * SCORES + 3 * QUERY) + LOSS


def test_one_sample_needs_no_copies_for_its_products():
    t = tape("eager")
    output = attended(t, "fp32", batch=1, causal=False)
    softmax, query = 4 * SCORES // B, 4 * QUERY // B
    assert saved(t) == softmax + 3 * query
    # Those are query, key and value themselves.
    assert t.peak.at.temporary_bytes + t.peak.at.saved_bytes <= 3 * softmax + 4 * query
    del output


def test_eager_code_saves_the_softmax_in_fp32_and_in_the_dtype_of_the_query():
    t = tape("eager")
    output = attended(t, "bf16", causal=False)
    assert saved(t) == 4 * SCORES + 2 * SCORES + 2 * 3 * QUERY
    del output


def test_eager_code_repeats_grouped_heads_and_sums_their_gradients():
    t = tape("eager")
    output = attended(t, "fp32", kv_heads=G, causal=False)
    assert saved(t) == 4 * (SCORES + 3 * QUERY)
    backward_peak(t, output)


def test_dropout_saves_a_mask_of_a_byte_and_what_it_lets_through():
    t = tape("eager")
    output = attended(t, "fp32", causal=False, dropout_probability=0.1)
    assert saved(t) == 4 * SCORES + SCORES + 4 * SCORES + 4 * 3 * QUERY
    del output


def test_bf16_is_copied_before_a_softmax_in_fp32_and_fp16_is_not():
    peaks = {}
    for dtype in ("bf16", "fp16"):
        t = tape("eager", T4)
        output = attended(t, dtype, causal=False)
        peaks[dtype] = t.peak.at.block_bytes
        del output
    assert peaks["bf16"] - peaks["fp16"] == 2 * SCORES


def test_softmax_goes_back_with_its_product_beside_it():
    t = tape("eager")
    peak = backward_peak(t, attended(t, "fp32", causal=False))
    assert peak == 4 * (4 * SCORES + 3 * QUERY) + LOSS


@pytest.mark.parametrize(
    ("kernel", "capability", "dtype", "message"),
    [
        ("flash", A100, "fp32", "it needs fp16 or bf16"),
        ("flash", T4, "fp16", "compute capability 8.0"),
        ("efficient", T4, "bf16", "compute capability 8.0"),
        ("cudnn", T4, "fp16", "compute capability 8.0"),
        ("cudnn", H100, "fp32", "it needs fp16 or bf16"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused_with_the_one_that_can(
    kernel, capability, dtype, message
):
    t = tape(kernel, capability)
    with pytest.raises(PlanError, match=message) as refused:
        attended(t, dtype)
    assert "it takes" in refused.value.hint


def test_kernels_are_causal_without_a_mask():
    assert causal_mask(tape(), (B, L, L), "bf16") is None
    assert causal_mask(tape(), (B, L, L), "bf16", window=L + 1) is None


def test_a_window_is_a_boolean_mask_for_all_samples_and_layers():
    t = tape()
    mask = causal_mask(t, (B, L, L), "bf16", window=L)
    assert mask.shape == (B, 1, L, L)
    assert t.live.temporary_bytes == L * L


@pytest.mark.parametrize(
    ("autocast", "dtype"), [(None, "bf16"), (None, "fp32"), ("bf16", "fp32")]
)
def test_eager_code_adds_a_mask_for_each_sample(autocast, dtype):
    t = tape("eager", autocast=autocast)
    mask = causal_mask(t, (B, L, L), dtype)
    assert t.live.temporary_bytes == ITEM_BYTES[dtype] * B * L * L
    assert t.peak.at.temporary_bytes == t.live.temporary_bytes + L * L
    del mask


def test_rotation_saves_nothing_but_the_tables():
    t = tape()
    cosines, sines = (t.tensor((1, 1, L, K), "fp32") for _ in range(2))
    rotated = rotary(t, heads(t, "fp32", H), cosines, sines)
    assert saved(t) == 2 * 4 * L * K
    assert t.live.temporary_bytes == rotated.num_bytes


def test_a_layer_that_keeps_eager_weights_holds_them_in_fp32_under_autocast():
    """What is multiplied is a cast of them, and saved: T5 holds both."""
    t = tape("eager", autocast="bf16")
    options = {"dropout_probability": 0.1, "softmax_in_fp32": False, "causal": False}
    without = attended(t, "bf16", **options)
    before = t.live.temporary_bytes
    weights = []
    again = attended(t, "bf16", returned=weights, **options)
    output_bytes = again.num_bytes
    assert (without.shape, weights[0].dtype) == (again.shape, "fp32")
    assert t.live.temporary_bytes - before - output_bytes == 4 * SCORES


def test_a_kernel_has_no_weights_to_keep():
    weights = []
    attended(tape("efficient"), "bf16", returned=weights)
    assert weights == []
