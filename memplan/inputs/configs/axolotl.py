"""Axolotl's YAML, of all its versions.

Sources: axolotl 0.13, `utils/schemas/`, `utils/config/` (what it makes of bf16 and
fp16) and `loaders/model.py` (in what weights are loaded, and how they are quantized);
its examples since 2023. How many GPUs there are, accelerate is told.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from memplan.formulas.setting import ALL_LINEAR
from memplan.inputs.configs import harmless
from memplan.inputs.configs.axolotl_keys import (
    ATTENTION,
    LAYERS,
    STRATEGIES,
    SWITCHES,
    keys_of,
    searched,
)
from memplan.inputs.configs.bitsandbytes import read_quantization
from memplan.inputs.configs.deepspeed import DEEPSPEED
from memplan.inputs.configs.format import Document, Keys, Reading, Source, wrong
from memplan.inputs.configs.losses import CHUNKS, say_chunks
from memplan.inputs.configs.names import LONG_DTYPES, model_name, say_optimizer
from memplan.inputs.configs.peft import DEFAULT_RANK, read_targets
from memplan.inputs.configs.section import Section, decide
from memplan.inputs.configs.sharding import read_fsdp, strategy_of
from memplan.plan import TrainingPlan

ONE_OF = frozenset(
    (
        "adapter",
        "datasets",
        "gradient_accumulation_steps",
        "micro_batch_size",
        "pretraining_dataset",
        "sequence_len",
    )
)
"""Beside a base_model there is one of these."""
ADAPTERS = ("lora", "qlora")
MOVES_MEMORY = {
    "rl": "a reference model, and pairs of answers, are not counted",
    "lora_modules_to_save": "modules that train beside adapters are counted as frozen",
    "peft_layers_to_transform": "adapters are counted in all layers",
    "peft_use_dora": "magnitudes and norms of DoRA are not counted",
    "gptq": "weights of GPTQ are counted as they would be loaded",
    "load_4bit": "weights of GPTQ are counted as they would be loaded",
    "fp8": "counted in bf16",
    "layer_offloading": "layers on the host are counted on the card",
    "tiled_mlp": "counted in one piece",
    "flex_attention": "counted as PyTorch's own",
    "s2_attention": "counted as PyTorch's own",
    "sage_attention": "counted as PyTorch's own",
    "cut_cross_entropy": "logits are counted as they would be made",
    "liger_fused_linear_cross_entropy": "logits are counted as they would be made",
}
"""Keys that no field says; what is counted instead."""


class Axolotl:
    """What `axolotl train` is given."""

    name = "axolotl"
    title = "Axolotl config"
    suffix = ".yaml"

    def knows(self, document: Document) -> bool:
        return "base_model" in document and bool(document.keys() & ONE_OF)

    def read(self, source: Source) -> Reading:
        reading = Reading()
        run = Section(source.document)
        _read_model(run, reading)
        _read_sharding(run, source, reading)
        adapters = _read_adapters(run, reading)
        _read_dtypes(run, adapters, reading)
        _read_trained(run, adapters, reading)
        _read_batch(run, reading)
        _read_activations(run, reading)
        _read_attention(run, reading)
        if run.value("plugins"):
            names = [name.rpartition(".")[2] for name in run.texts("plugins") or ()]
            reading.miss("plugins", f"{', '.join(names)}: counted without")
        for key in run.left(harmless.AXOLOTL):
            if not key.startswith(harmless.AXOLOTL_PREFIXES):
                reading.miss(key, MOVES_MEMORY.get(key, "not known to memplan"))
        return reading

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        return keys_of(plan, document)


def _read_model(run: Section, reading: Reading) -> None:
    name, revision = run.text("base_model"), run.text("revision_of_model")
    if name and revision:  # of a preset there is one revision
        reading.say("base_model", model=name)
        reading.say("revision_of_model", revision=revision)
    elif name:
        reading.say("base_model", model=model_name(name))


def _read_adapters(run: Section, reading: Reading) -> bool:
    """Whether there are any that have a formula."""
    kind = run.text("adapter")
    rank, dropout = run.count("lora_r"), run.number("lora_dropout")
    takes_all = run.flag("lora_target_linear")
    if kind not in ADAPTERS:
        run.value("lora_target_modules")
        if kind:
            reading.miss("adapter", f"{kind} has no formula")
        return False
    reading.say("adapter", trainable="lora")
    decide(reading, "lora_r", "lora_rank", rank, DEFAULT_RANK)
    decide(reading, "lora_dropout", "lora_dropout", dropout, 0.0)
    if takes_all:
        run.value("lora_target_modules")
        reading.say("lora_target_linear", lora_targets=(ALL_LINEAR,))
    else:
        read_targets(run, "lora_target_modules", reading)
    return True


def _read_dtypes(run: Section, adapters: bool, reading: Reading) -> None:
    """Weights are loaded in the dtype that autocast casts to."""
    bf16 = run.value("bf16")
    if bf16 not in (None, True, False, "auto", "full", "true", "false"):
        raise wrong("bf16", bf16, "be true, false, auto or full")
    is_full = bf16 == "full"
    fp16, float16 = run.flag("fp16"), run.flag("float16")
    takes_bf16 = bf16 in (True, "true", "full") or bool(run.flag("bfloat16"))
    if bf16 in (None, "auto") and not fp16 and not float16:
        takes_bf16 = True
    takes_tf32 = run.value("tf32") is True
    is_8bit, is_4bit = run.flag("load_in_8bit"), run.flag("load_in_4bit")
    key = "bf16" if takes_bf16 else "fp16"
    if takes_bf16:
        dtype, precision = "bf16", "bf16-pure" if is_full else "bf16-mixed"
    elif fp16:
        dtype, precision = "fp16", "fp16-mixed"
    else:
        dtype = "fp16" if is_8bit or float16 else "fp32"
        precision = "tf32" if takes_tf32 else "fp32"
        key = "tf32" if takes_tf32 else "bf16"
    is_kept = adapters or bool(reading.fields.get("zero_stage"))
    if not is_kept and precision == "bf16-mixed":
        precision = "bf16-pure"
    if not is_kept and dtype == "fp16":
        what = "weights that train in fp16 have no formula: counted in fp32"
        reading.miss("fp16" if fp16 else "float16", what)
    if bf16 is None and takes_bf16:
        reading.suppose(precision=precision)
    else:
        reading.say(key, precision=precision)
    if adapters:
        reading.suppose(key, frozen_dtype=dtype)
    _read_quantization(run, is_4bit, is_8bit, dtype, reading)


def _read_quantization(
    run: Section,
    is_4bit: bool | None,
    is_8bit: bool | None,
    dtype: str,
    reading: Reading,
) -> None:
    """Of QLoRA with double quantization, unless bnb_config_kwargs say otherwise."""
    changed = run.section("bnb_config_kwargs")
    if is_8bit:
        reading.say("load_in_8bit", quantization="int8")
    elif is_4bit:
        config = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": LONG_DTYPES[dtype],
            "bnb_4bit_use_double_quant": True,
            **changed.values,
        }
        read_quantization(Section(config, "bnb_config_kwargs"), reading)
        reading.say("load_in_4bit", quantization="nf4")
    else:
        reading.suppose("load_in_4bit", quantization="none")


def _read_trained(run: Section, adapters: bool, reading: Reading) -> None:
    """Patterns of parameters that train where the others are frozen."""
    key = "unfrozen_parameters"
    patterns = run.texts(key) or ()
    if not patterns:
        return
    if adapters:
        reading.miss(key, "parameters that train beside adapters: counted as frozen")
        return
    if any("," in pattern or not pattern.strip() for pattern in patterns):
        reading.miss(key, "patterns with commas; all parameters are counted")
        return
    if any("[:" in pattern or pattern.endswith("]") for pattern in patterns):
        reading.miss(key, "rows of a parameter; the whole of it is counted")
    whole = (pattern.partition("$[")[0] for pattern in patterns)
    reading.say(key, trainable=",".join(searched(pattern) for pattern in whole))


def _read_batch(run: Section, reading: Reading) -> None:
    """Of micro-batch, accumulation and both together, two are said."""
    micro, steps = (
        run.count("micro_batch_size"),
        run.count("gradient_accumulation_steps"),
    )
    total = run.count("batch_size")
    if total and not steps:
        steps = max(total // (micro or 1), 1)
        reading.say("batch_size", gradient_accumulation_steps=steps)
    elif total and steps and not micro:
        micro = max(total // steps, 1)
    key = "gradient_accumulation_steps"
    decide(reading, key, key, steps, 1)
    decide(reading, "micro_batch_size", "per_device_train_batch_size", micro, 1)
    decide(reading, "sequence_len", "seq_len", run.count("sequence_len"), 512)
    if (run.count("eval_batch_size") or 0) > (micro or 1):
        reading.miss("eval_batch_size", "batches of evaluation are not counted")
    norm = run.number("max_grad_norm")
    decide(reading, "max_grad_norm", "max_grad_norm", norm, 1.0)
    optimizer = run.text("optimizer")
    if optimizer:
        say_optimizer(reading, "optimizer", optimizer)
    else:
        reading.suppose(optim="adamw_fused")


def _read_activations(run: Section, reading: Reading) -> None:
    key = "gradient_checkpointing"
    value = run.value(key)
    if value not in (None, True, False, "offload", "offload_disk", "unsloth"):
        raise wrong(key, value, "be true, false, offload or offload_disk")
    options = run.section("gradient_checkpointing_kwargs")
    every = options.count("every_n_layers") or 1
    how = "none" if not value else "full" if every == 1 else f"every-{every}"
    if value or "activation_checkpointing" not in reading.fields:
        given = None if value is None else how
        decide(reading, key, "activation_checkpointing", given, how)
    for left in options.left(frozenset(("use_reentrant",))):
        reading.miss(left)
    offloads = run.value("activation_offloading")
    if offloads not in (None, True, False, "legacy", "disk", "hidden_states"):
        raise wrong("activation_offloading", offloads, "be true, false, legacy or disk")
    place = key if isinstance(value, str) else "activation_offloading"
    moved = bool(offloads) or isinstance(value, str)
    decide(reading, place, "offload_activations", moved or None, False)
    decide(
        reading,
        "torch_compile",
        "torch_compile",
        _flag_or_auto(run, "torch_compile"),
        False,
    )
    chunks = run.count("chunked_cross_entropy_num_chunks") or CHUNKS
    if run.flag("chunked_cross_entropy"):
        say_chunks(reading, "chunked_cross_entropy", chunks)


def _flag_or_auto(run: Section, name: str) -> bool | None:
    """Axolotl's "auto" is true on cards and versions of today."""
    return True if run.value(name) == "auto" else run.flag(name)


