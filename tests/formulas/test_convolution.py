"""What convolutions, pooling and regions save, and what they need for a moment."""

import pytest

from memplan.formulas.backward import run_backward
from memplan.formulas.convolution import (
    add_in_place,
    batch_norm,
    batch_norm_buffer_bytes,
    conv2d,
    divide_rows,
    expand,
    frozen_batch_norm,
    gather_rows,
    max_pool2d,
    norm,
    relu,
    relu_in_place,
    roi_align,
    slide,
    square,
    subtract,
    upsample,
    workspace_bytes,
)
from memplan.formulas.setting import Setting
from memplan.formulas.tape import Tape
from memplan.formulas.weights import Storing

B, C, H, W = 2, 8, 16, 32
MAP = 4 * B * C * H * W
"""Bytes of a feature map in fp32."""
FPN_MAP = (8, 256, 152, 256)
KERNEL = (256, 256, 3, 3)


def make_tape(*, trainable=("",), autocast=None, capability=(9, 0)):
    return Tape(
        policy=Storing(dtype="fp32", trainable=trainable, frozen_dtype="fp32"),
        setting=Setting(autocast=autocast, compute_capability=capability),
    )


def feature_map(t, *, wants_gradient=True):
    x = t.tensor((B, C, H, W), "fp32")
    x.edge = t.new_edge() if wants_gradient else None
    return x


def highest_above(t, run):
    """The highest point of `run` above what was alive before it."""
    before = t.live.block_bytes
    t.end_phase("before")
    kept = run()
    highest = t.peak.at.block_bytes - before
    del kept
    return highest


def highest_of_backward(t, y):
    """The highest point of backward above what was alive before it."""
    return highest_above(t, lambda: run_backward(t, y))


def test_a_trained_convolution_saves_its_input():
    t = make_tape()
    y = conv2d(t, "conv", feature_map(t, wants_gradient=False), 4, 3)
    assert (t.live.saved_bytes, y.shape) == (MAP, (B, 4, H, W))


def test_a_frozen_convolution_of_a_frozen_input_saves_nothing():
    t = make_tape(trainable=())
    y = conv2d(t, "conv", feature_map(t, wants_gradient=False), C, 3)
    assert (t.live.saved_bytes, t.live.temporary_bytes, y.edge) == (0, MAP, None)


def test_autocast_saves_the_low_precision_copy_of_the_input():
    t = make_tape(autocast="bf16")
    y = conv2d(t, "conv", feature_map(t, wants_gradient=False), C, 3)
    assert (t.live.saved_bytes, y.dtype) == (MAP // 2, "bf16")


def test_a_grouped_kernel_has_the_channels_of_one_group():
    t = make_tape()
    conv2d(t, "conv", feature_map(t), 16, 3, groups=4, bias=False)
    assert t.parameters["conv.weight"].shape == (16, C // 4, 3, 3)


def test_a_convolution_without_bias_has_a_kernel_alone():
    t = make_tape()
    conv2d(t, "conv", feature_map(t), 16, 1, bias=False)
    assert list(t.parameters) == ["conv.weight"]


def test_backward_of_a_convolution_leaves_the_gradients_of_kernel_and_bias():
    t = make_tape()
    y = conv2d(t, "conv", feature_map(t, wants_gradient=False), 4, 3)
    run_backward(t, y)
    assert t.live.gradient_bytes == 4 * (4 * C * 9) + 4 * 4


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "padding", "outputs"),
    [(608, 7, 2, 3, 304), (304, 3, 2, 1, 152), (27, 7, 2, 3, 14), (19, 1, 2, 0, 10)],
)
def test_a_side_shrinks_as_in_pytorch(size, kernel_size, stride, padding, outputs):
    assert slide(size, kernel_size, stride, padding) == outputs


def test_a_tensor_core_kernel_copies_input_kernel_and_output():
    map_bytes, kernel_bytes = 4 * 8 * 256 * 152 * 256, 4 * 256 * 256 * 9
    both = 2 * map_bytes + kernel_bytes
    assert workspace_bytes(FPN_MAP, KERNEL, FPN_MAP, "fp32", (9, 0)) == (both, both)


