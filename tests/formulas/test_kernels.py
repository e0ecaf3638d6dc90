"""Which attention kernel runs, and what its passes take, as sums written by hand."""

import re
from dataclasses import replace

import pytest

from memplan.formulas.kernels import (
    Call,
    backward_bytes,
    choose_kernel,
    forward_bytes,
    statistics_bytes,
    why_not,
)

B, H, L, K = 2, 16, 1024, 128
T4, A100, RTX_4090, H100, B200 = (7, 5), (8, 0), (8, 9), (9, 0), (10, 0)
CALL = Call(
    dtype="bf16",
    B=B,
    H=H,
    G=H,
    L=L,
    S=L,
    K=K,
    compute_capability=A100,
    num_sms=108,
    torch_version=(2, 14),
)


@pytest.mark.parametrize(
    ("capability", "dtype", "change", "kernel"),
    [
        (T4, "fp16", {}, "efficient"),
        (T4, "fp32", {}, "efficient"),
        (T4, "bf16", {}, "math"),
        (A100, "bf16", {}, "flash"),
        (A100, "fp32", {}, "efficient"),
        (A100, "fp32", {"G": 4}, "efficient"),
        (A100, "bf16", {"has_mask": True}, "efficient"),
        (A100, "bf16", {"K": 100}, "flash"),
        (A100, "bf16", {"K": 100, "has_mask": True}, "math"),
        (A100, "fp32", {"K": 100}, "efficient"),
        (A100, "fp32", {"K": 102}, "math"),
        (T4, "fp32", {"K": 102}, "efficient"),
        (A100, "bf16", {"K": 288}, "efficient"),
        (A100, "bf16", {"S": 300, "causal": True}, "efficient"),
        (RTX_4090, "bf16", {"K": 192}, "flash"),
        (RTX_4090, "bf16", {"K": 208}, "efficient"),
        (RTX_4090, "bf16", {"K": 208, "trains": False}, "flash"),
        (RTX_4090, "bf16", {"K": 256}, "flash"),
        (RTX_4090, "bf16", {"K": 256, "dropout": 0.1}, "efficient"),
        (H100, "bf16", {}, "cudnn"),
        (H100, "fp32", {}, "efficient"),
        (H100, "bf16", {"has_mask": True}, "cudnn"),
        (H100, "bf16", {"has_mask": True, "trains_mask": True}, "efficient"),
        (H100, "bf16", {"dropout": 0.1}, "flash"),
        (H100, "bf16", {"dropout": 0.125}, "cudnn"),
        (H100, "bf16", {"K": 192}, "flash"),
        (H100, "bf16", {"K": 256}, "cudnn"),
        (H100, "bf16", {"torch_version": (2, 13)}, "flash"),
        (B200, "fp16", {"G": 4}, "cudnn"),
    ],
)
def test_pytorch_takes_the_first_kernel_that_can_run(capability, dtype, change, kernel):
    call = replace(CALL, compute_capability=capability, dtype=dtype, **change)
    assert choose_kernel(call) == kernel


@pytest.mark.parametrize(
    ("kernel", "change", "reason"),
    [
        ("flash", {"dtype": "fp32"}, "it needs fp16 or bf16"),
        (
            "flash",
            {"compute_capability": T4},
            r"capability 8\.0, and the card has 7\.5",
        ),
        ("flash", {"has_mask": True}, "no mask"),
        ("flash", {"K": 320}, "at most 256"),
        ("flash", {"S": 300, "causal": True}, "as many keys"),
        ("flash", {"compute_capability": RTX_4090, "K": 200}, "cannot train heads"),
        ("efficient", {"compute_capability": T4}, r"in bf16 it needs .* 8\.0"),
        ("efficient", {"K": 100}, "a multiple of 8"),
        ("efficient", {"K": 102, "dtype": "fp32"}, "a multiple of 4"),
        ("efficient", {"G": 4, "torch_version": (2, 9)}, "before torch 2.14"),
        ("cudnn", {"dtype": "fp32"}, "it needs fp16 or bf16"),
        ("cudnn", {"dropout": 0.1}, "multiples of 1/16"),
        ("cudnn", {"K": 256}, "at most 128"),
        ("cudnn", {"K": 100}, "a multiple of 8"),
        ("cudnn", {"S": 1}, "more than one token"),
        ("cudnn", {"has_mask": True, "trains_mask": True}, "no mask that is trained"),
    ],
)
def test_a_kernel_that_cannot_run_says_why(kernel, change, reason):
    assert re.search(reason, why_not(kernel, replace(CALL, **change)))


