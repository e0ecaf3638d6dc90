"""DeepSpeed's configuration: JSON, with "auto" for what the Trainer decides.

Source: DeepSpeed 0.19, `runtime/config.py`, `runtime/zero/config.py`; what "auto" is
replaced by: transformers 5.23, `integrations/deepspeed.py`.
"""

from collections.abc import Mapping
from typing import Any

from memplan.formulas import deepspeed_prefetch as prefetch
from memplan.formulas.deepspeed_step import REDUCE_BUCKET_ELEMENTS
from memplan.inputs.configs import harmless
from memplan.inputs.configs.format import Document, Keys, Reading, Source, at, wrong
from memplan.inputs.configs.names import optimizer_name
from memplan.inputs.configs.section import Section
from memplan.inputs.configs.sharding import sharding_of
from memplan.plan import TrainingPlan

AUTO = "auto"
BATCH = "train_micro_batch_size_per_gpu"
ACCUMULATION = "gradient_accumulation_steps"
CLIPPING = "gradient_clipping"
GLOBAL_BATCH = "train_batch_size"

OPTIMIZERS = {
    "adam": "adamw_fused",
    "adamw": "adamw_fused",
    "lion": "lion",
    "adagrad": "adagrad",
    "sgd": "sgd",
    "rmsprop": "rmsprop",
}
"""Its own by their type; adam is AdamW there, unless `adam_w_mode` is off."""
TYPES = {"adamw_fused": "AdamW", "lion": "Lion", "adagrad": "Adagrad", "sgd": "SGD"}
"""The other way."""

ASSUMED: dict[str, int | bool] = {
    "reduce_bucket_size": REDUCE_BUCKET_ELEMENTS,
    "allgather_bucket_size": 500_000_000,
    "sub_group_size": 1_000_000_000,
    "stage3_prefetch_bucket_size": prefetch.PREFETCH_ELEMENTS,
    "stage3_param_persistence_threshold": prefetch.PERSISTENT_ELEMENTS,
    "stage3_max_live_parameters": prefetch.MAX_LIVE_ELEMENTS,
    "stage3_max_reuse_distance": prefetch.MAX_REUSE_ELEMENTS,
    "stage3_module_granularity_threshold": 0,
    "allgather_partitions": True,
    "contiguous_gradients": True,
    "reduce_scatter": True,
    "memory_efficient_linear": True,
    "zero_hpz_partition_size": 1,
}
"""Of `zero_optimization`: DeepSpeed's defaults, with which the formulas count."""


class _DeepSpeed:
    """A file that `deepspeed.initialize`, accelerate or the Trainer is given."""

    name = "deepspeed"
    title = "DeepSpeed config"
    suffix = ".json"

    def knows(self, document: Document) -> bool:
        """By its sections, and by names of batch sizes that nobody else has."""
        if "zero_optimization" in document or BATCH in document:
            return True
        precisions = (document.get(name) for name in ("bf16", "fp16"))
        return any(isinstance(p, Mapping) and "enabled" in p for p in precisions)

    def read(self, source: Source) -> Reading:
        """What it says; "auto" is left open."""
        reading = Reading(open_fields={"num_gpus"})
        document = Section(source.document)
        _read_zero(source.document, document.section("zero_optimization"), reading)
        _read_batch(document, reading)
        _read_precision(document, reading)
        _read_optimizer(document.section("optimizer"), reading)
        checkpoints = document.section("activation_checkpointing")
        for key in checkpoints.left(frozenset({"profile"})):
            reading.miss(key, "for checkpoints that a program makes by DeepSpeed's own")
        for key in document.left(harmless.DEEPSPEED):
            if not _is_off(at(source.document, key)):
                reading.miss(key)
        return reading

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        """All that it says of a plan; what a document leaves to others stays "auto"."""
        zero = "zero_optimization"
        engine = _engine(plan)
        keys: Keys = {
            (BATCH,): plan.per_device_train_batch_size,
            (ACCUMULATION,): plan.gradient_accumulation_steps,
            (CLIPPING,): plan.max_grad_norm,
            ("bf16", "enabled"): engine == "bf16",
            ("fp16", "enabled"): engine == "fp16",
            (zero, "stage"): plan.zero_stage,
        }
        for section, before, is_set in (
            ("offload_optimizer", "cpu_offload", plan.offload_optimizer),
            ("offload_param", "cpu_offload_param", plan.offload_parameters),
        ):
            if at(document, zero, before) is not None:
                keys[zero, before] = is_set
            elif is_set or at(document, zero, section) is not None:
                keys[zero, section, "device"] = "cpu" if is_set else "none"
        if isinstance(document.get(GLOBAL_BATCH), int):
            samples = plan.per_device_train_batch_size * plan.data_parallel
            keys[GLOBAL_BATCH,] = samples * plan.gradient_accumulation_steps
        kind = at(document, "optimizer", "type")
        if kind is not None:
            keys["optimizer", "type"] = _type_for(optimizer_name(plan.optim), kind)
        return keys