def test_before_hopper_fp32_goes_forward_without_a_copy_of_the_output():
    forward, _ = workspace_bytes(FPN_MAP, KERNEL, FPN_MAP, "fp32", (8, 6))
    assert forward == 4 * 8 * 256 * 152 * 256 + 4 * 256 * 256 * 9


def test_half_precision_pads_channels_to_eight():
    pixels, kernel, outputs = (8, 3, 608, 1024), (64, 3, 7, 7), (8, 64, 304, 512)
    forward, _ = workspace_bytes(pixels, kernel, outputs, "bf16", (8, 0))
    padded = 8 * 8 * 608 * 1024 + 64 * 3 * 7 * 7
    assert forward == 2 * (padded + 8 * 64 * 304 * 512)


def test_a_kernel_of_one_pixel_is_a_product_without_workspace():
    kernel = (256, 256, 1, 1)
    assert workspace_bytes(FPN_MAP, kernel, FPN_MAP, "fp32", (9, 0)) == (0, 0)


def test_the_workspace_is_there_while_the_convolution_runs():
    t = make_tape(trainable=())
    x = feature_map(t, wants_gradient=False)
    highest = highest_above(t, lambda: conv2d(t, "conv", x, C, 3, bias=False))
    assert highest == MAP + (2 * MAP + 4 * C * C * 9 + 511) // 512 * 512


def test_a_frozen_batch_norm_takes_two_maps_and_leaves_one():
    t = make_tape()
    x = feature_map(t, wants_gradient=False)
    assert highest_above(t, lambda: frozen_batch_norm(t, x)) == 2 * MAP
    y = frozen_batch_norm(t, x)
    assert (t.live.block_bytes, y.shape) == (2 * MAP, x.shape)


def test_a_frozen_batch_norm_has_no_parameters():
    t = make_tape()
    frozen_batch_norm(t, feature_map(t))
    assert t.parameters == {}


def test_a_frozen_batch_norm_is_fp32_under_autocast():
    t = make_tape(autocast="bf16")
    x = t.tensor((B, C, H, W), "bf16")
    assert frozen_batch_norm(t, x).dtype == "fp32"


def test_a_batch_norm_saves_its_input_and_two_numbers_a_channel():
    t = make_tape()
    y = batch_norm(t, "bn", feature_map(t))
    assert (t.live.saved_bytes, y.dtype) == (MAP + 2 * 4 * C, "fp32")


def test_buffers_of_a_batch_norm_are_mean_variance_and_a_count():
    assert batch_norm_buffer_bytes(256) == 2 * 4 * 256 + 8


def test_relu_saves_its_output():
    t = make_tape()
    x = feature_map(t)
    y = relu(t, x)
    assert (t.live.saved_bytes, t.live.block_bytes) == (MAP, 2 * MAP)
    assert y.storage is not x.storage


def test_relu_in_place_saves_what_it_overwrote():
    t = make_tape()
    y = relu_in_place(t, feature_map(t))
    assert (t.live.saved_bytes, t.live.block_bytes, y.shape) == (MAP, MAP, (B, C, H, W))


def test_adding_in_place_takes_nothing():
    t = make_tape()
    x, y = feature_map(t), feature_map(t)
    assert highest_above(t, lambda: add_in_place(t, x, y)) == 0


