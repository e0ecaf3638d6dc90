"""Gradients of a layer on their way into DeepSpeed's bucket."""

from memplan.formulas.deepspeed_step import Bucket


def test_all_equal_layers_of_a_group_arrive_though_one_is_traced():
    bucket = Bucket()
    bucket.arrivals.append((4, 90, 95))
    bucket.enter_group(100, 107)
    bucket.arrivals += [(8, 5, 6), (8, 7, 9)]
    bucket.leave_group(160, 200, 3)
    first = [(8, 105, 107), (8, 107, 109)]
    second, third = ([(8, level + 5, 200), (8, level + 7, 200)] for level in (120, 140))
    assert bucket.arrivals == [(4, 90, 95), *first, *second, *third]


def test_groups_within_groups_rise_by_both_levels():
    bucket = Bucket()
    bucket.enter_group(1000, 1000)
    bucket.enter_group(100, 100)
    bucket.arrivals.append((8, 5, 6))
    bucket.leave_group(100, 106, 1)
    bucket.leave_group(1000, 1106, 1)
    assert bucket.arrivals == [(8, 1105, 1106)]


def test_what_comes_after_the_peak_of_a_layer_adds_no_more_than_it_rises_above_it():
    """The layer is at 100 before its first gradient, and at 30 and 40 with both."""
    bucket = Bucket(arrivals=[(8, 30, 100), (8, 40, 100)])
    assert bucket.above(100, 0, 50) == 0
    assert bucket.above(100, 0, 70) == 40 + 70 - 100


def test_what_comes_before_the_peak_of_a_layer_adds_all_of_it():
    bucket = Bucket(arrivals=[(8, 30, 60), (8, 40, 100)])
    assert bucket.above(100, 0, 50) == 50
    assert bucket.above(100, 1, 50) == 0


def test_a_layer_says_which_gradient_found_the_bucket_full():
    size_bytes = 2 * 300_000_000
    bucket = Bucket(arrivals=[(size_bytes, 30, 60), (size_bytes, 40, 60)])
    assert bucket.fill_layer() == (40 + size_bytes, 1)
    assert Bucket(arrivals=[(8, 30, 60)]).fill_layer() == (0, -1)
