"""Grids of pictures, told to models that would read them back from the card.

Qwen-VL's tower takes its sequence apart by lengths that it computes on the card from
the grids of the pictures, and reads back. A virtual card computes nothing; the grids
are those of the plan. They, and what follows from them, are told from the host: a few
integers.
"""

from typing import Any

import torch
from torch import nn
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_position_ids,
    get_vision_window_index,
)


def tell_grids(module: nn.Module, batch: dict[str, Any]) -> None:
    """Let the model see the grids of the batch on the host, where it has such."""
    grids = batch.get("image_grid_thw")
    if grids is None:
        return
    on_host = grids.cpu()

    def see(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"image_grid_thw": on_host}

    def know(tower: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | _lengths(tower, on_host, grids.device)

    part: Any
    for part in module.modules():
        if hasattr(part, "visual"):
            part.register_forward_pre_hook(see, with_kwargs=True)
            part.visual.register_forward_pre_hook(know, with_kwargs=True)


def _lengths(tower: Any, grids: torch.Tensor, device: torch.device) -> dict[str, Any]:
    """What the tower computes of the grids: where pictures and windows end."""
    with torch.device("cpu"):
        known: dict[str, Any] = {
            "cu_seqlens": get_vision_cu_seqlens(grids),
            "position_ids": get_vision_position_ids(grids, tower.spatial_merge_size).to(
                device
            ),
        }
        if hasattr(tower, "window_size"):
            known["window_index"], known["cu_window_seqlens"] = get_vision_window_index(
                grids, tower.spatial_merge_size, tower.window_size, tower.patch_size
            )
    return known
