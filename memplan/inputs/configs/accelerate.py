"""accelerate's configuration: what `accelerate config` writes, of any version.

Source: accelerate 1.15, `commands/config/config_args.py`, `commands/launch.py` and
`utils/dataclasses.py`.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from memplan.errors import ConfigError
from memplan.inputs.configs import harmless
from memplan.inputs.configs.accelerate_keys import DYNAMO, LAYERS, accelerate_keys
from memplan.inputs.configs.deepspeed import AUTO, DEEPSPEED
from memplan.inputs.configs.format import Document, Keys, Reading, Source, wrong
from memplan.inputs.configs.section import Section
from memplan.inputs.configs.sharding import read_fsdp, sharding_of, strategy_of
from memplan.plan import TrainingPlan

ELSEWHERE = (
    *("MULTI_CPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_MUSA", "MULTI_SDAA"),
    *("MULTI_HPU", "MULTI_NEURON", "XLA", "TPU", "MEGATRON_LM"),
)
"""Distributed types without a formula: on other devices, or by other programs."""
TYPES = ("NO", "MULTI_GPU", "FSDP", "DEEPSPEED")
PRECISIONS = {"bf16": "bf16-mixed", "fp16": "fp16-mixed", "fp8": "bf16-mixed"}
DEGREES = {"tp": "tensor_parallel", "cp": "context_parallel"}
"""Of `parallelism_config`, by the front of `tp_size`."""


class _Accelerate:
    """A file that `accelerate launch --config_file` takes."""

    name = "accelerate"
    title = "accelerate config"
    suffix = ".yaml"

    def knows(self, document: Document) -> bool:
        """By what every version writes."""
        return "distributed_type" in document or "compute_environment" in document

    def read(self, source: Source) -> Reading:
        """Who shards, over how many processes, and what autocast casts to."""
        reading = Reading()
        document = Section(source.document)
        kind = _distributed_type(document)
        _read_processes(document, kind, reading)
        _read_precision(document, kind, reading)
        _read_fsdp(document, kind, reading)
        _read_deepspeed(document, kind, source, reading)
        if kind == "MULTI_GPU":
            reading.suppose("distributed_type", zero_stage=0)
        _read_parallelism(document, reading)
        _read_dynamo(document, reading)
        for key in document.left(harmless.ACCELERATE):
            reading.miss(key)
        return reading

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        """All that it says of a plan; a DeepSpeed file that it names says the rest."""
        return accelerate_keys(plan, document)


ACCELERATE = _Accelerate()


def _distributed_type(document: Section) -> str:
    """Who runs the processes.

    Raises:
        ConfigError: nobody whose memory has a formula.
    """
    environment = document.value("compute_environment")
    if environment not in (None, "LOCAL_MACHINE"):
        raise ConfigError(
            f"compute_environment {environment} runs elsewhere, on its own terms.",
            hint="A file for LOCAL_MACHINE can be read.",
        )
    kind = document.value("distributed_type")
    if kind in (None, False, "no"):  # NO, without quotes, is false in YAML
        kind = "NO"
    if kind in ELSEWHERE:
        raise ConfigError(
            f"distributed_type {kind} has no formula.",
            hint=f"These have: {', '.join(TYPES)}.",
        )
    if kind not in TYPES:
        raise wrong("distributed_type", kind, f"be one of {', '.join(TYPES)}")
    if document.flag("use_cpu"):
        raise ConfigError(
            "use_cpu is set: the run takes no GPU.", hint="Set it to false."
        )
    return str(kind)


def _read_processes(document: Section, kind: str, reading: Reading) -> None:
    """One without a distributed type; -1 is left to the command line."""
    is_left_open = document.value("num_processes") in (None, -1)
    if kind == "NO":
        reading.suppose("distributed_type", num_gpus=1, zero_stage=0)
        return
    if is_left_open:
        reading.open_fields.add("num_gpus")
        return
    count = document.count("num_processes")
    reading.say("num_processes", num_gpus=count)


def _read_precision(document: Section, kind: str, reading: Reading) -> None:
    """It gives way to the Trainer's own arguments (`training_args.py`).

    Not so with FSDP, before which accelerate casts low precision up where a mixed one
    is asked for (`fsdp2_prepare_model`).
    """
    key = "mixed_precision"
    name = document.value(key)
    was_fp16 = document.flag("fp16")  # before version 0.12
    if name is None and was_fp16:
        key, name = "fp16", "fp16"
    if name in (None, False, "no"):
        reading.suppose(key, precision="fp32")
        return
    if not isinstance(name, str) or name not in PRECISIONS:
        raise wrong(key, name, f"be one of no, {', '.join(PRECISIONS)}")
    tell = reading.say if kind == "FSDP" else reading.suppose
    tell(key, precision=PRECISIONS[name])
    if name == "fp8":
        reading.miss(key, "fp8, counted as bf16")
    document.value("fp8_config")


def _without(prefix: str, section: Mapping[str, Any]) -> Document:
    """Keys without what versions since 0.13 begin them with."""
    return {key.removeprefix(prefix): value for key, value in section.items()}


def _read_fsdp(document: Section, kind: str, reading: Reading) -> None:
    values = document.value("fsdp_config") or {}
    if not isinstance(values, Mapping):
        raise wrong("fsdp_config", values, "hold other keys")
    if kind != "FSDP":
        return
    section = Section(_without("fsdp_", values), "fsdp_config")
    version = 2 if str(section.value("version") or 1) == "2" else 1
    name = "reshard_after_forward"
    strategy = section.value("sharding_strategy")
    if version == 1 and strategy is not None:
        name = "sharding_strategy"
    else:
        strategy = section.value(name)
    if strategy is None:
        strategy = "FULL_SHARD"
    key = section.key(name)
    read_fsdp(
        reading,
        key,
        strategy=strategy_of(strategy, version, key),
        version=version,
        offloads=section.flag("offload_params") or False,
        num_nodes=document.count("num_machines") or 1,
    )
    _read_fsdp_layers(section, reading)


def _read_fsdp_layers(section: Section, reading: Reading) -> None:
    """What is wrapped, and checkpointed."""
    wrapping = section.value("auto_wrap_policy")
    if wrapping not in (LAYERS, 1):
        name = wrapping or "none"
        reading.miss(section.key("auto_wrap_policy"), f"{name}, counted by layers")
    key = section.key("activation_checkpointing")
    if section.flag("activation_checkpointing"):
        reading.say(key, activation_checkpointing="full")
    else:
        reading.suppose(key, activation_checkpointing="none")
    if section.flag("activation_checkpointing_offload"):
        reading.miss(f"{key}_offload", "checkpoints are counted on the GPU")
    for left in section.left(harmless.FSDP):
        reading.miss(left)


def _read_deepspeed(
    document: Section, kind: str, source: Source, reading: Reading
) -> None:
    """Inline keys; or a file of DeepSpeed's own, beside which they are not used."""
    section = document.section("deepspeed_config")
    if kind != "DEEPSPEED":
        return
    named = section.text("deepspeed_config_file")
    if named is not None:
        _read_deepspeed_file(source.named(named), section, reading)
        return
    stage = section.value("zero_stage")
    devices = {
        name: {"device": section.value(f"{name}_device")}
        for name in ("offload_optimizer", "offload_param")
    }
    zero = {"stage": 2 if stage is None else stage, **devices}
    if zero["stage"] == 0 and stage is not False:
        reading.say(section.key("zero_stage"), zero_stage=0)
        reading.miss(section.key("zero_stage"), "0, counted as DDP")
    else:
        found = sharding_of({"zero_optimization": zero})
        reading.say(section.key("zero_stage"), **found)
    for name, field in (
        ("gradient_accumulation_steps", "gradient_accumulation_steps"),
        ("gradient_clipping", "max_grad_norm"),
    ):
        if section.value(name) in (None, AUTO):
            continue
        take = section.number if field == "max_grad_norm" else section.count
        reading.say(section.key(name), **{field: take(name)})
    for left in section.left(harmless.DEEPSPEED_BY_ACCELERATE):
        reading.miss(left)


