"""A program that runs, as a plan: its model, its optimizer and its first batch.

What is there counts, not what it was configured from: a model may have been changed
after it was loaded, and a batch may be shorter than the longest.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

from memplan.errors import ModelConfigError, PlanError
from memplan.estimate import estimate_of
from memplan.models import Model, model_of_config
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport

if TYPE_CHECKING:
    import torch
    from torch import nn

SHORT_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
ATTENTION = {
    "eager": "eager",
    "sdpa": "auto",
    "flash_attention_2": "flash",
    "flash_attention_3": "flash",
}
"""transformers' implementations, as kernels of a plan."""
BITSANDBYTES = ("adamw", "ademamix", "lion")
"""Its classes that come paged and in 8 bits, by the front of their names."""
CLOSE_ENOUGH = 0.001
"""Two counts of parameters within this fraction are of the same model."""

Fields = dict[str, Any]
"""Fields of a TrainingPlan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The plan of a program that runs, and the model it trains."""

    plan: TrainingPlan
    model: Model
    not_read: tuple[str, ...] = ()
    """What can move memory and is not in the plan."""
    parameters: int = 0
    """Of the model that runs."""

    def estimate(self) -> MemoryReport:
        """The closed form of it, with what it leaves out.

        Raises:
            MemplanError: the plan does not suit the model, or has no formula.
        """
        report = estimate_of(self.plan, self.model)
        counted = report.model.parameters
        lines = list(self.not_read)
        if abs(counted - self.parameters) > CLOSE_ENOUGH * self.parameters:
            lines.append(
                f"the formula has {counted:,} parameters, the model {self.parameters:,}"
            )
        return replace(report, unsupported=(*report.unsupported, *lines))


@dataclass(slots=True)
class Reading:
    """Fields of a plan as they are found, and what could not be read."""

    fields: Fields = field(default_factory=dict)
    not_read: list[str] = field(default_factory=list)


# ---- the model ----


def model_in(module: "nn.Module") -> Any:
    """The one transformers model in a module, which may be it, or wrap it.

    Raises:
        PlanError: there is none, or there are several.
    """
    adapted: Any = getattr(module, "get_base_model", None)  # PEFT's
    if adapted is not None:
        return adapted()
    if _has_config(module):
        return module
    found = list(_outermost_with_config(module))
    if len(found) != 1:
        many = f"{len(found)} models" if found else "no model"
        raise PlanError(
            f"{type(module).__name__} holds {many} with a config of transformers, and "
            "the formulas need one.",
            hint="`memplan rehearse -- python train.py` takes any module.",
        )
    return model_in(found[0])


def read_model(module: "nn.Module", reading: Reading) -> Model:
    """What the model is, what of it trains, and in which dtypes it is kept.

    Raises:
        MemplanError: no formula covers it.
    """
    inner = model_in(module)
    config = inner.config
    data = config.to_dict()
    data.setdefault("model_type", config.model_type)
    data["architectures"] = [_class_name(inner)]
    name = config.name_or_path or _class_name(inner)
    model = model_of_config(name, data, name)
    _check_class(inner, model)
    reading.fields["model"] = name
    _read_attention(config, reading)
    _read_quantization(getattr(config, "quantization_config", None), reading)
    if hasattr(module, "peft_config"):
        _read_adapters(module, reading)
    else:
        _read_trainable(inner, reading)
    frozen = _dtypes(p for p in inner.parameters() if not p.requires_grad)
    if frozen:
        reading.fields["frozen_dtype"] = _single(frozen, "frozen weights", reading)
    return model


def trained_dtype(module: "nn.Module", reading: Reading) -> str:
    """What trained weights are kept in, adapters aside: PEFT keeps them in fp32."""
    if reading.fields.get("trainable") == "lora":
        return "fp32"
    trained = _dtypes(p for p in module.parameters() if p.requires_grad)
    return _single(trained, "trained weights", reading) if trained else "fp32"


def num_parameters(module: "nn.Module") -> int:
    """Of the whole model, unsharded, adapters included."""
    from memplan.runner.model import model_size

    return model_size(module).parameters


def _has_config(module: "nn.Module") -> bool:
    return hasattr(getattr(module, "config", None), "model_type")


def _outermost_with_config(module: "nn.Module") -> Iterator["nn.Module"]:
    for child in module.children():
        if _has_config(child) or hasattr(child, "get_base_model"):
            yield child
        else:
            yield from _outermost_with_config(child)


def _class_name(module: "nn.Module") -> str:
    """Without what FSDP2 puts before it."""
    return type(module).__name__.removeprefix("FSDP")


