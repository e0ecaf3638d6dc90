"""A plan as a file of a format, and a change of a plan as a change of a user's files.

    text, lacking = written(plan, TRAINER)
    changed = rewritten(asked, plan)
    print(changed.diff); changed.unsaid      # what no file has a key for

Whatever is written is read again: what does not come back as the plan is told.
"""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from memplan.errors import ConfigError, MemplanError
from memplan.estimating.changes import Fields, as_flags
from memplan.files import whole_file
from memplan.inputs.configs.documents import parse, text_of
from memplan.inputs.configs.editing import dumped, edited
from memplan.inputs.configs.format import Document, Format, Keys, Reading, Source, at
from memplan.inputs.configs.reading import Asked, fields_of, format_of, source_of
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
KIN = (
    frozenset(
        {
            "num_gpus",
            "zero_stage",
            "sharding",
            "offload_optimizer",
            "offload_parameters",
        }
    ),
    frozenset(
        {"trainable", "quantization", "lora_rank", "lora_targets", "lora_dropout"}
    ),
    frozenset({"per_device_train_batch_size", "gradient_accumulation_steps"}),
)
"""Fields that belong into one file."""
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
    return _Rewriting([*_drafts(asked)], plan).best()


class _Rewriting:
    """Files on their way to what a plan says."""

    def __init__(self, drafts: Sequence["_Draft"], plan: TrainingPlan) -> None:
        """Give each field that differs to the files that shall say it.

        Raises:
            ConfigError: the files make no plan without flags.
        """
        self.drafts = drafts
        self.plan = plan
        self.said = _read(drafts)
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

    def _best_for(self, name: str) -> Sequence["_Draft"]:
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
            said = _read(self.drafts)
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


class _Draft:
    """A file on its way to what it shall say."""

    def __init__(self, file: Path, kind: Format, *, is_named: bool) -> None:
        self.file = file
        self.kind = kind
        self.is_named = is_named
        """By another file, which reads it."""
        self.before = self.after = text_of(file)
        self.reading: Reading = kind.read(self.source(()))
        self.fields: set[str] = set()
        """Of the plan, that it shall say."""

    @property
    def document(self) -> Document:
        return parse(self.after, self.file.suffix)

    def source(self, drafts: Sequence["_Draft"]) -> Source:
        """As it would be read; of files that it names, the drafts."""

        def named(name: str) -> Source:
            opened = source_of(self.file).named(name)
            for draft in drafts:
                if draft.file.resolve() == opened.file.resolve():
                    return draft.source(drafts)
            return opened

        return Source(file=self.file, document=self.document, named=named)

    def says(self, name: str, value: Any) -> bool:
        """Whether it decides that field, and no other file says otherwise."""
        if name in self.reading.supposed or name not in self.reading.fields:
            return False
        return bool(self.reading.fields[name] == value)

    def distance(self, name: str) -> tuple[bool, bool, bool]:
        """How far it is from saying a field: its key, its kin, or left to others."""
        keys = self.reading.origins.keys()
        kin = next((some for some in KIN if name in some), frozenset())
        is_left_open = name in self.reading.open_fields
        return name not in keys, not kin & keys, is_left_open

    def can_say(self, name: str, before: TrainingPlan, after: TrainingPlan) -> bool:
        """Whether a key of it depends on that field of these plans."""
        document = self.document
        for plan, other in ((before, after), (after, before)):
            with suppress(MemplanError):  # it suits only with other fields
                changed = replace(plan, **{name: getattr(other, name)})
                keys = self.kind.keys_of(plan, document)
                if self.kind.keys_of(changed, document) != keys:
                    return True
        return False

    def change(
        self, before: TrainingPlan, after: TrainingPlan, *, thoroughly: bool
    ) -> None:
        """Set the keys that differ between two plans in the fields that it says.

        Args:
            thoroughly: those too that differ from what the file has for the first plan.
        """
        if not self.fields:
            return
        try:
            mine = replace(before, **{f: getattr(after, f) for f in self.fields})
        except MemplanError:  # these fields suit only those of another file
            mine = after
        document = parse(self.before, self.file.suffix)
        old, new = (self.kind.keys_of(plan, document) for plan in (before, mine))
        keys: Keys = {
            key: value
            for key, value in new.items()
            if key not in old
            or old[key] != value
            or (thoroughly and at(document, *key) != value)
        }
        gone = sorted(old.keys() - new.keys())
        self.after = edited(self.before, self.file.suffix, keys, gone)


def _drafts(asked: Asked) -> Iterator[_Draft]:
    """Of the files, and of those that they name."""
    for read in asked.files:
        yield _Draft(read.file, read.format, is_named=False)
        for file in read.reading.files:
            with suppress(ConfigError):  # named, and none of a format: not changed
                yield _Draft(file, format_of(source_of(file)), is_named=True)


def _read(drafts: Sequence[_Draft]) -> Fields:
    """What the files say together."""
    return fields_of(
        [one.kind.read(one.source(drafts)) for one in drafts if not one.is_named]
    )


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
