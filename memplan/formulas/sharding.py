"""What sharding adds to a rank: gathered layers, buckets, and gradients on their way.

Sources: `torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py` and
`torch/nn/parallel/distributed.py` (2.14), DeepSpeed 0.19 `runtime/zero/config.py`.
"""

from dataclasses import dataclass

DEEPSPEED_BUCKET_ELEMENTS = 500_000_000
"""reduce_bucket_size and allgather_bucket_size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharder:
    """Who shards what over how many ranks."""

    implementation: str
    """ddp, fsdp2 or deepspeed."""
    stage: int
    num_ranks: int

    def unit_bytes(self, parameter_bytes: int) -> tuple[int, int]:
        """Bytes beside a layer's own while it runs forward, and backward.

        FSDP2 at stage 3 gathers a layer into a flat buffer and copies it out, two
        times its bytes; backward keeps the layer whole, gathers the next, and copies
        its gradients into the buffer that is reduced and scattered.
        """
        if self.num_ranks == 1 or self.stage < 3:
            return 0, 0
        return 2 * parameter_bytes, 3 * parameter_bytes

    def constant_bytes(self, trained_bytes: int, item_bytes: int) -> int:
        """Buffers that live through the whole step.

        DDP copies each gradient into its bucket (`gradient_as_bucket_view=False`): as
        many bytes again. DeepSpeed's stages 1 and 2 keep a bucket of 5e8 elements, or
        of all trained ones where they are fewer.
        """
        if self.num_ranks == 1:
            return 0
        if self.implementation == "ddp":
            return trained_bytes
        if self.implementation == "deepspeed" and self.stage in (1, 2):
            return min(trained_bytes, DEEPSPEED_BUCKET_ELEMENTS * item_bytes)
        return 0

    @property
    def gradient_shards(self) -> int:
        """Ranks that share the gradients of a layer once its backward is done."""
        return self.num_ranks if self.stage >= 2 else 1

    def weight_bytes(self, size_bytes: int) -> int:
        """Bytes of a parameter on this rank."""
        return -(-size_bytes // self.num_ranks) if self.stage >= 3 else size_bytes

    def gradient_bytes(self, size_bytes: int) -> int:
        """Bytes of a gradient on this rank."""
        return -(-size_bytes // self.num_ranks) if self.stage >= 2 else size_bytes

    def state_bytes(self, size_bytes: int) -> int:
        """Bytes of an optimizer state on this rank."""
        return -(-size_bytes // self.num_ranks) if self.stage >= 1 else size_bytes
