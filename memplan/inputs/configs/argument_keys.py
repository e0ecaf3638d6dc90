"""A plan as arguments of transformers' Trainer."""

from collections.abc import Mapping
from typing import Any

from memplan.inputs.configs.arguments import BATCH, CHECKPOINTING
from memplan.inputs.configs.deepspeed import DEEPSPEED
from memplan.inputs.configs.format import Document, Keys, at
from memplan.inputs.configs.names import (
    NOT_OF_THE_TRAINER,
    hub_name,
    optimizer_name,
    trainer_optimizer_name,
)
from memplan.inputs.configs.precision import AUTOCAST
from memplan.inputs.configs.sharding import STAGES
from memplan.plan import TrainingPlan


def argument_keys(
    plan: TrainingPlan, document: Mapping[str, Any], *, autocast: str | None = None
) -> Keys:
    """In the spelling of a document, where it has one; checkpointing apart.

    Args:
        autocast: what is cast to, where the dtype of the weights is said elsewhere.
    """
    cast = autocast or AUTOCAST.get(plan.precision, "no")
    keys: Keys = {
        (_spelling(BATCH, document),): plan.per_device_train_batch_size,
        ("gradient_accumulation_steps",): plan.gradient_accumulation_steps,
        ("max_grad_norm",): plan.max_grad_norm,
        ("bf16",): cast == "bf16",
        ("fp16",): cast == "fp16",
    }
    if optimizer_name(plan.optim) not in NOT_OF_THE_TRAINER:
        keys["optim",] = trainer_optimizer_name(plan.optim)
    elif "optim" in document:
        keys["optim",] = document["optim"]
    if plan.precision == "tf32" or "tf32" in document:
        keys["tf32",] = plan.precision == "tf32"
    if "adafactor" in document:  # a switch of older versions, which wins over optim
        keys["adafactor",] = optimizer_name(plan.optim) == "adafactor"
    if plan.torch_compile or "torch_compile" in document:
        keys["torch_compile",] = plan.torch_compile
    if plan.sharding == "deepspeed" and plan.zero_stage > 0:
        keys |= _deepspeed_keys(plan, document)
    elif plan.zero_stage > 1:
        keys |= _fsdp_keys(plan, document)
    return keys


def checkpointing_keys(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """FSDP's own switch where a document uses that: both would checkpoint twice."""
    mode, every = plan.checkpointing
    fsdp = _fsdp_config(document)
    for name in ("activation_checkpointing", "fsdp_activation_checkpointing"):
        if name in fsdp and every == 1:
            return {("fsdp_config", name): mode == "full"}
    name = _spelling(CHECKPOINTING, document)
    keys: Keys = {(name,): mode == "full"}
    if every > 1 or at(document, f"{name}_kwargs", "every_n_layers") is not None:
        keys[f"{name}_kwargs", "every_n_layers"] = every
    return keys


def model_keys(plan: TrainingPlan) -> Keys:
    """The model, and its revision, as the arguments beside the Trainer's name them."""
    keys: Keys = {}
    if plan.model is not None:
        keys["model_name_or_path",] = hub_name(plan.model)
    if plan.revision is not None:
        keys["model_revision",] = plan.revision
    return keys


def _spelling(names: tuple[str, ...], document: Mapping[str, Any]) -> str:
    """The one that is there, else the newest."""
    return next((name for name in names if document.get(name) is not None), names[0])


def _fsdp_config(document: Mapping[str, Any]) -> Mapping[str, Any]:
    value = document.get("fsdp_config")
    return value if isinstance(value, Mapping) else {}


def _fsdp_keys(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """A switch and its options; a document of words keeps to words."""
    options = _fsdp_config(document)
    words = document.get("fsdp")
    if isinstance(words, (str, list)) and words:
        return {("fsdp",): _words(plan, words)}
    prefix = "fsdp_" if any(key.startswith("fsdp_") for key in options) else ""
    reshards: bool | str = plan.zero_stage == 3
    if str(options.get(f"{prefix}version", 2)) == "1":
        reshards = "full_shard" if reshards else "shard_grad_op"
    return {
        ("fsdp",): True,
        ("fsdp_config", f"{prefix}version"): options.get(f"{prefix}version", 2),
        ("fsdp_config", f"{prefix}reshard_after_forward"): reshards,
        ("fsdp_config", f"{prefix}cpu_offload"): plan.offload_parameters,
    }


def _words(plan: TrainingPlan, there: str | list[Any]) -> str | list[str]:
    words = there.split() if isinstance(there, str) else [str(word) for word in there]
    kept = [word for word in words if word.upper() not in STAGES and word != "offload"]
    new = ["full_shard" if plan.zero_stage == 3 else "shard_grad_op"]
    new += ["offload"] * plan.offload_parameters + kept
    return " ".join(new) if isinstance(there, str) else new


def _deepspeed_keys(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """A configuration in the file; one that it names says by itself."""
    named: Document | str = document.get("deepspeed") or {}
    if isinstance(named, str):
        return {("deepspeed",): named}
    inner = DEEPSPEED.keys_of(plan, named)
    return {("deepspeed", *path): value for path, value in inner.items()}
