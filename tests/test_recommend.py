"""A model, a global batch and a budget in; ways to train out."""

from dataclasses import replace
from datetime import date

import pytest

from memplan import recommend
from memplan.errors import PlanError, UnknownNameError
from memplan.estimate import estimate
from memplan.plan import TrainingPlan
from memplan.recommend import confirm
from memplan.searching.prices import Offer, PriceList, Prices
from memplan.searching.recommendation import Confirmation, as_dict

PLAN = TrainingPlan(model="gpt2", precision="fp32", seq_len=512)
ALLOW = ("-loss", "-cpu-offload", "-activation-offload", "-adamw-forloop")


def prices_of(**usd_per_gpu_hour):
    offers = tuple(
        Offer(
            gpu=gpu.replace("_", "-"),
            usd_per_gpu_hour=usd,
            as_of=date(2026, 1, 1),
            source="made up",
        )
        for gpu, usd in usd_per_gpu_hour.items()
    )
    return Prices((PriceList(provider="Somebody", offers=offers),))


PRICES = prices_of(rtx_4090=0.5, a100_80gb=2.0)


def search(**given):
    asked = {
        "global_batch": 16,
        "gpus": ("rtx-4090", "a100-80gb"),
        "max_gpus": 4,
        "allow": ALLOW,
        "prices": PRICES,
        "today": date(2026, 2, 1),
        **given,
    }
    return recommend(asked.pop("plan", PLAN), **asked)


def test_every_choice_fits_is_within_the_budget_and_keeps_the_global_batch():
    found = search(budget_usd_per_hour=4)
    assert found.best is found.choices[0]
    for choice in found.choices:
        plan = choice.plan
        assert estimate(plan).fits
        assert choice.price.usd_per_hour <= 4
        batch = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
        assert batch * plan.num_gpus == 16
    over = {one.what for one in found.clusters_lost if one.lost == "over budget"}
    assert over == {"4 x a100-80gb"}
    speeds = [choice.throughput.samples_per_s for choice in found.choices]
    assert speeds == sorted(speeds, reverse=True)


def test_a_million_samples_cost_what_their_seconds_cost():
    for choice in search().choices:
        hours = 1e6 / choice.throughput.samples_per_s / 3600
        usd = hours * choice.price.usd_per_hour
        assert choice.usd_per_million_samples == pytest.approx(usd)
        assert choice.usd_per_million_tokens == pytest.approx(usd / 512)


def test_losers_are_all_who_are_not_on_the_front_and_say_why():
    found = search(budget_usd_per_hour=4)
    lost = {one.what: one.lost for one in found.clusters_lost}
    for choice in found.choices:
        assert choice.is_on_front == (choice.cluster not in lost)
    assert set(lost) | {one.cluster for one in found.choices} == {
        f"{count} x {gpu}" for gpu in ("rtx-4090", "a100-80gb") for count in (1, 2, 4)
    }
    beside = {one.what: one.lost for one in found.beside_best}
    assert beside["without bf16-mixed"] == "slower"
    assert beside["checkpointing-full"] == "slower"


def test_ranked_by_price_the_cheapest_sample_comes_first():
    found = search(rank_by="price")
    prices = [choice.usd_per_million_samples for choice in found.choices]
    assert prices == sorted(prices)


def test_a_card_without_a_price_is_ranked_by_throughput_alone():
    found = search(gpus=("t4", "rtx-4090"), budget_usd_per_hour=4)
    *priced, last = [choice.price is not None for choice in found.choices]
    assert found.best.gpu == "rtx-4090"
    assert not last
    assert priced == sorted(priced, reverse=True)
    assert not any(one.is_on_front for one in found.choices if one.price is None)


def test_stale_prices_are_flagged():
    assert not any(choice.is_stale for choice in search().choices)
    late = search(today=date(2026, 8, 1))
    assert all(choice.is_stale for choice in late.choices)


def test_all_cards_with_a_price_are_searched_where_none_is_named():
    assert set(search(gpus=()).gpus) == {"rtx-4090", "a100-80gb"}
    with pytest.raises(PlanError, match="No card is named"):
        search(gpus=(), prices=Prices(()))


def test_nothing_fits():
    plan = replace(PLAN, gpu_memory_bytes=2**30)
    found = search(plan=plan, max_gpus=1)
    assert found.best is None
    assert found.choices == ()
    assert {one.lost for one in found.clusters_lost} == {"does not fit"}
    assert all("too much" in one.reason for one in found.clusters_lost)


def test_what_changes_the_model_needs_to_be_allowed():
    tight = replace(PLAN, gpu_memory_bytes=2**31)
    few = {"gpus": ("rtx-4090",), "max_gpus": 1, "allow": ("-rounding",)}
    assert search(plan=tight, **few).best is None
    few["allow"] = ("-rounding", "lora")
    allowed = search(plan=tight, **few)
    assert "lora" in allowed.best.tricks


def test_assumptions_say_what_speeds_rest_on():
    said = " ".join(search().assumptions)
    assert "60% of their datasheets: no measured record of rtx-4090" in said
    assert "NVLink of 600 GB/s" in said
    assert "PCIe 4" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"plan": TrainingPlan(parameters=10**9)}, "a way to train a model"),
        ({"plan": replace(PLAN, workload="generate")}, "a way to train a model"),
        ({"plan": replace(PLAN, gradient_accumulation_steps=2)}, "steps is searched"),
        ({"plan": replace(PLAN, num_gpus=2)}, "num_gpus is searched"),
        ({"global_batch": 0}, "global batch must be 1 or more"),
        ({"max_gpus": 0}, "most GPUs must be 1 or more"),
    ],
)
def test_what_cannot_be_searched_is_said(given, said):
    with pytest.raises(PlanError, match=said):
        search(**given)


def test_unknown_names_are_said():
    with pytest.raises(UnknownNameError):
        search(gpus=("voodoo-2",))
    with pytest.raises(UnknownNameError):
        search(allow=("magic",))


@pytest.mark.slow
def test_hundreds_of_thousands_of_plans_take_a_thousand_estimates():
    """benchmarks/search_speed.py has the seconds."""
    plan = TrainingPlan(model="llama-2-7b", precision="fp32")
    found = recommend(plan, global_batch=256, gpus=["a100-80gb", "h100-80gb"])
    assert found.num_considered > 300_000
    assert found.num_estimated < 2_000
    assert len(found.choices) == 14


class Engine:
    """Whose rehearsals say that the fastest does not fit, and skip the last."""

    by = "rehearse"

    def __init__(self, refuted):
        self.refuted = refuted

    def look(self, plans):
        for plan in reversed(list(plans)):
            report = replace(estimate(plan), source="rehearsed")
            if plan == self.refuted:
                report = replace(report, fits=False)
            yield plan, report if plan.num_gpus > 1 else "peft is not installed"


def test_rehearsals_confirm_refute_or_are_missing():
    found = search()
    first, second, *_ = found.choices
    said = []
    seen = confirm(found, Engine(first.plan), 6, said.append)
    assert seen.choices[0].is_refuted
    assert seen.best.plan == second.plan
    assert seen.best.confirmed.fits
    alone = next(one for one in seen.choices if one.num_gpus == 1)
    assert alone.confirmed == Confirmation(
        device_bytes=None, fits=None, reason="peft is not installed"
    )
    assert len(said) == 6
    assert "1 of 6: " in said[0]
    assert as_dict(seen)["best"] == 1
    assert all(one.confirmed is None for one in found.choices)
