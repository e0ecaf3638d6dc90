"""The card that this process runs on, as fields of a plan."""

from typing import Any

from memplan.hardware import all_gpus
from memplan.running.card_at_hand import card_in_use


def fields_of_card() -> dict[str, Any]:
    """Of the current CUDA device; one that is not in the catalogue is taken for a card
    of its compute capability, with its own memory.
    """
    import torch

    card = card_in_use(torch.cuda.current_device())
    slug = card.gpu.slug
    if not card.is_catalogued:
        capability = card.gpu.compute_capability
        alike = [gpu for gpu in all_gpus() if gpu.compute_capability == capability]
        slug = (alike or all_gpus())[0].slug
    return {"gpu": slug, "gpu_memory_bytes": card.gpu.total_bytes}