def test_the_math_kernel_always_runs():
    assert why_not("math", replace(CALL, dtype="fp32", K=7, has_mask=True)) is None


@pytest.mark.parametrize(
    ("kernel", "rows"), [("flash", 1000), ("cudnn", 1000), ("efficient", 1024)]
)
def test_each_row_has_a_sum_in_fp32(kernel, rows):
    assert statistics_bytes(kernel, replace(CALL, L=1000)) == 4 * B * H * rows


def test_flash_goes_back_with_dq_in_fp32_and_a_sum_of_128_rows():
    call = replace(CALL, L=1000, K=80)
    assert backward_bytes("flash", call) == 4 * B * H * 1024 * 96 + 4 * B * H * 1024


def test_flash_makes_the_gradients_of_grouped_heads_at_all_of_them():
    grouped = backward_bytes("flash", replace(CALL, G=4))
    assert grouped - backward_bytes("flash", CALL) == 2 * 2 * B * H * L * K


def test_flash_splits_the_keys_where_queries_are_few():
    call = replace(CALL, B=1, H=8, L=64, S=2048, num_sms=108)
    # 8 blocks of queries on 2 * 108 units: all 16 blocks of keys run apart.
    assert forward_bytes("flash", call) == 16 * 4 * 8 * 64 * (K + 1)
    assert forward_bytes("flash", CALL) == 0


@pytest.mark.parametrize(
    ("dtype", "size", "tile", "capability"),
    [
        ("bf16", 64, (64, 64), A100),
        ("bf16", 128, (128, 128), A100),
        ("fp16", 128, (128, 64), T4),
        ("bf16", 96, (128, 64), RTX_4090),
        ("fp32", 64, (64, 64), A100),
        ("fp32", 128, (128, 64), A100),
        ("fp32", 128, (64, 64), RTX_4090),
    ],
)
def test_the_efficient_kernel_accumulates_dq_by_tiles(dtype, size, tile, capability):
    call = replace(
        CALL, dtype=dtype, K=size, L=1000, S=1000, compute_capability=capability
    )
    rows, columns = tile
    tiles = -(-1000 // rows) * -(-size // columns)
    workspace = 4 * B * H * tiles * (rows * columns + 4)
    delta = 4 * B * H * 1000
    product = 4 * B * H * 1000 * size + delta if dtype == "fp32" else 0
    assert backward_bytes("efficient", call) == delta + max(workspace, product)


def test_the_efficient_kernel_accumulates_dk_and_dv_too_where_registers_are_few():
    call = replace(CALL, compute_capability=RTX_4090)
    tiles = (L // 64) * (K // 64)
    # 200 // (2 * 16) = 6 splits of the keys, each with 64 rows of dk and of dv.
    floats = tiles * (64 * 64 + 4) + 6 * 64 * K * 2
    assert backward_bytes("efficient", call) == 4 * B * H * (floats + L)


def test_heads_above_128_have_an_fp32_output_beside_the_other():
    assert forward_bytes("efficient", replace(CALL, K=160)) == 4 * B * H * L * 160
    assert forward_bytes("efficient", CALL) == 0


def test_cudnn_goes_back_with_dq_in_fp32_and_a_sum_for_each_row():
    call = replace(CALL, compute_capability=H100)
    assert backward_bytes("cudnn", call) == 4 * B * H * L * K + 4 * B * H * L + 256


def test_cudnn_needs_dq_twice_before_hopper():
    assert backward_bytes("cudnn", CALL) == 2 * 4 * B * H * L * K + 4 * B * H * L
