"""A plan written for accelerate, DeepSpeed or the Trainer is read as the same plan."""

from dataclasses import replace

import config_laws as laws
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.formulas.optimizers import optimizer_names
from memplan.inputs.configs.accelerate import ACCELERATE
from memplan.inputs.configs.deepspeed import DEEPSPEED
from memplan.inputs.configs.llama_factory import LLAMA_FACTORY
from memplan.inputs.configs.names import NOT_OF_THE_TRAINER, OPTIMIZERS
from memplan.inputs.configs.trainer import TRAINER
from memplan.inputs.configs.trl import TRL
from memplan.plan import TrainingPlan

COUNTS = st.integers(1, 4096)
NAMES = sorted(set(optimizer_names()) - set(OPTIMIZERS) - NOT_OF_THE_TRAINER)
STEP = {
    "per_device_train_batch_size": COUNTS,
    "gradient_accumulation_steps": COUNTS,
    "max_grad_norm": st.floats(0, 10),
    "optim": st.sampled_from(NAMES),
    "torch_compile": st.booleans(),
}
CHECKPOINTING = st.sampled_from(["none", "full", "every-2", "every-7"])
SWITCH = st.sampled_from(["none", "full"])
CASTS = st.sampled_from(["fp32", "bf16-mixed", "fp16-mixed"])


@st.composite
def sharded(draw, by=("none", "fsdp2", "deepspeed")):
    """Fields of who shards, each as a plan allows it beside the others."""
    sharding = draw(st.sampled_from(by))
    if sharding == "none":
        return {"zero_stage": 0}
    stage = draw(st.integers(2 if sharding == "fsdp2" else 1, 3))
    offloads = draw(st.booleans())
    parameters = offloads and stage == 3
    states = parameters if sharding == "fsdp2" else offloads
    return {
        "sharding": sharding,
        "zero_stage": stage,
        "offload_optimizer": states,
        "offload_parameters": parameters,
    }


def plans(**fields):
    """Plans of a small model with those fields."""
    return st.fixed_dictionaries(fields).map(lambda f: TrainingPlan(model="gpt2", **f))


def with_shards(plan, shards):
    return replace(plan, num_gpus=8, **shards)


@laws.patient
@given(
    plan=plans(precision=CASTS, torch_compile=st.booleans()),
    shards=sharded(by=("none", "fsdp2")),
    is_checkpointed=st.booleans(),
)
def test_accelerate(plan, shards, is_checkpointed):
    """Checkpointing is FSDP's alone; of the others it has no key."""
    mode = "full" if is_checkpointed and shards["zero_stage"] else "none"
    plan = with_shards(replace(plan, activation_checkpointing=mode), shards)
    reading = laws.comes_back(ACCELERATE, plan, said=("num_gpus", "precision"))
    assert reading.not_read == []


@laws.patient
@given(
    plan=plans(
        precision=CASTS,
        gradient_accumulation_steps=COUNTS,
        max_grad_norm=st.floats(0, 10),
    ),
    shards=sharded(by=("deepspeed",)),
)
def test_accelerate_with_deepspeed(plan, shards):
    plan = with_shards(plan, shards)
    said = (*shards, "max_grad_norm", "gradient_accumulation_steps", "num_gpus")
    assert laws.comes_back(ACCELERATE, plan, said=said).not_read == []


@laws.patient
@given(
    tensor_parallel=st.sampled_from([1, 2, 4]),
    context_parallel=st.sampled_from([1, 2, 4]),
)
def test_accelerate_s_parallelism(tensor_parallel, context_parallel):
    plan = TrainingPlan(
        model="gpt2",
        num_gpus=32,
        zero_stage=3,
        tensor_parallel=tensor_parallel,
        context_parallel=context_parallel,
    )
    laws.comes_back(ACCELERATE, plan, said=("num_gpus", "zero_stage"))


