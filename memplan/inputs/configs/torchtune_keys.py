"""A plan in torchtune's words: builders, components, and where they stand."""

from collections.abc import Mapping
from typing import Any

from memplan.inputs.configs.format import Keys
from memplan.plan import TrainingPlan

PRESETS = {
    "llama2_7b": "llama-2-7b",
    "llama3_1_8b": "llama-3.1-8b",
    "llama3_8b": "llama-3.1-8b",
    "llama3_1_70b": "llama-3.1-70b",
    "llama3_70b": "llama-3.1-70b",
    "llama3_3_70b": "llama-3.1-70b",
    "llama3_1_405b": "llama-3.1-405b",
    "mistral_7b": "mistral-7b",
    "gemma_2b": "gemma-2b",
    "gemma2_9b": "gemma-2-9b",
    "qwen3_8b_base": "qwen3-8b",
    "qwen3_8b_instruct": "qwen3-8b",
}
"""Builders of models, as presets of the same sizes: Llama 3 and 3.3 have those of 3.1.
Its Phi-3 has projections apart that transformers' has in one."""
FOLDERS = {"llama-2-7b": "llama2", "mistral-7b": "mistral", "gemma-2b": "gemma"}
FOLDERS |= {"gemma-2-9b": "gemma2", "qwen3-8b": "qwen3"}
"""Where under `torchtune.models` builders lie; Llama 3.1's are in llama3_1."""
ATTENTION = {"output_proj": "o_proj"}
"""torchtune's names of projections that transformers has others for."""
MLP = ("gate_proj", "down_proj", "up_proj")
OUTPUT = "lm_head"
CHUNKED = ("LinearCrossEntropyLoss", "CEWithChunkedOutputLoss")
"""Losses over parts of the tokens, the newer one first."""
WHOLE = "CrossEntropyLoss"
KINDS = ("lora", "qlora", "dora")
"""What names of builders with adapters begin with."""
OPTIMIZERS = {
    "torch.optim.AdamW": "adamw",
    "torch.optim.Adam": "adam",
    "torch.optim.SGD": "sgd",
    "torch.optim.Adagrad": "adagrad",
    "torch.optim.RMSprop": "rmsprop",
    "torch.optim.Adafactor": "torch_adafactor",
    "bitsandbytes.optim.AdamW8bit": "adamw_8bit",
    "bitsandbytes.optim.PagedAdamW": "paged_adamw_32bit",
    "bitsandbytes.optim.PagedAdamW32bit": "paged_adamw_32bit",
    "bitsandbytes.optim.PagedAdamW8bit": "paged_adamw_8bit",
    "bitsandbytes.optim.Lion": "lion",
    "bitsandbytes.optim.Lion8bit": "lion_8bit",
    "bitsandbytes.optim.PagedLion": "paged_lion_32bit",
    "bitsandbytes.optim.PagedLion8bit": "paged_lion_8bit",
    "bitsandbytes.optim.AdEMAMix": "ademamix",
    "bitsandbytes.optim.AdEMAMix8bit": "ademamix_8bit",
}


