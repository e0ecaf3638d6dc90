"""The versions that a report states: peaks move with them."""

import sys
from importlib.metadata import PackageNotFoundError, version

import torch

LIBRARIES = (
    "accelerate",
    "apex",
    "bitsandbytes",
    "deepspeed",
    "diffusers",
    "flash_attn",
    "lightning",
    "liger_kernel",
    "peft",
    "pytorch_lightning",
    "timm",
    "torchao",
    "torchaudio",
    "torchtitan",
    "torchvision",
    "transformer_engine",
    "transformers",
    "triton",
    "trl",
    "unsloth",
    "xformers",
)
"""Libraries that allocate, or choose what does, by their import names."""


def versions_in_use() -> dict[str, str]:
    """Of Python, PyTorch and its CUDA libraries, and of what the program imported."""
    found = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
    }
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
        # torch.backends.cudnn.version() raises on a card older than cuDNN supports.
        found["cudnn"] = ".".join(map(str, torch._C._cudnn.getRuntimeVersion()))
        if torch.distributed.is_available() and torch.distributed.is_nccl_available():
            nccl = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
            found["nccl"] = ".".join(map(str, nccl))
    for library in LIBRARIES:
        if library in sys.modules:
            try:
                found[library] = version(library)
            except PackageNotFoundError:
                continue
    return found