def _check_class(module: "nn.Module", model: Model) -> None:
    """The formula of a family is that of one class of transformers."""
    from memplan.runner.training.model import CLASSES

    expected = CLASSES.get(model.source["model_type"])
    name = _class_name(module)
    if expected is not None and name != expected:
        raise ModelConfigError(
            f"The formulas cover {expected}, and not {name}.",
            hint="`memplan rehearse -- python train.py` takes any module.",
        )


def _read_attention(config: Any, reading: Reading) -> None:
    name = getattr(config, "_attn_implementation", None) or "sdpa"
    if name not in ATTENTION:
        reading.not_read.append(
            f"attention implementation {name}: counted as PyTorch's own choice"
        )
    reading.fields["attn_implementation"] = ATTENTION.get(name, "auto")


def _read_quantization(config: Any, reading: Reading) -> None:
    if config is None:
        return
    values = config if isinstance(config, Mapping) else config.to_dict()
    if values.get("load_in_8bit"):
        reading.fields["quantization"] = "int8"
    elif values.get("load_in_4bit") and values.get("bnb_4bit_quant_type") == "nf4":
        reading.fields["quantization"] = "nf4"
        if values.get("bnb_4bit_use_double_quant"):
            reading.not_read.append("double quantization: its constants are smaller")
    else:
        method = values.get("quant_method", "4 bits other than nf4")
        raise PlanError(
            f"Weights quantized by {getattr(method, 'value', method)} have no formula.",
            hint="nf4 and int8 of bitsandbytes have.",
        )


def _read_adapters(module: Any, reading: Reading) -> None:
    """PEFT's configuration, where it is one of LoRA."""
    configs = list(module.peft_config.values())
    config = configs[0]
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA" or len(configs) > 1:
        raise PlanError(
            f"Adapters of kind {kind} have no formula."
            if kind != "LORA"
            else f"{len(configs)} sets of adapters have no formula.",
            hint="LoRA has, one at a time.",
        )
    targets = config.target_modules
    reading.fields |= {
        "trainable": "lora",
        "lora_rank": config.r,
        "lora_dropout": float(config.lora_dropout),
        "lora_targets": (targets,) if isinstance(targets, str) else (*sorted(targets),),
    }
    for name, plain in (
        ("modules_to_save", None),
        ("rank_pattern", {}),
        ("layers_to_transform", None),
        ("target_parameters", None),
        ("bias", "none"),
        ("use_dora", False),
        ("trainable_token_indices", None),
    ):
        value = getattr(config, name, plain)
        if value not in (plain, None):
            reading.not_read.append(f"{name} of the LoRA configuration")


def _read_trainable(module: "nn.Module", reading: Reading) -> None:
    """All, or patterns of the names of those that train, layers taken together."""
    names = {name: p.requires_grad for name, p in module.named_parameters()}
    if all(names.values()):
        reading.fields["trainable"] = "all"
        return
    patterns = sorted({_pattern(name) for name, trains in names.items() if trains})
    found = {n for n in names if any(re.search(p, n) for p in patterns)}
    if found != {name for name, trains in names.items() if trains}:
        raise PlanError(
            "Some layers of a stack train and others do not, which has no formula.",
            hint="`memplan rehearse -- python train.py` takes any module.",
        )
    if not patterns:
        raise PlanError("No parameter of the model trains.", hint="Unfreeze some.")
    reading.fields["trainable"] = ",".join(patterns)


def _pattern(name: str) -> str:
    """Of a parameter's name, in whichever layer of a stack."""
    parts = (
        "[^.]+" if part.isdecimal() else re.escape(part) for part in name.split(".")
    )
    return "^" + r"\.".join(parts) + "$"


def _dtypes(parameters: Iterable["torch.Tensor"]) -> dict[str, int]:
    """Elements by short name of their dtype; quantized weights aside."""
    found: dict[str, int] = {}
    for parameter in parameters:
        if not parameter.is_floating_point() or hasattr(parameter, "quant_state"):
            continue
        name = str(parameter.dtype).removeprefix("torch.")
        short = SHORT_DTYPES.get(name, name)
        found[short] = found.get(short, 0) + parameter.numel()
    return found


def _single(dtypes: Mapping[str, int], what: str, reading: Reading) -> str:
    """The dtype that most elements have.

    Raises:
        PlanError: it is none that weights of a plan have.
    """
    most = max(dtypes, key=lambda name: dtypes[name])
    if most not in SHORT_DTYPES.values():
        raise PlanError(
            f"The {what} are kept in {most}, which has no formula.",
            hint=f"These have: {', '.join(SHORT_DTYPES.values())}.",
        )
    if len(dtypes) > 1:
        others = ", ".join(sorted(set(dtypes) - {most}))
        reading.not_read.append(f"{what} in {others}: counted as {most}")
    return most


