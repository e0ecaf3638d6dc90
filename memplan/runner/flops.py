"""The operations of one step: matrix products, convolutions and attention.

PyTorch's own formulas (`torch.utils.flop_counter`) are asked for each operator as it
runs. Its counter would also hook every module, and an error of a formula would end the
program: here the program goes on, and a sentence says why there is no figure.
"""

import sys
import threading
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils import _python_dispatch as dispatching
from torch.utils.flop_counter import flop_registry

PLAIN = (torch.Tensor, torch.nn.Parameter)


class Flops(dispatching.TorchDispatchMode):
    """Counts from `begin` to `end`, which are called where a step begins."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reason = ""
        """Why there is no figure."""
        self._total = 0
        self._thread = 0
        """The one in which it began; 0 outside."""
        self._is_over = False

    @property
    def total(self) -> int | None:
        """The operations of the step, once it is over."""
        return self._total if self._is_over and not self.reason else None

    def begin(self) -> None:
        """A step begins in this thread."""
        if _is_in_backward():
            self.reason = "optimizers step within the backward pass"
        elif _is_compiled():
            self.reason = "compiled regions show none of their operators"
        else:
            self._thread = threading.get_ident()
            self.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """The step is over, or the program."""
        if not self._thread:
            return
        modes = dispatching._get_current_dispatch_mode_stack()
        if threading.get_ident() != self._thread or not modes or modes[-1] is not self:
            self.reason = self.reason or "the step ended in another place than it began"
            return  # it passes all on from here, and counts no more
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._thread = 0
        self._is_over = True

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operator and count it; of a tensor subclass, the operators within."""
        kwargs = kwargs or {}
        if any(kind not in PLAIN for kind in types):
            return NotImplemented
        if isinstance(func, HigherOrderOperator):
            self.reason = self.reason or f"{func} was not looked into"
            return func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        if formula is not None:
            self._add(func, formula, args, kwargs, output)
        return output

    def _add(
        self, func: Any, formula: Any, args: Any, kwargs: Any, output: Any
    ) -> None:
        try:
            self._total += int(formula(*args, **kwargs, out_val=output))
        except Exception as error:  # whatever it is, it is not the program's
            self.reason = self.reason or f"the formula of {func} fails: {error}"


def _is_in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _is_compiled() -> bool:
    """Whether Dynamo has compiled anything in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and bool(dynamo.counters["frames"]["ok"])
