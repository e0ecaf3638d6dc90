"""The optimizer of a plan as the class that a training program would make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from memplan.formulas.optimizers import Optimizer, find_optimizer

LEARNING_RATE = 1e-4

TORCH_CLASSES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adagrad": torch.optim.Adagrad,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
    "torch_adafactor": torch.optim.Adafactor,
}
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "foreach": {},  # torch's own choice on a GPU
    "fused": {"fused": True},
    "loop": {"foreach": False},
}
BITSANDBYTES_CLASSES = {
    "adam": "AdamW",
    "ademamix": "AdEMAMix",
    "lion": "Lion",
    "rmsprop": "RMSprop",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A class of optimizer and its arguments, beside the parameters."""

    build: Callable[..., torch.optim.Optimizer]
    arguments: dict[str, Any]

    def __call__(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        return self.build(parameters, **self.arguments)


def recipe_of(name: str) -> Recipe:
    """How to make the optimizer of that name."""
    optimizer = find_optimizer(name)
    if optimizer.implementation in ("8bit", "32bit"):
        return _bitsandbytes_recipe(optimizer)
    if optimizer.algorithm == "adafactor":
        from transformers.optimization import Adafactor

        return Recipe(
            build=Adafactor,
            arguments={
                "lr": LEARNING_RATE,
                "scale_parameter": False,
                "relative_step": False,
            },
        )
    arguments = {"lr": LEARNING_RATE, **IMPLEMENTATIONS[optimizer.implementation]}
    if optimizer.algorithm == "adam":
        decouples = optimizer.name.startswith("adamw")
        cls = torch.optim.AdamW if decouples else torch.optim.Adam
        return Recipe(build=cls, arguments=arguments)
    if optimizer.algorithm == "torch_adafactor":
        arguments = {"lr": LEARNING_RATE}
    return Recipe(build=TORCH_CLASSES[optimizer.algorithm], arguments=arguments)


class MasterWeights(torch.optim.Optimizer):
    """Updates fp32 copies of low-precision weights, and copies them back.

    As apex's O2 and Megatron's Float16Optimizer do; the loss is not scaled here, which
    changes no memory.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    ) -> None:
        self.low = list(parameters)
        self.masters = [
            nn.Parameter(p.detach().to(torch.float32, copy=True)) for p in self.low
        ]
        self.inner = make(self.masters)
        super().__init__(self.low, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on fp32 copies of the gradients."""
        for low, master in zip(self.low, self.masters, strict=True):
            master.grad = None if low.grad is None else low.grad.to(torch.float32)
        self.inner.step()
        self.inner.zero_grad()
        for low, master in zip(self.low, self.masters, strict=True):
            low.copy_(master)


def keep_embeddings_in_32bit(name: str, model: nn.Module) -> None:
    """8-bit states of embeddings stay in fp32, as the Trainer sets bitsandbytes up."""
    if find_optimizer(name).implementation != "8bit":
        return
    from bitsandbytes.optim import GlobalOptimManager

    manager = GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})


def _bitsandbytes_recipe(optimizer: Optimizer) -> Recipe:
    """As the Trainer makes them: one class for each algorithm, told how many bits."""
    import bitsandbytes

    arguments: dict[str, Any] = {
        "lr": LEARNING_RATE,
        "optim_bits": int(optimizer.implementation.removesuffix("bit")),
    }
    if optimizer.algorithm != "rmsprop":
        arguments["is_paged"] = optimizer.is_paged
    name = BITSANDBYTES_CLASSES[optimizer.algorithm]
    return Recipe(build=getattr(bitsandbytes.optim, name), arguments=arguments)
