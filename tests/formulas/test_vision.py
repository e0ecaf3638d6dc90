"""Patches, a class token, positions: what an image encoder begins with."""

from memplan.formulas.backward import run_backward
from memplan.formulas.parameters import Stored
from memplan.formulas.setting import Setting
from memplan.formulas.tape import Tape
from memplan.formulas.vision import (
    add_positions,
    convolution_workspace_bytes,
    patch_embedding,
    prepend_token,
)

B, C, S, P, D = 4, 3, 64, 16, 32
N = (S // P) ** 2
PIXELS, KERNEL = B * C * S * S, D * C * P * P


def tape(autocast=None, trainable=True, capability=(9, 0)):
    return Tape(
        policy=lambda name, shape, is_linear: Stored("fp32", trainable, 0),
        setting=Setting(autocast=autocast, compute_capability=capability),
    )


def patches(t):
    pixels = t.input((B, C, S, S), "fp32")
    return patch_embedding(t, "projection", pixels, D, (P, P), bias=True)


def test_in_fp32_the_pixels_are_the_batch_and_nothing_else_is_saved():
    t = tape()
    y = patches(t)
    assert y.shape == (B, N, D)
    assert t.live.saved_bytes == 0
    assert t.live.temporary_bytes == 4 * B * N * D


def test_autocast_saves_pixels_and_kernel_in_low_precision():
    t = tape(autocast="bf16")
    y = patches(t)
    t.exit_autocast()
    # A cast of a weight is no activation, though it is kept like one.
    assert t.live.saved_bytes == 2 * PIXELS
    assert t.live.temporary_bytes == 2 * KERNEL + y.num_bytes


def test_a_frozen_kernel_saves_nothing():
    t = tape(autocast="bf16", trainable=False)
    y = patches(t)
    t.exit_autocast()
    assert t.live.saved_bytes == 0
    assert y.edge is None


def test_an_fp32_class_token_widens_what_it_is_put_before():
    t = tape(autocast="bf16")
    y = prepend_token(t, t.weight("cls_token", (1, 1, D)), patches(t))
    assert (y.dtype, y.shape) == ("fp32", (B, N + 1, D))


def test_positions_of_the_same_picture_size_are_added_as_they_are():
    t = tape()
    x = t.tensor((B, N + 1, D), "fp32")
    before = t.peak.at.temporary_bytes
    y = add_positions(t, x, t.weight("positions", (1, N + 1, D)), (4, 4))
    assert t.peak.at.temporary_bytes - before == y.num_bytes


def test_positions_of_another_picture_size_are_resized_and_joined_first():
    t = tape()
    x = t.tensor((B, 37, D), "fp32")
    y = add_positions(t, x, t.weight("positions", (1, N + 1, D)), (6, 6))
    resized = 4 * (36 + 37) * D
    assert t.peak.at.temporary_bytes == x.num_bytes + resized + y.num_bytes


def test_the_gradient_of_resized_positions_is_that_of_the_weight():
    t = tape()
    x = t.tensor((B, 37, D), "fp32")
    y = add_positions(t, x, t.weight("positions", (1, N + 1, D)), (6, 6))
    loss = t.apply("sum", (y,), (), "fp32")
    del x, y
    t.end_phase("forward")
    run_backward(t, loss)
    assert t.live.gradient_bytes == 4 * (N + 1) * D


VIT_BASE = ((32, 3, 224, 224), (768, 3, 16, 16), (32, 196, 768))


def test_cudnn_copies_to_channels_last_and_pads_three_channels_to_eight():
    pixels, kernel, output = 32 * 8 * 224**2, 768 * 8 * 16**2, 32 * 196 * 768
    wanted = 2 * (pixels + kernel + output)
    assert convolution_workspace_bytes(*VIT_BASE, "bf16", (9, 0)) == wanted
    # The virtual device's cuDNN asked for 16 bytes more.
    assert wanted == 38_469_648 - 16


def test_tf32_pads_to_four_channels_before_hopper_and_not_on_it():
    output = 32 * 196 * 768
    ampere = 4 * (4 * (32 * 224**2 + 768 * 16**2) + output)
    hopper = 4 * (3 * (32 * 224**2 + 768 * 16**2) + output)
    assert convolution_workspace_bytes(*VIT_BASE, "fp32", (8, 0)) == ampere
    assert convolution_workspace_bytes(*VIT_BASE, "fp32", (9, 0)) == hopper
    assert (ampere, hopper) == (48_103_440 - 16, 40_894_480 - 16)


def test_consumer_cards_run_the_patches_without_a_workspace():
    t = tape(autocast="bf16", capability=(8, 9))
    y = patches(t)
    largest = 2 * (PIXELS + KERNEL + D) + y.num_bytes
    assert t.peak.at.saved_bytes + t.peak.at.temporary_bytes == largest
