"""Open Images' relations as it publishes them: a row for each.

    oidv6-train-annotations-vrd.csv    two labels, two boxes, what relates them
    class-descriptions-boxable.csv     what the labels stand for
    <ImageID>.jpg                      the pictures

Corners go from 0 to 1, labels read as /m/0dzct. Rows that say what an object *is* name
no second object, and are left out.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from memplan.data.images import open_picture
from memplan.data.records import Record
from memplan.errors import DataError
from memplan.models.pe_net.scenes import (
    BACKGROUND,
    Box,
    Relation,
    Scene,
    Vocabulary,
    check_boxes,
    check_relations,
    clip,
)

SIDES = ("XMin", "YMin", "XMax", "YMax")
PREDICATE = "RelationshipLabel"
COLUMNS = (
    "ImageID",
    PREDICATE,
    *(f"{name}{number}" for number in (1, 2) for name in ("LabelName", *SIDES)),
)
ATTRIBUTE = "is"
HINT = "Take the files of visual relationships from Open Images' download page."


class OpenImagesRows:
    """The pictures that a file of relations has rows of.

    Args:
        vocabulary: that of the training file, where this is another; else it is made of
            all names in this one, in their alphabetical order.

    Raises:
        DataError: a file is missing, or is not of this format.
    """

    def __init__(
        self,
        relations: Path,
        descriptions: Path,
        pictures: Path,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.pictures = pictures
        self._names = read_descriptions(descriptions)
        by_picture: dict[str, list[Record]] = {}
        for row in read_rows(relations):
            if row.fields[PREDICATE] != ATTRIBUTE:
                by_picture.setdefault(row.fields["ImageID"], []).append(row)
        self._pictures = list(by_picture.values())
        self.vocabulary = vocabulary or self._vocabulary()

    def __len__(self) -> int:
        return len(self._pictures)

    def record(self, index: int) -> Record:
        rows = self._pictures[index]
        return Record(rows[0].file, rows[0].number, {"rows": rows})

    def parse(self, record: Record) -> Scene:
        rows: list[Record] = record.fields["rows"]
        first = rows[0]
        picture = self.pictures / f"{first.text('ImageID')}.jpg"
        size = open_picture(picture, first, "ImageID").size
        places: dict[tuple[int, Box], int] = {}
        relations: list[Relation] = []
        for row in rows:
            subject, object_ = (
                places.setdefault(self._object(row, number, size), len(places))
                for number in ("1", "2")
            )
            relation = subject, object_, self._predicate(row)
            check_relations(
                row,
                ("LabelName1", PREDICATE),
                [relation],
                self.vocabulary.predicates,
                len(places),
            )
            relations.append(relation)
        return Scene(
            record=first,
            picture=picture,
            picture_field="ImageID",
            size=size,
            boxes=tuple(box for _, box in places),
            classes=tuple(number for number, _ in places),
            relations=tuple(relations),
        )

    def _object(
        self, row: Record, number: str, size: tuple[int, int]
    ) -> tuple[int, Box]:
        """Class and box; the same object in another row is equal to it."""
        field = f"LabelName{number}"
        name = self._names.get(row.text(field), row.text(field))
        if name not in self.vocabulary.objects[1:]:
            raise row.error(field, "has a class that the vocabulary has not")
        left, top, right, bottom = (_share(row, f"{side}{number}") for side in SIDES)
        check_boxes(row, f"XMin{number}", [(left, top, right, bottom)])
        width, height = size
        box = (left * width, top * height, right * width, bottom * height)
        return self.vocabulary.objects.index(name), clip(box, size)

    def _predicate(self, row: Record) -> int:
        name = row.text(PREDICATE)
        if name not in self.vocabulary.predicates[1:]:
            raise row.error(PREDICATE, "has a predicate that the vocabulary has not")
        return self.vocabulary.predicates.index(name)

    def _vocabulary(self) -> Vocabulary:
        rows = [row.fields for rows in self._pictures for row in rows]
        labels = {row[field] for row in rows for field in ("LabelName1", "LabelName2")}
        objects = sorted({self._names.get(label, label) for label in labels if label})
        predicates = sorted({row[PREDICATE] for row in rows if row[PREDICATE]})
        return Vocabulary((BACKGROUND, *objects), (BACKGROUND, *predicates))


def read_rows(file: Path) -> Iterator[Record]:
    """The rows, each with the number of its line.

    Raises:
        DataError: the file is missing, or has other columns.
    """
    try:
        with file.open(encoding="utf-8", errors="replace", newline="") as lines:
            rows = csv.DictReader(lines, restval="")
            missing = [n for n in COLUMNS if n not in (rows.fieldnames or ())]
            if missing:
                raise DataError(f"{file} has no column {missing[0]}.", hint=HINT)
            for row in rows:
                yield Record(file, rows.line_num, row)
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}.", hint=HINT
        ) from error
    except csv.Error as error:
        raise DataError(f"{file} is no CSV: {error}.", hint=HINT) from error


def read_descriptions(file: Path) -> Mapping[str, str]:
    """Names of the labels: two columns, with or without a heading.

    Raises:
        DataError: the file is missing.
    """
    try:
        with file.open(encoding="utf-8", errors="replace", newline="") as lines:
            return {row[0]: row[1] for row in csv.reader(lines) if len(row) > 1}
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}.", hint=HINT
        ) from error


def _share(row: Record, field: str) -> float:
    try:
        share = float(row.fields[field])
    except ValueError:
        raise row.error(field, "is no number") from None
    if not 0 <= share <= 1:
        raise row.error(field, "is not between 0 and 1")
    return share
