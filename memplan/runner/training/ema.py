"""An exponential moving average of the trained weights, in fp32 on the device."""

from collections.abc import Sequence

import torch

DECAY = 0.9999


class Averages:
    """The averages; their values are what an evaluation would use."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.tensors = [p.detach().to(torch.float32, copy=True) for p in parameters]

    @torch.no_grad()
    def update(self, parameters: Sequence[torch.Tensor]) -> None:
        """Move each average a little towards its weight, one tensor at a time."""
        for average, parameter in zip(self.tensors, parameters, strict=True):
            average.lerp_(parameter.to(torch.float32), 1 - DECAY)
