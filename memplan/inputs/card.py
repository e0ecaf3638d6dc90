"""The card that this process runs on, as fields of a plan."""

from typing import Any

from memplan.card import card_as_seen
from memplan.hardware import all_gpus, gpu_names


def fields_of_card() -> dict[str, Any]:
    """Of the current CUDA device; one that is not in the catalogue is taken for a card
    of its compute capability, with its own memory.
    """
    import torch

    properties = torch.cuda.get_device_properties()
    card = card_as_seen(properties.name, properties.total_memory)
    fields: dict[str, Any] = {"gpu": card.slug}
    if card.slug not in gpu_names():
        capability = (properties.major, properties.minor)
        alike = [gpu for gpu in all_gpus() if gpu.compute_capability == capability]
        fields["gpu"] = (alike or all_gpus())[0].slug
    return fields | {"gpu_memory_bytes": card.total_bytes}
