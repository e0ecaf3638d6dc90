"""What an interpreter's PyTorch finds on this machine, as one line of JSON.

Run by path in the interpreter that will train; it knows nothing of memplan.
"""

import ctypes
import json


def facts(index: int = 0) -> dict[str, object]:
    """PyTorch's version, and a card with what it has of memory."""
    try:
        import torch
    except ImportError as error:
        return {"torch": None, "error": str(error)}
    found: dict[str, object] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if not torch.cuda.is_available():
        return {**found, "num_devices": 0}
    card = torch.cuda.get_device_properties(index)
    return {
        **found,
        "num_devices": torch.cuda.device_count(),
        "name": card.name,
        "total_bytes": card.total_memory,
        "compute_capability": [card.major, card.minor],
        "num_sms": card.multi_processor_count,
        "is_virtual": hasattr(ctypes.CDLL(None), "vd_unsupported_calls"),
    }


if __name__ == "__main__":
    print(json.dumps(facts()))
