"""The search finds what trying everything finds."""

from dataclasses import replace

import pytest

from memplan.errors import MemplanError
from memplan.estimate import estimate
from memplan.hardware import find_gpu
from memplan.plan import TrainingPlan
from memplan.runner.training.refusals import check_combination
from memplan.searching.calibration import Efficiency
from memplan.searching.candidates import (
    Cluster,
    allowed_tricks,
    divisors,
    recipes_of,
)
from memplan.searching.fastest import Candidate, Fastest, Shortage
from memplan.searching.links import read_links
from memplan.searching.needs import Needs
from memplan.searching.throughput import Clock
from memplan.units import GiB

GPT2 = TrainingPlan(model="gpt2", precision="fp32", seq_len=512)
SMALL = ("-loss", "-cpu-offload", "-activation-offload", "-tf32", "-fp16-mixed")
FEW = (*SMALL, "-checkpointing-every-2", "-adamw-forloop", "-adamw-paged-8bit")

SPACES = [
    # The plan, GiB of each card, tricks, global batch, numbers of GPUs.
    pytest.param(GPT2, 40, FEW, 8, (1, 2), id="there is room"),
    pytest.param(GPT2, 4, FEW, 8, (1, 2), id="it is tight"),
    pytest.param(GPT2, 2.6, FEW, 8, (1, 4), id="hardly anything fits"),
    pytest.param(GPT2, 1, FEW, 4, (1, 2), id="nothing fits"),
    pytest.param(
        GPT2,
        2.2,
        ("-rounding", "lora", "nf4", "offload-activations", "cpu-offload"),
        4,
        (1, 2),
        id="what waits for the host",
    ),
    pytest.param(
        TrainingPlan(model="openflamingo-tiny", precision="fp32"),
        1.2,
        (*SMALL, "-optimizer-choice", "-deepspeed-1", "-deepspeed-2", "-deepspeed-3"),
        12,
        (1, 3),
        id="images",
    ),
]


def everything(plan, clusters, tricks, global_batch, clock):
    """Every candidate that fits by its own estimate: cluster, seconds, rank, plan."""
    found = []
    for cluster in clusters:
        ranks = min(cluster.num_gpus, 2)
        share = global_batch // cluster.num_gpus
        for rank, recipe in enumerate(
            recipes_of(replace(plan, num_gpus=ranks), tricks)
        ):
            for size in divisors(share):
                candidate = recipe.plan_on(cluster, share, size)
                if fits(candidate):
                    seconds = clock.step_s(recipe, cluster, share, size)
                    found.append((cluster.name, seconds, rank, size, candidate))
    return found


def fits(plan):
    try:
        check_combination(plan)
        report = estimate(plan)
    except MemplanError:
        return False
    return report.fits and not report.fits_narrowly


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "memory_gib", "allow", "global_batch", "counts"), SPACES
)
def test_it_finds_what_trying_everything_finds(
    plan, memory_gib, allow, global_batch, counts
):
    plan = replace(plan, gpu_memory_bytes=round(memory_gib * GiB))
    gpus = [find_gpu(name) for name in ("a100-80gb", "rtx-4090")]
    clusters = [
        Cluster(gpu=gpu, num_gpus=count, price=None) for gpu in gpus for count in counts
    ]
    tricks = allowed_tricks(plan, allow)
    efficiencies = {g.slug: Efficiency(gpu=g.slug, fraction=0.5) for g in gpus}
    clock, needs = Clock(read_links(), efficiencies, None), Needs(gpus)
    search = Fastest(global_batch, clock, needs)
    tried = everything(plan, clusters, tricks, global_batch, clock)
    for cluster in clusters:
        ranks = min(cluster.num_gpus, 2)
        recipes = recipes_of(replace(plan, num_gpus=ranks), tricks)
        found = search.on(cluster, recipes)
        fitting = [one[1:] for one in tried if one[0] == cluster.name]
        timed = [one for one in fitting if one[0] is not None]
        if not fitting:
            assert isinstance(found, Shortage)
            continue
        assert isinstance(found, Candidate)
        if timed:
            best = min(timed, key=lambda one: (one[0], one[1]))
        else:  # the gentlest, in its largest micro-batch
            best = min(fitting, key=lambda one: (one[1], -one[2]))
        share = global_batch // cluster.num_gpus
        assert found.recipe.plan_on(cluster, share, found.micro_batch) == best[3]
        assert found.step_s == best[0]
    assert needs.num_estimated < 2 * sum(
        len(recipes_of(replace(plan, num_gpus=min(c.num_gpus, 2)), tricks))
        * len(divisors(global_batch // c.num_gpus))
        for c in clusters
    )


@pytest.mark.slow
def test_bounds_lie_below_what_they_bound():
    """The step beside its optimizer and the states of that, and the whole estimate."""
    gpus = [find_gpu("a100-80gb")]
    needs = Needs(gpus)
    plan = replace(GPT2, num_gpus=2, per_device_train_batch_size=4)
    tricks = allowed_tricks(plan, ("different optimisation", "lora", "nf4"))
    for recipe in recipes_of(plan, tricks)[::331]:
        on_card = replace(recipe.plan, gpu="a100-80gb")
        need = needs.device_bytes(on_card)
        if isinstance(need, str):
            continue
        assert needs.standing_bytes(on_card) <= need, recipe.tricks
        assert needs.least_bytes(on_card) <= need, recipe.tricks


def test_what_moves_no_memory_is_estimated_once():
    gpus = [find_gpu(name) for name in ("a100-80gb", "a100-40gb")]
    needs = Needs(gpus)
    plan = replace(GPT2, gpu="a100-80gb", num_gpus=2, gradient_accumulation_steps=2)
    asked = [
        plan,
        replace(plan, gpu="a100-40gb"),
        replace(plan, num_gpus=64),
        replace(plan, gradient_accumulation_steps=32),
    ]
    answers = [needs.device_bytes(one) for one in asked]
    assert needs.num_estimated == 1
    for one, answer in zip(asked, answers, strict=True):
        report = estimate(one)
        likely = report.reserved.likely_bytes - report.peak.reserved_bytes
        assert answer == report.peak.device_bytes + max(likely, 0)


def test_a_shortage_says_by_how_much():
    plan = replace(GPT2, gpu_memory_bytes=GiB)
    gpu = find_gpu("rtx-4090")
    known = {gpu.slug: Efficiency(gpu=gpu.slug, fraction=0.5)}
    search = Fastest(2, Clock(read_links(), known, None), Needs([gpu]))
    cluster = Cluster(gpu=gpu, num_gpus=1, price=None)
    found = search.on(cluster, recipes_of(plan, ()))
    assert isinstance(found, Shortage)
    assert found.room_bytes == GiB - int(GiB * plan.headroom_fraction)
    smallest = estimate(
        replace(plan, gpu=gpu.slug, gradient_accumulation_steps=2)
    ).peak.device_bytes
    assert found.room_bytes < found.least_bytes <= smallest
