"""Sums over rows take a buffer where PyTorch splits a column over blocks."""

from memplan.formulas.reductions import row_sum_bytes

H100 = {"compute_capability": (9, 0), "num_sms": 132}
A100 = {"compute_capability": (8, 0), "num_sms": 108}


def test_a_bias_gradient_of_vit_takes_132_mib_on_an_h100():
    # 4 columns a load, 32 x 4 threads a block: 1576 values a thread, 24 blocks wide,
    # 132 * 16 / 24 = 88 parts; 4 bytes for each column, part, lane and load.
    assert row_sum_bytes(6304, 3072, 2, **H100) == 4 * 3072 * 88 * 32 * 4


def test_fewer_multiprocessors_make_fewer_parts():
    assert row_sum_bytes(6304, 3072, 2, **A100) == 4 * 3072 * 72 * 32 * 4


def test_no_thread_gets_fewer_than_16_values():
    # 1576 values are at most 99 parts of 16, where 132 * 16 / 6 blocks would be 352.
    assert row_sum_bytes(6304, 768, 2, **H100) == 4 * 768 * 99 * 32 * 4


def test_below_256_values_a_thread_no_column_is_split():
    assert row_sum_bytes(1020, 768, 2, **H100) == 0
    assert row_sum_bytes(1021, 768, 2, **H100) > 0


def test_columns_that_do_not_divide_by_four_are_loaded_one_by_one():
    # 32 lanes in 16 rows: 512 values a thread, so 32 parts of 16.
    assert row_sum_bytes(8192, 65, 4, **H100) == 4 * 65 * 32 * 32


def test_a_single_row_needs_no_sum():
    assert row_sum_bytes(1, 768, 2, **H100) == 0


def test_a_matrix_beyond_two_gib_is_summed_in_halves():
    assert row_sum_bytes(100_000, 8192, 4, **H100) == row_sum_bytes(
        50_000, 8192, 4, **H100
    )
