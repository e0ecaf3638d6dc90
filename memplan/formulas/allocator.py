"""How PyTorch's caching allocator counts a request.

Source: `c10/core/AllocatorConfig.h` and `c10/cuda/CUDACachingAllocator.cpp` (2.14).
"""

import re
from functools import lru_cache

from memplan.units import MiB

MIN_BLOCK_BYTES = 512
SMALL_REQUEST_BYTES = 1 * MiB
SMALL_SEGMENT_BYTES = 2 * MiB
LARGE_SEGMENT_BYTES = 20 * MiB
MIN_OWN_SEGMENT_BYTES = 10 * MiB
SEGMENT_STEP_BYTES = 2 * MiB
MAX_SLACK_BYTES = 1 * MiB
_SETTING = re.compile(r"\s*([a-z_0-9]+)\s*:\s*(\[[^\]]*\]|[^,\[\]]+)(?:,|$)")
"""One setting of PYTORCH_ALLOC_CONF; a value in brackets has commas of its own."""


def settings_of(alloc_conf: str) -> dict[str, str] | None:
    """The settings in a text like `expandable_segments:True`; None: it is no such text.

    It is what PYTORCH_ALLOC_CONF holds.
    """
    settings, end = {}, 0
    while end < len(alloc_conf):
        found = _SETTING.match(alloc_conf, end)
        if found is None:
            return None
        settings[found[1]] = found[2].strip()
        end = found.end()
    return settings


@lru_cache(maxsize=4096)
def block_bytes(requested_bytes: int) -> int:
    """Bytes of the block that answers a request, taken from a fresh segment.

    Requests are rounded up to 512 B. From 10 MiB on a request gets a segment of its
    own, a multiple of 2 MiB, and keeps all of it where at most 1 MiB would be left
    over (`should_split`): that slack counts as allocated. A block from the cache can
    have up to 1 MiB of slack too, which depends on history and is not counted here.
    """
    if requested_bytes <= 0:
        return 0
    rounded = -(-requested_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES
    if rounded < MIN_OWN_SEGMENT_BYTES:
        return rounded
    segment = -(-rounded // SEGMENT_STEP_BYTES) * SEGMENT_STEP_BYTES
    return segment if segment - rounded <= MAX_SLACK_BYTES else rounded