DEEPSPEED = _DeepSpeed()


def _engine(plan: TrainingPlan) -> str:
    """What the engine computes in: it casts all weights, mixed or pure."""
    return "no" if plan.precision in ("fp32", "tf32") else plan.precision[:4]


def _type_for(optim: str, there: object) -> object:
    """The type in the document, where it is that optimizer, or it has no other."""
    is_there = OPTIMIZERS.get(str(there).lower()) == optim
    return there if is_there else TYPES.get(optim, there)


def _read_zero(document: Document, zero: Section, reading: Reading) -> None:
    key = zero.key("stage")
    stage = zero.value("stage")
    if stage in (None, 0) and stage is not False:
        reading.say(key, zero_stage=0)
        reading.miss(key, "DeepSpeed's engine without sharding, counted as DDP")
    else:
        reading.say(key, **sharding_of(document))
    for name in ("offload_optimizer", "offload_param"):
        section = zero.section(name)
        ratio = section.number("ratio")
        if ratio not in (None, 1):
            reading.miss(section.key("ratio"), "counted as offloaded as a whole")
        for left in section.left(harmless.DEEPSPEED_OFFLOAD):
            reading.miss(left)
    overlaps = zero.value("overlap_comm")
    if overlaps not in (None, AUTO, stage == 3):
        reading.miss(zero.key("overlap_comm"), "counted as by default of the stage")
    for name, assumed in ASSUMED.items():
        value = zero.value(name)
        if value not in (None, assumed):
            reading.miss(zero.key(name), f"{_short(value)}, counted as {assumed:,}")
    for left in zero.left(harmless.DEEPSPEED_ZERO):
        reading.miss(left)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:17]}..."


def _read_batch(document: Section, reading: Reading) -> None:
    """Micro-batch, accumulation and clipping; the whole batch is their product."""
    counts: dict[str, int] = {}
    for key, name in (
        (BATCH, "per_device_train_batch_size"),
        (ACCUMULATION, "gradient_accumulation_steps"),
    ):
        if document.value(key) == AUTO:
            reading.open_fields.add(name)
            continue
        count = document.count(key)
        if count is not None:
            counts[key] = count
            reading.say(key, **{name: count})
    _read_whole_batch(document, counts, reading)
    if document.value(CLIPPING) == AUTO:
        reading.open_fields.add("max_grad_norm")
        return
    clipping = document.number(CLIPPING)
    if clipping is not None:
        reading.say(CLIPPING, max_grad_norm=clipping)
    else:
        reading.suppose(max_grad_norm=0.0)


def _read_whole_batch(
    document: Section, counts: dict[str, int], reading: Reading
) -> None:
    if document.value(GLOBAL_BATCH) in (None, AUTO):
        return
    whole = document.count(GLOBAL_BATCH)
    assert whole is not None
    known = counts.get(BATCH, 1) * counts.get(ACCUMULATION, 1)
    if whole % known:
        raise wrong(GLOBAL_BATCH, whole, f"be a multiple of {known} (batch x steps)")
    if len(counts) == 2:
        reading.suppose(GLOBAL_BATCH, num_gpus=whole // known)
        return
    reading.miss(GLOBAL_BATCH, f"how many GPUs share the {whole} is not in the file")


def _read_precision(document: Section, reading: Reading) -> None:
    """Either is on, or is left open, or both are off."""
    is_open = False
    for name in ("bf16", "fp16"):
        section = document.section(name)
        if section.value("enabled") == AUTO:
            is_open = True
        elif section.flag("enabled"):
            reading.say(section.key("enabled"), precision=f"{name}-mixed")
        for key in section.left(harmless.DEEPSPEED_PRECISION):
            reading.miss(key)
    if "precision" in reading.fields:
        return
    if is_open:
        reading.open_fields.add("precision")
    else:
        reading.suppose(precision="fp32")


def _read_optimizer(section: Section, reading: Reading) -> None:
    """DeepSpeed makes its own where it is told to; else the program does."""
    kind = section.text("type")
    params = section.section("params")
    if kind is None:
        return
    name = OPTIMIZERS.get(kind.lower())
    if name == "adamw_fused" and params.flag("adam_w_mode") is False:
        name = "adam_fused"
    if name is not None and params.flag("torch_adam"):
        name = name.removesuffix("_fused")
    if name == "sgd" and params.number("momentum"):
        name = "sgd_momentum"
    if name is None:
        reading.miss(section.key("type"), f"{_short(kind)}, counted as by default")
    else:
        reading.say(section.key("type"), optim=name)


def _is_off(section: object) -> bool:
    """A section that is there, and switched off."""
    return isinstance(section, Mapping) and section.get("enabled") is False
