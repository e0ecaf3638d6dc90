"""Arguments of transformers' Trainer, in whichever file they stand.

Source: transformers 5.23, `training_args.py`; names of version 4 are read too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memplan.errors import ConfigError, UnknownNameError
from memplan.formulas.optimizers import NOT_MODELLED, optimizer_names
from memplan.inputs.configs import harmless
from memplan.inputs.configs.deepspeed import DEEPSPEED
from memplan.inputs.configs.format import Reading, Source, wrong
from memplan.inputs.configs.names import model_name, optimizer_name
from memplan.inputs.configs.precision import precision_of
from memplan.inputs.configs.section import Section
from memplan.inputs.configs.sharding import STAGES, read_fsdp, strategy_of

BATCH = ("per_device_train_batch_size", "per_gpu_train_batch_size")
CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
"""The newer spelling, and the older."""
MOVES_MEMORY = {
    "use_liger_kernel": "Liger's kernels keep fewer activations",
    "neftune_noise_alpha": "the noise on embeddings is kept",
    "label_smoothing_factor": "the smoothed loss makes copies of the logits",
    "optim_target_modules": "an optimizer for some modules apart",
}
"""Arguments that are not read where they are set; what of them can move memory."""
ONLY_IN_FILES = {
    "auto_find_batch_size": "the batch may become smaller",
    "ddp_bucket_cap_mb": "buckets are counted with PyTorch's size",
    "ddp_static_graph": "counted without",
    "parallelism_config": "counted without",
    "split_batches": "the batch is divided among processes, and counted whole",
    "torch_empty_cache_steps": "what is reserved is counted without",
    "use_cache": "counted without a cache of keys and values",
}
"""The same of those that show by themselves in a run that is looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """What a program does where its file says nothing."""

    autocast: str = "no"
    checkpointing: str = "none"


def read_arguments(
    document: Section, source: Source, reading: Reading, defaults: Defaults
) -> str:
    """All but the precision, which the dtype of the weights decides too.

    Returns:
        What autocast casts to: no, bf16 or fp16.
    """
    if document.value("use_cpu") is True or document.value("no_cuda") is True:
        raise ConfigError(
            "use_cpu is set: the run takes no GPU.", hint="Set it to false."
        )
    engine = _read_deepspeed(document, source, reading)
    _read_step(document, reading)
    _read_optimizer(document, engine, reading)
    _read_checkpointing(document, reading, defaults)
    _read_fsdp(document, source, reading)
    if document.flag("torch_compile") or document.text("torch_compile_backend"):
        reading.say("torch_compile", torch_compile=True)
    _list_what_moves_memory(document, reading)
    autocast = _autocast(document, defaults)
    _check_agreement(engine, reading, autocast)
    return autocast if autocast != "no" else _autocast_of(engine)


def read_precision(
    document: Section,
    reading: Reading,
    autocast: str,
    loaded: tuple[str, str] = ("dtype", "fp32"),
) -> None:
    """The policy of an autocast over weights that were loaded in a dtype.

    PEFT makes adapters in fp32, DeepSpeed's engine copies of what it trains; and before
    it shards by FSDP, accelerate casts to fp32 what an autocast is asked for.

    Args:
        loaded: the key that says the dtype, and the dtype.
    """
    key, dtype = loaded
    is_adapted = reading.fields.get("trainable") == "lora"
    by_fsdp = autocast != "no" and reading.fields.get("zero_stage", 0) > 1
    is_cast = by_fsdp or reading.fields.get("sharding") == "deepspeed"
    if is_adapted and dtype != "fp32":
        reading.say(key, frozen_dtype=dtype)
    trained = "fp32" if is_adapted or is_cast else dtype
    policy = precision_of(autocast, trained, document.flag("tf32") or False)
    asked = [name for name in ("bf16", "fp16", "tf32") if document.flag(name)]
    if trained != "fp32":
        asked.append(key)
    if asked:
        reading.say(asked[0], precision=policy)
    else:
        reading.suppose(precision=policy)


def read_model(document: Section, reading: Reading) -> None:
    """The model that the arguments beside the Trainer's name."""
    model = document.text("model_name_or_path")
    if model is not None:
        reading.say("model_name_or_path", model=model_name(model))
    revision = document.text("model_revision")
    if model is not None and revision not in (None, "main"):
        reading.say("model_revision", revision=revision)


