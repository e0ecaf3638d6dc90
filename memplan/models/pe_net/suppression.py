"""Classes given out one by one, the surest first; what overlaps cannot have the same.

Scene graph code chooses so the classes of detected boxes (`nms_per_cls`) and, in
testing with given boxes, the predicates of pairs (`rel_nms`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

TAKEN = -1.0


def assign_classes(scores: Tensor, overlapping: Callable[[int, int], Tensor]) -> Tensor:
    """The class of each row of `scores` [rows, classes].

    Args:
        overlapping: of a row and a class, which rows [rows] shall not have it as well.
            Their score for it becomes 0.
    """
    left = scores.clone()
    classes = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    is_taken = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    for _ in range(len(scores)):
        row, column = divmod(int(left.argmax()), left.shape[1])
        classes[row] = column
        is_taken[row] = True
        left[row] = TAKEN
        left[overlapping(row, column) & ~is_taken, column] = 0.0
    return classes


def box_overlaps(first: Tensor, second: Tensor) -> Tensor:
    """[len(first), len(second)]: intersection over union, of pixels that are counted.

    Boxes name their last pixel, as in maskrcnn-benchmark: from 3 to 5 is three wide.
    """
    left_top = torch.max(first[:, None, :2], second[None, :, :2])
    right_bottom = torch.min(first[:, None, 2:], second[None, :, 2:])
    shared = (right_bottom - left_top + 1).clamp(min=0).prod(dim=2)
    areas = [(some[:, 2:] - some[:, :2] + 1).prod(dim=1) for some in (first, second)]
    overlaps: Tensor = shared / (areas[0][:, None] + areas[1][None] - shared)
    return overlaps
