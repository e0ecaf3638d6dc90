"""Every call of a module, seen where it does no harm.

`Module.__call__` is wrapped rather than hooked: global hooks are traced into compiled
regions, cost guards there, and make `torch.compile` warn. Dynamo takes a module's
`__call__` for the plain one if it was in place when Dynamo was imported, or is told so,
and goes straight to `forward`: compiled regions are as they would be.
"""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch._guards import TracingContext

from memplan.runner.patches import Patches

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of a module's path that DDP, compiling and sharding put there."""

DYNAMO = ("torch._dynamo.utils", "torch._dynamo.variables.nn_module")
PLAIN_CALL = "unpatched_nn_module_call"
"""Where Dynamo keeps the call that it need not look into."""


class Listener(Protocol):
    """Who is told of calls."""

    def call_begins(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None: ...

    def call_ends(self, module: torch.nn.Module, output: Any) -> None: ...

    def call_fails(self) -> None: ...


class ModuleCalls:
    """The modules that are being called, thread by thread."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._patches = Patches()
        self.is_attached = False
        self._local = threading.local()
        self._paths: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()

    @property
    def stack(self) -> list[torch.nn.Module]:
        """This thread's calls, outermost first."""
        try:
            stack: list[torch.nn.Module] = self._local.stack
        except AttributeError:
            stack = self._local.stack = []
        return stack

    @property
    def path(self) -> str:
        """Where this thread is: `layers.3.mlp`, or the class of the outermost."""
        stack = self.stack
        return self.path_of(stack[-1]) if stack else ""

    def path_of(self, module: torch.nn.Module) -> str:
        """The path of a module below the outermost one that was called."""
        return self._paths.get(module) or type(module).__name__

    def attach(self) -> None:
        """See calls from here on."""
        original = torch.nn.Module.__call__
        calls, begin, end, fail = self, self._begin, self._end, self._fail

        def __call__(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            if not calls.is_attached or is_tracing():
                return original(self, *args, **kwargs)
            begin(self, args, kwargs)
            try:
                output = original(self, *args, **kwargs)
            except BaseException:
                fail()
                raise
            end(self, output)
            return output

        hide_from_dynamo(__call__, its_callees=False)
        for callee in (ModuleCalls._begin, ModuleCalls._end, ModuleCalls._fail):
            hide_from_dynamo(callee)
        self.is_attached = True
        self._patches.replace(torch.nn.Module, "__call__", __call__)
        _plain_to_dynamo(original, __call__)

    def detach(self) -> None:
        """See no more; calls that are running end as if nobody had seen them."""
        self.is_attached = False
        ours = torch.nn.Module.__call__
        self._patches.restore()
        _plain_to_dynamo(ours, torch.nn.Module.__call__)

    def _begin(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        stack = self.stack
        if module not in self._paths:
            self._name_modules(stack[0] if stack else module)
        stack.append(module)
        try:
            self._listener.call_begins(module, args, kwargs)
        except BaseException:
            stack.pop()
            raise

    def _end(self, module: torch.nn.Module, output: Any) -> None:
        self.stack.pop()
        if self.is_attached:
            self._listener.call_ends(module, output)

    def _fail(self) -> None:
        """A checkpoint leaves by an exception once it has recomputed enough."""
        self.stack.pop()
        if self.is_attached:
            self._listener.call_fails()

    def _name_modules(self, root: torch.nn.Module) -> None:
        self._paths[root] = type(root).__name__
        for name, module in root.named_modules():
            self._paths[module] = plain_path(name) or type(module).__name__


def plain_path(path: str) -> str:
    """A module's or parameter's path without what wraps it."""
    return ".".join(part for part in path.split(".") if part not in WRAPPERS)


def _plain_to_dynamo(before: Callable[..., Any], now: Callable[..., Any]) -> None:
    """What Dynamo took for the plain call, if it has been imported."""
    for name in DYNAMO:
        module = sys.modules.get(name)
        if getattr(module, PLAIN_CALL, None) is before:
            setattr(module, PLAIN_CALL, now)


def forget_in_dynamo() -> None:
    """Have Dynamo look up anew which functions are PyTorch's own, by what they are.

    If it was imported while some of them were replaced, it knows the replacements.
    """
    rules: Any = sys.modules.get("torch._dynamo.trace_rules")
    if rules is not None:
        rules.clear_lru_cache()


def is_tracing() -> bool:
    """Whether a compiler is at work: what it calls is not yet the program running."""
    return torch.compiler.is_compiling() or TracingContext.try_get() is not None


def hide_from_dynamo(function: Callable[..., Any], *, its_callees: bool = True) -> None:
    """Have Dynamo run this function as it is where it comes by its frame."""
    from torch._C._dynamo import eval_frame

    action = eval_frame._FrameAction
    with suppress(AttributeError):
        eval_frame.set_code_exec_strategy(
            function.__code__,
            eval_frame._FrameExecStrategy(
                action.SKIP, action.SKIP if its_callees else action.DEFAULT
            ),
        )
