"""Weights that are made after the model: a model built empty, then filled.

A model is built with its parameters on the meta device when they must not exist whole
(FSDP2 shards first) or not in their own dtype (quantization stores them at once).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

STANDARD_DEVIATION = 0.02
"""`initializer_range` of most models of transformers."""


@contextmanager
def empty_parameters(device: torch.device) -> Iterator[None]:
    """Models built inside have parameters on the meta device, buffers on `device`."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False), torch.device(device):
        yield


def materialise(module: nn.Module, device: torch.device) -> None:
    """Give every parameter that is on the meta device memory and a sane value.

    Shards of FSDP2 are made as shards: the whole parameter never exists.
    """
    made: dict[nn.Parameter, nn.Parameter] = {}
    named = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.is_meta:
            if parameter not in made:
                made[parameter] = initial_value(name, parameter, device)
            named[name] = made[parameter]
    module.load_state_dict(named, strict=False, assign=True)


@torch.no_grad()
def initial_value(
    name: str, parameter: torch.Tensor, device: torch.device
) -> nn.Parameter:
    """Noise for matrices and embeddings, ones for scales of norms, zeros for the rest.

    What transformers initialises them with, but for the exceptions of single models.
    """
    value = torch.empty_like(parameter, device=device)
    local: Any = value.to_local() if hasattr(value, "to_local") else value
    if parameter.dim() > 1 and ".lora_B." not in name:
        local.normal_(std=STANDARD_DEVIATION)
    elif name.endswith("weight") and parameter.dim() == 1:
        local.fill_(1.0)
    else:
        local.zero_()
    return nn.Parameter(value, requires_grad=parameter.requires_grad)
