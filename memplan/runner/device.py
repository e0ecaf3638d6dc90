"""What the virtual card is asked from inside the program.

Its libraries are preloaded, so their functions are found among the process's own.
"""

import ctypes
from functools import cache
from typing import Any

import torch


@cache
def is_virtual() -> bool:
    """Whether the card that this process meets is a virtual one, whoever set it up."""
    return hasattr(ctypes.CDLL(None), "vd_unsupported_calls")


def unsupported_calls() -> list[dict[str, Any]]:
    """CUDA functions that were called and are not played, with how often."""
    ask = ctypes.CDLL(None).vd_unsupported_calls
    ask.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    ask.restype = ctypes.c_size_t
    room = int(ask(None, 0)) + 1
    text = ctypes.create_string_buffer(room)
    ask(text, room)
    rows = [line.rsplit(maxsplit=1) for line in text.value.decode().splitlines()]
    return [{"name": name, "count": int(count)} for name, count in rows]


def lowest_capability() -> tuple[int, int]:
    """The lowest compute capability that this build of PyTorch has kernels for."""
    names = torch.cuda.get_arch_list()  # sm_75, sm_90a, compute_120
    digits = ("".join(filter(str.isdecimal, name)) for name in names)
    return min(((int(one[:-1]), int(one[-1])) for one in digits), default=(0, 0))