def test_max_pooling_saves_its_input_and_an_int64_for_each_output():
    t = make_tape()
    y = max_pool2d(t, feature_map(t), 3, 2, padding=1)
    outputs = B * C * (H // 2) * (W // 2)
    assert y.shape == (B, C, H // 2, W // 2)
    assert t.live.saved_bytes == MAP + 8 * outputs


def test_max_pooling_makes_its_indices_without_a_gradient_too():
    t = make_tape()
    x = feature_map(t, wants_gradient=False)
    outputs = B * C * (H // 2) * (W // 2)
    highest = highest_above(t, lambda: max_pool2d(t, x, 3, 2, padding=1))
    assert highest == (4 + 8) * outputs
    assert t.live.block_bytes == MAP


def test_upsampling_makes_one_map_of_the_new_size():
    t = make_tape()
    y = upsample(t, feature_map(t), (2 * H, 2 * W))
    assert (y.num_bytes, t.live.saved_bytes) == (4 * MAP, 0)


def test_aligned_regions_are_channels_times_bins_each():
    t = make_tape()
    y = roi_align(t, feature_map(t), 10, 7)
    assert (y.num_bytes, t.live.saved_bytes) == (4 * 10 * C * 7 * 7, 0)


def test_autocast_aligns_regions_of_an_fp32_copy_of_the_map():
    t = make_tape(autocast="bf16")
    x = t.tensor((B, C, H, W), "bf16")
    regions = 10 * C * 7 * 7
    assert roi_align(t, x, 10, 7).dtype == "bf16"
    highest = highest_above(t, lambda: roi_align(t, x, 10, 7))
    assert highest == MAP + blocks(4 * regions) + blocks(2 * regions)


def blocks(size_bytes):
    """Rounded up to 512 bytes."""
    return -(-size_bytes // 512) * 512


def test_a_square_saves_its_input_and_needs_two_more_to_go_back():
    t = make_tape()
    y = square(t, feature_map(t))
    assert t.live.saved_bytes == MAP
    # The seed, the gradient, x.pow(1), and 2 * x.pow(1).
    assert highest_of_backward(t, y) == 4 * MAP


def test_a_norm_saves_its_input_and_itself():
    t = make_tape()
    y = norm(t, feature_map(t))
    assert t.live.saved_bytes == MAP + 4 * B * C * H == MAP + y.num_bytes


def test_backward_of_a_norm_holds_quotient_and_gradient():
    t = make_tape()
    y = norm(t, feature_map(t))
    assert highest_of_backward(t, y) == 4 * B * C * H + 2 * MAP


def test_autocast_takes_the_norm_of_half_precision_in_fp32_both_ways():
    t = make_tape(autocast="bf16")
    x = t.tensor((B, C, H, W), "bf16")
    x.edge = t.new_edge()
    y = norm(t, x)
    assert (y.dtype, t.live.saved_bytes) == ("fp32", MAP // 2 + y.num_bytes)
    assert highest_of_backward(t, y) == y.num_bytes + 2 * MAP


def test_a_divisor_of_rows_needs_four_tensors_for_its_gradient():
    t = make_tape()
    x = feature_map(t)
    divisor = t.tensor((B, C, H, 1), "fp32")
    divisor.edge = t.new_edge()
    y = divide_rows(t, x, divisor)
    assert highest_of_backward(t, y) == MAP + 4 * MAP + divisor.num_bytes


def test_expanding_takes_nothing_forward():
    t = make_tape()
    x = feature_map(t)
    assert highest_above(t, lambda: expand(t, x, (5, *x.shape))) == 0


def test_the_gradient_of_an_expanded_tensor_is_negated_at_full_size():
    t = make_tape()
    x, y = feature_map(t), feature_map(t)
    shape = (5, *x.shape)
    difference = subtract(t, expand(t, x, shape), expand(t, y, shape))
    # The gradient, which is also that of x, its negation for y, and the sum of that.
    assert highest_of_backward(t, difference) == 2 * 5 * MAP + MAP


def test_gathering_rows_saves_nothing_and_gives_back_zeros_of_the_whole():
    t = make_tape()
    y = gather_rows(t, feature_map(t), 1)
    assert (t.live.saved_bytes, y.num_bytes) == (0, MAP // B)
    assert highest_of_backward(t, y) == MAP // B + MAP


@pytest.mark.parametrize(
    ("num_pictures", "channels", "side", "forward_mib", "backward_mib"),
    [
        # What cuDNN 9.24 asked for on capability 7.5, 256 kernels of 3 x 3 in fp32.
        (2, 256, 25, 6.25, 15.89),
        (2, 256, 100, 6.25, 96.89),
        (512, 256, 14, 585.0, 585.0),
        (512, 1024, 7, 396.0, 396.0),
        (4096, 1024, 7, 2916.0, 2916.0),
    ],
)
def test_without_tensor_cores_a_convolution_is_winograds(
    num_pictures, channels, side, forward_mib, backward_mib
):
    pixels = (num_pictures, channels, side, side)
    outputs = (num_pictures, 256, side, side)
    forward, backward = workspace_bytes(
        pixels, (256, channels, 3, 3), outputs, "fp32", (7, 5)
    )
    assert forward / 2**20 == pytest.approx(forward_mib, abs=0.01)
    assert backward / 2**20 == pytest.approx(backward_mib, abs=0.01)
