"""Files that mean the same in two formats are one plan, and one report to the byte."""

import pytest

from memplan.estimate import estimate
from memplan.inputs.configs.reading import read_files
from memplan.plan import TrainingPlan
from memplan.report import to_json

AXOLOTL_FULL = """
base_model: meta-llama/Llama-3.1-8B
sequence_len: 4096
micro_batch_size: 2
gradient_accumulation_steps: 4
bf16: auto
optimizer: adamw_torch_fused
gradient_checkpointing: true
max_grad_norm: 1.0
attn_implementation: sdpa
"""
TORCHTUNE_FULL = """
model:
  _component_: torchtune.models.llama3_1.llama3_1_8b
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  max_seq_len: 4096
batch_size: 2
gradient_accumulation_steps: 4
dtype: bf16
optimizer:
  _component_: torch.optim.AdamW
  fused: True
loss:
  _component_: torch.nn.CrossEntropyLoss
enable_activation_checkpointing: True
clip_grad_norm: 1.0
"""
AXOLOTL_SHARDED = """
base_model: meta-llama/Llama-3.1-8B
sequence_len: 8192
micro_batch_size: 1
dp_shard_size: 8
fsdp_version: 2
fsdp_config:
  reshard_after_forward: true
bf16: true
optimizer: adamw_torch_fused
gradient_checkpointing: true
"""
TORCHTITAN_SHARDED = """
[job]
[model]
name = "llama3"
flavor = "8B"
[optimizer]
name = "AdamW"
[training]
local_batch_size = 1
seq_len = 8192
[parallelism]
data_parallel_shard_degree = 8
[activation_checkpoint]
mode = "full"
"""
TORCHTITAN_BEFORE = """
[job]
[model]
name = "llama3"
flavor = "8B"
[optimizer]
name = "AdamW"
fused = true
[training]
batch_size = 1
seq_len = 8192
data_parallel_shard_degree = 8
[experimental]
pipeline_parallel_degree = 1
[activation_checkpoint]
mode = "full"
"""
AXOLOTL_ADAPTED = """
base_model: meta-llama/Llama-2-7b-hf
adapter: qlora
load_in_4bit: true
bnb_config_kwargs:
  bnb_4bit_use_double_quant: false
lora_r: 32
lora_dropout: 0.05
lora_target_linear: true
sequence_len: 1024
micro_batch_size: 4
bf16: full
optimizer: paged_adamw_8bit
"""
ADAPTERS = """
{"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-2-7b-hf",
 "r": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}
"""
QUANTIZED = """
{"load_in_4bit": true, "bnb_4bit_quant_type": "nf4",
 "bnb_4bit_compute_dtype": "bfloat16"}
"""
TORCHTUNE_ADAPTED = """
batch_size: 4
dtype: bf16
tokenizer: {_component_: torchtune.models.llama2.llama2_tokenizer, max_seq_len: 1024}
optimizer: {_component_: bitsandbytes.optim.PagedAdamW8bit}
clip_grad_norm: 1.0
"""
AXOLOTL_LORA = """
base_model: meta-llama/Llama-3.1-8B
adapter: lora
lora_r: 16
lora_dropout: 0.0
lora_target_linear: true
sequence_len: 2048
micro_batch_size: 2
gradient_accumulation_steps: 8
bf16: true
optimizer: adamw_torch_fused
gradient_checkpointing: true
"""
LLAMA_FACTORY_LORA = """
model_name_or_path: meta-llama/Llama-3.1-8B
stage: sft
finetuning_type: lora
lora_rank: 16
lora_dropout: 0.0
lora_target: all
cutoff_len: 2048
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
bf16: true
optim: adamw_torch_fused
"""
TRL_LORA = """
model_name_or_path: meta-llama/Llama-3.1-8B
use_peft: true
lora_r: 16
lora_dropout: 0.0
lora_target_modules: all-linear
dtype: bfloat16
max_length: 2048
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
bf16: true
gradient_checkpointing: true
optim: adamw_torch_fused
"""
FROZEN = {"frozen_dtype": "bf16"}
PAIRS = {
    "whole": ({"a.yml": AXOLOTL_FULL}, {"b.yaml": TORCHTUNE_FULL}, {}),
    "sharded": ({"a.yml": AXOLOTL_SHARDED}, {"b.toml": TORCHTITAN_SHARDED}, {}),
    "versions": ({"a.toml": TORCHTITAN_BEFORE}, {"b.toml": TORCHTITAN_SHARDED}, {}),
    "factory": ({"a.yml": AXOLOTL_LORA}, {"b.yaml": LLAMA_FACTORY_LORA}, {}),
    "trl": ({"a.yml": AXOLOTL_LORA}, {"b.yaml": TRL_LORA}, {}),
    "adapted": (
        {"a.yml": AXOLOTL_ADAPTED},
        {"b.json": ADAPTERS, "c.json": QUANTIZED, "d.yaml": TORCHTUNE_ADAPTED},
        FROZEN,
    ),
}
"""Two sets of files, and flags that are given to both."""


def plan_of(folder, texts, flags):
    files = []
    for name, text in texts.items():
        file = folder / name
        file.write_text(text)
        files.append(file)
    return TrainingPlan(**read_files(files, flags).fields)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_two_ways_to_say_a_plan_are_one_report(tmp_path, pair):
    *both, flags = pair
    first, second = (plan_of(tmp_path, texts, flags) for texts in both)
    assert first == second
    assert to_json(estimate(first)) == to_json(estimate(second))
