"""Which rank is reported where whole tensors are dealt out."""

from dataclasses import replace

from memplan.formulas.ddp import ZeroRedundancy
from memplan.formulas.optimizers import find_optimizer, state_tensors
from memplan.formulas.parameters import Parameter, Stored

SIZE = 65536


def weight(name):
    return Parameter(name, (SIZE,), 1, Stored("fp32", True, 4 * SIZE))


def share(optimizer_name):
    """What the reported one of two ranks updates, dealt an embedding and a weight."""
    optimizer = find_optimizer(optimizer_name)
    sharder = ZeroRedundancy(
        num_ranks=2, state_bytes=lambda p: sum(state_tensors(optimizer, p))
    )
    table = replace(weight("table"), is_embedding=True)
    return [p.name for p in sharder.updated([table, weight("weight")])]


def test_of_equal_shares_the_one_with_an_embedding_in_fp32_is_reported():
    assert share("adamw_8bit") == ["table"]


def test_shares_with_equal_states_are_alike():
    assert len(share("adamw")) == 1
