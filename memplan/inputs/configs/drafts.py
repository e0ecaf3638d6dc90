"""A user's files on their way to what a plan says: which of them says what.

Of several files each keeps what it speaks of: sharding is accelerate's, the micro-batch
the Trainer's. A configuration of DeepSpeed that one of them names is changed itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from memplan.errors import ConfigError, MemplanError
from memplan.estimating.changes import Fields
from memplan.inputs.configs.documents import parse, text_of
from memplan.inputs.configs.editing import edited
from memplan.inputs.configs.format import Document, Format, Keys, Reading, Source, at
from memplan.inputs.configs.reading import Asked, fields_of, format_of, source_of
from memplan.plan import TrainingPlan

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


class Draft:
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

    def source(self, drafts: Sequence["Draft"]) -> Source:
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
        self.after = self.before
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


def drafts_of(asked: Asked) -> Iterator[Draft]:
    """Of the files, and of those that they name."""
    for read in asked.files:
        yield Draft(read.file, read.format, is_named=False)
        for file in read.reading.files:
            with suppress(ConfigError):  # named, and none of a format: not changed
                yield Draft(file, format_of(source_of(file)), is_named=True)


def read(drafts: Sequence[Draft]) -> Fields:
    """What the files say together."""
    return fields_of(
        [one.kind.read(one.source(drafts)) for one in drafts if not one.is_named]
    )
