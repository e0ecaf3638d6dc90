"""memplan: how much GPU memory a training run takes, and what to change.

from memplan import TrainingPlan, estimate

report = estimate(TrainingPlan(model="llama-2-7b", gpu="a100-80gb"))

Nothing is imported before it is asked for: `memplan.runner` is loaded in programs whose
interpreter has neither pydantic nor rich.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memplan.check import check
    from memplan.compare import compare
    from memplan.diff import diff
    from memplan.errors import MemplanError
    from memplan.estimate import estimate
    from memplan.fit import fit
    from memplan.plan import TrainingPlan
    from memplan.recommend import recommend
    from memplan.recording import record
    from memplan.rehearse import rehearse, rehearse_program
    from memplan.report import MemoryReport, from_json, to_json
    from memplan.runner.marks import phase
    from memplan.worst_batch import worst_batch

__all__ = [
    "MemoryReport",
    "MemplanError",
    "TrainingPlan",
    "check",
    "compare",
    "diff",
    "estimate",
    "fit",
    "from_json",
    "phase",
    "profile",
    "profile_program",
    "recommend",
    "record",
    "rehearse",
    "rehearse_program",
    "to_json",
    "worst_batch",
]

_MODULES = {
    "MemoryReport": "memplan.report",
    "MemplanError": "memplan.errors",
    "TrainingPlan": "memplan.plan",
    "check": "memplan.check",
    "compare": "memplan.compare",
    "diff": "memplan.diff",
    "estimate": "memplan.estimate",
    "fit": "memplan.fit",
    "from_json": "memplan.report",
    "phase": "memplan.runner.marks",
    "recommend": "memplan.recommend",
    "record": "memplan.recording",
    "profile": "memplan.profile",
    "profile_program": "memplan.profile",
    "rehearse": "memplan.rehearse",
    "rehearse_program": "memplan.rehearse",
    "to_json": "memplan.report",
    "worst_batch": "memplan.worst_batch",
}


class _Package(ModuleType):
    """A package where `memplan.estimate` is the function, not its module.

    Both have the name of the verb, and importing a module binds it in its package.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'memplan' has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _MODULES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
