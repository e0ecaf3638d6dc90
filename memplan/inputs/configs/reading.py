"""Configuration files in, fields of a plan out.

    asked = read_files([Path("fsdp.yaml"), Path("train.yaml")])
    TrainingPlan(**asked.fields)

Of two files that say the same the later wins, and flags win over all of them; what one
leaves open, another may say.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memplan.errors import ConfigError, PlanError
from memplan.inputs.configs.accelerate import ACCELERATE
from memplan.inputs.configs.axolotl import AXOLOTL
from memplan.inputs.configs.bitsandbytes import BITSANDBYTES
from memplan.inputs.configs.deepspeed import DEEPSPEED
from memplan.inputs.configs.documents import load
from memplan.inputs.configs.format import Format, Reading, Source
from memplan.inputs.configs.llama_factory import LLAMA_FACTORY
from memplan.inputs.configs.peft import PEFT
from memplan.inputs.configs.torchtitan import TORCHTITAN
from memplan.inputs.configs.torchtune import TORCHTUNE
from memplan.inputs.configs.trainer import TRAINER
from memplan.inputs.configs.trl import TRL
from memplan.plan import TrainingPlan
from memplan.report import MemoryReport

FORMATS: tuple[Format, ...] = (
    ACCELERATE,
    DEEPSPEED,
    TORCHTITAN,
    TORCHTUNE,
    AXOLOTL,
    PEFT,
    BITSANDBYTES,
    LLAMA_FACTORY,
    TRL,
    TRAINER,
)
"""The first that knows a document reads it: those with keys of their own come first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadFile:
    """One file that was read."""

    file: Path
    format: Format
    reading: Reading

    @property
    def line(self) -> str:
        """What it was taken for, in a line."""
        beside = "".join(f", with {file}" for file in self.reading.files)
        return f"{self.file} read as {self.format.title}{beside}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What files and flags say together."""

    fields: dict[str, Any]
    """Of a TrainingPlan."""
    files: tuple[ReadFile, ...] = ()
    assumed: tuple[str, ...] = ()
    """Fields that nobody says, as the formats have them by default."""
    not_read: tuple[str, ...] = ()
    """Keys that can move memory and are in no field, each with its file."""

    def onto(self, report: MemoryReport) -> MemoryReport:
        """A report of the plan, with what the files leave open and what is not read."""
        return replace(
            report,
            assumptions=(*report.assumptions, *self.assumed),
            unsupported=(*report.unsupported, *self.not_read),
        )


def read_files(files: Sequence[Path], flags: Mapping[str, Any] | None = None) -> Asked:
    """What files say, the later ones over the earlier, and flags over all of them.

    Raises:
        ConfigError: one of the files cannot be read, or is of no known format.
    """
    flags = dict(flags or {})
    read = tuple(read_file(file) for file in files)
    fields = fields_of([one.reading for one in read], flags)
    left = {name for one in read for name in one.reading.open_fields}
    return Asked(
        fields=fields,
        files=read,
        assumed=tuple(_assumed(read, fields, flags)),
        not_read=(
            *(
                f"{one.file.name}: {key}"
                for one in read
                for key in one.reading.not_read
            ),
            *(
                f"{name} is left open by all files: counted as {_default(name)}"
                for name in sorted(left - fields.keys())
            ),
        ),
    )


def fields_of(
    readings: Sequence[Reading], flags: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Of a TrainingPlan, as readings and flags say together."""
    by_default, supposed, said = _by_weight(readings)
    fields = by_default | supposed | said | dict(flags or {})
    _drop_what_belonged(fields, flags or {})
    return fields


def _by_weight(readings: Sequence[Reading]) -> tuple[dict[str, Any], ...]:
    """What is so by default, what gives way, and what is said."""
    by_default: dict[str, Any] = {}
    supposed: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for reading in readings:
        for name, value in reading.fields.items():
            gives_way = name in reading.supposed
            has_key = name in reading.origins
            weight = said if not gives_way else supposed if has_key else by_default
            weight[name] = value
    return by_default, supposed, said


def _assumed(
    read: Sequence[ReadFile], fields: Mapping[str, Any], flags: Mapping[str, Any]
) -> Iterator[str]:
    """Defaults of formats that are not those of a plan, where nobody says more."""
    by_default, *others = _by_weight([one.reading for one in read])
    for name in sorted(by_default.keys() - set(flags).union(*others)):
        file = [one.file.name for one in read if name in one.reading.supposed][-1]
        if fields.get(name) != _default(name):
            yield f"{name} {_shown(fields.get(name))}: {file} leaves it to the default"


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _default(name: str) -> object:
    """What a plan has where nobody says."""
    return TrainingPlan.__dataclass_fields__[name].default


def _drop_what_belonged(fields: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """What a file says of a model or of adapters that a flag has put another for."""
    if "parameters" in flags and "model" not in flags:
        fields.pop("model", None)
    if ("model" in flags or "parameters" in flags) and "revision" not in flags:
        fields.pop("revision", None)
    if fields.get("trainable") != "lora" and "lora_targets" not in flags:
        fields.pop("lora_targets", None)


def read_file(file: Path) -> ReadFile:
    """What one file says.

    Raises:
        ConfigError: it cannot be read, or is of no known format; or a value of it is
            not what its key takes.
    """
    source = source_of(file)
    kind = format_of(source)
    try:
        return ReadFile(file=file, format=kind, reading=kind.read(source))
    except (ConfigError, PlanError) as error:
        if str(file) in error.message:
            raise
        raise ConfigError(f"{file}: {error.message}", hint=error.hint) from error


def source_of(file: Path) -> Source:
    """A file, opened; what it names is looked for here, then beside it."""

    def named(name: str) -> Source:
        tried = (Path(name), file.parent / name)
        for path in tried:
            if path.is_file():
                return source_of(path)
        raise ConfigError(
            f"{file} names {name}, and there is no such file.",
            hint="It is looked for in the working folder, then beside the file.",
        )

    return Source(file=file, document=load(file), named=named)


def format_of(source: Source) -> Format:
    """The format of a document, by its keys.

    Raises:
        ConfigError: none has them.
    """
    for kind in FORMATS:
        if kind.knows(source.document):
            return kind
    raise ConfigError(
        f"{source.file} is of no format that memplan knows.",
        hint=f"It reads: {', '.join(kind.title for kind in FORMATS)}.",
    )