@laws.patient
@given(
    plan=plans(
        precision=CASTS,
        per_device_train_batch_size=COUNTS,
        gradient_accumulation_steps=COUNTS,
        max_grad_norm=st.floats(0, 10),
    ),
    shards=sharded(by=("deepspeed",)),
)
def test_deepspeed(plan, shards):
    plan = with_shards(plan, shards)
    reading = laws.comes_back(DEEPSPEED, plan, said=(*shards, "precision"))
    assert reading.not_read == []
    assert reading.open_fields == {"num_gpus"}


@laws.patient
@given(
    plan=plans(
        **STEP,
        precision=st.sampled_from(["fp32", "tf32", "bf16-mixed", "fp16-mixed"]),
        activation_checkpointing=CHECKPOINTING,
    ),
    shards=sharded(),
)
def test_the_trainer(plan, shards):
    plan = with_shards(plan, shards)
    if plan.precision == "tf32" and plan.sharding == "deepspeed":
        plan = replace(plan, precision="fp32")
    said = {*STEP, "activation_checkpointing", "precision"} - {"torch_compile"}
    said |= shards.keys() if shards["zero_stage"] else set()
    assert laws.comes_back(TRAINER, plan, said=said).not_read == []


ADAPTED = st.sampled_from(
    [
        {"trainable": "all"},
        {"trainable": "lora", "lora_targets": ("all-linear",), "lora_rank": 8},
        {"trainable": "lora", "lora_targets": ("c_attn", "c_proj"), "lora_rank": 64},
        {"trainable": "lora", "lora_targets": ("c_attn",), "quantization": "nf4"},
        {"trainable": "lora", "lora_targets": ("c_attn",), "quantization": "int8"},
    ]
)
ATTENTION = st.sampled_from(["auto", "eager", "flash"])


@laws.patient
@given(
    plan=plans(
        **STEP,
        precision=st.sampled_from(["fp32", "bf16-mixed", "fp16-mixed", "bf16-pure"]),
        activation_checkpointing=SWITCH,
        seq_len=COUNTS,
        attn_implementation=ATTENTION,
    ),
    adapted=ADAPTED,
)
def test_llama_factory(plan, adapted):
    """Adapters stand beside weights in the dtype of the cast; alone they are mixed."""
    if adapted["trainable"] == "lora":
        plan = replace(plan, precision="bf16-mixed", frozen_dtype="bf16")
    plan = replace(plan, **adapted)
    said = {*STEP, "activation_checkpointing", "precision", "seq_len", *adapted}
    reading = laws.comes_back(LLAMA_FACTORY, plan, said=said - {"torch_compile"})
    doubts = ["double_quantization"] if plan.quantization == "nf4" else []
    assert [line.split(":")[0] for line in reading.not_read] == doubts


@laws.patient
@given(
    plan=plans(
        **STEP,
        precision=st.sampled_from(["fp32", "bf16-mixed", "fp16-mixed", "bf16-pure"]),
        activation_checkpointing=CHECKPOINTING,
        seq_len=COUNTS,
        attn_implementation=ATTENTION,
        offload_activations=st.booleans(),
    ),
    adapted=ADAPTED,
    frozen=st.sampled_from([None, "bf16", "fp16"]),
)
def test_trl(plan, adapted, frozen):
    if adapted["trainable"] == "lora":
        plan = replace(plan, precision="bf16-mixed", frozen_dtype=frozen)
    plan = replace(plan, **adapted)
    said = {*STEP, "activation_checkpointing", "precision", "seq_len", *adapted}
    reading = laws.comes_back(TRL, plan, said=said - {"torch_compile"})
    assert reading.not_read == []


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_names_of_the_trainer_come_to_the_same_optimizer(name):
    plan = TrainingPlan(model="gpt2", optim=name)
    keys = TRAINER.keys_of(plan, {})
    assert OPTIMIZERS.get(keys["optim",]) == OPTIMIZERS[name]
