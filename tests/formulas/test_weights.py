"""How weights are stored, and model states by published conventions."""

from dataclasses import replace

import pytest

from memplan.estimate import estimate
from memplan.formulas.optimizers import find_optimizer
from memplan.formulas.parameters import Stored
from memplan.formulas.weights import (
    Storing,
    quantized_bytes,
    shard_states,
    states_by_convention,
)
from memplan.plan import TrainingPlan

T5_3B = 3_000_000_000
"""Parameters of the example in transformers' "GPU" guide."""


def by_convention(accounting, precision, optim, num_trainable, num_frozen=0):
    return states_by_convention(
        accounting, precision, find_optimizer(optim), num_trainable, num_frozen
    )


def test_nf4_takes_half_a_byte_a_maximum_for_64_and_a_table_of_16():
    assert quantized_bytes("nf4", (128, 256)) == 128 * 256 // 2 + 4 * 512 + 4 * 16


def test_nf4_rounds_up_to_whole_bytes_and_blocks():
    assert quantized_bytes("nf4", (13, 5)) == 33 + 4 * 2 + 4 * 16


def test_int8_takes_a_byte_and_an_fp32_scale_for_each_row():
    assert quantized_bytes("int8", (128, 256)) == 128 * 256 + 4 * 128


NF4 = Storing(
    dtype="fp32",
    trainable=(),
    frozen_dtype="fp32",
    compute_dtype="bf16",
    quantization="nf4",
    never_quantized=("lm_head", "wo"),
)


def test_a_frozen_linear_weight_is_quantized_and_computed_in_the_compute_dtype():
    stored = NF4("layers.*.q_proj.weight", (64, 64), True)
    assert stored == Stored("bf16", False, 2048 + 4 * 64 + 64, is_quantized=True)


def test_what_is_no_linear_layer_keeps_its_dtype():
    assert NF4("embed_tokens.weight", (64, 64), False) == Stored(
        "fp32", False, 4 * 4096
    )


def test_the_output_embeddings_keep_their_dtype():
    assert NF4("lm_head.weight", (64, 64), True) == Stored("fp32", False, 4 * 4096)


def test_a_kept_module_is_meant_by_its_whole_name():
    assert NF4("layers.*.two.weight", (64, 64), True).is_quantized
    assert not NF4("layers.*.wo.weight", (64, 64), True).is_quantized


def test_a_4_bit_layer_casts_its_bias_to_the_compute_dtype():
    assert NF4("layers.*.q_proj.bias", (64,), True) == Stored("bf16", False, 2 * 64)


def test_adapters_are_trained_in_fp32_whatever_the_base_is():
    stored = NF4("layers.*.q_proj.lora_A.weight", (8, 64), False)
    assert stored == Stored("fp32", True, 4 * 8 * 64)


def test_an_engine_casts_adapters_and_kept_modules_but_nothing_quantized():
    engine = replace(NF4, dtype="bf16", is_cast=True)
    adapter = engine("layers.*.q_proj.lora_A.weight", (8, 64), False)
    assert adapter == Stored("bf16", True, 2 * 8 * 64)
    assert engine("layers.*.wo.weight", (64, 64), True) == Stored(
        "bf16", False, 2 * 4096
    )
    assert engine("layers.*.q_proj.weight", (64, 64), True).is_quantized


def test_zero_counts_16_bytes_a_parameter_of_adam():
    states = by_convention("zero", "bf16-mixed", "adamw", 1000)
    assert (states.weights, states.gradients, states.optimizer_states) == (
        2 * 1000,
        2 * 1000,
        12 * 1000,
    )


def test_hf_counts_18_bytes_a_parameter_in_mixed_precision():
    states = by_convention("hf", "bf16-mixed", "adamw", 1000)
    assert (states.weights, states.gradients, states.optimizer_states) == (
        6 * 1000,
        4 * 1000,
        8 * 1000,
    )


def test_hf_counts_16_bytes_a_parameter_in_fp32():
    assert by_convention("hf", "fp32", "adamw", 1000).total == 16 * 1000


@pytest.mark.parametrize(
    ("optim", "num_bytes"),
    [
        ("adamw", 24_000_000_000),
        ("adafactor", 12_000_000_000),
        ("adamw_8bit", 6_000_000_000),
    ],
)
def test_optimizer_states_of_t5_3b_are_those_of_the_guide(optim, num_bytes):
    states = by_convention("hf", "fp32", optim, T5_3B)
    assert states.optimizer_states == num_bytes


def test_an_8_bit_optimizer_saves_three_quarters_of_the_states():
    full = by_convention("hf", "fp32", "adamw", T5_3B).optimizer_states
    assert (
        by_convention("hf", "fp32", "adamw_8bit", T5_3B).optimizer_states == full // 4
    )


def test_zero_counts_a_master_weight_beside_any_optimizers_states():
    assert by_convention("zero", "fp16-mixed", "sgd", 10).optimizer_states == 4 * 10
    assert by_convention("zero", "fp16-mixed", "lion", 10).optimizer_states == 8 * 10


def test_a_frozen_parameter_costs_its_weight_alone():
    assert by_convention("zero", "bf16-mixed", "adamw", 0, 10).total == 2 * 10
    assert by_convention("hf", "bf16-mixed", "adamw", 0, 10).total == 4 * 10


def test_a_quantized_weight_costs_what_it_takes():
    states = states_by_convention(
        "hf", "bf16-mixed", find_optimizer("adamw"), 0, 0, quantized_bytes=77
    )
    assert states.total == 77


def test_zero_2_of_7_5_billion_parameters_over_64_ranks_takes_16_6_gb():
    states = by_convention("zero", "fp16-mixed", "adamw", 7_500_000_000)
    assert shard_states(states, 2, 64).total == pytest.approx(16.6e9, rel=0.003)


def test_a_bare_count_in_fp16_with_masters_takes_16_bytes_a_parameter():
    report = estimate(TrainingPlan(parameters=1000, precision="fp16-master"))
    assert report.components.total == 16 * 1000
