"""A plan checks itself."""

import pytest

from memplan import MemplanError, TrainingPlan
from memplan.errors import PlanError, UnknownNameError


def plan(**fields):
    return TrainingPlan(**{"model": "llama-2-7b", **fields})


def test_a_plan_is_frozen():
    with pytest.raises(AttributeError):
        plan().model = "gpt2"


@pytest.mark.parametrize(
    "name",
    ["per_device_train_batch_size", "num_gpus", "seq_len", "tensor_parallel"],
)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, 2**41, "8"])
def test_counts_are_whole_and_positive(name, value):
    with pytest.raises(PlanError):
        plan(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan"), "x"])
def test_headroom_is_a_part_of_the_card(value):
    with pytest.raises(PlanError):
        plan(headroom_fraction=value)


def test_a_model_and_a_parameter_count_exclude_each_other():
    with pytest.raises(PlanError, match="either"):
        plan(parameters=7)


def test_nothing_at_all_is_no_plan():
    with pytest.raises(PlanError, match="either"):
        TrainingPlan()


@pytest.mark.parametrize(
    "name", ["precision", "accounting", "sharding", "quantization", "workload", "optim"]
)
def test_unknown_choices_are_named(name):
    with pytest.raises(UnknownNameError, match="'never-heard'"):
        plan(**{name: "never-heard"})


def test_every_n_checkpointing_is_read():
    assert plan(activation_checkpointing="every-3").checkpointing == ("full", 3)


@pytest.mark.parametrize("name", ["every-0", "every-x", "every-", "every--1", "some"])
def test_other_checkpointing_is_refused(name):
    with pytest.raises(UnknownNameError):
        plan(activation_checkpointing=name)


@pytest.mark.parametrize(
    "text",
    ["expandable_segments:True", "a:1, roundup_power2_divisions:[256:1,>:2],b:c"],
)
def test_settings_of_the_allocator_are_those_of_pytorch(text):
    assert TrainingPlan(model="gpt2", alloc_conf=text).alloc_conf == text


@pytest.mark.parametrize("text", ["", "expandable_segments", "a:1,,b:2", "a:[1:2"])
def test_what_is_no_setting_of_the_allocator_is_refused(text):
    with pytest.raises(PlanError, match="alloc_conf"):
        TrainingPlan(model="gpt2", alloc_conf=text)


def test_data_parallel_ranks_are_what_model_parallelism_leaves():
    assert plan(num_gpus=64, tensor_parallel=8, pipeline_parallel=4).data_parallel == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"num_gpus": 6, "tensor_parallel": 4},
        {"sequence_parallel": True},
        {"offload_optimizer": True},
        {"offload_parameters": True, "zero_stage": 2, "num_gpus": 8},
        {"quantization": "nf4", "trainable": "all"},
        {"lora_targets": ("q_proj",)},
        {"max_new_tokens": 10},
        {"num_gpus": 8, "expert_parallel": 3},
        {"zero_stage": 4},
        {"max_grad_norm": -1.0},
        {"max_grad_norm": float("inf")},
        {"revision": "main", "model": None, "parameters": 7},
        {"model": " "},
    ],
    ids=str,
)
def test_contradictions_are_refused_with_a_hint(fields):
    with pytest.raises(MemplanError) as refused:
        plan(**fields)
    assert refused.value.hint
