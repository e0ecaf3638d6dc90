"""What holds for every plan: sums, orders, and what more of something cannot do.

Plans are drawn over all presets. A plan that memplan refuses is no example. Where the
allocator or a kernel itself breaks an order, the allowance stands beside the law.
"""

from dataclasses import asdict

import pytest
from explained import assert_adds_up
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from memplan import MemplanError, TrainingPlan, estimate, from_json, to_json
from memplan.estimating.card import torch_version_of
from memplan.estimating.rank import part_of
from memplan.estimating.step import trace_step
from memplan.formulas.allocator import MAX_SLACK_BYTES
from memplan.formulas.optimizers import find_optimizer
from memplan.hardware import find_gpu
from memplan.models import find_model
from memplan.models.catalogue import preset_names

FEW = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)

PRECISIONS = ("fp32", "tf32", "bf16-mixed", "fp16-mixed", "bf16-pure", "fp16-master")
OPTIMIZERS = (
    "adamw",
    "adamw_fused",
    "adamw_forloop",
    "adamw_8bit",
    "adafactor",
    "lion",
    "rmsprop",
    "sgd",
    "sgd_momentum",
)
CARDS = ("h100-80gb", "a100-40gb", "rtx-4090", "t4", "v100-32gb")
INPUT_OF_SIZE = {
    "seq_len": "tokens",
    "target_seq_len": "target_tokens",
    "images_per_sample": "images",
    "image_size": "images",
}


def presets(wanted=None):
    """Presets whose samples have `wanted`; all of them without it."""
    return [
        name
        for name in preset_names()
        if wanted is None or wanted in find_model(name).family.inputs
    ]


@st.composite
def plans(draw, wanted=None, **fixed):
    """Fields of a plan that memplan answers more often than not."""
    fields = {
        "model": draw(st.sampled_from(presets(wanted))),
        "precision": draw(st.sampled_from(PRECISIONS)),
        "optim": draw(st.sampled_from(OPTIMIZERS)),
        "per_device_train_batch_size": draw(st.integers(1, 12)),
        "gradient_accumulation_steps": draw(st.integers(1, 2)),
        "activation_checkpointing": draw(
            st.sampled_from(("none", "none", "full", "selective", "every-2"))
        ),
        "attn_implementation": draw(st.sampled_from(("auto", "eager", "math"))),
        "max_grad_norm": draw(st.sampled_from((0.0, 1.0))),
        "ema": draw(st.booleans()),
        "workload": draw(
            st.sampled_from(("train", "train", "train", "generate", "mme"))
        ),
        "gpu": draw(st.sampled_from(CARDS)),
        "torch": draw(st.sampled_from(("2.9", "2.14"))),
    }
    fields |= draw(trained())
    fields |= draw(spread())
    fields |= draw(sizes(fields["model"]))
    return fields | fixed


@st.composite
def trained(draw):
    """What trains, and how the rest is stored."""
    what = draw(st.sampled_from(("default", "all", "lora")))
    if what != "lora":
        return {"trainable": what}
    return {
        "trainable": what,
        "lora_rank": draw(st.sampled_from((1, 8, 64))),
        "lora_dropout": draw(st.sampled_from((0.0, 0.05))),
        "quantization": draw(st.sampled_from(("none", "int8", "nf4"))),
    }


@st.composite
def spread(draw):
    """Over how many cards, and who shards or divides what."""
    stage = draw(st.sampled_from((0, 0, 1, 2, 3)))
    tensor, pipeline, context = (
        draw(st.sampled_from((1, 1, 1, 1, 2))) for _ in range(3)
    )
    ranks = draw(st.sampled_from((1, 1, 2, 4, 8, 64)))
    return {
        "num_gpus": ranks * tensor * pipeline * context,
        "tensor_parallel": tensor,
        "pipeline_parallel": pipeline,
        "context_parallel": context,
        "sequence_parallel": tensor > 1 and draw(st.booleans()),
        "zero_stage": stage,
        "sharding": draw(st.sampled_from(("fsdp2", "deepspeed"))),
        "offload_optimizer": stage > 0 and draw(st.booleans()),
        "offload_parameters": stage == 3 and draw(st.booleans()),
    }


@st.composite
def sizes(draw, name):
    """Lengths and pictures, as far as the model takes them."""
    model = find_model(name)
    inputs = model.family.inputs
    limit = model.family.max_seq_len(model.config) or 2048
    fields = {}
    if "tokens" in inputs:
        fields["seq_len"] = draw(st.integers(1, min(limit, 2048)))
    if "target_tokens" in inputs:
        fields["target_seq_len"] = draw(st.integers(1, 256))
    return fields


def estimated(fields, **how):
    """The report of a plan; one that is refused is no example."""
    try:
        return estimate(TrainingPlan(**fields), **how)
    except MemplanError:
        reject()


@FEW
@given(plans())
def test_components_sum_to_the_allocated_peak(fields):
    report = estimated(fields)
    assert sum(asdict(report.components).values()) == report.peak.allocated_bytes


@FEW
@given(plans())
def test_every_component_is_the_sum_of_its_terms(fields):
    assert_adds_up(estimated(fields, explains=True))


@FEW
@given(plans())
def test_no_component_is_negative(fields):
    assert min(asdict(estimated(fields).components).values()) >= 0


