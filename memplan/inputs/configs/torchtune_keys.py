"""A plan in torchtune's words: builders, components, and where they stand."""

from collections.abc import Mapping
from typing import Any

from memplan.inputs.configs.format import Keys
from memplan.inputs.configs.losses import has_formula
from memplan.inputs.configs.section import kept
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
DTYPES = {"bf16-pure": "bf16", "fp32": "fp32"}
"""Precision without autocast."""
WAYS = ("adam_forloop", "adam_fused", "adamw_forloop", "adamw_fused", "sgd_momentum")
"""Optimizers that an argument makes of others."""
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
    if plan.seq_len is not None and _arguments(document, "tokenizer") is not None:
        keys["tokenizer", "max_seq_len"] = plan.seq_len
    if plan.precision in DTYPES:
        keys[("dtype",)] = DTYPES[plan.precision]
    else:
        keys |= kept(document, ("dtype",))
    keys |= _model(plan, document) | _optimizer(plan, document)
    keys |= _execution(plan, document) | _loss(plan, document)
    return keys | _sharding(plan)


def builder_of(path: str) -> tuple[str, str, str]:
    """Folder, kind of adapters and model of a builder.

    >>> builder_of("torchtune.models.llama3_1.qlora_llama3_1_8b")
    ('torchtune.models.llama3_1', 'qlora', 'llama3_1_8b')
    """
    folder, _, name = path.rpartition(".")
    kind, _, model = name.partition("_")
    return (folder, kind, model) if kind in KINDS else (folder, "", name)


def _arguments(document: Mapping[str, Any], part: str) -> Mapping[str, Any] | None:
    """A component with its arguments; None where it is a name alone, as before the
    first release."""
    value = document.get(part)
    if isinstance(value, str):
        return None
    return value if isinstance(value, Mapping) else {}


def _model(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    model = _arguments(document, "model")
    if model is None:
        builder = _builder(plan, document["model"])
        is_said = builder and plan.trainable != "lora"
        return {("model",): builder[1]} if builder and is_said else {}
    quantizes = model.get("quantize_base")
    is_quantized = plan.quantization == "nf4"
    kind = ""
    if plan.trainable == "lora":
        kind = "qlora_" if is_quantized and quantizes is None else "lora_"
    keys: Keys = {}
    builder = _builder(plan, model.get("_component_"))
    if builder:
        keys["model", "_component_"] = f"{builder[0]}.{kind}{builder[1]}"
    if plan.trainable != "lora":
        return keys
    if quantizes is not None:
        keys["model", "quantize_base"] = is_quantized
    keys["model", "lora_rank"] = plan.lora_rank
    keys["model", "lora_dropout"] = plan.lora_dropout
    return keys | _targets(plan.lora_targets)


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


def _targets(targets: tuple[str, ...]) -> Keys:
    if not targets:
        return {}
    back = {theirs: ours for ours, theirs in ATTENTION.items()}
    others = [name for name in targets if name not in (*MLP, OUTPUT)]
    return {
        ("model", "lora_attn_modules"): [back.get(name, name) for name in others],
        ("model", "apply_lora_to_mlp"): set(MLP) <= set(targets),
        ("model", "apply_lora_to_output"): OUTPUT in targets,
    }


def _optimizer(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    part = "optimizer"
    name, _, way = plan.optim.partition("_")
    if plan.optim not in WAYS:
        name, way = plan.optim, ""
    paths = [path for path, known in OPTIMIZERS.items() if known == name]
    there = _arguments(document, part)
    if there is None:
        words = [path.removeprefix("torch.optim.") for path in paths[:1]]
        is_said = bool(words) and "." not in words[0] and not way
        return {(part,): words[0]} if is_said else kept(document, (part,))
    if not paths:
        return kept(document, *((part, key) for key in there))
    present = there.get("_component_")
    keys: Keys = {(part, "_component_"): present if present in paths else paths[0]}
    match way:
        case "fused":
            keys[part, "fused"] = True
        case "forloop":
            keys[part, "foreach"] = False
        case "momentum":
            keys[part, "momentum"] = there.get("momentum") or 0.9
    return keys


def _execution(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    name = plan.activation_checkpointing
    keys: Keys = {("enable_activation_checkpointing",): name == "full"}
    if name not in ("none", "full"):
        keys[("ac_mode",)] = "selective"
        every = name.removeprefix("every-")
        keys[("ac_option",)] = int(every) if every != name else "op"
    is_divided = isinstance(document.get("compile"), Mapping)
    keys[("compile", "model") if is_divided else ("compile",)] = plan.torch_compile
    return keys


def _loss(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    there = _arguments(document, "loss")
    if there is None:
        return {}
    path = there.get("_component_")
    is_chunked = str(path).rpartition(".")[2] in CHUNKED
    if not has_formula(plan.zero_stage, plan.sharding):
        return kept(document, *(("loss", key) for key in there))
    if plan.cross_entropy_chunks > 1:
        usual = f"torchtune.modules.loss.{CHUNKED[0]}"
        return {
            ("loss", "_component_"): path if is_chunked else usual,
            ("loss", "num_output_chunks"): plan.cross_entropy_chunks,
        }
    if is_chunked or not there:
        return {("loss", "_component_"): f"torch.nn.{WHOLE}"}
    return {}


def _sharding(plan: TrainingPlan) -> Keys:
    keys: Keys = {}
    if plan.tensor_parallel > 1:
        keys[("tensor_parallel_dim",)] = plan.tensor_parallel
    if plan.context_parallel > 1:
        keys[("context_parallel_dim",)] = plan.context_parallel
    if plan.zero_stage >= 2:
        keys[("fsdp_reshard_after_forward",)] = plan.zero_stage == 3
        keys[("fsdp_cpu_offload",)] = plan.offload_parameters
    return keys
