"""What all building blocks of one training step have in common."""

from dataclasses import dataclass

KERNELS = ("auto", "eager", "math", "efficient", "flash", "cudnn")
"""Attention kernels a plan can ask for; auto is PyTorch's own choice."""


ALL_LINEAR = "all-linear"
"""PEFT's name for every linear layer but the output embeddings."""
OUTPUT_EMBEDDINGS = "lm_head"


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRank:
    """LoRA adapters beside linear layers."""

    rank: int
    targets: tuple[str, ...]
    """Module names, matched at the end of the path as PEFT does; or all-linear."""
    dropout: float = 0.0

    def matches(self, place: str) -> bool:
        """Whether the linear layer at `place` gets an adapter."""
        if ALL_LINEAR in self.targets:
            return not f".{place}".endswith(f".{OUTPUT_EMBEDDINGS}")
        return any(
            place == target or place.endswith(f".{target}") for target in self.targets
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How the operators run: precision, kernels, device."""

    autocast: str | None = None
    """The dtype that torch.autocast casts to; None where it is off."""
    is_training: bool = True
    """Dropout acts."""
    attention: str = "auto"
    """auto, eager, math, efficient, flash or cudnn."""
    checkpointing: str = "none"
    """none, full or selective, for the layers that a model lets be checkpointed."""
    checkpoint_every: int = 1
    """Of so many consecutive layers the first is checkpointed."""
    low_rank: LowRank | None = None
    quantization: str = "none"
    """How frozen linear layers are stored: none, int8 or nf4."""
    compute_capability: tuple[int, int] = (9, 0)
    num_sms: int = 132
    """Multiprocessors of the card: over so many a sum is split."""
    torch_version: tuple[int, int] = (2, 14)
    clones_outputs: bool = False
    """DDP that looks for unused parameters clones what the model returns."""
    hidden_dtype: str = "fp32"
    """What weights are stored in: a pipeline stage receives it from the one before,
    and modules of memplan's own get their pictures in it."""
    sequence_shards: int = 1
    """Ranks that share the sequence between tensor-parallel layers."""
    stage: str = "all"
    """The pipeline stage that is traced: all, first or last."""
    cross_entropy_chunks: int = 1
    """Parts of the tokens whose logits are made one after the other."""
    offloads_activations: bool = False
    """What backward functions save is on the host until they run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one micro-batch holds, per GPU."""

    size: int
    seq_len: int = 0
    """Tokens of a sample; of the encoder where there is one."""
    target_seq_len: int = 0
    """Tokens of the decoder of an encoder-decoder model."""
    images_per_sample: int = 1
    image_size: int = 0
    """Pixels of a side; 0 is the model's own."""
    stored_item_bytes: int = 4
    """Of one value in what weights are stored in: modules of memplan's own are given
    their pictures so."""
    has_labels: bool = True
    """Training computes a loss; generation wants the logits of the last token."""