def _read_attention(run: Section, reading: Reading) -> None:
    name = run.text("attn_implementation")
    if name is not None:
        if name in ATTENTION:
            reading.say("attn_implementation", attn_implementation=ATTENTION[name])
        else:
            reading.miss("attn_implementation", f"{name} has no formula")
        return
    for switch, kernel in SWITCHES.items():
        if run.flag(switch):
            reading.say(switch, attn_implementation=kernel)
    reading.suppose(attn_implementation="auto")


def _read_sharding(run: Section, source: Source, reading: Reading) -> None:
    tensor, context = (
        run.count("tensor_parallel_size"),
        run.count("context_parallel_size") or run.count("sequence_parallel_degree"),
    )
    decide(reading, "tensor_parallel_size", "tensor_parallel", tensor, 1)
    decide(reading, "context_parallel_size", "context_parallel", context, 1)
    shard, replicate = run.count("dp_shard_size"), run.count("dp_replicate_size")
    if shard:
        num_gpus = shard * (tensor or 1) * (context or 1)
        reading.say("dp_shard_size", num_gpus=num_gpus)
    else:
        reading.open_fields.add("num_gpus")
    if (replicate or 1) > 1:
        what = f"counted is one of {replicate} groups that shard"
        reading.miss("dp_replicate_size", what)
    named = run.value("deepspeed")
    if isinstance(named, str) and named:
        opened = source.named(named)
        if not DEEPSPEED.knows(opened.document):
            raise wrong("deepspeed", named, "name a configuration of DeepSpeed")
        reading.adopt(DEEPSPEED.read(opened), opened.file)
    elif named:
        inner = dict(run.section("deepspeed").values)
        reading.adopt(DEEPSPEED.read(replace(source, document=inner)))
    _read_fsdp(run, reading)


