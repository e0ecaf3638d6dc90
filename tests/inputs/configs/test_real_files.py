"""Files as accelerate, DeepSpeed, transformers, LLaMA-Factory and TRL ship them."""

from dataclasses import replace

import config_laws as laws
import pytest

from memplan.inputs.configs.reading import FORMATS, format_of, read_file, source_of

FOLDERS = ("accelerate", "deepspeed", "llama-factory", "trl", "trainer")
FILES = [file for folder in FOLDERS for file in laws.files(folder)]
KINDS = {kind.name: kind for kind in FORMATS}

EXPECTED = {
    "accelerate/0.11-single.yaml": (
        {},
        {"num_gpus": 1, "zero_stage": 0, "precision": "fp32"},
        "",
    ),
    "accelerate/0.12-fsdp-numbers.yaml": (
        {
            "num_gpus": 2,
            "sharding": "fsdp2",
            "zero_stage": 3,
            "offload_optimizer": False,
            "offload_parameters": False,
        },
        {"precision": "fp32", "activation_checkpointing": "none"},
        "FSDP1 auto_wrap_policy",
    ),
    "accelerate/0.15-dynamo.yaml": (
        {"torch_compile": True},
        {"num_gpus": 1, "zero_stage": 0, "precision": "bf16-mixed"},
        "",
    ),
    "accelerate/0.34-deepspeed-file.yaml": (
        {
            "num_gpus": 2,
            "precision": "fp16-mixed",
            "sharding": "deepspeed",
            "zero_stage": 1,
            "offload_optimizer": False,
            "offload_parameters": False,
            "gradient_accumulation_steps": 1,
            "optim": "adamw",
        },
        {},
        "overlap_comm reduce_bucket_size allgather_bucket_size",
    ),
    "accelerate/0.34-fp8.yaml": (
        {},
        {"num_gpus": 1, "zero_stage": 0, "precision": "bf16-mixed"},
        "mixed_precision",
    ),
    "accelerate/0.34-fsdp1.yaml": (
        {
            "num_gpus": 2,
            "precision": "bf16-mixed",
            "sharding": "fsdp2",
            "zero_stage": 3,
            "offload_optimizer": False,
            "offload_parameters": False,
        },
        {"activation_checkpointing": "none"},
        "FSDP1",
    ),
    "accelerate/0.5-fp16.yaml": (
        {"num_gpus": 2},
        {"zero_stage": 0, "precision": "fp16-mixed"},
        "",
    ),
    "accelerate/1.10-nd.yaml": (
        {
            "num_gpus": 8,
            "precision": "bf16-mixed",
            "sharding": "fsdp2",
            "zero_stage": 3,
            "offload_optimizer": False,
            "offload_parameters": False,
            "tensor_parallel": 1,
            "context_parallel": 4,
        },
        {"activation_checkpointing": "none"},
        "",
    ),
    "accelerate/1.3-fsdp1-hybrid.yaml": (
        {
            "num_gpus": 16,
            "precision": "bf16-mixed",
            "sharding": "fsdp2",
            "zero_stage": 3,
            "offload_optimizer": False,
            "offload_parameters": False,
            "activation_checkpointing": "full",
        },
        {},
        "FSDP1 sharding_strategy",
    ),
    "accelerate/llama-factory-fsdp2.yaml": (
        {
            "num_gpus": 2,
            "precision": "bf16-mixed",
            "sharding": "fsdp2",
            "zero_stage": 3,
            "offload_optimizer": False,
            "offload_parameters": False,
        },
        {"activation_checkpointing": "none"},
        "",
    ),
    "accelerate/trl-alst-ulysses.yaml": (
        {
            "num_gpus": 4,
            "sharding": "deepspeed",
            "zero_stage": 3,
            "offload_optimizer": False,
            "offload_parameters": False,
            "tensor_parallel": 1,
            "context_parallel": 2,
        },
        {"precision": "bf16-mixed"},
        "seq_parallel_communication_data_type cp_backend",
    ),
    "accelerate/trl-deepspeed-zero3.yaml": (
        {
            "num_gpus": 8,
            "sharding": "deepspeed",
            "zero_stage": 3,
            "offload_optimizer": False,
            "offload_parameters": False,
            "gradient_accumulation_steps": 1,
        },
        {"precision": "bf16-mixed"},
        "",
    ),
    "accelerate/trl-fsdp-qlora.yaml": (
        {
            "num_gpus": 8,
            "precision": "bf16-mixed",
            "sharding": "fsdp2",
            "zero_stage": 3,
            "offload_optimizer": True,
            "offload_parameters": True,
        },
        {"activation_checkpointing": "none"},
        "FSDP1",
    ),
    "accelerate/trl-multi-gpu.yaml": (
        {"num_gpus": 8},
        {"zero_stage": 0, "precision": "bf16-mixed"},
        "",
    ),
    "deepspeed/accelerate-zero-stage1.json": (
        {
            "sharding": "deepspeed",
            "zero_stage": 1,
            "offload_optimizer": False,
            "offload_parameters": False,
            "gradient_accumulation_steps": 1,
            "precision": "fp16-mixed",
            "optim": "adamw",
        },
        {},
        "overlap_comm reduce_bucket_size allgather_bucket_size",
    ),
    "deepspeed/deepspeed-0.3-bert.json": (
        {
            "sharding": "deepspeed",
            "zero_stage": 2,
            "offload_optimizer": True,
            "offload_parameters": False,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "max_grad_norm": 1.0,
            "precision": "fp16-mixed",
            "optim": "adamw_fused",
        },
        {"num_gpus": 8},
        "overlap_comm reduce_bucket_size partition_activations",
    ),
    "deepspeed/llama-factory-z0.json": (
        {"zero_stage": 0},
        {},
        "stage overlap_comm",
    ),
    "deepspeed/llama-factory-z2.json": (
        {
            "sharding": "deepspeed",
            "zero_stage": 2,
            "offload_optimizer": False,
            "offload_parameters": False,
        },
        {},
        "",
    ),
    "deepspeed/llama-factory-z3-offload.json": (
        {
            "sharding": "deepspeed",
            "zero_stage": 3,
            "offload_optimizer": True,
            "offload_parameters": True,
        },
        {},
        "overlap_comm reduce_bucket_size "
        "stage3_prefetch_bucket_size stage3_param_persistence_threshold",
    ),
    "deepspeed/transformers-zero2.json": (
        {
            "sharding": "deepspeed",
            "zero_stage": 2,
            "offload_optimizer": True,
            "offload_parameters": False,
            "optim": "adamw_fused",
        },
        {},
        "",
    ),
    "deepspeed/transformers-zero3.json": (
        {
            "sharding": "deepspeed",
            "zero_stage": 3,
            "offload_optimizer": True,
            "offload_parameters": True,
            "optim": "adamw_fused",
        },
        {},
        "reduce_bucket_size stage3_prefetch_bucket_size "
        "stage3_param_persistence_threshold",
    ),
    "llama-factory/0.7-llama3-galore.yaml": (
        {
            "model": "meta-llama/Meta-Llama-3-8B-Instruct",
            "trainable": "all",
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "precision": "bf16-pure",
            "seq_len": 1024,
        },
        {
            "activation_checkpointing": "full",
            "max_grad_norm": 1.0,
            "optim": "adamw_fused",
        },
        "use_galore",
    ),
    "llama-factory/0.8-llama3-qlora-fsdp.yaml": (
        {
            "model": "meta-llama/Meta-Llama-3-8B-Instruct",
            "trainable": "lora",
            "lora_targets": ("q_proj", "v_proj"),
            "quantization": "nf4",
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "frozen_dtype": "fp16",
            "precision": "fp16-mixed",
            "seq_len": 1024,
        },
        {
            "lora_rank": 8,
            "lora_dropout": 0.0,
            "activation_checkpointing": "full",
            "max_grad_norm": 1.0,
            "optim": "adamw_fused",
        },
        "double_quantization",
    ),
    "llama-factory/0.9-llama3-full-sft.yaml": (
        {
            "model": "meta-llama/Meta-Llama-3-8B-Instruct",
            "trainable": "all",
            "sharding": "deepspeed",
            "zero_stage": 3,
            "offload_optimizer": True,
            "offload_parameters": True,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 2,
            "precision": "bf16-mixed",
            "seq_len": 2048,
        },
        {
            "activation_checkpointing": "full",
            "max_grad_norm": 1.0,
            "optim": "adamw_fused",
        },
        "overlap_comm reduce_bucket_size "
        "stage3_prefetch_bucket_size stage3_param_persistence_threshold",
    ),
    "llama-factory/0.9-llama3-lora-sft.yaml": (
        {
            "model": "meta-llama/Meta-Llama-3-8B-Instruct",
            "trainable": "lora",
            "lora_rank": 8,
            "lora_targets": ("all-linear",),
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "frozen_dtype": "bf16",
            "precision": "bf16-mixed",
            "seq_len": 2048,
        },
        {
            "lora_dropout": 0.0,
            "activation_checkpointing": "full",
            "max_grad_norm": 1.0,
            "optim": "adamw_fused",
        },
        "",
    ),
    "llama-factory/0.9-qwen2.5vl-dpo.yaml": (
        {
            "model": "qwen2.5-vl-7b",
            "trainable": "lora",
            "lora_rank": 8,
            "lora_targets": ("all-linear",),
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "frozen_dtype": "bf16",
            "precision": "bf16-mixed",
            "seq_len": 2048,
        },
        {
            "lora_dropout": 0.0,
            "activation_checkpointing": "full",
            "max_grad_norm": 1.0,
            "optim": "adamw_fused",
        },
        "stage image_max_pixels video_max_pixels",
    ),
    "trl/1.14-sft-defaults.yaml": (
        {"model": "gpt2", "seq_len": 512},
        {
            "trainable": "all",
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "max_grad_norm": 1.0,
            "optim": "adamw_fused",
            "activation_checkpointing": "full",
            "precision": "bf16-mixed",
        },
        "",
    ),
    "trl/1.14-sft-lora.yaml": (
        {
            "model": "qwen3-8b",
            "trainable": "lora",
            "lora_rank": 32,
            "lora_targets": ("all-linear",),
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 8,
            "frozen_dtype": "bf16",
            "seq_len": 4096,
            "offload_activations": True,
            "attn_implementation": "auto",
        },
        {
            "lora_dropout": 0.05,
            "max_grad_norm": 1.0,
            "optim": "adamw_fused",
            "activation_checkpointing": "full",
            "precision": "bf16-mixed",
        },
        "attn_implementation",
    ),
    "trl/handbook-zephyr-dpo-qlora.yaml": (
        {
            "model": "alignment-handbook/zephyr-7b-sft-qlora",
            "trainable": "lora",
            "lora_rank": 16,
            "lora_dropout": 0.05,
            "lora_targets": (
                "q_proj",
                "k_proj",
                "v_proj",
                "o_proj",
                "gate_proj",
                "up_proj",
                "down_proj",
            ),
            "quantization": "nf4",
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "optim": "paged_adamw_32bit",
            "activation_checkpointing": "full",
            "frozen_dtype": "fp16",
            "precision": "bf16-mixed",
            "seq_len": 1024,
        },
        {"max_grad_norm": 1.0},
        "beta max_prompt_length",
    ),
    "trl/handbook-zephyr-sft-full.yaml": (
        {
            "model": "mistral-7b",
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "activation_checkpointing": "full",
            "precision": "bf16-pure",
            "seq_len": 2048,
            "attn_implementation": "flash",
        },
        {"trainable": "all", "max_grad_norm": 1.0, "optim": "adamw_fused"},
        "",
    ),
    "trainer/4.28-deepspeed.yaml": (
        {
            "sharding": "deepspeed",
            "zero_stage": 2,
            "offload_optimizer": False,
            "offload_parameters": False,
            "per_device_train_batch_size": 16,
            "optim": "paged_adamw_8bit",
            "precision": "fp16-mixed",
            "model": "gpt2",
        },
        {
            "gradient_accumulation_steps": 1,
            "max_grad_norm": 1.0,
            "activation_checkpointing": "none",
        },
        "",
    ),
    "trainer/4.39-galore.yaml": (
        {"per_device_train_batch_size": 8, "precision": "bf16-mixed"},
        {
            "gradient_accumulation_steps": 1,
            "max_grad_norm": 1.0,
            "optim": "adamw_fused",
            "activation_checkpointing": "none",
        },
        "optim label_smoothing_factor optim_target_modules "
        "auto_find_batch_size torch_empty_cache_steps ddp_find_unused_parameters",
    ),
    "trainer/4.40-fsdp-words.json": (
        {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 16,
            "optim": "adamw",
            "activation_checkpointing": "full",
            "sharding": "fsdp2",
            "zero_stage": 3,
            "offload_optimizer": True,
            "offload_parameters": True,
            "precision": "bf16-mixed",
        },
        {"max_grad_norm": 1.0},
        "neftune_noise_alpha",
    ),
    "trainer/5.23-arguments.yaml": (
        {
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 8,
            "max_grad_norm": 0.5,
            "optim": "adamw_8bit",
            "activation_checkpointing": "every-2",
            "sharding": "fsdp2",
            "zero_stage": 2,
            "offload_optimizer": False,
            "offload_parameters": False,
            "torch_compile": True,
            "precision": "bf16-mixed",
        },
        {},
        "use_liger_kernel",
    ),
}
"""By file: what is said, what is supposed, and the last names of keys not read."""