def keys_of(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """All keys by which a recipe's configuration says what a plan says."""
    keys: Keys = {
        ("batch_size",): plan.per_device_train_batch_size,
        ("gradient_accumulation_steps",): plan.gradient_accumulation_steps,
        ("clip_grad_norm",): plan.max_grad_norm or None,
        ("enable_activation_offloading",): plan.offload_activations,
    }
    if plan.seq_len is not None and _takes_arguments(document, "tokenizer"):
        keys["tokenizer", "max_seq_len"] = plan.seq_len
    dtype = {"bf16-pure": "bf16", "fp32": "fp32"}.get(plan.precision)
    if dtype:
        keys[("dtype",)] = dtype
    keys |= _model(plan, document) | _optimizer(plan, document)
    return keys | _execution(plan, document) | _sharding(plan, document)


def builder_of(path: str) -> tuple[str, str, str]:
    """Folder, kind of adapters and model of a builder.

    >>> builder_of("torchtune.models.llama3_1.qlora_llama3_1_8b")
    ('torchtune.models.llama3_1', 'qlora', 'llama3_1_8b')
    """
    folder, _, name = path.rpartition(".")
    kind, _, model = name.partition("_")
    return (folder, kind, model) if kind in KINDS else (folder, "", name)


def _takes_arguments(document: Mapping[str, Any], part: str) -> bool:
    """Not where a component is a name alone, as before the first release."""
    return not isinstance(document.get(part), str)


def _model(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    keys: Keys = {}
    model = document.get("model")
    present = model.get("_component_") if isinstance(model, Mapping) else model
    quantizes = model.get("quantize_base") if isinstance(model, Mapping) else None
    is_quantized = plan.quantization == "nf4"
    kind = ""
    if plan.trainable == "lora":
        kind = "qlora_" if is_quantized and quantizes is None else "lora_"
    builder = _builder(plan, present)
    if not _takes_arguments(document, "model"):
        return {("model",): builder[1]} if builder and not kind else {}
    if builder:
        keys["model", "_component_"] = f"{builder[0]}.{kind}{builder[1]}"
    if plan.trainable != "lora":
        return keys
    if quantizes is not None:
        keys["model", "quantize_base"] = is_quantized
    keys["model", "lora_rank"] = plan.lora_rank
    keys["model", "lora_dropout"] = plan.lora_dropout
    if plan.lora_targets:
        back = {theirs: ours for ours, theirs in ATTENTION.items()}
        others = [name for name in plan.lora_targets if name not in (*MLP, OUTPUT)]
        keys["model", "lora_attn_modules"] = [back.get(name, name) for name in others]
        keys["model", "apply_lora_to_mlp"] = set(MLP) <= set(plan.lora_targets)
        keys["model", "apply_lora_to_output"] = OUTPUT in plan.lora_targets
    return keys


def _builder(plan: TrainingPlan, present: Any) -> tuple[str, str] | None:
    """Where the builder of a model lies, and its name: the one that is there, unless
    the plan is of another model."""
    if isinstance(present, str):
        folder, _, name = builder_of(present)
        if PRESETS.get(name) in (plan.model, None):
            return folder, name
    for name, preset in PRESETS.items():
        if preset == plan.model:
            folder = FOLDERS.get(preset, "llama3_1")
            return f"torchtune.models.{folder}", name
    return None


def _optimizer(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    place = ("optimizer", "_component_")
    name, implementation = plan.optim, None
    for ending in ("_fused", "_forloop"):
        if name.endswith(ending):
            name, implementation = name.removesuffix(ending), ending
    path = next((key for key, known in OPTIMIZERS.items() if known == name), None)
    if name == "sgd_momentum":
        path = "torch.optim.SGD"
    if path is None:
        return {}
    present = document.get("optimizer")
    if not _takes_arguments(document, "optimizer"):
        package, _, short = path.rpartition(".")
        return {("optimizer",): short} if package == "torch.optim" else {}
    if isinstance(present, Mapping) and OPTIMIZERS.get(str(present.get("_component_"))):
        there = str(present["_component_"])
        path = there if OPTIMIZERS[there] == OPTIMIZERS[path] else path
    keys: Keys = {place: path}
    if implementation == "_fused":
        keys["optimizer", "fused"] = True
    if implementation == "_forloop":
        keys["optimizer", "foreach"] = False
    if name == "sgd_momentum":
        momentum = present.get("momentum") if isinstance(present, Mapping) else None
        keys["optimizer", "momentum"] = momentum or 0.9
    return keys


def _execution(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    keys: Keys = {}
    name = plan.activation_checkpointing
    keys[("enable_activation_checkpointing",)] = name == "full"
    if name not in ("none", "full"):
        keys[("ac_mode",)] = "selective"
        every = name.removeprefix("every-")
        keys[("ac_option",)] = int(every) if every != name else "op"
    is_divided = isinstance(document.get("compile"), Mapping)
    keys[("compile", "model") if is_divided else ("compile",)] = plan.torch_compile
    loss = document.get("loss")
    path = loss.get("_component_") if isinstance(loss, Mapping) else None
    is_chunked = str(path).rpartition(".")[2] in CHUNKED
    if not _takes_arguments(document, "loss"):
        return keys
    if plan.cross_entropy_chunks > 1:
        usual = f"torchtune.modules.loss.{CHUNKED[0]}"
        keys["loss", "_component_"] = path if is_chunked else usual
        keys["loss", "num_output_chunks"] = plan.cross_entropy_chunks
    elif is_chunked or not loss:
        keys["loss", "_component_"] = f"torch.nn.{WHOLE}"
    return keys


def _sharding(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    keys: Keys = {}
    if plan.tensor_parallel > 1:
        keys[("tensor_parallel_dim",)] = plan.tensor_parallel
    if plan.context_parallel > 1:
        keys[("context_parallel_dim",)] = plan.context_parallel
    if plan.zero_stage >= 2:
        keys[("fsdp_reshard_after_forward",)] = plan.zero_stage == 3
        keys[("fsdp_cpu_offload",)] = plan.offload_parameters
    return keys
