"""A plan as a file of a format, and a change of a plan as a change of a user's files.

    text, lacking = written(plan, TRAINER)
    changed = rewritten(asked, plan)
    print(changed.diff); changed.unsaid      # what no file has a key for

Whatever is written is read again: what does not come back as the plan is told.
"""

import difflib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from memplan.errors import ConfigError, MemplanError
from memplan.estimating.changes import Fields, as_flags
from memplan.files import whole_file
from memplan.inputs.configs.documents import parse, text_of
from memplan.inputs.configs.drafts import Draft, drafts_of, read
from memplan.inputs.configs.editing import dumped
from memplan.inputs.configs.format import Format, Source
from memplan.inputs.configs.reading import Asked
from memplan.plan import TrainingPlan

OF_THE_COMMAND = frozenset(
    {
        "model",
        "revision",
        "parameters",
        "workload",
        "accounting",
        "num_gpus",
        "gpu",
        "gpu_memory_bytes",
        "context_bytes",
        "headroom_fraction",
        "alloc_conf",
        "torch",
    }
)
"""Fields that are asked about, and are no settings of a run: a file that says nothing
of them is not made to. A preset's name means nothing to anybody else."""
MARK = "\ufeff"
"""What some editors of Windows begin a file with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChange:
    """A file as it is, and as it should be."""

    file: Path
    before: str
    after: str

    @property
    def diff(self) -> str:
        """As `patch -p0` takes it."""
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            str(self.file),
            str(self.file),
        )
        return "".join(_ended(line) for line in lines)

    def write(self) -> None:
        """Put it in the place of what is there, whole or not at all.

        Raises:
            ConfigError: it cannot be written, or was changed since it was read.
        """
        if text_of(self.file) != self.before:
            raise ConfigError(
                f"{self.file} was changed since it was read.", hint="Ask again."
            )
        try:
            with self.file.open("rb") as opened:
                is_marked = opened.read(3) == MARK.encode()
            text = MARK * is_marked + self.after
            with whole_file(self.file, overwrite=True) as file:
                file.write(text.encode("utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{self.file} cannot be written: {error.strerror}.",
                hint="Take the patch, and apply it where you may write.",
            ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewriting:
    """A plan in a user's own files."""

    changes: tuple[FileChange, ...]
    """Of the files that change."""
    unsaid: Fields
    """Fields of the plan that none of the files has a key for."""

    @property
    def unsaid_words(self) -> tuple[str, ...]:
        """What is typed in their place."""
        return unsaid_words(self.unsaid)

    @property
    def diff(self) -> str:
        """Of all of them, as `patch -p0` takes it."""
        return "".join(change.diff for change in self.changes)


def unsaid_words(unsaid: Fields) -> tuple[str, ...]:
    """Fields as flags; what is left to the model has none, and is said so."""
    return tuple(
        f"an open {name.replace('_', '-')}"
        if value in (None, ())
        else as_flags({name: value})
        for name, value in unsaid.items()
    )


def written(plan: TrainingPlan, kind: Format) -> tuple[str, Fields]:
    """A plan as a file of a format, and the fields that it has no key for."""
    text = dumped(kind.keys_of(plan, {}), kind.suffix)
    source = Source(
        file=Path(f"plan{kind.suffix}"),
        document=parse(text, kind.suffix) if text.strip() else {},
        named=source_of_name,
    )
    said = kind.read(source).fields
    return text, _unsaid(plan, _with_defaults(said, plan))


def rewritten(asked: Asked, plan: TrainingPlan) -> Rewriting:
    """Files changed so that they say what a plan says, as far as they can.

    A field goes to the files that say it already; where there is none, to one that has
    a key for it: best of all one that speaks of its kin. What does not come back when
    the files are read again is left out of them, and told.

    Args:
        asked: the files as they were read.
        plan: what they shall say.

    Raises:
        ConfigError: a file cannot be read any more, or changed without changing more.
    """
    return _Rewriting([*drafts_of(asked)], plan).best()


