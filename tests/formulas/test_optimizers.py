"""States of optimizers, and what clipping and a step need for a moment."""

import pytest

from memplan.errors import UnknownNameError
from memplan.formulas.optimizer_step import clip_tensors, step_tensors
from memplan.formulas.optimizers import (
    convention_bytes,
    find_optimizer,
    optimizer_names,
    state_tensors,
    table_tensors,
)
from memplan.formulas.parameters import Parameter, Stored
from memplan.formulas.reductions import row_sum_bytes

TRAINER_NAMES = (
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_torch_xla",
    "adamw_torch_npu_fused",
    "adafactor",
    "adamw_anyprecision",
    "adamw_torch_4bit",
    "adamw_torch_8bit",
    "ademamix",
    "sgd",
    "adagrad",
    "adamw_bnb_8bit",
    "adamw_8bit",
    "ademamix_8bit",
    "lion_8bit",
    "lion_32bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "rmsprop",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
    "galore_adamw",
    "galore_adamw_8bit",
    "galore_adafactor",
    "galore_adamw_layerwise",
    "galore_adamw_8bit_layerwise",
    "galore_adafactor_layerwise",
    "lomo",
    "adalomo",
    "grokadamw",
    "schedule_free_radam",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "apollo_adamw",
    "apollo_adamw_layerwise",
    "stable_adamw",
)
"""`transformers.training_args.OptimizerNames` of 5.23."""


def tensor(*shape, name="w", count=1, dtype="fp32", is_embedding=False):
    return Parameter(name, shape, count, Stored(dtype, True, 0), is_embedding)


def total(tensors):
    return sum(size * count for size, count in tensors)


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("sgd", []),
        ("sgd_momentum", [4 * 32 * 256]),
        ("rmsprop", [4 * 32 * 256]),
        ("adagrad", [4 * 32 * 256, 4]),
        ("adamw", [4 * 32 * 256] * 2),
        ("adamw_torch_fused", [4 * 32 * 256] * 2 + [4]),
        ("adafactor", [4 * 32, 4 * 256, 4]),
        ("torch_adafactor", [4 * 32, 4 * 256]),
        ("lion_32bit", [4 * 32 * 256]),
        ("ademamix", [2 * 4 * 32 * 256, 4 * 32 * 256]),
        ("adamw_8bit", [32 * 256] * 2 + [4 * 32] * 2),
        ("lion_8bit", [32 * 256, 4 * 32]),
        ("ademamix_8bit", [2 * 32 * 256, 32 * 256, 2 * 4 * 32, 4 * 32]),
        ("rmsprop_bnb_8bit", [32 * 256, 4 * 32]),
    ],
)
def test_states_of_a_matrix_of_32_rows_and_256_columns(name, states):
    assert state_tensors(find_optimizer(name), tensor(32, 256)) == states


def test_torch_keeps_moments_in_the_dtype_of_the_parameter():
    weight = tensor(32, 256, dtype="bf16")
    assert state_tensors(find_optimizer("adamw"), weight) == [2 * 32 * 256] * 2


def test_bitsandbytes_keeps_fp32_states_of_bf16_parameters():
    weight = tensor(32, 256, dtype="bf16")
    assert state_tensors(find_optimizer("lion_32bit"), weight) == [4 * 32 * 256]


def test_adafactor_keeps_every_element_of_a_vector():
    assert state_tensors(find_optimizer("adafactor"), tensor(256)) == [4 * 256, 4]


def test_adafactor_factors_the_last_two_axes():
    states = state_tensors(find_optimizer("adafactor"), tensor(8, 3, 5, 7))
    assert states == [4 * 8 * 3 * 5, 4 * 8 * 3 * 7, 4]


def test_eight_bit_states_begin_at_4096_elements():
    eight_bit = find_optimizer("adamw_8bit")
    assert state_tensors(eight_bit, tensor(4095)) == [4 * 4095] * 2
    assert state_tensors(eight_bit, tensor(4096)) == [4096] * 2 + [4 * 16] * 2


def test_a_last_block_that_is_not_full_has_a_maximum_too():
    states = state_tensors(find_optimizer("lion_8bit"), tensor(4097))
    assert states == [4097, 4 * 17]


def test_embeddings_keep_fp32_states_in_8bit_optimizers():
    table = tensor(100, 64, is_embedding=True)
    assert state_tensors(find_optimizer("adamw_8bit"), table) == [4 * 100 * 64] * 2


def test_the_tables_of_8bit_codes_are_shared_by_all_tensors():
    weights = [tensor(64, 64, count=32), tensor(64, 64)]
    assert table_tensors(find_optimizer("adamw_8bit"), weights) == [1024, 1024]
    assert table_tensors(find_optimizer("lion_8bit"), weights) == [1024]
    assert table_tensors(find_optimizer("adamw"), weights) == []


def test_no_table_without_a_tensor_in_8_bits():
    assert table_tensors(find_optimizer("adamw_8bit"), [tensor(64)]) == []


def test_paged_states_leave_only_their_maxima_in_the_allocator():
    paged, weight = find_optimizer("paged_adamw_8bit"), tensor(1024, 1024)
    assert state_tensors(paged, weight) == [4 * 4096] * 2


