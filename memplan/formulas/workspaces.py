"""Workspaces of CUDA libraries that PyTorch takes from its own allocator."""

from memplan.units import MiB

DEFAULT_WORKSPACE_BYTES = 8_519_680
""":4096:2:16:8, that is 2 x 4096 KiB + 8 x 16 KiB."""


def cublas_workspace_bytes(
    compute_capability: tuple[int, int], torch_version: tuple[int, int]
) -> int:
    """One cuBLAS workspace; a training process holds two.

    The forward and the autograd thread have a handle each, and each handle keeps a
    workspace for its stream (`aten/src/ATen/cuda/CublasHandlePool.cpp`): 32 MiB on
    capability 9.0, from torch 2.14 on for 9.x to 12.x; else 8.125 MiB. 2.14 lets
    cuBLASLt share it; torch 2.15 allocates it for each call instead of keeping it.
    """
    large = (
        compute_capability[0] in (9, 10, 11, 12)
        if torch_version >= (2, 14)
        else compute_capability == (9, 0)
    )
    return 32 * MiB if large else DEFAULT_WORKSPACE_BYTES
