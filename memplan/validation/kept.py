"""Reports that were made already, found again by all that decides them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from memplan.errors import MemplanError
from memplan.estimating.changes import command_words
from memplan.files import whole_file
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport, from_json, to_json
from memplan.validation.replay import key_of


@dataclass(frozen=True, slots=True)
class KeptReports:
    """A folder of them."""

    folder: Path
    decides: tuple[str, ...]
    """What decides them beside plan, versions and code: the card."""

    def report(
        self, plan: TrainingPlan, make: Callable[[], MemoryReport]
    ) -> MemoryReport:
        """The report of a plan, as it was kept, or made now.

        Raises:
            MemplanError: as `make`.
        """
        words = [*self.decides, *command_words(plan, "profile")]
        file = self.folder / f"{key_of(words)}.json"
        with suppress(OSError, MemplanError):  # made anew where it is not there, or cut
            return from_json(file.read_bytes())
        report = make()
        with suppress(OSError):  # a folder that cannot be written costs the next run
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file, overwrite=True) as kept:
                kept.write(to_json(report).encode("utf-8"))
        return report