def test_states_below_100_000_elements_are_not_paged():
    paged = find_optimizer("paged_adamw_32bit")
    assert state_tensors(paged, tensor(99_999)) == [4 * 99_999] * 2
    assert state_tensors(paged, tensor(100_000)) == []


def test_foreach_adam_makes_one_list_as_large_as_the_group_that_decays():
    weights = [tensor(64, 128, name="layers.*.w", count=3), tensor(128, name="n")]
    assert step_tensors(find_optimizer("adamw"), weights) == [(4 * 64 * 128, 3)]


def test_foreach_list_is_as_large_as_the_larger_of_the_two_groups():
    weights = [tensor(1, 128), tensor(128, name="n"), tensor(512, name="b")]
    assert step_tensors(find_optimizer("adamw"), weights) == [(4 * 128, 1), (2048, 1)]


def test_foreach_adagrad_makes_two_lists():
    assert total(step_tensors(find_optimizer("adagrad"), [tensor(64, 128)])) == (
        2 * 4 * 64 * 128
    )


@pytest.mark.parametrize(
    "name",
    ["sgd", "sgd_momentum", "adamw_fused", "lion", "adamw_8bit", "paged_adamw_32bit"],
)
def test_these_step_in_place(name):
    assert step_tensors(find_optimizer(name), [tensor(64, 128)]) == []


def test_a_loop_of_adam_holds_the_denominator_of_the_tensor_before():
    weights = [tensor(64, 128, name="a"), tensor(64, 100, name="b")]
    # Root and quotient of the first; the second's two beside the first's.
    assert total(step_tensors(find_optimizer("adamw_forloop"), weights)) == (
        4 * 64 * 128 + 2 * 4 * 64 * 100
    )


def test_a_loop_goes_from_the_last_tensor_of_a_layer_to_the_first_of_the_next():
    weights = [
        tensor(64, 128, name="layers.*.a", count=4),
        tensor(64, 100, name="layers.*.b", count=4),
    ]
    assert total(step_tensors(find_optimizer("adamw_forloop"), weights)) == (
        4 * 64 * 100 + 2 * 4 * 64 * 128
    )


def test_adafactor_holds_squares_and_product_of_factors():
    assert total(step_tensors(find_optimizer("adafactor"), [tensor(64, 128)])) == (
        2 * 4 * 64 * 128 + 4 * 64 + 4 * 128
    )


def test_adafactor_copies_bf16_gradient_and_weight_to_fp32():
    weight = tensor(64, 128, dtype="bf16")
    assert total(step_tensors(find_optimizer("adafactor"), [weight])) == (
        4 * 4 * 64 * 128 + 4 * 64 + 4 * 128
    )


def test_adafactor_of_torch_holds_one_tensor_of_the_parameter_and_its_factors():
    weight = tensor(64, 128)
    assert total(step_tensors(find_optimizer("torch_adafactor"), [weight])) == (
        4 * 64 * 128 + 4 * 64 + 4 * 128
    )


def test_adafactor_sums_columns_beside_what_is_left_of_the_tensor_before():
    """As a card splits sums over many rows: more than the matrix itself."""
    table = tensor(30522, 1024, dtype="bf16")
    scratch = row_sum_bytes(30522, 1024, 2, (8, 0), 108)
    factors = 2 * (30522 + 1024)
    needed = total(
        step_tensors(find_optimizer("torch_adafactor"), [table], (8, 0), 108)
    )
    assert needed == scratch + factors > 1.5 * 2 * 30522 * 1024


def test_clipping_sums_every_gradient_in_as_many_chunks_as_the_largest_has():
    weights = [tensor(65_537, name="a"), tensor(8, name="b", count=9)]
    assert clip_tensors(weights) == [(4 * 2 * 10, 1), (4, 10)]


@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [
        ("adamw", 8),
        ("sgd", 0),
        ("sgd_momentum", 4),
        ("adafactor", 4),
        ("lion", 4),
        ("adamw_8bit", 2),
        ("lion_8bit", 1),
    ],
)
def test_bytes_of_states_of_a_parameter_by_convention(name, num_bytes):
    assert convention_bytes(find_optimizer(name)) == num_bytes


@pytest.mark.parametrize("name", TRAINER_NAMES)
def test_every_name_of_the_trainer_is_known_or_answered_with_a_known_one(name):
    try:
        assert find_optimizer(name).name == name
    except UnknownNameError as error:
        assert error.message == f"The Trainer's optimizer {name!r} is not modelled."
        assert any(known in error.hint for known in optimizer_names())


def test_all_41_names_of_the_trainer_are_asked_for():
    assert len(set(TRAINER_NAMES)) == 41


@pytest.mark.parametrize(
    "name", ["adamw-torch-fused", "ADAMW_TORCH_FUSED", " adamw_torch-fused "]
)
def test_names_are_found_in_kebab_case_snake_case_and_capitals(name):
    assert find_optimizer(name).name == "adamw_torch_fused"


def test_a_misspelt_name_is_answered_with_the_closest():
    with pytest.raises(UnknownNameError) as caught:
        find_optimizer("adamw_fusd")
    assert caught.value.message == "There is no optimizer named 'adamw_fusd'."
    assert "adamw_fused" in caught.value.hint
