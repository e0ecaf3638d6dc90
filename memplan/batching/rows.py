"""The rows of a dataset's file, with only the columns that are asked for.

JSON lines, JSON, CSV, Parquet, and Arrow as the library `datasets` keeps it. Large
files are read piece by piece; what is wrong names the file, the row and the field.
"""

import csv
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from memplan.data.records import NAMES, BadRecordError, Record, read_json_lines
from memplan.errors import DataError
from memplan.untrusted import visible

Row = Record | BadRecordError
ROWS_AT_ONCE = 8192


def read_rows(
    path: Path, columns: Sequence[str], counted: Collection[str] = ()
) -> Iterator[Row]:
    """Each row of the file, in its order; numbers are from 1, without a CSV's heading.

    Args:
        counted: columns whose lists matter by their length alone: of Parquet and Arrow
            the length comes in the list's place.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    return _reader_of(path)(path, columns, counted)


def column_names(path: Path) -> tuple[str, ...]:
    """Of the file; of JSON, those of its first row.

    Raises:
        DataError: the file cannot be read.
    """
    if path.suffix.lower() in _COLUMNAR:
        with _columnar(path) as (names, _):
            return tuple(names)
    first = next(iter(read_rows(path, ())), None)
    return tuple(first.fields) if isinstance(first, Record) else ()


def _reader_of(path: Path) -> Callable[..., Iterator[Row]]:
    suffix = path.suffix.lower()
    if suffix in _READERS:
        return _READERS[suffix]
    if suffix in _COMPRESSED:
        raise DataError(f"{path} is compressed.", hint="Unpack it first.")
    raise DataError(
        f"{path} has no format that is read here.",
        hint=f"Its name ends in {', '.join(_READERS)}.",
    )


def _read_lines(path: Path, *_: object) -> Iterator[Row]:
    return read_json_lines(path)


def _read_json(path: Path, *_: object) -> Iterator[Row]:
    """A list of objects: there is no reading it piece by piece."""
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not JSON.", hint="JSON lines are in files named .jsonl."
        ) from error
    if not isinstance(rows, list):
        raise DataError(
            f"{path} is {NAMES[type(rows)]}, a list of objects is needed.",
            hint="Write one object a line, in a file named .jsonl.",
        )
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield Record(path, number, row)
        else:
            problem = f"is {NAMES[type(row)]}, not an object"
            yield BadRecordError(f"{path}, record {number}", "", problem)


def _read_csv(path: Path, columns: Sequence[str], _: object) -> Iterator[Row]:
    """Numbers are numbers; an empty field is null."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            _check_columns(path, reader.fieldnames or (), columns)
            for number, row in enumerate(reader, 1):
                fields = {name: _number(row[name]) for name in columns or row if name}
                yield Record(path, number, fields)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is not CSV in UTF-8.", hint="Write it anew, or as .jsonl."
        ) from error


def _number(text: str | None) -> object:
    if text is None or not text.strip():
        return None
    digits = text.strip()
    return int(digits) if digits.isdecimal() and len(digits) < 20 else text


def _read_columnar(
    path: Path, columns: Sequence[str], counted: Collection[str]
) -> Iterator[Row]:
    from pyarrow import ArrowException

    with _columnar(path) as (names, batches):
        _check_columns(path, names, columns)
        number = 0
        try:
            for batch in batches(columns):
                lists = [
                    _values(batch.column(name), name in counted) for name in columns
                ]
                for values in zip(*lists, strict=True):
                    number += 1
                    yield Record(path, number, dict(zip(columns, values, strict=True)))
        except (ArrowException, OSError, ValueError, OverflowError) as error:
            raise DataError(
                f"{path} cannot be read after row {number}: {_said(error)}.",
                hint="Write it anew.",
            ) from error


def _values(column: Any, is_counted: bool) -> list[Any]:
    from pyarrow import compute, types

    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    if is_counted and any(is_kind(column.type) for is_kind in kinds):
        column = compute.list_value_length(column)
    values: list[Any] = column.to_pylist()
    return values


@contextmanager
def _columnar(path: Path) -> Iterator[tuple[list[str], Callable[..., Iterator[Any]]]]:
    """The names of the columns, and a function that reads some of them in batches."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError as error:
        raise DataError(
            f"{path.suffix} files are read by pyarrow, which is not installed.",
            hint="pip install 'memplan[data]'",
        ) from error
    try:
        source = pyarrow.OSFile(str(path))
        if path.suffix.lower() == ".parquet":
            table = parquet.ParquetFile(source)
            names = table.schema_arrow.names

            def batches(columns: Sequence[str]) -> Iterator[Any]:
                return iter(
                    table.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns))
                )
        else:
            # `datasets` writes streams, Feather is a file: they begin differently.
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            if is_file:
                file = ipc.open_file(source)
                names = file.schema.names
                pieces = map(file.get_batch, range(file.num_record_batches))
            else:
                pieces = stream = ipc.open_stream(source)
                names = stream.schema.names

            def batches(columns: Sequence[str]) -> Iterator[Any]:
                return (piece.select(list(columns)) for piece in pieces)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {_said(error)}.",
            hint="Check the path and what its name ends in.",
        ) from error
    with source:
        yield names, batches


def _check_columns(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    for name in columns:
        if list(names).count(name) != 1:
            known = ", ".join(map(visible, islice(names, 12))) or "none"
            problem = "more than one column" if name in names else "no column"
            raise DataError(
                f"{path} has {problem} named {name!r}.", hint=f"Its columns: {known}."
            )


def _said(error: Exception) -> str:
    """The first line of another library's message, as part of a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = visible(next(chain(str(error).splitlines(), [""])))
    return lines.strip().rstrip(".")[:120] or type(error).__name__


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read: {error.strerror}.", hint="Check the path."
    )


_READERS: dict[str, Callable[..., Iterator[Row]]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_columnar,
    ".arrow": _read_columnar,
    ".feather": _read_columnar,
}
_COLUMNAR = (".parquet", ".arrow", ".feather")
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".zip")