def precision_of(autocast: str, trained: str, allows_tf32: bool = False) -> str:
    """The precision policy of autocast ("no", bf16, fp16) over weights of a dtype.

    Raises:
        PlanError: no policy is that.
    """
    match autocast, trained:
        case (("bf16" | "fp16"), "fp32"):
            return f"{autocast}-mixed"
        case (("no" | "bf16"), "bf16"):
            return "bf16-pure"
        case "no", "fp32":
            return "tf32" if allows_tf32 else "fp32"
    under = f" under autocast to {autocast}" if autocast != "no" else ""
    raise PlanError(
        f"Weights trained in {trained}{under} have no formula.",
        hint="Load the model in fp32 or bf16.",
    )


# ---- the optimizer ----


def optimizer_name(optimizer: Any) -> str | None:
    """The plan's name of an optimizer that was made; None where it has none."""
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    module, name = type(inner).__module__, type(inner).__name__
    options = inner.param_groups[0] if inner.param_groups else {}
    if module.startswith("torch.optim"):
        return _torch_name(name, options)
    if module.startswith("transformers") and name == "Adafactor":
        return "adafactor" if options.get("beta1") is None else None
    if module.startswith("bitsandbytes"):
        return _bitsandbytes_name(name, inner)
    return None


def _torch_name(name: str, options: Mapping[str, Any]) -> str | None:
    if options.get("amsgrad") or options.get("centered"):
        return None
    if name in ("Adam", "AdamW"):
        kind = name.lower()
        if options.get("fused"):
            return f"{kind}_fused"
        return f"{kind}_forloop" if options.get("foreach") is False else kind
    if name == "SGD":
        return "sgd_momentum" if options.get("momentum") else "sgd"
    if name == "RMSprop" and options.get("momentum"):
        return None
    known = {
        "Adagrad": "adagrad",
        "RMSprop": "rmsprop",
        "Adafactor": "torch_adafactor",
    }
    return known.get(name)


def _bitsandbytes_name(name: str, optimizer: Any) -> str | None:
    lowered = name.lower()
    bits = getattr(getattr(optimizer, "args", None), "optim_bits", 32)
    for algorithm in BITSANDBYTES:
        if lowered.removeprefix("paged").startswith(algorithm):
            if getattr(optimizer, "is_paged", False):
                return f"paged_{algorithm}_{bits}bit"
            if algorithm == "adamw":
                return "adamw_8bit" if bits == 8 else None
            return f"{algorithm}_8bit" if bits == 8 else algorithm
    if lowered.startswith("rmsprop"):
        return f"rmsprop_bnb_{bits}bit"
    return None


# ---- the batch ----


def named_arguments(
    module: "nn.Module", args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Fields:
    """What a module is called with, by name."""
    if not args:
        return dict(kwargs)
    try:
        bound = inspect.signature(module.forward).bind_partial(*args, **kwargs)
    except TypeError:  # the call itself will say so
        return dict(kwargs)
    return {**bound.arguments, **kwargs}


def read_batch(batch: Mapping[str, Any], model: Model, reading: Reading) -> None:
    """The sizes of what the model is called with, by the names of its arguments."""
    shapes = {
        name: tuple(value.shape)
        for name, value in batch.items()
        if hasattr(value, "shape") and hasattr(value, "dtype")
    }
    inputs = model.family.inputs
    tokens = shapes.get("input_ids") or shapes.get("inputs_embeds")
    pictures = shapes.get("pixel_values")
    first = tokens or pictures
    if not first:
        raise PlanError(
            "The model is called with neither input_ids nor pixel_values.",
            hint="`memplan rehearse -- python train.py` takes any module.",
        )
    size = first[0]
    reading.fields["per_device_train_batch_size"] = size
    if tokens and "tokens" in inputs:
        reading.fields["seq_len"] = tokens[1]
    if pictures and "images" in inputs:
        reading.fields["images_per_sample"] = max(prod(pictures[:-3]) // size, 1)
        reading.fields["image_size"] = max(pictures[-2:])
    targets = shapes.get("labels") or shapes.get("decoder_input_ids")
    if targets and "target_tokens" in inputs:
        reading.fields["target_seq_len"] = targets[-1]
    if "attention_mask" in shapes and "tokens" in inputs:
        reading.not_read.append(
            "attention_mask: padding within a batch makes a mask of each layer's "
            "attention, and may have PyTorch choose another kernel"
        )
