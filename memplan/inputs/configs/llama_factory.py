"""LLaMA-Factory's YAML: the Trainer's arguments, and its own beside them.

Source: LLaMA-Factory 0.9, `hparams/`, `model/adapter.py` and `model/model_utils/`. It
loads weights in the dtype of the autocast and casts what it trains to fp32, unless
`pure_bf16` is set; and it checkpoints activations, unless it is told not to.
"""

from collections.abc import Mapping
from typing import Any

from memplan.errors import ConfigError
from memplan.formulas.setting import ALL_LINEAR
from memplan.inputs.configs import harmless
from memplan.inputs.configs.argument_keys import argument_keys, model_keys
from memplan.inputs.configs.arguments import (
    Defaults,
    list_unread,
    read_arguments,
    read_model,
    read_precision,
)
from memplan.inputs.configs.format import Document, Keys, Reading, Source, wrong
from memplan.inputs.configs.section import Section
from memplan.plan import TrainingPlan

ATTENTION = {
    "auto": "auto",
    "disabled": "eager",
    "fa2": "flash",
    "sdpa": "auto",
    "off": "eager",
    "fa3": "flash",
}
"""Of `flash_attn`, as kernels of a plan: the newest names first."""
SWITCH = "disable_gradient_checkpointing"
OPTIMIZERS = ("galore", "apollo", "badam", "muon", "adam_mini")
"""Behind `use_`: what is not modelled."""
STAGES = ("pt", "sft")
QUANTIZATION = {4: "nf4", 8: "int8"}
NESTED = "its constants are smaller"


class _LlamaFactory:
    """A file that `llamafactory-cli train` takes."""

    name = "llama-factory"
    title = "LLaMA-Factory config"
    suffix = ".yaml"

    def knows(self, document: Document) -> bool:
        """By arguments that nobody else has."""
        own = {"finetuning_type", "cutoff_len", "lora_target", "quantization_bit"}
        return not own.isdisjoint(document)

    def read(self, source: Source) -> Reading:
        """The Trainer's arguments, and what is trained of which weights."""
        reading = Reading()
        document = Section(source.document)
        read_model(document, reading)
        _read_method(document, reading)
        _read_quantization(document, reading)
        _read_checkpointing(document, reading)
        autocast = read_arguments(document, source, reading, Defaults())
        read_precision(document, reading, autocast, _loaded(document, autocast))
        _read_data(document, reading)
        _read_attention(document, reading)
        for name in OPTIMIZERS:
            if document.flag(f"use_{name}"):
                optim = reading.fields["optim"]
                reading.miss(f"use_{name}", f"not modelled, counted as {optim}")
        list_unread(document, reading, *harmless.LLAMA_FACTORY)
        return reading

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        """All that it says of a plan."""
        is_adapted = plan.trainable == "lora"
        keys = argument_keys(plan, document) | model_keys(plan)
        keys["stage",] = document.get("stage", "sft")
        keys["do_train",] = True
        keys["finetuning_type",] = "lora" if is_adapted else "full"
        if is_adapted:
            keys |= _adapter_keys(plan)
        if plan.quantization != "none":
            bits = {kind: number for number, kind in QUANTIZATION.items()}
            keys["quantization_bit",] = bits[plan.quantization]
        if plan.precision == "bf16-pure" or "pure_bf16" in document:
            keys["pure_bf16",] = plan.precision == "bf16-pure"
        if plan.activation_checkpointing == "none" or SWITCH in document:
            keys[SWITCH,] = plan.activation_checkpointing == "none"
        if plan.seq_len is not None:
            keys["cutoff_len",] = plan.seq_len
        there = document.get("flash_attn")
        if ATTENTION.get(str(there)) == plan.attn_implementation:
            keys["flash_attn",] = there
        elif plan.attn_implementation in ATTENTION.values():
            names = {kernel: name for name, kernel in reversed(ATTENTION.items())}
            keys["flash_attn",] = names[plan.attn_implementation]
        return keys


LLAMA_FACTORY = _LlamaFactory()


