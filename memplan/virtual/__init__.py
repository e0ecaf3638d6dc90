"""An NVIDIA GPU that is not there, for an unmodified PyTorch.

Shared libraries with the sonames of NVIDIA's are preloaded into the program: they hand
out addresses and count bytes, and compute nothing. They are built here at first use.
"""

from memplan.virtual.environment import VirtualEnvironment, virtual_environment
from memplan.virtual.support import Support, check

__all__ = ["Support", "VirtualEnvironment", "check", "virtual_environment"]