CHANGES = [
    {"per_device_train_batch_size": 3},
    {"gradient_accumulation_steps": 5},
    {"activation_checkpointing": "none"},
    {"activation_checkpointing": "full"},
    {"zero_stage": 2, "offload_parameters": False, "offload_optimizer": False},
    {"precision": "fp16-mixed"},
    {"optim": "paged_adamw_8bit"},
    {"seq_len": 333},
    {"torch_compile": True},
    {"max_grad_norm": 0.25},
]


def name_of(file):
    return f"{file.parent.name}/{file.name}"


def test_every_file_is_in_the_table():
    assert sorted(map(name_of, FILES)) == sorted(EXPECTED)


@pytest.mark.parametrize("file", FILES, ids=name_of)
class TestRealFiles:
    def test_are_taken_for_what_they_are(self, file):
        assert format_of(source_of(file)).name == file.parent.name

    def test_say_what_they_mean(self, file):
        said, supposed, not_read = EXPECTED[name_of(file)]
        reading = read_file(file).reading
        assert reading.fields == said | supposed
        assert reading.supposed == supposed.keys()
        assert [key_of(line) for line in reading.not_read] == not_read.split()

    def test_say_no_other_than_they_do_when_they_are_told_it(self, file):
        kind, opened = KINDS[file.parent.name], source_of(file)
        said = kind.read(opened).fields
        plan = laws.plan_with(said, **laws.room(said))
        told = laws.merged(opened.document, kind.keys_of(plan, opened.document))
        again = kind.read(replace(opened, document=told)).fields
        assert again | said == again
        assert all(getattr(plan, name) == value for name, value in again.items())

    @pytest.mark.parametrize("change", CHANGES, ids=str)
    def test_are_changed_as_a_plan_is_or_have_no_key_for_it(self, file, change):
        kind, opened = KINDS[file.parent.name], source_of(file)
        said = kind.read(opened).fields
        says_more = ("precision" in change and "frozen_dtype" in said) or (
            "zero_stage" in change and not said.get("zero_stage")
        )
        if change.items() <= said.items() or says_more:
            pytest.skip("It says so, or would say more.")
        old = laws.plan_with(said, **laws.room(said))
        new = laws.plan_with(said | change, **laws.room(said))
        if kind.keys_of(old, opened.document) != kind.keys_of(new, opened.document):
            laws.changes(kind, file, **change)

    def test_survive_any_wrong_value(self, file):
        for document in laws.broken(file):
            laws.survives(KINDS[file.parent.name], document)


def key_of(line):
    """The last name of the key in a line, which a file may stand before."""
    parts = line.split(": ")
    return parts[parts[0].endswith(".json")].split(".")[-1]
