"""Gradients of layers within a layer, on their way into DeepSpeed's bucket."""

from memplan.formulas.deepspeed_step import Bucket


def test_all_equal_layers_of_a_group_arrive_though_one_is_traced():
    bucket = Bucket()
    bucket.arrivals.append((4, 90))
    bucket.enter_group(100)
    bucket.arrivals += [(8, 5), (8, 7)]
    bucket.leave_group(160, 3)
    first, second, third = (
        [(8, level + 5), (8, level + 7)] for level in (100, 120, 140)
    )
    assert bucket.arrivals == [(4, 90), *first, *second, *third]


def test_groups_within_groups_rise_by_both_levels():
    bucket = Bucket()
    bucket.enter_group(1000)
    bucket.enter_group(100)
    bucket.arrivals.append((8, 5))
    bucket.leave_group(100, 1)
    bucket.leave_group(1000, 1)
    assert bucket.arrivals == [(8, 1105)]
