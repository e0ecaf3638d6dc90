"""The catalogue: entries say what they must, and change what they say."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan.errors import MemplanError, UnknownNameError
from memplan.estimating.changes import as_flags
from memplan.plan import TrainingPlan
from memplan.tricks.catalogue import catalogue, find_tricks
from memplan.tricks.trick import ALREADY, EXACTNESSES, TECHNIQUES, change_of

ROOT = Path(__file__).parents[2]
FEW = settings(max_examples=30, deadline=None, derandomize=True, database=None)
GPT2 = TrainingPlan(model="gpt2", per_device_train_batch_size=8)
MODELS = ("gpt2", "openflamingo-tiny", "mmicl-tiny", "pe-net-tiny", "bert-large")
PLANS = st.builds(
    TrainingPlan,
    model=st.sampled_from(MODELS),
    per_device_train_batch_size=st.integers(1, 12),
    gradient_accumulation_steps=st.integers(1, 4),
    precision=st.sampled_from(["fp32", "bf16-mixed", "fp16-mixed", "bf16-pure"]),
    optim=st.sampled_from(["adamw", "adamw-fused", "sgd", "lion", "adafactor"]),
    activation_checkpointing=st.sampled_from(["none", "full", "every-2"]),
    num_gpus=st.sampled_from([1, 4]),
)


def one(name, plan=GPT2):
    [trick] = find_tricks(plan, [name])
    return trick


def changed(name, plan=GPT2):
    return change_of(one(name, plan), plan)


@pytest.mark.parametrize("model", MODELS)
def test_every_entry_says_all_that_is_asked(model):
    tricks = catalogue(TrainingPlan(model=model))
    assert len({trick.name for trick in tricks}) == len(tricks)
    for trick in tricks:
        assert trick.technique in TECHNIQUES, trick.name
        assert trick.exactness in EXACTNESSES, trick.name
        assert 0 < len(trick.title) <= 36, trick.name
        assert trick.cost.endswith("."), trick.name
        assert trick.source, trick.name


def test_the_page_of_tricks_is_the_catalogue():
    page = (ROOT / "docs" / "tricks.md").read_text(encoding="utf-8")
    for trick in catalogue(GPT2):
        cells = (f"`{trick.name}`", trick.title, trick.exactness, trick.cost)
        escaped = [cell.replace("|", r"\|") for cell in (*cells, trick.source)]
        assert f"| {' | '.join(escaped)} |\n" in page, trick.name


@FEW
@given(PLANS)
def test_a_trick_changes_the_plan_or_says_why_not(plan):
    for trick in catalogue(plan):
        change = change_of(trick, plan)
        if isinstance(change, str):
            assert change
            continue
        try:
            after = replace(plan, **change)
        except MemplanError as error:  # it does not go with the rest of the plan
            assert error.hint
            continue
        assert after != plan, trick.name
        assert isinstance(change_of(trick, after), str) or trick.name in (
            "accumulation-2",
            "batch-half",
            "images-half",
            "images-small",
        ), trick.name
        assert as_flags(change)


@FEW
@given(PLANS)
def test_accumulation_keeps_the_samples_of_a_step(plan):
    for name in ("accumulation", "accumulation-2"):
        change = changed(name, plan)
        if isinstance(change, str):
            continue
        after = replace(plan, **change)
        before = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
        now = after.per_device_train_batch_size * after.gradient_accumulation_steps
        assert now == before


def test_tricks_are_found_by_name_technique_and_what_becomes_of_results():
    def names(*asked):
        return [trick.name for trick in find_tricks(GPT2, asked)]

    assert names("lora") == ["lora"]
    assert "sgd" in names("optimizer-choice")
    assert "lora" not in names("optimizer choice")
    exact = names("exact")
    assert "checkpointing-full" in exact
    assert "bf16-pure" not in exact
    assert set(names("exact", "rounding")) > set(exact)
    assert len(names("all")) == len(catalogue(GPT2))


def test_a_minus_leaves_out():
    everything = {trick.name for trick in catalogue(GPT2)}
    left = {trick.name for trick in find_tricks(GPT2, ["-cpu-offload", "-lora"])}
    assert everything - left == {
        "lora",
        "offload-states",
        "offload-fsdp2",
        "offload-deepspeed",
    }


@pytest.mark.parametrize("name", ["checkpointng-full", "-lorra", ""])
def test_an_unknown_trick_is_named(name):
    with pytest.raises(UnknownNameError, match="There is no trick named"):
        find_tricks(GPT2, [name])


def test_one_gpu_has_nobody_to_share_with():
    assert "one GPU" in changed("zero-3")
    assert changed("zero-3", replace(GPT2, num_gpus=8)) == {"zero_stage": 3}
    assert changed("deepspeed-2", replace(GPT2, num_gpus=8)) == {
        "zero_stage": 2,
        "sharding": "deepspeed",
    }


def test_offload_needs_no_second_gpu():
    assert changed("offload-fsdp2") == {
        "zero_stage": 3,
        "offload_optimizer": True,
        "offload_parameters": True,
    }


def test_a_base_in_few_bits_rests_beside_adapters():
    assert changed("nf4") == {"trainable": "lora", "quantization": "nf4"}
    assert changed("nf4", TrainingPlan(model="openflamingo-tiny")) == {
        "quantization": "nf4"
    }


def test_sets_of_the_preset_that_train_less_are_tricks():
    plan = TrainingPlan(model="openflamingo-9b")
    assert changed("train-resampler", plan) == {"trainable": "resampler"}
    assert changed("train-flamingo", plan) == ALREADY
    plan = TrainingPlan(model="mmicl-flan-t5-xl")
    assert "no less" in changed("train-stage-2-cross-qv", plan)
    assert "no named sets" in changed("frozen-towers")


def test_frozen_parts_are_stored_in_less():
    assert changed("frozen-bf16") == "nothing is frozen"
    plan = TrainingPlan(model="openflamingo-9b")
    assert changed("frozen-bf16", plan) == {"frozen_dtype": "bf16"}
    assert changed("frozen-bf16", replace(plan, frozen_dtype="bf16")) == ALREADY


def test_pe_nets_distance_is_another_preset():
    change = changed("pe-net-distance", TrainingPlan(model="pe-net-vg150"))
    assert change == {"model": "pe-net-algebraic"}
    assert as_flags(change) == "pe-net-algebraic"
    assert "PE-Net" in changed("pe-net-distance")


def test_settings_of_the_allocator_are_added_to_those_there_are():
    plan = replace(GPT2, alloc_conf="max_split_size_mb:64")
    assert changed("expandable-segments", plan) == {
        "alloc_conf": "max_split_size_mb:64,expandable_segments:True"
    }


def test_a_generation_has_no_use_for_most():
    plan = TrainingPlan(model="gpt2", workload="generate", max_new_tokens=4)
    suiting = {t.name for t in catalogue(plan) if isinstance(change_of(t, plan), dict)}
    assert "nf4" in suiting
    assert not suiting & {"checkpointing-full", "accumulation", "sgd", "lora"}
