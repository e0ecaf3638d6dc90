"""What is searched: how batches are divided, and which tricks go together."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.errors import PlanError, UnknownNameError
from memplan.hardware import find_gpu
from memplan.plan import TrainingPlan
from memplan.searching.candidates import (
    SEARCHED,
    Cluster,
    allowed_tricks,
    counts_of,
    divisors,
    recipes_of,
)

PLAN = TrainingPlan(model="gpt2", precision="fp32")


@given(st.integers(1, 4096))
def test_divisors_are_all_that_divide(number):
    assert set(divisors(number)) == {n for n in range(1, number + 1) if not number % n}


@pytest.mark.parametrize(
    ("global_batch", "max_gpus", "counts"),
    [
        (256, 64, (1, 2, 4, 8, 16, 32, 64)),
        (240, 64, (1, 2, 3, 4, 5, 6, 8, 16, 24, 40, 48)),  # no 10, 12: half nodes
        (7, 64, (1, 7)),
        (256, 3, (1, 2)),
    ],
)
def test_ranks_divide_the_batch_and_fill_nodes(global_batch, max_gpus, counts):
    assert counts_of(global_batch, max_gpus, 8) == counts


@given(st.integers(1, 512), st.integers(1, 64))
def test_a_global_batch_is_divided_exactly(global_batch, max_gpus):
    """Micro-batch x accumulation x ranks is the global batch."""
    (recipe,) = recipes_of(PLAN, ())
    for count in counts_of(global_batch, max_gpus, 8):
        cluster = Cluster(gpu=find_gpu("t4"), num_gpus=count, price=None)
        share = global_batch // count
        for size in divisors(share):
            plan = recipe.plan_on(cluster, share, size)
            batch = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
            assert batch * plan.data_parallel == global_batch


def test_what_changes_model_or_steps_is_allowed_by_name_alone():
    names = {trick.name for trick in allowed_tricks(PLAN, ())}
    assert {"bf16-mixed", "checkpointing-full", "adamw-8bit", "zero-3"} <= names
    assert not {"lora", "nf4", "adafactor", "bf16-pure"} & names
    more = {trick.name for trick in allowed_tricks(PLAN, ("lora", "optimizer-choice"))}
    assert {"lora", "adafactor"} <= more
    assert "nf4" not in more
    less = allowed_tricks(PLAN, ("-rounding",))
    assert {trick.exactness for trick in less} == {"exact"}
    with pytest.raises(UnknownNameError):
        allowed_tricks(PLAN, ("magic",))
    with pytest.raises(PlanError, match="attention-flash is not searched for"):
        allowed_tricks(PLAN, ("attention-flash",))


def test_recipes_have_one_trick_of_a_technique_and_no_contradiction():
    tricks = allowed_tricks(PLAN, ("lora", "nf4"))
    recipes = recipes_of(replace(PLAN, num_gpus=2), tricks)
    assert len({recipe.plan for recipe in recipes}) == len(recipes)
    for recipe in recipes:
        techniques = [trick.technique for trick in recipe.tricks]
        assert len(set(techniques)) == len(techniques)
        assert set(techniques) <= set(SEARCHED)
    ways = {tuple(trick.name for trick in recipe.tricks) for recipe in recipes}
    assert ("bf16-mixed", "nf4", "checkpointing-full", "adamw-8bit") in ways
    assert ("deepspeed-3", "offload-states") in ways
    assert ("zero-3", "offload-deepspeed") not in ways  # both say who shards
    order = [recipe.gentleness for recipe in recipes]
    assert order == sorted(order)
    assert recipes[0].tricks == ()
