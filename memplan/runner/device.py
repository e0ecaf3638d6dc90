"""What the virtual card is asked from inside the program.

Its libraries are preloaded, so their functions are found among the process's own.
"""

import ctypes
from typing import Any


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
