"""Records of a dataset: fields of the type that is needed, or an error that names them.

    file.jsonl, record 12, field image_urls: is a number, a list is needed

What is to be done with a bad record is the reader's choice: refuse the dataset, or skip
the record and count it by what was wrong.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

from memplan.errors import DataError

Sample = TypeVar("Sample")
Kind = TypeVar("Kind")

NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
"""Of JSON's types, as errors say them."""
LONGEST_VALUE = 60


class Policy(StrEnum):
    """What becomes of a bad record."""

    SKIP = "skip"
    REFUSE = "refuse"


class BadRecordError(DataError):
    """One record that cannot be used; `problem` is the same for all of its sort."""

    def __init__(self, where: str, field: str, problem: str) -> None:
        at = f"{where}, field {field}" if field else where
        super().__init__(
            f"{at}: {problem}.", hint="Mend the record, or skip bad records."
        )
        self.sort = f"{field}: {problem}" if field else problem


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of one record, and where it stands."""

    file: Path
    number: int
    """From 1, as an editor counts lines."""
    fields: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}, record {self.number}"

    def text(self, field: str) -> str:
        """A text with something in it."""
        value = self.of_type(field, str)
        if not value.strip():
            raise self.error(field, "is empty")
        return value

    def texts(self, field: str) -> list[str]:
        """A list of texts."""
        return self.list_of(field, str)

    def list_of(self, field: str, kind: type[Kind]) -> list[Kind]:
        """A list whose members are all of one type."""
        values: list[Any] = self.of_type(field, list)
        for value in values:
            if not _is_a(value, kind):
                found = NAMES[type(value)]
                raise self.error(field, f"has {found} in it, {NAMES[kind]} is needed")
        return values

    def of_type(self, field: str, kind: type[Kind]) -> Kind:
        """The field's value, which must be there and of this type."""
        if field not in self.fields:
            raise self.error(field, "is missing")
        value = self.fields[field]
        if not _is_a(value, kind):
            raise self.error(field, f"is {NAMES[type(value)]}, {NAMES[kind]} is needed")
        found: Kind = value
        return found

    def error(self, field: str, problem: str) -> BadRecordError:
        """What to raise where a value of the right type cannot be used."""
        return BadRecordError(self.where, field, problem)


class Usable(Generic[Sample]):
    """The samples of those records that can be used; counts the others.

    Args:
        records: what was read, good and bad.
        parse: makes a sample of a record, or raises BadRecordError.
        policy: whether a bad record is skipped and counted, or ends the reading.
    """

    def __init__(
        self,
        records: Iterable[Record | BadRecordError],
        parse: Callable[[Record], Sample],
        policy: Policy = Policy.REFUSE,
    ) -> None:
        self._records = records
        self._parse = parse
        self._policy = policy
        self.num_used = 0
        self.skipped: Counter[str] = Counter()
        """How many records were skipped, by what was wrong."""
        self.first_bad: BadRecordError | None = None

    def __iter__(self) -> Iterator[Sample]:
        """Each sample once.

        Raises:
            BadRecordError: a bad record under Policy.REFUSE.
            DataError: there are records, and none of them can be used.
        """
        self.num_used, self.skipped, self.first_bad = 0, Counter(), None
        for record in self._records:
            try:
                if isinstance(record, BadRecordError):
                    raise record
                sample = self._parse(record)
            except BadRecordError as error:
                if self._policy is Policy.REFUSE:
                    raise
                self.skipped[error.sort] += 1
                self.first_bad = self.first_bad or error
                continue
            self.num_used += 1
            yield sample
        if not self.num_used and self.first_bad is not None:
            raise DataError(
                f"None of {self.skipped.total()} records can be used; the first: "
                f"{self.first_bad.message}",
                hint="See whether the folder and the format are those that are meant.",
            )

    def summary(self) -> str:
        """`998 records used, 2 skipped (image: is not there: 2)`."""
        said = f"{self.num_used} records used"
        if not self.skipped:
            return said
        sorts = ", ".join(f"{s}: {n}" for s, n in self.skipped.most_common())
        return f"{said}, {self.skipped.total()} skipped ({sorts})"


def read_json_lines(path: Path) -> Iterator[Record | BadRecordError]:
    """One record a line; a line that is no JSON object is given as its error.

    Raises:
        DataError: the file cannot be opened, or is not text.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _record(path, number, line)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the path."
        ) from error


def shorten(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _record(path: Path, number: int, line: bytes) -> Record | BadRecordError:
    where = f"{path}, record {number}"
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return BadRecordError(where, "", "is not UTF-8")
    except ValueError:
        return BadRecordError(where, "", "is not JSON")
    except RecursionError:
        return BadRecordError(where, "", "is nested too deeply")
    if not isinstance(value, dict):
        return BadRecordError(where, "", f"is {NAMES[type(value)]}, not an object")
    return Record(path, number, value)


def _is_a(value: object, kind: type) -> bool:
    """A whole number is a number too; true and false are not numbers."""
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, (int, float) if kind is float else kind)
