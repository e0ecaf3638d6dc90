"""TRL's YAML: the Trainer's arguments, and its own beside them.

Source: TRL 1.14, `trainer/sft_config.py`, `trainer/model_config.py` and
`trainer/sft_trainer.py`; names and defaults of versions before 0.20 are known by what
they alone have.
"""

from collections.abc import Mapping
from typing import Any

from memplan.inputs.configs import harmless
from memplan.inputs.configs.argument_keys import (
    argument_keys,
    checkpointing_keys,
    model_keys,
)
from memplan.inputs.configs.arguments import (
    Defaults,
    list_unread,
    read_arguments,
    read_model,
    read_precision,
)
from memplan.inputs.configs.format import Document, Keys, Reading, Source, wrong
from memplan.inputs.configs.names import DTYPES, LONG_DTYPES, dtype_name
from memplan.inputs.configs.section import Section
from memplan.inputs.live import ATTENTION
from memplan.plan import TrainingPlan

LENGTH = ("max_length", "max_seq_length")
DTYPE = ("dtype", "torch_dtype")
"""The newer spelling, and the older."""
OLDER = frozenset(
    {
        *("max_seq_length", "torch_dtype", "evaluation_strategy"),
        *("overwrite_output_dir", "use_flash_attention_2", "dataset_mixer"),
    }
)
"""What only versions have that did not checkpoint and cast by default."""
PREFERENCES = ("beta", "max_prompt_length", "max_completion_length", "reward_funcs")
"""Of trainers that feed more than one sequence a sample, or keep a model beside."""
BITS = {"load_in_4bit": "nf4", "load_in_8bit": "int8"}
NESTED = "its constants are smaller"


class _Trl:
    """A file that `trl sft --config` takes, and recipes like it."""

    name = "trl"
    title = "TRL config"
    suffix = ".yaml"

    def knows(self, document: Document) -> bool:
        """By arguments of its models and of its data."""
        own = {*LENGTH, *DTYPE, *BITS, *PREFERENCES, "use_peft", "attn_implementation"}
        return not {*own, "lora_r", "lora_target_modules", "packing"}.isdisjoint(
            document
        )

    def read(self, source: Source) -> Reading:
        """The Trainer's arguments, the adapters, and how the model is loaded."""
        reading = Reading()
        document = Section(source.document)
        read_model(document, reading)
        _read_adapters(document, reading)
        _read_quantization(document, reading)
        is_older = not OLDER.isdisjoint(source.document)
        defaults = (
            Defaults() if is_older else Defaults(autocast="bf16", checkpointing="full")
        )
        autocast = read_arguments(document, source, reading, defaults)
        read_precision(document, reading, autocast, _loaded(document, reading))
        _read_data(document, reading)
        _read_attention(document, reading)
        list_unread(document, reading, *harmless.TRL)
        return reading

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        """All that it says of a plan."""
        is_pure = plan.precision == "bf16-pure"
        keys = argument_keys(plan, document, autocast="bf16" if is_pure else None)
        keys |= checkpointing_keys(plan, document) | model_keys(plan)
        is_adapted = plan.trainable == "lora"
        keys["use_peft",] = is_adapted
        if is_adapted:
            keys["lora_r",] = plan.lora_rank
            keys["lora_dropout",] = plan.lora_dropout
        if is_adapted and plan.lora_targets:
            keys["lora_target_modules",] = list(plan.lora_targets)
        for name, kind in BITS.items():
            if plan.quantization == kind or name in document:
                keys[name,] = plan.quantization == kind
        stored = "bf16" if is_pure else plan.frozen_dtype if is_adapted else None
        if stored is not None or DTYPE[0] in document or DTYPE[1] in document:
            keys[DTYPE[DTYPE[1] in document],] = LONG_DTYPES[stored or "fp32"]
        if plan.seq_len is not None:
            keys[LENGTH[LENGTH[1] in document],] = plan.seq_len
        kernels = {kernel: name for name, kernel in reversed(ATTENTION.items())}
        there = document.get("attn_implementation")
        if ATTENTION.get(str(there)) == plan.attn_implementation:
            keys["attn_implementation",] = there
        elif plan.attn_implementation in kernels:
            keys["attn_implementation",] = kernels[plan.attn_implementation]
        if plan.offload_activations or "activation_offloading" in document:
            keys["activation_offloading",] = plan.offload_activations
        return keys


TRL = _Trl()


def _read_adapters(document: Section, reading: Reading) -> None:
    """PEFT's own default of layers, where none are named."""
    rank = document.count("lora_r")
    dropout = document.number("lora_dropout")
    targets = document.texts("lora_target_modules")
    if not document.flag("use_peft"):
        reading.suppose("use_peft", trainable="all")
        return
    reading.say("use_peft", trainable="lora")
    if rank is not None:
        reading.say("lora_r", lora_rank=rank)
    if dropout is not None:
        reading.say("lora_dropout", lora_dropout=dropout)
    if targets:
        reading.say("lora_target_modules", lora_targets=targets)
    reading.suppose(lora_rank=16, lora_dropout=0.05)


def _read_quantization(document: Section, reading: Reading) -> None:
    asked = [name for name in BITS if document.flag(name)]
    kind = document.text("bnb_4bit_quant_type")
    is_nested = document.flag("use_bnb_nested_quant")
    if len(asked) == 2:
        raise wrong("load_in_8bit", True, "be false beside load_in_4bit")
    for name in asked:
        reading.say(name, quantization=BITS[name])
    if asked == ["load_in_4bit"] and kind not in (None, "nf4"):
        reading.miss("bnb_4bit_quant_type", f"{kind}, counted as nf4")
    if asked == ["load_in_4bit"] and is_nested:
        reading.miss("use_bnb_nested_quant", NESTED)


def _loaded(document: Section, reading: Reading) -> tuple[str, str]:
    """fp32, unless it is said otherwise."""
    options = document.value("model_init_kwargs")
    beside = Section(
        options if isinstance(options, Mapping) else {}, "model_init_kwargs"
    )
    for section in (document, beside):
        for name in DTYPE:
            text = section.text(name)
            if text in (None, "auto"):
                if text == "auto":
                    reading.miss(section.key(name), "the checkpoint's, counted as fp32")
                continue
            dtype = dtype_name(str(text))
            if dtype is None:
                raise wrong(section.key(name), text, f"be one of {', '.join(DTYPES)}")
            return section.key(name), dtype
    return DTYPE[0], "fp32"


def _read_data(document: Section, reading: Reading) -> None:
    """Lengths; and trainers that feed more than a sequence a sample."""
    for name in LENGTH:
        length = document.count(name)
        if length is not None:
            reading.say(name, seq_len=length)
    if document.flag("activation_offloading"):
        reading.say("activation_offloading", offload_activations=True)
    for name in PREFERENCES:
        if document.value(name) is not None:
            reading.miss(name, "pairs of samples, or models beside, are not counted")
    reading.suppose(seq_len=1024)


def _read_attention(document: Section, reading: Reading) -> None:
    name = document.text("attn_implementation")
    if document.flag("use_flash_attention_2"):
        name = "flash_attention_2"
    if name is None:
        return
    if name not in ATTENTION:
        reading.miss("attn_implementation", f"{name}, counted as PyTorch's own choice")
    reading.say("attn_implementation", attn_implementation=ATTENTION.get(name, "auto"))
