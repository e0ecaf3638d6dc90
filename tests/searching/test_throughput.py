"""Seconds of a step: its counted work, the update, and what ranks exchange."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.estimating.speed import counted_step
from memplan.formulas.parameters import Parameter, Stored
from memplan.hardware import find_gpu
from memplan.plan import TrainingPlan
from memplan.searching.calibration import Efficiency
from memplan.searching.candidates import Cluster, Recipe, allowed_tricks, recipes_of
from memplan.searching.links import read_links
from memplan.searching.throughput import Clock, Traffic, traffic_of

GPU = find_gpu("a100-80gb")
GPT2 = TrainingPlan(model="gpt2")
# A frozen weight of 100 elements and a trained one of 10, twice, both in fp32.
PARAMETERS = (
    Parameter("frozen", (10, 10), 1, Stored("fp32", False, 400)),
    Parameter("trained", (10,), 2, Stored("fp32", True, 40)),
)


def cluster(num_gpus=1):
    return Cluster(gpu=GPU, num_gpus=num_gpus, price=None)


def clock(fraction=0.5):
    known = {GPU.slug: Efficiency(gpu=GPU.slug, fraction=fraction)}
    return Clock(read_links(), known, 1024)


@pytest.mark.parametrize(
    ("sharding", "stage", "precision", "per_micro_batch", "per_step"),
    [
        # n = 4: gathering sends 3/4. Trained: 80 bytes in fp32, 40 in bf16; all 120
        # elements: 240 bytes in bf16, 480 in fp32.
        ("fsdp2", 0, "bf16-mixed", 0, 2 * 0.75 * 80),
        ("fsdp2", 1, "bf16-mixed", 0, 3 * 0.75 * 80),
        ("fsdp2", 2, "bf16-mixed", 0.75 * 240, 0.75 * 40),
        ("fsdp2", 3, "bf16-mixed", 2 * 0.75 * 240, 0.75 * 40),
        ("fsdp2", 3, "fp32", 2 * 0.75 * 480, 0.75 * 80),
        ("deepspeed", 1, "bf16-mixed", 0, 2 * 0.75 * 40),
        ("deepspeed", 2, "bf16-mixed", 0.75 * 40, 0.75 * 40),
        ("deepspeed", 3, "bf16-mixed", 0.75 * (2 * 240 + 40), 0),
    ],
)
def test_bytes_by_who_shards(sharding, stage, precision, per_micro_batch, per_step):
    plan = replace(
        GPT2, num_gpus=2, sharding=sharding, zero_stage=stage, precision=precision
    )
    found = traffic_of(plan, 4, PARAMETERS)
    assert found.per_micro_batch == pytest.approx(per_micro_batch)
    assert found.per_step == pytest.approx(per_step)


def test_one_rank_exchanges_nothing():
    assert traffic_of(GPT2, 1, PARAMETERS) == Traffic()


def test_a_step_is_the_counted_one_over_the_efficiency():
    recipe = Recipe(GPT2, ())
    plan = replace(
        GPT2,
        gpu=GPU.slug,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    found = clock(0.5).throughput(recipe, cluster(), 8, 2)
    assert found.step_s == pytest.approx(counted_step(plan).seconds / 0.5)
    assert found.communication_s == 0
    assert found.samples_per_s == pytest.approx(8 / found.step_s)
    assert found.tokens_per_s == pytest.approx(1024 * found.samples_per_s)


def test_ranks_add_samples_and_communication():
    one = clock().throughput(Recipe(GPT2, ()), cluster(), 8, 8)
    shared = Recipe(replace(GPT2, num_gpus=2), ())
    four = clock().throughput(shared, cluster(4), 8, 8)
    assert four.computing_s == pytest.approx(one.computing_s)
    # Gradients of 124,439,808 parameters in fp32, over half of 300 GB/s.
    sent = 2 * 3 / 4 * 4 * 124_439_808
    assert four.communication_s == pytest.approx(sent / (0.5 * 300e9), rel=1e-3)
    assert one.samples_per_s < four.samples_per_s < 4 * one.samples_per_s


@pytest.mark.parametrize(
    "changes",
    [
        {"offload_activations": True},
        {"optim": "paged-adamw-32bit"},
        {"zero_stage": 2, "sharding": "deepspeed", "offload_optimizer": True},
    ],
)
def test_what_waits_for_the_host_has_no_speed(changes):
    recipe = Recipe(replace(GPT2, **changes), ())
    assert clock().throughput(recipe, cluster(), 8, 2) is None
    assert clock().least_step_s(recipe, cluster(), 8, 8) is None


RECIPES = recipes_of(
    replace(GPT2, precision="fp32", num_gpus=2),
    allowed_tricks(GPT2, ("different model", "different optimisation")),
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(RECIPES), st.sampled_from((2, 4, 16)))
def test_larger_micro_batches_take_no_longer_and_the_bound_holds(recipe, num_gpus):
    found, share = clock(), 24
    seconds = [
        found.step_s(recipe, cluster(num_gpus), share, size)
        for size in (1, 2, 3, 4, 6, 8, 12, 24)
    ]
    if None in seconds:
        assert set(seconds) == {None}
        return
    assert all(larger <= smaller * (1 + 1e-9) for smaller, larger in pairwise(seconds))
    for largest in (share, 4 * share):
        least = found.least_step_s(recipe, cluster(num_gpus), share, largest)
        assert least <= min(seconds) * (1 + 1e-9)