def list_unread(document: Section, reading: Reading, *more: str) -> None:
    """What is set, was not read, and is not known to move no memory."""
    known = harmless.TRAINING_ARGUMENTS | harmless.OLDER_TRAINING_ARGUMENTS
    for key in document.left(known | harmless.EXAMPLE_SCRIPTS | frozenset(more)):
        reading.miss(key)


def checkpointing_of(options: Mapping[str, Any], key: str, reading: Reading) -> str:
    """What `activation_checkpointing_enable` does with its arguments."""
    if options.get("offload"):
        reading.not_read.append("checkpoints offloaded to the host: counted on the GPU")
    every = options.get("every_n_layers", 1)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise wrong(f"{key}_kwargs.every_n_layers", every, "be a whole number")
    return "full" if every == 1 else f"every-{every}"


def _read_step(document: Section, reading: Reading) -> None:
    """Micro-batch, accumulation, clipping."""
    newer, older = (document.count(name) for name in BATCH)
    if newer is not None:
        reading.say(BATCH[0], per_device_train_batch_size=newer)
    elif older is not None:
        reading.say(BATCH[1], per_device_train_batch_size=older)
    steps = document.count("gradient_accumulation_steps")
    if steps is not None:
        name = "gradient_accumulation_steps"
        reading.say(name, gradient_accumulation_steps=steps)
    norm = document.number("max_grad_norm")
    if norm is not None:
        reading.say("max_grad_norm", max_grad_norm=norm)
    reading.suppose(
        per_device_train_batch_size=8, gradient_accumulation_steps=1, max_grad_norm=1.0
    )


def _read_optimizer(document: Section, engine: Reading, reading: Reading) -> None:
    """The Trainer's, unless DeepSpeed's configuration names one of its own."""
    name = document.text("optim")
    key = "optim"
    if document.flag("adafactor"):
        key = name = "adafactor"
    if name is None:
        reading.suppose(optim="adamw_fused")
        return
    known = optimizer_name(name.removeprefix("OptimizerNames.").lower())
    if known in NOT_MODELLED:
        reading.suppose(key, optim="adamw_fused")
        reading.miss(key, f"{known}, counted as adamw_fused")
    elif known not in optimizer_names():
        error = UnknownNameError.of("optimizer", name, optimizer_names())
        raise ConfigError(f"{key}: {error.message}", hint=error.hint)
    elif "optim" not in engine.fields:
        reading.say(key, optim=known)


def _read_checkpointing(
    document: Section, reading: Reading, defaults: Defaults
) -> None:
    """Either name; a switch that is off gives way to FSDP's own."""
    for name in CHECKPOINTING:
        is_on = document.flag(name)
        options = document.section(f"{name}_kwargs")
        values = {key: options.value(key) for key in ("offload", "every_n_layers")}
        values = {key: value for key, value in values.items() if value is not None}
        if is_on:
            mode = checkpointing_of(values, name, reading)
            reading.say(name, activation_checkpointing=mode)
        elif is_on is False:
            reading.suppose(name, activation_checkpointing="none")
    reading.suppose(activation_checkpointing=defaults.checkpointing)


def _read_fsdp(document: Section, source: Source, reading: Reading) -> None:
    """A switch with `fsdp_config`; or, before version 5, words."""
    words = document.value("fsdp")
    options = _options_of_fsdp(document.value("fsdp_config"), source)
    if words in (None, False, "", []):
        return
    asked = words.split() if isinstance(words, str) else words
    asked = [] if asked is True else asked
    if not isinstance(asked, list):
        raise wrong("fsdp", words, "be true, or words like full_shard")
    asked = [str(word).lower() for word in asked]
    version = 1 if str(options.value("version")) == "1" else 2
    strategy = options.value("reshard_after_forward")
    for word in asked:
        if word.upper() in STAGES and strategy is None:
            strategy = word
        elif word.upper() not in STAGES and word not in ("auto_wrap", "offload"):
            raise wrong("fsdp", words, f"be of {', '.join(STAGES).lower()}")
    key = options.key("reshard_after_forward")
    reading.open_fields.add("num_gpus")
    read_fsdp(
        reading,
        key,
        strategy=strategy_of(True if strategy is None else strategy, version, key),
        version=version,
        offloads="offload" in asked or _is_on(options, "cpu_offload"),
    )
    _read_fsdp_layers(options, reading)