class _Rewriting:
    """Files on their way to what a plan says."""

    def __init__(self, drafts: Sequence[Draft], plan: TrainingPlan) -> None:
        """Give each field that differs to the files that shall say it.

        Raises:
            ConfigError: the files make no plan without flags.
        """
        self.drafts = drafts
        self.plan = plan
        self.said = read(drafts)
        try:
            self.before = TrainingPlan(**_with_defaults(self.said, plan))
        except MemplanError as error:
            raise ConfigError(
                f"The files alone make no plan: {error.message}", hint=error.hint
            ) from error
        for name in _differing(self.before, plan):
            for draft in self._best_for(name):
                draft.fields.add(name)

    def best(self) -> Rewriting:
        """What leaves least unsaid, and of that what changes least."""
        found = self._carried_out(thoroughly=False)
        if found.unsaid:
            # What one key says can hang on another.
            again = self._carried_out(thoroughly=True)
            found = again if len(again.unsaid) < len(found.unsaid) else found
        if any(draft.fields & found.unsaid.keys() for draft in self.drafts):
            for draft in self.drafts:
                draft.fields -= found.unsaid.keys()
            again = self._carried_out(thoroughly=False)
            found = again if again.unsaid.keys() <= found.unsaid.keys() else found
        return found

    def _best_for(self, name: str) -> Sequence[Draft]:
        """All files that say a field, else the one that is nearest to it."""
        value = getattr(self.before, name)
        sayers = [draft for draft in self.drafts if draft.says(name, value)]
        able = (
            draft
            for draft in self.drafts
            if draft.can_say(name, self.before, self.plan)
        )
        ranked = sorted(able, key=lambda one: one.distance(name), reverse=True)
        return sayers or ranked[-1:]

    def _carried_out(self, *, thoroughly: bool) -> Rewriting:
        """The files changed, and read again: what makes no sense leaves all unsaid."""
        for draft in self.drafts:
            draft.change(self.before, self.plan, thoroughly=thoroughly)
        try:
            said = read(self.drafts)
        except MemplanError:
            names = _differing(self.before, self.plan)
            unsaid = {name: getattr(self.plan, name) for name in names}
            return Rewriting(changes=(), unsaid=unsaid)
        changes = tuple(
            FileChange(file=draft.file, before=draft.before, after=draft.after)
            for draft in self.drafts
            if draft.after != draft.before
        )
        lost = {
            name: getattr(self.plan, name) for name in self.said.keys() - said.keys()
        }
        unsaid = _unsaid(self.plan, _with_defaults(said, self.plan))
        return Rewriting(
            changes=changes,
            unsaid=unsaid | {n: v for n, v in lost.items() if n in OF_THE_COMMAND},
        )


def source_of_name(name: str) -> Source:
    """What a written file names.

    Raises:
        ConfigError: nothing is there to be read.
    """
    raise ConfigError(f"{name} is not read.", hint="Name it by itself.")


def _with_defaults(said: Fields, plan: TrainingPlan) -> Fields:
    """All fields: what files say, else the defaults, or what the command asks."""
    return {
        field.name: said[field.name]
        if field.name in said
        else getattr(plan, field.name)
        if field.name in OF_THE_COMMAND
        else _default(field)
        for field in fields(plan)
    }


def _default(field: Any) -> Any:
    assert field.default is not MISSING
    return field.default


def _differing(a: TrainingPlan, b: TrainingPlan) -> list[str]:
    idle = _idle(a) & _idle(b)
    names = (field.name for field in fields(a) if field.name not in idle)
    return [name for name in names if getattr(a, name) != getattr(b, name)]


def _unsaid(plan: TrainingPlan, said: Fields) -> Fields:
    """What a plan has otherwise than it is said, in the order of its fields."""
    idle = _idle(plan)
    return {
        field.name: getattr(plan, field.name)
        for field in fields(plan)
        if field.name not in idle and getattr(plan, field.name) != said[field.name]
    }


def _idle(plan: TrainingPlan) -> set[str]:
    """Fields that decide nothing in this plan: no file has to say them."""
    idle = set[str]()
    if plan.zero_stage == 0:
        idle.add("sharding")
    if plan.trainable != "lora":
        idle |= {"lora_rank", "lora_targets", "lora_dropout"}
    return idle


def _ended(line: str) -> str:
    """A line of a diff; of one that ends a file without a newline, as diff has it."""
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