@FEW
@given(plans())
def test_requested_allocated_reserved_and_device_are_in_order(fields):
    peak = estimated(fields).peak
    assert (
        0
        < peak.requested_bytes
        <= peak.allocated_bytes
        <= peak.reserved_bytes
        <= peak.device_bytes
    )


@FEW
@given(plans())
def test_the_peak_is_that_of_the_highest_steady_phase(fields):
    report = estimated(fields)
    steady = [p.peak_allocated_bytes for p in report.phases if p.step == 2]
    assert report.peak.allocated_bytes == max(steady)


@FEW
@given(plans())
def test_no_phase_ends_above_its_peak(fields):
    for phase in estimated(fields).phases:
        assert 0 < phase.end_allocated_bytes <= phase.peak_allocated_bytes


@FEW
@given(plans())
def test_a_report_survives_json(fields):
    report = estimated(fields)
    assert from_json(to_json(report)) == report


@FEW
@given(plans())
def test_the_same_plan_has_the_same_report(fields):
    assert estimated(fields) == estimated(fields)


@FEW
@given(plans(), st.integers(1, 12))
def test_a_larger_batch_never_needs_less(fields, more):
    size = fields["per_device_train_batch_size"]
    assert_never_less(fields, "per_device_train_batch_size", size, size + more)


@pytest.mark.parametrize("name", INPUT_OF_SIZE)
@FEW
@given(data=st.data())
def test_a_larger_sample_never_needs_less(name, data):
    if not presets(INPUT_OF_SIZE[name]):
        pytest.skip("no preset has such samples")
    fields = data.draw(plans(INPUT_OF_SIZE[name]))
    size = fields.get(name) or data.draw(st.integers(1, 512))
    more = data.draw(st.integers(size, 2 * size))
    assert_never_less(fields, name, size, more)


def assert_never_less(fields, name, size, more):
    """The peak does not fall when the field `name` grows from `size` to `more`.

    But for what blocks are larger than their tensors: a larger one may fit better.
    """
    small, large = (estimated(fields | {name: count}).peak for count in (size, more))
    assert small.requested_bytes <= large.allocated_bytes


@FEW
@given(data=st.data())
def test_more_ranks_never_need_more(data):
    fields = data.draw(plans())
    parts = fields["tensor_parallel"] * fields["pipeline_parallel"]
    ranks = data.draw(st.sampled_from((2, 4, 8, 16))) * parts
    ranks *= fields["context_parallel"]
    few, many = (
        estimated(fields | {"num_gpus": count}).peak for count in (ranks, 2 * ranks)
    )
    padding = padding_bytes(fields | {"num_gpus": 2 * ranks})
    assert many.requested_bytes <= few.allocated_bytes + padding


def padding_bytes(fields):
    """FSDP2 gathers equal shards: the rows of a weight, made up to a multiple of the
    ranks (`_fsdp_param.py`), in one buffer and once more where they are copied out of
    it. Counted here for all weights, of which some are whole at a time. A buffer that
    grows past an odd MiB gains up to 1 MiB of slack (`allocator.block_bytes`)."""
    if fields["sharding"] != "fsdp2" or fields["zero_stage"] < 2:
        return 0
    plan = TrainingPlan(**fields)
    padding = sum(
        -p.shape[0] % plan.data_parallel * 4 * p.num_elements // p.shape[0] * p.count
        for p in traced(plan).parameters
        if p.shape
    )
    return 2 * (padding + MAX_SLACK_BYTES) if padding else 0


@FEW
@given(data=st.data())
def test_a_higher_zero_stage_never_holds_more_model_states(data):
    fields = data.draw(plans(accounting="zero", pipeline_parallel=1))
    stage = data.draw(st.integers(0, 2))
    lower, higher = (
        estimated(fields | {"zero_stage": number}).components
        for number in (stage, stage + 1)
    )
    assert higher.weights <= lower.weights
    assert higher.gradients <= lower.gradients
    assert higher.optimizer_states <= lower.optimizer_states


@FEW
@given(plans(workload="train", pipeline_parallel=1))
def test_full_checkpointing_never_enters_backward_with_more(fields):
    none, full = (
        end_of_loss(estimated(fields | {"activation_checkpointing": mode}))
        for mode in ("none", "full")
    )
    assert full <= none


@FEW
@given(plans(workload="train", pipeline_parallel=1))
def test_full_checkpointing_never_holds_more_than_is_saved_without(fields):
    # Not compared with what is held at the peak without it: that can be the end of
    # backward, when all activations are gone.
    full = estimated(fields | {"activation_checkpointing": "full"}).components
    assert full.activations <= saved_for_backward(fields)


def end_of_loss(report):
    """Bytes that the steady step's backward begins with."""
    (phase,) = (p for p in report.phases if (p.step, p.phase) == (2, "loss"))
    return phase.end_allocated_bytes


def saved_for_backward(fields):
    """Activations when backward begins, without checkpoints."""
    plan = TrainingPlan(**fields | {"activation_checkpointing": "none"})
    (phase,) = (p for p in traced(plan).phases if p.name == "loss")
    return phase.end.saved_bytes


def traced(plan):
    """The traced step of a plan's most loaded rank, of no pipeline."""
    model, gpu = find_model(plan.model), find_gpu(plan.gpu)
    return trace_step(
        plan,
        part_of(plan, model),
        find_optimizer(plan.optim),
        gpu.compute_capability,
        torch_version_of(plan),
        gpu.num_sms,
    )
