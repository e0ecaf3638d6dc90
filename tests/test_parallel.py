"""Tensor, sequence, pipeline and context parallelism of decoder models."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memplan import TrainingPlan, estimate
from memplan.errors import PlanError
from memplan.estimating.rank import part_of
from memplan.estimating.step import trace_step
from memplan.formulas.optimizers import find_optimizer
from memplan.models import find_model

S, B, H, A = 2048, 1, 4096, 32
"""Sequence, micro-batch, hidden size and heads, in the letters of Korthikanti et al."""


def saved_bytes(num_layers, folder, t, sequence_parallel):
    """Activations at the end of the forward pass of a GPT-2 in fp16."""
    config = {
        "model_type": "gpt2",
        "n_embd": H,
        "n_head": A,
        "n_layer": num_layers,
        "n_positions": S,
        "vocab_size": 51200,
        "activation_function": "gelu",
    }
    file = folder / f"{num_layers}.json"
    file.write_text(json.dumps(config))
    plan = TrainingPlan(
        model=str(file),
        precision="fp16-master",
        attn_implementation="eager",
        per_device_train_batch_size=B,
        seq_len=S,
        num_gpus=t,
        tensor_parallel=t,
        sequence_parallel=sequence_parallel,
    )
    part = part_of(plan, find_model(str(file)))
    step = trace_step(plan, part, find_optimizer("adamw"), (8, 0), (2, 14), 108)
    return next(p.end.saved_bytes for p in step.phases if p.name == "forward")


@pytest.mark.parametrize(
    ("t", "sequence_parallel"), [(1, False), (8, False), (8, True)]
)
def test_a_layer_saves_what_korthikanti_counts_and_the_norms_statistics(
    t, sequence_parallel, tmp_path
):
    """sbh (10 + 24/t + 5 as/ht), or all over t; and what the paper leaves out:

    mean and reciprocal deviation of two norms, in fp32.
    """
    layer = saved_bytes(3, tmp_path, t, sequence_parallel) - saved_bytes(
        2, tmp_path, t, sequence_parallel
    )
    shards = t if sequence_parallel else 1
    published = S * B * H * (10 / shards + 24 / t + 5 * A * S / (H * t))
    statistics = 2 * 2 * 4 * S * B / shards
    assert layer == published + statistics


def plan(**fields):
    return TrainingPlan(
        **{
            "model": "llama-3.1-8b",
            "precision": "bf16-pure",
            "num_gpus": 8,
            "seq_len": 2048,
            **fields,
        }
    )


def test_a_rank_holds_its_share_of_the_weights():
    """Two bytes a parameter; norms alone are on every rank."""
    held = estimate(plan(tensor_parallel=8)).components.weights
    norms = (2 * 32 + 1) * 4096
    shared = 8_030_261_248 - norms
    assert held == 2 * (shared // 8 + norms)


def test_the_model_named_is_the_whole_one():
    report = estimate(plan(tensor_parallel=4, pipeline_parallel=2))
    assert report.model.parameters == 8_030_261_248
    assert report.model.trainable_parameters == 8_030_261_248


def test_a_first_stage_in_full_swing_holds_all_layers_activations():
    """p micro-batches of L / p layers: as much as one micro-batch of L layers."""
    report = estimate(plan(pipeline_parallel=8, gradient_accumulation_steps=32))
    whole = estimate(plan(num_gpus=1))
    activations = max(
        p.peak_allocated_bytes for p in whole.phases if p.phase == "forward"
    )
    assert "first pipeline stage" in " ".join(report.assumptions)
    assert report.components.activations < activations


def test_one_micro_batch_fills_no_pipeline():
    one = estimate(plan(pipeline_parallel=8))
    many = estimate(plan(pipeline_parallel=8, gradient_accumulation_steps=8))
    assert one.components.activations < many.components.activations


def test_context_parallel_ranks_share_the_sequence():
    """The longest tensors are those of a plan with a quarter of the tokens."""
    shared = estimate(plan(context_parallel=4, num_gpus=4, optim="sgd"))
    short = estimate(plan(num_gpus=1, seq_len=512, optim="sgd"))
    assert shared.components.activations == short.components.activations


@settings(max_examples=40, deadline=None)
@given(
    tensor=st.sampled_from([1, 2, 4, 8]),
    pipeline=st.sampled_from([1, 2, 4, 8]),
    context=st.sampled_from([1, 2, 4]),
    sequence=st.booleans(),
    model=st.sampled_from(["gpt2", "llama-2-7b", "qwen3-8b"]),
)
def test_more_model_parallelism_never_needs_more(
    tensor, pipeline, context, sequence, model
):
    tensor = min(tensor, 4) if model == "gpt2" else tensor  # 12 heads
    fields = {"model": model, "num_gpus": 256, "seq_len": 1024}
    alone = estimate(plan(**fields))
    divided = estimate(
        plan(
            **fields,
            tensor_parallel=tensor,
            pipeline_parallel=pipeline,
            context_parallel=context,
            sequence_parallel=sequence and tensor > 1,
        )
    )
    assert divided.peak.allocated_bytes <= alone.peak.allocated_bytes


@pytest.mark.parametrize(
    "fields",
    [
        {"tensor_parallel": 3, "num_gpus": 3},
        {"pipeline_parallel": 64, "num_gpus": 64},
        {"expert_parallel": 2},
        {"model": "bert-large", "tensor_parallel": 2, "seq_len": 512},
        {"model": "vit-base-patch16-224", "context_parallel": 2, "seq_len": None},
        {"workload": "generate", "tensor_parallel": 2},
    ],
    ids=str,
)
def test_what_cannot_be_divided_is_refused(fields):
    with pytest.raises(PlanError) as refused:
        estimate(plan(**fields))
    assert refused.value.hint
