"""Where a program looks at values, which a virtual card does not compute.

operators    those whose result is as large as the values say are counted by name,
             with the line that called them: the report lists them
reads        `.item()` and the like: harmless in a log, so they are only counted
checks       a few of libraries, known by name, whose answer decides what is
             allocated: they are answered as ordinary data would, and the report
             says so
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from memplan.runner.imports import after_import
from memplan.runner.lines import is_called_in, line_here
from memplan.runner.modules import is_tracing

OPERATORS = (
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "unique_dim_consecutive",
    "repeat_interleave.Tensor",
    "bincount",
)
"""Of aten, on a card; boolean indexing calls nonzero."""
READ = "_local_scalar_dense"
PRINTING = torch._tensor_str.__file__
"""A tensor's text looks at a handful of values: nothing hangs on them."""
MASKS = "transformers.masking_utils"
CHECKS = "transformers.utils.import_utils"


@dataclass(slots=True)
class Seen:
    """An operator, how often it ran, and the first line that called it."""

    name: str
    line: str
    count: int = 0


class Values:
    """Counts what depends on values, and answers for some of it."""

    def __init__(self) -> None:
        self.answers: dict[str, None] = {}
        """Sentences, in the order of first use."""
        self._seen: dict[str, Seen] = {}
        self._is_inside = False
        library: Any = torch.library.Library
        self._library = library("aten", "IMPL")
        self._is_padded: bool | None = None

    def install(self) -> None:
        for name in (*OPERATORS, READ):
            self._count(name)
        after_import(MASKS, self._answer_masks)
        after_import(CHECKS, self._pass_over_checks)

    def operators(self) -> list[dict[str, Any]]:
        """Those whose result's size depends on values."""
        return [
            {"name": seen.name, "count": seen.count, "line": seen.line}
            for name, seen in self._seen.items()
            if name != READ
        ]

    def reads(self) -> list[dict[str, Any]]:
        """Values that the program looked at."""
        seen = self._seen.get(READ)
        return [{"count": seen.count, "line": seen.line}] if seen else []

    def model_begins(self, kwargs: dict[str, Any]) -> None:
        """Whether a batch is padded is seen in the mask that came from the host."""
        mask = kwargs.get("attention_mask")
        self._is_padded = _has_gaps(mask) if isinstance(mask, torch.Tensor) else None

    # Operators

    def _count(self, name: str) -> None:
        kernel = torch.library.get_kernel(f"aten::{name}", "CUDA")

        def counted(keys: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
            if self._is_inside or is_called_in(PRINTING):
                return kernel.call_boxed(keys, *args, **kwargs)
            if name not in self._seen:
                said = f"aten::{name.split('.')[0]}"
                self._seen[name] = Seen(said, line_here())
            self._seen[name].count += 1
            self._is_inside = True
            try:
                return kernel.call_boxed(keys, *args, **kwargs)
            finally:
                self._is_inside = False

        self._library.impl(name, counted, "CUDA", with_keyset=True)

    # Checks

    def _answer_masks(self) -> None:
        """Whether all tokens are attended, and whether sequences are packed in one."""
        masks: Any = import_module(MASKS)
        if hasattr(masks, "fast_all"):
            masks.fast_all = self._answered(masks.fast_all, self._all_attended)
        if hasattr(masks, "find_packed_sequence_indices"):
            original = masks.find_packed_sequence_indices
            masks.find_packed_sequence_indices = self._answered(
                original, self._not_packed
            )

    def _answered(
        self, original: Callable[..., Any], answer: Callable[[], Any]
    ) -> Callable[..., Any]:
        """The original's operators run, for what they allocate."""

        def check(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            result = original(tensor, *args, **kwargs)
            if is_tracing() or not tensor.is_cuda:
                return result
            return answer()

        return check

    def _all_attended(self) -> bool:
        if self._is_padded is None:
            self._say("whether a batch has padding was answered: it has none")
        return not self._is_padded

    def _not_packed(self) -> None:
        self._say("whether sequences are packed into one was answered: they are not")

    def _pass_over_checks(self) -> None:
        """Such as whether there are as many image tokens as images have features."""
        checks: Any = import_module(CHECKS)
        original = getattr(checks, "torch_compilable_check", None)
        if original is None:
            return

        def check(*args: Any, **kwargs: Any) -> None:
            if is_tracing():
                original(*args, **kwargs)
                return
            try:
                original(*args, **kwargs)
            except (ValueError, RuntimeError) as error:
                said = str(error).splitlines()[0]
                self._say(f"a check that wants values was passed over: {said!r}")

        checks.torch_compilable_check = check

    def _say(self, sentence: str) -> None:
        self.answers[sentence] = None


def _has_gaps(mask: torch.Tensor) -> bool | None:
    """Whether a mask has zeros; None where its values are not known.

    Read without a kernel, as it lies in memory. One that is zero all over says nothing:
    that is what the card answers for values that it computed.
    """
    if mask.is_floating_point() or mask.dim() != 2 or not mask.is_contiguous():
        return None
    values = mask.cpu()
    return None if not values.any() else not bool(values.all())
