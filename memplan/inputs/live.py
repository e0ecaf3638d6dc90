"""A model that is about to be trained, as fields of a plan.

What is there counts, not what it was configured from: a model may have been changed
after it was loaded.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from memplan.errors import ModelConfigError, PlanError
from memplan.estimate import estimate_of
from memplan.inputs.configs.format import Reading
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
CLOSE_ENOUGH = 0.001
"""Two counts of parameters within this fraction are of the same model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The plan of a program that runs, and the model it trains."""

    plan: TrainingPlan
    model: Model
    not_read: tuple[str, ...] = ()
    """What can move memory and is not in the plan."""
    parameters: int = 0
    """Of the model that runs."""
    keeps_gradients: bool = False
    """Gradients of a step are there until the next one's backward pass begins."""

    @property
    def is_named(self) -> bool:
        """Whether others can find the model by the name in the plan."""
        return bool(self.model.source.get("_name_or_path"))

    def estimate(self) -> MemoryReport:
        """The closed form of it, with what it leaves out.

        Raises:
            MemplanError: the plan does not suit the model, or has no formula.
        """
        report = replace(estimate_of(self._as_stepped(), self.model), plan=self.plan)
        counted = report.model.parameters
        lines = list(self.not_read)
        if abs(counted - self.parameters) > CLOSE_ENOUGH * self.parameters:
            lines.append(
                f"the formula has {counted:,} parameters, the model {self.parameters:,}"
            )
        return replace(
            report,
            assumptions=(*report.assumptions, *self._assumptions()),
            unsupported=(*report.unsupported, *lines),
        )

    def _assumptions(self) -> tuple[str, ...]:
        if not self.keeps_gradients:
            return ()
        return (
            "gradients of a step stay until the next one's backward pass begins: the "
            "step is counted as one with a micro-batch before it",
        )

    def _as_stepped(self) -> TrainingPlan:
        """Where gradients stay, a forward pass meets those of a micro-batch before."""
        if not self.keeps_gradients or self.plan.gradient_accumulation_steps > 1:
            return self.plan
        return replace(self.plan, gradient_accumulation_steps=2)


def model_in(module: "nn.Module") -> Any:
    """The one transformers model in a module, without PEFT's wrapper.

    Raises:
        PlanError: there is none, or there are several.
    """
    found = _with_config(module)
    return found.get_base_model() if _is_adapted(found) else found


def checkpoints_itself(model: Any) -> bool:
    """Whether a transformers model was told to checkpoint its layers."""
    for name in ("is_activation_checkpointing", "is_gradient_checkpointing"):
        if hasattr(type(model), name):  # the older one warns where there is a newer
            return bool(getattr(model, name))
    return False


def read_model(module: "nn.Module", reading: Reading) -> Model:
    """What the model is, what of it trains, and in which dtypes it is kept.

    Raises:
        MemplanError: no formula covers it.
    """
    outer, inner = _with_config(module), model_in(module)
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
    if hasattr(outer, "peft_config"):
        _read_adapters(outer, reading)
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


def _with_config(module: "nn.Module") -> Any:
    """The one outermost module with a configuration of transformers, PEFT's included.

    Raises:
        PlanError: there is none, or there are several.
    """
    found = list(_outermost(module))
    if len(found) == 1:
        return found[0]
    many = f"{len(found)} models" if found else "no model"
    raise PlanError(
        f"{type(module).__name__} holds {many} with a config of transformers, and "
        "the formulas need one.",
        hint="`memplan rehearse -- python train.py` takes any module.",
    )


def _outermost(module: "nn.Module") -> Iterator["nn.Module"]:
    has_config = hasattr(getattr(module, "config", None), "model_type")
    if has_config or _is_adapted(module):
        yield module
        return
    for child in module.children():
        yield from _outermost(child)


def _is_adapted(module: Any) -> bool:
    """Whether it is PEFT's wrapper."""
    return hasattr(module, "get_base_model")


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
