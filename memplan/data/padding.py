"""Rows of token ids of one batch, made as long as the longest."""

from collections.abc import Sequence

import torch

IGNORED = -100
"""The label of a token that no loss asks for, as PyTorch's cross entropy has it."""


def padded(
    rows: Sequence[list[int]], filling: int, *, on_left: bool = False
) -> torch.Tensor:
    """[rows, longest], filled up after the last token or before the first."""
    length = max(map(len, rows))
    fillings = ([filling] * (length - len(row)) for row in rows)
    return torch.tensor(
        [
            [*more, *row] if on_left else [*row, *more]
            for row, more in zip(rows, fillings, strict=True)
        ]
    )
