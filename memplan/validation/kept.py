"""Reports that were made already, found again by all that decides them."""

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import memplan
from memplan.errors import MemplanError
from memplan.estimating.changes import command_words
from memplan.files import whole_file
from memplan.hardware import find_gpu
from memplan.models import find_model
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport, from_json, to_json

LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "deepspeed",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "peft",
    "timm",
    "torch",
    "torchvision",
    "transformers",
    "triton",
)
"""Distributions whose version can move a peak."""
CODE = (".py", ".c", ".h")
ONLY_SHOWS = ("cli", "integrations", "views")
"""Rooms that decide no figure."""


@dataclass(frozen=True, slots=True)
class KeptReports:
    """A folder of them."""

    folder: Path
    who: str = ""
    """Who made them, where that decides them: the card of a measurement."""

    def report(
        self, plan: TrainingPlan, make: Callable[[], MemoryReport]
    ) -> MemoryReport:
        """The report of a plan, as it was kept, or made now.

        Raises:
            MemplanError: as `make`; or the model or the card is not known.
        """
        found = self.find(plan)
        if found is None:
            found = make()
            self.keep(plan, found)
        return found

    def find(self, plan: TrainingPlan) -> MemoryReport | None:
        """The report of a plan; None where it is not there, or cut.

        Raises:
            MemplanError: the model or the card is not known.
        """
        file = self._file(plan)
        with suppress(OSError, MemplanError):
            return from_json(file.read_bytes())
        return None

    def keep(self, plan: TrainingPlan, report: MemoryReport) -> None:
        """Keep it; a folder that cannot be written costs the next run.

        Raises:
            MemplanError: the model or the card is not known.
        """
        file = self._file(plan)
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file, overwrite=True) as kept:
                kept.write(to_json(report).encode("utf-8"))

    def _file(self, plan: TrainingPlan) -> Path:
        words = command_words(plan, "rehearse")
        decides = [self.who, words, installed(), looked_up(plan)]
        return self.folder / f"{_sum(json.dumps(decides))}.json"


def installed() -> dict[str, str]:
    """What decides a report of any plan on this machine, by name."""
    return {**_versions(), "memplan": f"{version('memplan')} (code {_code()[:8]})"}


def looked_up(plan: TrainingPlan) -> dict[str, str]:
    """What decides the report of a plan beside its flags: what names in it stand for.

    Raises:
        MemplanError: the model or the card is not known.
    """
    found = {"the card": f"{plan.gpu} ({_sum(repr(find_gpu(plan.gpu)))[:8]})"}
    if plan.model is not None:
        model = find_model(plan.model, plan.revision)
        decides = (model.config, model.source, model.defaults, model.trainable_sets)
        found["the model"] = f"{plan.model} ({_sum(repr(decides))[:8]})"
    return found


@cache
def _versions() -> dict[str, str]:
    """Of the interpreter, and of the libraries that are installed."""
    found = {"Python": sys.version.split()[0]}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def _code() -> str:
    """A sum of memplan's own files: between two releases they change too."""
    package = Path(str(memplan.__file__)).parent
    total = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        place = path.relative_to(package)
        if path.suffix in CODE and place.parts[0] not in ONLY_SHOWS:
            total.update(str(place).encode("utf-8"))
            total.update(path.read_bytes())
    return total.hexdigest()


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]
