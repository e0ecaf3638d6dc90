"""Every published figure that the formulas can be held against."""

from fractions import Fraction
from math import floor

import pytest
from published import (
    first_stage_activation_bytes,
    layer_activation_bytes,
    megatron_parameters,
    zero_activation_bytes,
    zero_bytes,
    zero_max_parameters,
)

from memplan import TrainingPlan, estimate
from memplan.units import GB, GiB

SIZES = (7_500_000_000, 128_000_000_000, 1_000_000_000_000)
TABLE_1 = {
    1: ((120, 120, 120), (2048, 2048, 2048), (16000, 16000, 16000)),
    4: ((52.5, 41.3, 30), (896, 704, 512), (7000, 5500, 4000)),
    16: ((35.6, 21.6, 7.5), (608, 368, 128), (4750, 2875, 1000)),
    64: ((31.4, 16.6, 1.88), (536, 284, 32), (4187, 2218, 250)),
    256: ((30.4, 15.4, 0.47), (518, 263, 8), (4046, 2054, 62.5)),
    1024: ((30.1, 15.1, 0.12), (513, 257, 2), (4011, 2013, 15.6)),
}
"""ZeRO, Table 1: ranks -> model sizes -> stages 1 to 3, in GB of 10**9."""


@pytest.mark.parametrize("ranks", TABLE_1)
@pytest.mark.parametrize("column", range(3))
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_table_1(ranks, column, stage):
    printed = TABLE_1[ranks][column][stage - 1]
    exact = float(zero_bytes(SIZES[column], stage, ranks) / GB)
    # The first column is rounded, the others are cut off.
    decimals = len(str(printed).partition(".")[2])
    step = 10.0**-decimals
    if column == 0:
        assert abs(printed - exact) <= step / 2 + 1e-9
    else:
        assert printed == pytest.approx(floor(exact / step + 1e-9) * step)


@pytest.mark.parametrize(
    ("stage", "printed"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)]
)
def test_zero_figure_1(stage, printed):
    assert float(zero_bytes(7_500_000_000, stage, 64) / GB) == pytest.approx(
        printed, abs=0.05
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_estimate_by_the_zero_convention_is_the_papers(stage):
    plan = TrainingPlan(
        parameters=7_500_000_000, accounting="zero", zero_stage=stage, num_gpus=64
    )
    held = estimate(plan).components
    states = held.weights + held.gradients + held.optimizer_states
    assert states == pytest.approx(float(zero_bytes(7_500_000_000, stage, 64)), abs=3)
    assert held.total == states


@pytest.mark.parametrize(("stage", "billions"), [(0, 2), (1, 7.6), (2, 14.4), (3, 128)])
def test_zero_table_2_first_row(stage, billions):
    largest = zero_max_parameters(32 * GB, stage, 64)
    assert float(largest) / 1e9 == pytest.approx(billions, abs=0.05)


ROW_1 = (2, 7.6, 14.4, 128)
TABLE_2 = {
    2: (4, 15.2, 28.8, 256),
    4: (8, 30.4, 57.6, 512),
    8: (16, 60.8, 115.2, 1024),
    16: (32, 121.6, 230.4, 2048),
}
"""Model parallel size -> largest theoretical model in billions (0.5T is 512B)."""


@pytest.mark.parametrize("model_parallel", TABLE_2)
def test_zero_table_2_rows_scale_the_first(model_parallel):
    for first, printed in zip(ROW_1, TABLE_2[model_parallel], strict=True):
        assert printed == pytest.approx(first * model_parallel)


def test_zero_activations_of_gpt2_are_about_60_gb():
    activations = zero_activation_bytes(h=1600, b=32, s=1024, L=48)
    assert activations / GB == pytest.approx(60.4, abs=0.05)


def test_zero_checkpointed_activations_are_about_8_gb():
    activations = zero_activation_bytes(h=1600, b=32, s=1024, L=48)
    assert activations / 48**0.5 / GB == pytest.approx(8.7, abs=0.05)


def test_replicated_training_ends_near_1_4_billion_parameters_on_32_gb():
    """Two billion by model states alone; 1.4B leaves 9.6 GB for the rest."""
    assert zero_max_parameters(32 * GB, 0, 1) == 2_000_000_000
    assert 1_400_000_000 * 16 < 32 * GB < 2_100_000_000 * 16


CONFIGURATIONS = {
    "22B": (64, 6144, 48, 4, 22.07),
    "175B": (96, 12288, 96, 1, 174.6),
    "530B": (128, 20480, 105, 1, 529.6),
    "1T": (160, 25600, 128, 1, 1008),
}
"""Heads, hidden size, layers, micro-batch, billions of parameters; s 2048, t 8."""
S, V, T = 2048, 51200, 8
TOTALS = {
    "none": (316.5, 256.5, 401.95, 612.5),
    "tensor": (59.25, 51.75, 86.13, 131.25),
    "tensor, sequence": (39.56, 32.06, 50.24, 76.56),
    "tensor, selective": (29.25, 29.25, 53.32, 81.25),
    "tensor, sequence, selective": (9.56, 9.56, 17.43, 26.56),
    "full": (4.5, 4.5, 8.2, 12.5),
}
"""GiB of the first stage."""


@pytest.mark.parametrize("row", TOTALS)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_korthikanti_totals(row, name):
    a, h, L, b, _ = CONFIGURATIONS[name]
    layer = layer_activation_bytes(
        S,
        b,
        h,
        a,
        t=T if "tensor" in row else 1,
        sequence_parallel="sequence" in row,
        recompute="full" if row == "full" else "selective" if "sel" in row else "none",
    )
    total = float(first_stage_activation_bytes(layer, L) / GiB)
    printed = TOTALS[row][list(CONFIGURATIONS).index(name)]
    assert total == pytest.approx(printed, abs=0.006)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_megatron_parameters(name):
    _, h, L, _, billions = CONFIGURATIONS[name]
    assert float(megatron_parameters(h, L, V, S)) / 1e9 == pytest.approx(
        billions, rel=5e-4
    )


@pytest.mark.parametrize(("name", "percent"), [("175B", 70), ("530B", 65)])
def test_selective_recomputation_saves_what_the_paper_says(name, percent):
    a, h, *_ = CONFIGURATIONS[name]
    kept = layer_activation_bytes(S, 1, h, a, recompute="selective")
    saved = 1 - kept / layer_activation_bytes(S, 1, h, a)
    assert float(100 * saved) == pytest.approx(percent, abs=0.5)


def test_interleaving_multiplies_the_first_stage():
    layer = layer_activation_bytes(S, 1, 12288, 96)
    plain = first_stage_activation_bytes(layer, 96, p=8)
    assert first_stage_activation_bytes(layer, 96, p=8, m=3) / plain == Fraction(31, 24)
