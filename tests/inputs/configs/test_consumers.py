"""Files that memplan writes are loaded, without a word, by those who read them."""

import json
from dataclasses import fields, replace

import pytest
import yaml
from config_laws import source

from memplan.inputs.configs import harmless
from memplan.inputs.configs.accelerate import ACCELERATE
from memplan.inputs.configs.arguments import (
    BATCH,
    CHECKPOINTING,
    MOVES_MEMORY,
    ONLY_IN_FILES,
)
from memplan.inputs.configs.deepspeed import DEEPSPEED
from memplan.inputs.configs.editing import dumped
from memplan.inputs.configs.trainer import TRAINER
from memplan.plan import TrainingPlan

PLAN = TrainingPlan(
    model="gpt2",
    precision="bf16-mixed",
    optim="adamw-8bit",
    per_device_train_batch_size=3,
    gradient_accumulation_steps=5,
    max_grad_norm=0.5,
)
SHARDED = [
    replace(PLAN),
    replace(PLAN, num_gpus=8),
    replace(PLAN, num_gpus=8, zero_stage=2, activation_checkpointing="full"),
    replace(PLAN, num_gpus=8, zero_stage=3, activation_checkpointing="every-2"),
    replace(PLAN, num_gpus=8, zero_stage=3, offload_parameters=True),
    replace(PLAN, num_gpus=8, zero_stage=3, tensor_parallel=2, context_parallel=2),
]
BY_DEEPSPEED = [
    replace(PLAN, num_gpus=8, sharding="deepspeed", zero_stage=stage, **offload)
    for stage, offload in (
        (1, {}),
        (2, {"offload_optimizer": True}),
        (3, {"offload_optimizer": True, "offload_parameters": True}),
    )
]


def names(plan):
    kind = plan.sharding if plan.zero_stage else "whole"
    return f"{kind}-{plan.zero_stage}-{plan.num_gpus}-{plan.tensor_parallel}"


@pytest.mark.parametrize("plan", SHARDED + BY_DEEPSPEED, ids=names)
def test_accelerate_loads_what_is_written_for_it(plan, tmp_path):
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    file = tmp_path / "config.yaml"
    file.write_text(dumped(ACCELERATE.keys_of(plan, {}), ".yaml"))
    config = config_args.load_config_from_file(str(file))
    assert config.num_processes == plan.num_gpus
    assert config.mixed_precision == "bf16"
    known = {
        *("zero_stage", "offload_optimizer_device", "offload_param_device"),
        *("gradient_accumulation_steps", "gradient_clipping"),
    }
    assert set(config.deepspeed_config) <= known


@pytest.mark.parametrize("plan", SHARDED, ids=names)
def test_accelerate_makes_of_fsdp_s_keys_what_the_plan_says(
    plan, tmp_path, monkeypatch
):
    """By way of the environment, as `accelerate launch` hands them on."""
    if plan.zero_stage == 0:
        pytest.skip("Nothing is sharded.")
    accelerate = pytest.importorskip("accelerate.utils")
    keys = ACCELERATE.keys_of(plan, {})
    for path, value in keys.items():
        if path[0] == "fsdp_config":
            monkeypatch.setenv(path[1].upper(), str(value).lower())
    monkeypatch.setenv(
        "FSDP_AUTO_WRAP_POLICY", keys["fsdp_config", "fsdp_auto_wrap_policy"]
    )
    plugin = accelerate.FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward == (plan.zero_stage == 3)
    is_offloaded = type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy"
    assert is_offloaded == plan.offload_parameters
    is_full = plan.activation_checkpointing == "full"
    assert plugin.activation_checkpointing == is_full


@pytest.mark.parametrize("plan", SHARDED[:-1], ids=names)
def test_transformers_parses_what_is_written_for_it(plan, tmp_path):
    transformers = pytest.importorskip("transformers")
    file = tmp_path / "arguments.yaml"
    keys = TRAINER.keys_of(plan, {})
    file.write_text(dumped(keys, ".yaml") + f"use_cpu: true\noutput_dir: {tmp_path}\n")
    parser = transformers.HfArgumentParser(transformers.TrainingArguments)
    (arguments,) = parser.parse_yaml_file(str(file))
    assert arguments.per_device_train_batch_size == 3
    assert arguments.bf16
    assert arguments.optim == "adamw_bnb_8bit"
    assert arguments.activation_checkpointing == (
        plan.activation_checkpointing != "none"
    )
    if plan.zero_stage:
        options = arguments.fsdp_plugin_args
        assert options["fsdp_version"] == 2
        assert options["reshard_after_forward"] == (plan.zero_stage == 3)
        assert options.get("cpu_offload", False) == plan.offload_parameters


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("plan", BY_DEEPSPEED, ids=names)
def test_deepspeed_loads_what_is_written_for_it(plan):
    config_module = pytest.importorskip("deepspeed.runtime.config")
    document = json.loads(dumped(DEEPSPEED.keys_of(plan, {}), ".json"))
    config = config_module.DeepSpeedConfig(document)
    assert config.zero_config.stage == plan.zero_stage
    assert config.train_micro_batch_size_per_gpu == 3
    assert config.gradient_accumulation_steps == 5
    assert config.gradient_clipping == 0.5
    offloaded = config.zero_config.offload_optimizer
    assert (offloaded is not None) == plan.offload_optimizer


class TestArguments:
    """None of the Trainer's arguments is dropped in silence."""

    READ = frozenset(
        {
            *BATCH[:1],
            *CHECKPOINTING,
            *(f"{name}_kwargs" for name in CHECKPOINTING),
            *("gradient_accumulation_steps", "max_grad_norm", "optim"),
            *("bf16", "fp16", "tf32", "torch_compile", "torch_compile_backend"),
            *("fsdp", "fsdp_config", "deepspeed", "ddp_find_unused_parameters"),
            *("accelerator_config", "use_cpu"),
        }
    )

    def test_each_is_read_or_listed_or_harmless(self):
        transformers = pytest.importorskip("transformers")
        there = {one.name for one in fields(transformers.TrainingArguments)}
        listed = MOVES_MEMORY.keys() | ONLY_IN_FILES.keys()
        known = self.READ | listed | harmless.TRAINING_ARGUMENTS
        assert there - known == set()

    def test_none_is_called_harmless_that_is_none_or_is_read(self):
        transformers = pytest.importorskip("transformers")
        there = {one.name for one in fields(transformers.TrainingArguments)}
        assert harmless.TRAINING_ARGUMENTS - there == set()
        listed = MOVES_MEMORY.keys() | ONLY_IN_FILES.keys()
        assert not harmless.TRAINING_ARGUMENTS & listed
        assert not harmless.OLDER_TRAINING_ARGUMENTS & there

    def test_every_optimizer_has_a_name_or_is_known_not_to_be_modelled(self):
        optimizers = pytest.importorskip("transformers.training_args").OptimizerNames
        for one in optimizers:
            reading = read(f"output_dir: out\noptim: {one.value}\n")
            is_listed = any(line.startswith("optim:") for line in reading.not_read)
            assert is_listed or "optim" not in reading.supposed


def read(text):
    return TRAINER.read(source(yaml.safe_load(text)))
