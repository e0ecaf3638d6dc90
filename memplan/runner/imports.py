"""Do something right after a module has been imported, whoever imports it."""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call `action` once `name` is imported: now, if it already is."""
    if name in sys.modules:
        action()
        return
    for finder in sys.meta_path:
        if isinstance(finder, _Watcher) and finder.name == name:
            finder.actions.append(action)
            return
    sys.meta_path.insert(0, _Watcher(name, action))


class _Watcher:
    """Finds its module as the others would, and has its loader call the actions."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self.name = name
        self.actions = [action]

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        # Those behind this one alone: another may be waiting for the same module.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._call_after(spec)
                return spec
        return None

    def _call_after(self, spec: ModuleSpec) -> None:
        """The loader is this spec's own, and keeps its type: others look at that."""
        loader = spec.loader
        assert loader is not None
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                for action in self.actions:
                    action()

        loader.exec_module = exec_module  # type: ignore[method-assign]
