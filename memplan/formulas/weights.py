"""How each parameter is stored, and what its states cost under a convention."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from memplan.formulas.optimizers import Optimizer, convention_bytes
from memplan.formulas.parameters import Shape, Stored
from memplan.formulas.tensors import ITEM_BYTES

STORED_DTYPE = {
    "fp32": "fp32",
    "tf32": "fp32",
    "bf16-mixed": "fp32",
    "fp16-mixed": "fp32",
    "bf16-pure": "bf16",
    "fp16-master": "fp16",
}
"""What weights are kept in, by precision policy."""

AUTOCAST_DTYPE = {"bf16-mixed": "bf16", "fp16-mixed": "fp16"}
"""What autocast casts to, where it is on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storing:
    """A policy for weights: call it with a name and a shape."""

    dtype: str
    trainable: tuple[str, ...]
    """Regular expressions searched in parameter names; LoRA adapters always train."""
    frozen_dtype: str
    compute_dtype: str = "fp32"
    """What a 4-bit weight is computed in (`bnb_4bit_compute_dtype`)."""
    quantization: str = "none"
    never_quantized: tuple[str, ...] = ("lm_head",)
    computed_in: str | None = None
    """What sharding computes all weights in, where it casts them as it goes."""
    is_cast: bool = False
    """An engine has cast all weights to `dtype` for good, adapters and frozen ones too
    (DeepSpeed 0.19, `engine.py`, `_cast_module_mixed_precision`)."""

    def __call__(self, name: str, shape: Shape, is_linear: bool) -> Stored:
        stored = self._stored(name, shape, is_linear)
        if self.is_cast and not stored.is_quantized:
            size_bytes = ITEM_BYTES[self.dtype] * prod(shape)
            return Stored(self.dtype, stored.is_trainable, size_bytes)
        if self.computed_in in (None, stored.dtype):
            return stored
        return replace(stored, dtype=self.computed_in, kept_dtype=stored.dtype)

    def _stored(self, name: str, shape: Shape, is_linear: bool) -> Stored:
        num_elements = prod(shape)
        if ".lora_" in name:
            # PEFT keeps adapters in fp32 (`autocast_adapter_dtype`).
            return Stored("fp32", True, 4 * num_elements)
        if any(re.search(pattern, name) for pattern in self.trainable):
            return Stored(self.dtype, True, ITEM_BYTES[self.dtype] * num_elements)
        dtype = self.frozen_dtype
        if is_linear and self.quantization != "none" and not self._is_kept(name):
            if name.endswith(".weight"):
                size = quantized_bytes(self.quantization, shape)
                return Stored(self.compute_dtype, False, size, is_quantized=True)
            if self.quantization == "nf4":
                # Linear4bit casts its bias for good when it first runs.
                dtype = self.compute_dtype
        return Stored(dtype, False, ITEM_BYTES[dtype] * num_elements)

    def _is_kept(self, name: str) -> bool:
        """Whether transformers leaves the module as it is."""
        return any(f".{part}." in f".{name}" for part in self.never_quantized)


def quantized_bytes(quantization: str, shape: Shape) -> int:
    """Bytes of a bitsandbytes weight with its constants.

    nf4: half a byte an element, an fp32 maximum for each 64 and a table of 16; int8:
    a byte an element and an fp32 scale for each output row.
    """
    num_elements = prod(shape)
    if quantization == "nf4":
        return -(-num_elements // 2) + 4 * -(-num_elements // 64) + 64
    return num_elements + 4 * shape[0]


@dataclass(frozen=True, slots=True)
class ModelStates:
    """Bytes of weights, gradients and optimizer states."""

    weights: int
    gradients: int
    optimizer_states: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer_states


def states_by_convention(
    accounting: str,
    precision: str,
    optimizer: Optimizer,
    num_trainable: int,
    num_frozen: int = 0,
    quantized_bytes: int = 0,
) -> ModelStates:
    """Model states by a published convention, before sharding.

    zero: 2 + 2 + 12 bytes of Adam (ZeRO, arXiv 1910.02054, section 3.1): fp16 weights
    and gradients; fp32 master weights belong to the optimizer. hf: 6 + 4 + 8 in mixed
    precision, 4 + 4 + 8 in fp32 (transformers, "Model training anatomy"). Frozen
    parameters cost their weight alone, and what they take where they are quantized.
    """
    per_parameter = convention_bytes(optimizer)
    if accounting == "zero":
        return ModelStates(
            2 * (num_trainable + num_frozen) + quantized_bytes,
            2 * num_trainable,
            (4 + per_parameter) * num_trainable,
        )
    weight = 4 if precision in ("fp32", "tf32") else 6
    return ModelStates(
        weight * num_trainable + 4 * num_frozen + quantized_bytes,
        4 * num_trainable,
        per_parameter * num_trainable,
    )


def shard_states(states: ModelStates, zero_stage: int, num_ranks: int) -> ModelStates:
    """What one rank holds: ZeRO's P_os, P_os+g and P_os+g+p (section 5)."""

    def shard(size_bytes: int, from_stage: int) -> int:
        return -(-size_bytes // num_ranks) if zero_stage >= from_stage else size_bytes

    return ModelStates(
        shard(states.weights, 3),
        shard(states.gradients, 2),
        shard(states.optimizer_states, 1),
    )


def matches_any(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Whether any pattern is found in any name."""
    return any(re.search(pattern, name) for pattern in patterns for name in names)