def _read_fsdp_layers(options: Section, reading: Reading) -> None:
    if _is_on(options, "activation_checkpointing"):
        key = options.key("activation_checkpointing")
        reading.say(key, activation_checkpointing="full")
    wrapping = options.value("auto_wrap_policy")
    if wrapping not in (None, "TRANSFORMER_BASED_WRAP"):
        reading.miss(options.key("auto_wrap_policy"), f"{wrapping}, counted by layers")
    for key in options.left(harmless.FSDP):
        reading.miss(key)


def _options_of_fsdp(value: object, source: Source) -> Section:
    """`fsdp_config`, or the file it names; keys without `fsdp_` before them."""
    if isinstance(value, str) and value:
        value = source.named(value).document
    if value in (None, "", []):
        value = {}
    if not isinstance(value, Mapping):
        raise wrong("fsdp_config", value, "hold other keys, or name a file")
    plain = {key.removeprefix("fsdp_"): item for key, item in value.items()}
    return Section(plain, "fsdp_config")


def _is_on(section: Section, name: str) -> bool:
    """A switch, which the Trainer also takes as text."""
    value = section.value(name)
    if value not in (None, True, False) and str(value).lower() not in ("true", "false"):
        raise wrong(section.key(name), value, "be true or false")
    return str(value).lower() == "true"


def _read_deepspeed(document: Section, source: Source, reading: Reading) -> Reading:
    """DeepSpeed's configuration: in the file, or named by it."""
    value = document.value("deepspeed")
    if value in (None, "", {}):
        return Reading()
    if isinstance(value, str):
        inner = source.named(value)
        if not DEEPSPEED.knows(inner.document):
            raise ConfigError(
                f"{inner.file} is no configuration of DeepSpeed.",
                hint="It holds zero_optimization.",
            )
        engine = DEEPSPEED.read(inner)
        reading.adopt(engine, inner.file)
        return engine
    if not isinstance(value, Mapping):
        raise wrong("deepspeed", value, "name a file, or hold other keys")
    engine = DEEPSPEED.read(
        Source(file=source.file, document=dict(value), named=source.named)
    )
    reading.adopt(engine)
    return engine


def _list_what_moves_memory(document: Section, reading: Reading) -> None:
    """Arguments that are known, and are in no field."""
    for name, what in (MOVES_MEMORY | ONLY_IN_FILES).items():
        if document.value(name):
            reading.miss(name, what)
    accelerator = document.value("accelerator_config")
    if isinstance(accelerator, Mapping) and accelerator.get("split_batches") is True:
        reading.miss("accelerator_config.split_batches", ONLY_IN_FILES["split_batches"])
    looks = document.flag("ddp_find_unused_parameters")
    by_itself = reading.fields["activation_checkpointing"] == "none"
    if looks not in (None, by_itself) and not reading.fields.get("zero_stage"):
        reading.miss("ddp_find_unused_parameters", f"counted as {by_itself}".lower())


def _autocast(document: Section, defaults: Defaults) -> str:
    """What is asked for; `bf16: false` asks for nothing."""
    asked = [name for name in ("bf16", "fp16") if document.flag(name)]
    if len(asked) == 2:
        raise ConfigError("bf16 and fp16 are both set.", hint="Choose one of them.")
    if asked:
        return asked[0]
    return "no" if document.value("bf16") is False else defaults.autocast


def _check_agreement(engine: Reading, reading: Reading, autocast: str) -> None:
    """DeepSpeed's configuration says "auto", or what the Trainer says (`fill_match`).

    Raises:
        ConfigError: it says something else.
    """
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if name in engine.fields and engine.fields[name] != reading.fields[name]:
            raise _disagreement(name, engine.fields[name], reading.fields[name])
    by_engine = _autocast_of(engine)
    if "no" not in (by_engine, autocast) and by_engine != autocast:
        raise _disagreement("precision", by_engine, autocast)


def _autocast_of(engine: Reading) -> str:
    precision = str(engine.fields.get("precision", "fp32"))
    return "no" if precision == "fp32" else precision.partition("-")[0]


def _disagreement(name: str, by_engine: object, by_file: object) -> ConfigError:
    return ConfigError(
        f"DeepSpeed's configuration has {name} {by_engine}, and the file {by_file}.",
        hint='Leave it to the Trainer: "auto".',
    )
