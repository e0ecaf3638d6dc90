"""What every model family offers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Models that share their blocks."""

    name: str
    config_class: type
    """A dataclass of the config.json fields that decide sizes."""
    forward: Callable[[Tape, Any, Batch], Tensor]
    """The forward pass with labels, in the shape of the module: the loss."""
    inputs: tuple[str, ...]
    """What a sample has: tokens, target_tokens, images."""
    max_seq_len: Callable[[Any], int | None]
    """The longest sequence of a configuration; None where there is no limit."""
    kv_bytes_per_token: Callable[[Any, int], int] | None = None
    """Bytes of the KV cache of one token, by bytes of an element; None where the model
    generates nothing."""
    image_tokens: Callable[[Any, int], int] = field(default=lambda config, size: 0)
    """Places that one image takes in a prompt, by pixels of its side."""
    divide: Callable[[Any, int, int], Any] | None = None
    """The configuration of one rank, of so many tensor-parallel ranks and pipeline
    stages; None where the family cannot be divided. Raises PlanError."""
    lora_targets: tuple[str, ...] = ()
    """The linear layers PEFT adapts by default."""
    never_quantized: tuple[str, ...] = ("lm_head",)
    """Linear layers that transformers does not quantize: the output embeddings, what is
    tied to them, and `_keep_in_fp32_modules` (`quantizers/base.py`)."""
    default_image_size: Callable[[Any], int] = field(default=lambda config: 0)
    has_fixed_image_size: bool = False
    """Whether pictures must have the default size."""
    image_multiple: Callable[[Any], int] = field(default=lambda config: 1)
    """Pixels that the side of a picture is a multiple of."""
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = field(
        default=lambda data: data
    )
    """A config.json with what transformers takes where it leaves something out."""
    check: Callable[[Any], None] = field(default=lambda config: None)
    """Raises ModelConfigError for a configuration that cannot be built."""
    batch_bytes: Callable[[Any, Batch], int] | None = None
    """Bytes of a batch on the device, where it is more than token ids and labels."""
    notes: tuple[str, ...] = ()
    """What a reader of its figures should know."""
    unsupported: tuple[str, ...] = ()
    """What its modules do with memory that the formula leaves out."""
