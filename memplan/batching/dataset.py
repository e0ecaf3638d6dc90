"""How large the samples of a dataset are, in the fields that a plan has for it.

    sizes = read_sizes(Path("train.parquet"), Columns(length="input_ids"))
    sizes.columns["seq_len"]                # array('q', [512, 87, ...])
    histogram("512:1000,1024:50")           # no rows, only how many of each length

Eight bytes a sample and column are kept: millions of samples fit into little memory.
"""

import math
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memplan.batching.rows import column_names, read_rows
from memplan.data.records import NAMES, Policy, Record, Usable, shorten
from memplan.errors import DataError
from memplan.plan import MAX_COUNT
from memplan.untrusted import visible

LENGTH_COLUMNS = ("length", "input_ids")
"""What the Trainer looks at where it groups by length (transformers 5.23,
`length_column_name` and `LengthGroupedSampler`)."""
MOST_SAMPLES = 20_000_000
"""Of a histogram, which is spread out into its samples."""
INLINE = re.compile(r"(\s*\d+\s*:\s*\d+\s*(,|$))+\s*")
PAIR = re.compile(r"\s*\"?(\d{1,18})\"?\s*[:,;\s]\s*(\d{1,18})\s*,?\s*")

Tokenizer = Callable[[str], int]
"""Tokens of a text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Where a dataset says how large its samples are."""

    length: str | None = None
    """A count of tokens, or a list whose length counts."""
    target_length: str | None = None
    """The same, of the decoder."""
    images: str | None = None
    """A count, or a list of pictures."""
    image_size: tuple[str, ...] = ()
    """A side, [width, height] or a list of those; or two columns, width and height."""
    id: str | None = None
    """What a person knows a sample by; read of the sample alone that is asked about."""

    @property
    def names(self) -> tuple[str, ...]:
        named = (self.length, self.target_length, self.images, *self.image_size)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def counted(self) -> tuple[str, ...]:
        """Those whose lists matter by their length alone."""
        named = (self.length, self.target_length, self.images)
        return tuple(n for n in named if n is not None and n not in self.image_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How large each sample is."""

    source: str
    """The file, or the histogram."""
    columns: Mapping[str, "array[int]"]
    """By field of `TrainingPlan`: seq_len, target_seq_len, images_per_sample,
    image_size. What is not known is not there."""
    rows: "array[int] | None" = None
    """Where each sample stands in the file, from 1; None: nowhere."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How many records could not be used, by what was wrong."""
    id_column: str | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def read_sizes(
    path: Path,
    columns: Columns = Columns(),
    *,
    policy: Policy = Policy.REFUSE,
    tokenizer: Tokenizer | None = None,
) -> Sizes:
    """Read a dataset's columns of sizes.

    Args:
        columns: without any, the first of `LENGTH_COLUMNS` that is there.
        policy: whether a bad record is skipped and counted, or ends the reading.
        tokenizer: counts the tokens of texts; without it texts are refused.

    Raises:
        DataError: the file, a column or a record of it cannot be used.
    """
    if not columns.names:
        columns = replace(columns, length=_usual_column(path))
    measures = _measures(columns, tokenizer)
    found = {name: array("q") for name in measures}
    rows = array("q")

    def parse(record: Record) -> tuple[int, list[int]]:
        return record.number, [measure(record) for measure in measures.values()]

    usable = Usable(read_rows(path, columns.names, columns.counted), parse, policy)
    for number, sizes in usable:
        rows.append(number)
        for values, size in zip(found.values(), sizes, strict=True):
            values.append(size)
    if not rows:
        raise DataError(f"{path} has no rows.", hint="Name a file with samples in it.")
    return Sizes(
        source=str(path),
        columns=found,
        rows=rows,
        skipped=dict(usable.skipped),
        id_column=columns.id,
    )


def histogram(text: str) -> Sizes:
    """Lengths and how many samples have each, inline or in a file of `length, count`.

    Raises:
        DataError: it is no histogram, or has more samples than can be looked at.
    """
    counts = dict[int, int]()
    source, lines = text, text.split(",")
    if not INLINE.fullmatch(text):
        source, lines = str(Path(text)), _lines(Path(text))
    for number, line in enumerate(lines, 1):
        pair = PAIR.fullmatch(line)
        if pair is None:
            is_heading = number == 1 and not any(map(str.isdigit, line))
            if is_heading or not line.strip():
                continue
            raise DataError(
                f"{source}, line {number}: {shorten(line.strip())} is no length and "
                "its count.",
                hint="Write them like 512:1000,1024:50, or one pair a line.",
            )
        length, count = map(int, pair.groups())
        if length > MAX_COUNT:
            raise DataError(
                f"{source}: {length} tokens are beyond measure.",
                hint="Lengths come first, counts after the colon.",
            )
        counts[length] = counts.get(length, 0) + count
    total = sum(counts.values())
    if not 0 < total <= MOST_SAMPLES:
        raise DataError(
            f"{source} has {total or 'no'} samples.",
            hint=f"A histogram has 1 to {MOST_SAMPLES} of them: scale its counts.",
        )
    lengths = array("q")
    for length, count in sorted(counts.items()):
        lengths.extend(array("q", [length]) * count)
    return Sizes(source=source, columns={"seq_len": lengths})


def id_of(sizes: Sizes, row: int) -> str | None:
    """What the column of names says of one row; None: no column was named.

    Raises:
        DataError: the file has no such column, or cannot be read.
    """
    column, path = sizes.id_column, Path(sizes.source)
    if column is None:
        return None
    for record in read_rows(path, (column,)):
        if isinstance(record, Record) and record.number == row:
            value = _value(record, column)
            return visible(value) if isinstance(value, str) else shorten(value)
    raise DataError(f"{path} has no row {row}.", hint="It has changed meanwhile.")


def tokenizer_of(name: str) -> Tokenizer:
    """Count tokens as a tokenizer of the hub, or of a folder, does.

    Raises:
        DataError: transformers is not installed, or there is no such tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError(
            "Texts are counted by transformers, which is not installed.",
            hint="pip install 'memplan[train]'",
        ) from error
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"There is no tokenizer in {name!r}.",
            hint="Name a hub id, or a folder with tokenizer.json in it.",
        ) from error
    return lambda text: len(tokenizer(text, verbose=False)["input_ids"])


def _usual_column(path: Path) -> str:
    names = column_names(path)
    for name in LENGTH_COLUMNS:
        if name in names:
            return name
    known = ", ".join(map(visible, names[:12]))
    raise DataError(
        f"{path} has no column named {' or '.join(LENGTH_COLUMNS)}.",
        hint=f"Name one with --length-column: {known or 'there is none'}.",
    )


def _measures(
    columns: Columns, tokenizer: Tokenizer | None
) -> dict[str, Callable[[Record], int]]:
    """How each field of a plan is read from a record."""
    measures = dict[str, Callable[[Record], int]]()
    for name, column in (
        ("seq_len", columns.length),
        ("target_seq_len", columns.target_length),
    ):
        if column is not None:
            measures[name] = _tokens_of(column, tokenizer)
    images, image_size = columns.images, columns.image_size
    if images is not None:
        measures["images_per_sample"] = lambda record: _num_images(record, images)
    if image_size:
        measures["image_size"] = lambda record: _side(record, image_size)
    return measures


def _tokens_of(column: str, tokenizer: Tokenizer | None) -> Callable[[Record], int]:
    def tokens(record: Record) -> int:
        value = _value(record, column)
        if isinstance(value, str):
            if tokenizer is None:
                raise record.error(column, "is a text, whose tokens --tokenizer counts")
            return tokenizer(value)
        return _count(record, column, value)

    return tokens


def _num_images(record: Record, column: str) -> int:
    """A picture may be a path, or an object as `datasets` has it; null is none."""
    value = _value(record, column)
    if value is None:
        return 0
    return 1 if isinstance(value, str | dict) else _count(record, column, value)


def _side(record: Record, columns: tuple[str, ...]) -> int:
    """The side of the square with as many pixels as the largest picture."""
    values = [_value(record, column) for column in columns]
    if all(value is None or value == [] for value in values):
        return 0
    if len(columns) > 1:
        return _square(record, columns[0], values)
    (value,) = values
    if isinstance(value, list) and any(isinstance(v, list | dict) for v in value):
        return max(_square(record, columns[0], one) for one in value)
    return _square(record, columns[0], value)


def _square(record: Record, column: str, value: object) -> int:
    if isinstance(value, dict):
        value = [value.get("width"), value.get("height")]
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) != 2:
        raise record.error(column, f"has {len(sides)} numbers, width and height needed")
    width, height = (_whole(record, column, side) for side in sides)
    pixels = width * height
    return math.isqrt(pixels - 1) + 1 if pixels else 0


def _value(record: Record, column: str) -> object:
    if column not in record.fields:
        raise record.error(column, "is missing")
    value: object = record.fields[column]
    return value


def _count(record: Record, column: str, value: object) -> int:
    return len(value) if isinstance(value, list) else _whole(record, column, value)


def _whole(record: Record, column: str, value: object) -> int:
    """Tables that lack a value somewhere have floats for whole numbers: 512.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        found = NAMES.get(type(value), f"a {type(value).__name__}")
        raise record.error(column, f"is {found}, a whole number or a list is needed")
    if not 0 <= value <= MAX_COUNT:
        raise record.error(column, f"is {shorten(value)}, which no size is")
    return value


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(
            f"{path} is no histogram: {problem}.",
            hint="Write it like 512:1000,1024:50, or name a file of such pairs.",
        ) from error
    if text.lstrip().startswith("{"):  # JSON, whose pairs may be on one line
        return text.strip().strip("{}").split(",")
    return text.splitlines()