def _read_method(document: Section, reading: Reading) -> None:
    """What is trained; and by which loss, of which some keep other models beside."""
    stage = document.text("stage")
    if stage not in (None, *STAGES):
        reading.miss(
            "stage", f"{stage}: pairs of samples, or models beside, not counted"
        )
    match document.text("finetuning_type"):
        case "full":
            reading.say("finetuning_type", trainable="all")
        case "freeze":
            reading.say("finetuning_type", trainable="all")
            reading.miss("finetuning_type", "freeze, counted as if all were trained")
        case None | "lora":
            _read_adapters(document, reading)
        case other:
            raise ConfigError(
                f"finetuning_type {other} has no formula.",
                hint="These have: full, lora.",
            )


def _read_adapters(document: Section, reading: Reading) -> None:
    reading.say("finetuning_type", trainable="lora")
    rank, dropout = document.count("lora_rank"), document.number("lora_dropout")
    if rank is not None:
        reading.say("lora_rank", lora_rank=rank)
    if dropout is not None:
        reading.say("lora_dropout", lora_dropout=dropout)
    names = ",".join(document.texts("lora_target") or ()).split(",")
    targets = tuple(name.strip() for name in names if name.strip())
    if targets and targets != ("all",):
        reading.say("lora_target", lora_targets=targets)
    elif targets:
        reading.say("lora_target", lora_targets=(ALL_LINEAR,))
    reading.suppose(lora_rank=8, lora_dropout=0.0, lora_targets=(ALL_LINEAR,))


def _read_quantization(document: Section, reading: Reading) -> None:
    """By bitsandbytes as the model is loaded."""
    bits = document.count("quantization_bit")
    method = document.text("quantization_method")
    kind = document.text("quantization_type")
    is_nested = document.flag("double_quantization")
    if bits is None:
        return
    if bits not in QUANTIZATION:
        raise wrong("quantization_bit", bits, "be 4 or 8")
    reading.say("quantization_bit", quantization=QUANTIZATION[bits])
    if method not in (None, "bnb", "bitsandbytes"):
        reading.miss("quantization_method", f"{method}, counted as bitsandbytes")
    if kind not in (None, "nf4"):
        reading.miss("quantization_type", f"{kind}, counted as nf4")
    if bits == 4 and is_nested is not False:
        reading.miss("double_quantization", NESTED)


def _read_checkpointing(document: Section, reading: Reading) -> None:
    """On, whatever the Trainer's own argument says (`prepare_model_for_training`)."""
    is_off = document.flag(SWITCH)
    mode = "none" if is_off else "full"
    key = None if is_off is None else SWITCH
    reading.suppose(key, activation_checkpointing=mode)


def _loaded(document: Section, autocast: str) -> tuple[str, str]:
    """The dtype that weights train in, or where adapters train that of the others."""
    if document.flag("pure_bf16"):
        return "pure_bf16", "bf16"
    is_adapted = document.text("finetuning_type") in (None, "lora")
    return autocast, autocast if is_adapted and autocast != "no" else "fp32"


def _read_data(document: Section, reading: Reading) -> None:
    length = document.count("cutoff_len")
    if length is not None:
        reading.say("cutoff_len", seq_len=length)
    reading.suppose(seq_len=2048)


def _read_attention(document: Section, reading: Reading) -> None:
    name = document.text("flash_attn")
    if name is None:
        return
    if name not in ATTENTION:
        raise wrong("flash_attn", name, f"be one of {', '.join(ATTENTION)}")
    reading.say("flash_attn", attn_implementation=ATTENTION[name])


def _adapter_keys(plan: TrainingPlan) -> Keys:
    """Where a plan leaves the layers to the model, the file would mean all of them."""
    keys: Keys = {
        ("lora_rank",): plan.lora_rank,
        ("lora_dropout",): plan.lora_dropout,
    }
    if plan.lora_targets:
        names = ",".join(plan.lora_targets)
        keys["lora_target",] = "all" if names == ALL_LINEAR else names
    return keys
