"""A picture with its objects and their relations, as every reader gives it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from memplan.data.records import Policy, Record, Usable
from memplan.errors import DataError

BACKGROUND = "__background__"

Split = Literal["train", "val", "test"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""
Relation = tuple[int, int, int]
"""The numbers of subject and object among the boxes, and the predicate."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Names of the classes; number 0 of both is the background."""

    objects: tuple[str, ...]
    predicates: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One annotated picture."""

    record: Record
    """Where it stands, for errors that come later."""
    picture: Path
    picture_field: str
    """What names the picture in the record."""
    size: tuple[int, int]
    """Width and height, which the boxes refer to."""
    boxes: tuple[Box, ...]
    classes: tuple[int, ...]
    relations: tuple[Relation, ...]
    """Two objects may have several predicates, and one of them more than once."""


class Scenes(Protocol):
    """A dataset of scenes."""

    vocabulary: Vocabulary

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record:
        """Where a scene stands, and what was read of it."""

    def parse(self, record: Record) -> Scene:
        """The scene of a record.

        Raises:
            BadRecordError: the record cannot be used.
        """


def usable_scenes(scenes: Scenes, policy: Policy = Policy.REFUSE) -> Usable[Scene]:
    """All scenes that can be used; the others are counted, or the first is refused."""
    return Usable(_Records(scenes), scenes.parse, policy)


class _Records:
    """Of a dataset, each time anew."""

    def __init__(self, scenes: Scenes) -> None:
        self._scenes = scenes

    def __iter__(self) -> Iterator[Record]:
        return map(self._scenes.record, range(len(self._scenes)))


def read_json(file: Path, hint: str) -> Any:
    """What a file of JSON holds.

    Raises:
        DataError: it is missing, or is not JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"There is no file {file}.", hint=hint) from error
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}.", hint=hint
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON.", hint=hint) from error


def read_objects(file: Path, hint: str) -> list[Record]:
    """The objects that a list in a file of JSON has, as records.

    Raises:
        DataError: the file is missing, or holds no such list.
    """
    data = read_json(file, hint)
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise DataError(f"{file} is no list of objects.", hint=hint)
    return [Record(file, number, fields) for number, fields in enumerate(data, 1)]


def clip(box: Sequence[float], size: tuple[int, int]) -> Box:
    """The box within the picture, whose last pixel is one less than its size."""
    width, height = size
    left, right = (min(max(x, 0), width - 1) for x in (box[0], box[2]))
    top, bottom = (min(max(y, 0), height - 1) for y in (box[1], box[3]))
    return left, top, right, bottom


# Checks, each with the name that the field has in its format.


def check_size(record: Record, field: str, size: tuple[int, int]) -> None:
    if min(size) < 1:
        raise record.error(field, "is no size of a picture")


def check_boxes(record: Record, field: str, boxes: Sequence[Sequence[float]]) -> None:
    if not boxes:
        raise record.error(field, "has no box")
    for box in boxes:
        if len(box) != 4:
            raise record.error(field, "has a box of other than four numbers")
        left, top, right, bottom = box
        # Also false where one of them is no number.
        if not (left < right and top < bottom):
            raise record.error(field, "has a box of no size")


def check_classes(
    record: Record, field: str, classes: Sequence[int], names: Sequence[str], count: int
) -> None:
    """`count` classes, all of them of the vocabulary and none the background."""
    if len(classes) != count:
        raise record.error(field, "has not one class for each box")
    if not all(0 < number < len(names) for number in classes):
        raise record.error(field, "has a class that the vocabulary has not")


def check_relations(
    record: Record,
    fields: tuple[str, str],
    relations: Sequence[Relation],
    names: Sequence[str],
    num_boxes: int,
) -> None:
    """Of boxes that are there, with a predicate of the vocabulary.

    `fields` are those of the boxes' numbers and of the predicates.
    """
    for subject, object_, predicate in relations:
        if not (0 <= subject < num_boxes and 0 <= object_ < num_boxes):
            raise record.error(fields[0], "names a box that the picture has not")
        if not 0 < predicate < len(names):
            raise record.error(fields[1], "has a predicate that the vocabulary has not")