def _read_deepspeed_file(named: Source, section: Section, reading: Reading) -> None:
    if not DEEPSPEED.knows(named.document):
        raise ConfigError(
            f"{named.file} is no configuration of DeepSpeed.",
            hint="It holds zero_optimization.",
        )
    inner = DEEPSPEED.read(named)
    reading.adopt(inner, named.file)
    for left in section.left(harmless.DEEPSPEED_BY_ACCELERATE):
        reading.miss(left, "accelerate takes no such key beside a file")


def _read_parallelism(document: Section, reading: Reading) -> None:
    values = document.value("parallelism_config") or {}
    if not isinstance(values, Mapping):
        raise wrong("parallelism_config", values, "hold other keys")
    section = Section(_without("parallelism_config_", values), "parallelism_config")
    for name, field in DEGREES.items():
        degree = section.count(f"{name}_size")
        if degree is not None:
            reading.say(section.key(f"{name}_size"), **{field: degree})
    for name, what in (
        ("dp_replicate", "replicas, counted as sharded over all GPUs"),
        ("sp", "sequence parallelism as DeepSpeed's Ulysses"),
    ):
        degree = section.count(f"{name}_size") or 1
        if degree > 1:
            reading.miss(section.key(f"{name}_size"), what)
    _check_degrees(section, reading)
    if section.text("cp_backend") not in (None, "torch"):
        reading.miss(section.key("cp_backend"), "counted as ring attention")
    for key in section.left(harmless.PARALLELISM):
        reading.miss(key)


def _check_degrees(section: Section, reading: Reading) -> None:
    """All of them together are all processes (`ParallelismConfig`)."""
    names = ("dp_replicate", "dp_shard", "tp", "cp", "sp")
    product = prod(section.count(f"{name}_size") or 1 for name in names)
    num_gpus = reading.fields.get("num_gpus", product)
    if section.count("dp_shard_size") is not None and product != num_gpus:
        raise ConfigError(
            f"parallelism_config divides {product} processes, and num_processes is "
            f"{num_gpus}.",
            hint="The product of its sizes must be num_processes.",
        )


def _read_dynamo(document: Section, reading: Reading) -> None:
    """The backend; before version 0.16 it stood at the top."""
    section = document.section("dynamo_config")
    names = [section.value("dynamo_backend"), section.value("backend")]
    for backend in (*names, document.value("dynamo_backend")):
        if backend is not None and not isinstance(backend, (str, bool)):
            raise wrong(DYNAMO, backend, "be the name of a backend")
        if backend and str(backend).lower() != "no":
            reading.say(".".join(DYNAMO), torch_compile=True)