def _read_fsdp(run: Section, reading: Reading) -> None:
    """A list in FSDP1; a table, with or without `fsdp_` before its keys."""
    words = run.texts("fsdp") or ()
    table = run.section("fsdp_config")
    version = run.value("fsdp_version")
    if not (table or words):
        return
    plain = {key.removeprefix("fsdp_"): item for key, item in table.values.items()}
    fsdp = Section(plain, "fsdp_config")
    within = fsdp.value("version")
    number = 2 if str(version or within or 1) == "2" else 1
    reshards, strategy = (
        fsdp.value("reshard_after_forward"),
        fsdp.value("sharding_strategy"),
    )
    listed = next((word for word in words if word in STRATEGIES), None)
    key = fsdp.key("sharding_strategy")
    found = strategy or listed or "FULL_SHARD"
    if number == 2 and reshards is not None:
        key, found = fsdp.key("reshard_after_forward"), reshards
    elif listed and not strategy:
        key = "fsdp"
    read_fsdp(
        reading,
        key,
        strategy=strategy_of(found, number, key),
        version=number,
        offloads=bool(fsdp.flag("offload_params")) or "offload" in words,
    )
    if fsdp.flag("activation_checkpointing"):
        key = fsdp.key("activation_checkpointing")
        reading.say(key, activation_checkpointing="full")
    wrapping = fsdp.text("auto_wrap_policy")
    if wrapping not in (None, LAYERS):
        reading.miss(fsdp.key("auto_wrap_policy"), f"{wrapping}, counted by layers")
    for left in fsdp.left(harmless.FSDP | harmless.AXOLOTL_FSDP):
        reading.miss(left)


AXOLOTL = Axolotl()
