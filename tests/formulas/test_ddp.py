"""Which rank is reported where whole tensors are dealt out."""

from dataclasses import replace
from functools import partial

from memplan.formulas.ddp import ZeroRedundancy
from memplan.formulas.optimizer_step import step_tensors, update_bytes
from memplan.formulas.optimizers import find_optimizer
from memplan.formulas.parameters import Parameter, Stored

SIZE = 65536


def weight(name, num_elements=SIZE, count=1):
    stored = Stored("fp32", True, 4 * num_elements)
    return Parameter(name, (num_elements,), count, stored)


def share(optimizer, *parameters, num_ranks=2):
    """Names of what the reported rank updates."""
    sharder = ZeroRedundancy(
        num_ranks=num_ranks,
        update_bytes=partial(update_bytes, find_optimizer(optimizer)),
    )
    return [p.name for p in sharder.updated(parameters)]


def test_of_equal_shares_the_one_with_an_embedding_in_fp32_is_reported():
    table = replace(weight("table"), is_embedding=True)
    assert share("adamw_8bit", table, weight("weight")) == ["table"]
    assert share("adamw_8bit", weight("weight"), table) == ["table"]


def test_of_equal_shares_the_one_with_a_large_tensor_is_reported():
    # Tensor by tensor, Adam makes two more of the one that it updates.
    parts = weight("layers.*.w", SIZE // 8, count=8)
    assert share("adamw_forloop", parts, weight("table")) == ["table"]


def test_tensors_are_stepped_one_by_one_and_the_largest_first():
    """As they were dealt out (`_partition_parameters`)."""
    small, large = weight("layers.*.w", 2 * SIZE, count=3), weight("head", 3 * SIZE)
    stepped = ZeroRedundancy(num_ranks=1).stepped([small, large])
    assert [p.name for p in stepped] == ["head", *3 * ["layers.*.w"]]
    # What is left of the one before stands beside two of the next, of 4 bytes each.
    temporaries = step_tensors(find_optimizer("adamw_forloop"), stepped)
    assert sum(s * n for s, n in temporaries) == 4 * (3 * SIZE + 2 * 2 * SIZE)


def test_more_ranks_than_tensors_take_no_longer():
    assert share("adamw", weight("weight"), num_ranks=2**40) == ["weight"]
