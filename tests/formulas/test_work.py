"""The work of a step: operations as PyTorch's own counter has them, and a roofline."""

import json
from dataclasses import replace

import pytest

from memplan import TrainingPlan
from memplan.errors import MemplanError
from memplan.estimating.speed import counted_step
from memplan.models.catalogue import preset_names

SMALL = {
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 96},
    "llama": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 96,
    },
    "opt": {
        "hidden_size": 64,
        "word_embed_proj_dim": 64,
        "ffn_dim": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 96,
    },
    "gpt_neox": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 96,
    },
    "gemma": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "vocab_size": 96,
    },
}
B, L = 2, 48


@pytest.fixture
def plan(tmp_path):
    """A plan of a small model of that type."""

    def of(model_type, **fields):
        file = tmp_path / f"{model_type}.json"
        file.write_text(json.dumps({"model_type": model_type, **SMALL[model_type]}))
        fields = {
            "per_device_train_batch_size": B,
            "seq_len": L,
            "precision": "fp32",
            "attn_implementation": "eager",
            "gpu": "a100-80gb",
            **fields,
        }
        return TrainingPlan(model=str(file), **fields)

    return of


def counted_by_torch(model_type, checkpointed=False):
    """Operations of a forward and backward pass, by `torch.utils.flop_counter`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.AutoConfig.for_model(model_type, **SMALL[model_type])
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    if checkpointed:
        model.activation_checkpointing_enable()
    tokens = torch.zeros(B, L, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("model_type", SMALL)
def test_operations_are_those_that_pytorch_counts(plan, model_type, checkpointing):
    counted = counted_step(plan(model_type, activation_checkpointing=checkpointing))
    expected = counted_by_torch(model_type, checkpointing == "full")
    assert counted.flops == expected


def test_a_fused_kernel_does_the_forward_once_and_the_backward_two_and_a_half_times(
    plan,
):
    D, H, layers = 64, 4, 3
    eager = counted_step(plan("gpt2"))
    fused = counted_step(plan("gpt2", attn_implementation="efficient"))
    # Eager: two products, and two more for each in backward. Fused: the scores again.
    one = 2 * B * H * L * L * (D // H)
    assert eager.flops - fused.flops == layers * one * (6 - 2 * 3.5)


def test_a_loss_in_parts_makes_its_logits_twice(plan):
    whole = counted_step(plan("llama"))
    parts = counted_step(plan("llama", cross_entropy_chunks=5))
    assert parts.flops - whole.flops == 2 * B * L * 64 * 96
    assert parts.moved_bytes > whole.moved_bytes


def test_a_linear_layer_that_is_not_trained_makes_no_gradient_of_its_weight(plan):
    trained = counted_step(plan("llama"))
    adapted = counted_step(plan("llama", trainable="lora", lora_rank=1))
    assert 0.6 < adapted.flops / trained.flops < 0.75


def test_micro_batches_repeat_all_but_the_update(plan):
    once = counted_step(plan("gpt2"))
    twice = counted_step(plan("gpt2", gradient_accumulation_steps=2))
    thrice = counted_step(plan("gpt2", gradient_accumulation_steps=3))
    assert thrice.flops == 3 * once.flops
    assert (
        thrice.moved_bytes - twice.moved_bytes == twice.moved_bytes - once.moved_bytes
    )
    assert thrice.seconds - twice.seconds == pytest.approx(twice.seconds - once.seconds)


def test_a_step_takes_no_less_than_its_operations_and_its_bytes_allow(plan):
    work = counted_step(plan("llama"))
    assert work.seconds >= work.flops / 19.5e12
    assert work.seconds >= work.moved_bytes / 2.1e12


def test_an_update_moves_weights_gradients_and_states(plan):
    """Adam in fp32: 3 x 4 B for weight and gradient, and its two moments both ways."""
    adam = counted_step(plan("gpt2", optim="adamw_torch_fused", max_grad_norm=0.0))
    plain = counted_step(plan("gpt2", optim="sgd", max_grad_norm=0.0))
    num_parameters = 96 * 64 + 1024 * 64 + 3 * (12 * 64 * 64 + 13 * 64) + 2 * 64
    step_counts = 2 * 4 * (2 + 3 * 12 + 2)
    assert adam.moved_bytes - plain.moved_bytes == 16 * num_parameters + step_counts


@pytest.mark.parametrize(
    "fields",
    [
        {"workload": "generate", "max_new_tokens": 8},
        {"num_gpus": 2, "zero_stage": 2, "offload_optimizer": True},
        {"offload_activations": True},
        {"num_gpus": 3, "pipeline_parallel": 3},
        {"gpu_memory_bytes": 10**10, "gpu": "nothing"},
    ],
    ids=str,
)
def test_what_counts_do_not_decide_is_refused(plan, fields):
    with pytest.raises(MemplanError):
        counted_step(plan("gpt2", **fields))


def test_a_lighter_precision_is_faster_and_a_checkpoint_slower(plan):
    long = {"seq_len": 512, "per_device_train_batch_size": 8}
    base = plan("llama", **long)
    assert counted_step(replace(base, precision="tf32")).seconds <= (
        counted_step(base).seconds
    )
    checkpointed = replace(base, activation_checkpointing="full")
    assert counted_step(checkpointed).seconds > counted_step(base).seconds


@pytest.mark.parametrize("name", sorted(preset_names()))
def test_every_preset_has_a_step_that_can_be_counted(name):
    plan = TrainingPlan(model=name, gpu="h100-80gb", gradient_accumulation_steps=2)
    work = counted_step(plan)
    assert work.seconds >= work.flops / 989.4e12 > 0
    assert work.moved_bytes > 0
