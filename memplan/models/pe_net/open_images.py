"""Open Images' scene graphs, in the files that PySGG shares.

    annotations/vrd-train-anno.json    a list of pictures; also vrd-val-, vrd-test-
    annotations/categories_dict.json   names of classes and predicates
    images/<img_fn>.jpg                the pictures

As `pysgg/data/datasets/open_image.py` reads them. Numbers of classes and predicates
begin at 0 there, and the background is not counted.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.data.records import Record
from memplan.errors import DataError
from memplan.models.pe_net.scenes import (
    BACKGROUND,
    Relation,
    Scene,
    Split,
    Vocabulary,
    check_boxes,
    check_classes,
    check_relations,
    check_size,
    clip,
    read_json,
    read_objects,
)

if TYPE_CHECKING:
    from memplan.models.pe_net.generated import Drawn

ANNOTATIONS = "annotations/vrd-{}-anno.json"
NAMES = "annotations/categories_dict.json"
FOLDER = "images"
HINT = f"A dataset has {ANNOTATIONS.format('train')}, {NAMES} and {FOLDER}/ in it."


class OpenImages:
    """One split; pictures without boxes or without relations are left out.

    Raises:
        DataError: a file is missing, or is not of this format.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self.folder = folder
        self.vocabulary = read_names(folder / NAMES)
        self._records = [
            record
            for record in read_objects(folder / ANNOTATIONS.format(split), HINT)
            if record.fields.get("rel") != [] and record.fields.get("bbox") != []
        ]

    def __len__(self) -> int:
        return len(self._records)

    def record(self, index: int) -> Record:
        return self._records[index]

    def parse(self, record: Record) -> Scene:
        names = self.vocabulary
        size = _size(record)
        boxes = [_numbers(record, "bbox", box) for box in record.list_of("bbox", list)]
        check_boxes(record, "bbox", boxes)
        classes = [1 + number for number in record.list_of("det_labels", int)]
        check_classes(record, "det_labels", classes, names.objects, len(boxes))
        relations = [_relation(record, one) for one in record.list_of("rel", list)]
        check_relations(record, ("rel", "rel"), relations, names.predicates, len(boxes))
        return Scene(
            record=record,
            picture=self.folder / FOLDER / f"{record.text('img_fn')}.jpg",
            picture_field="img_fn",
            size=size,
            boxes=tuple(clip(box, size) for box in boxes),
            classes=tuple(classes),
            relations=tuple(relations),
        )


def read_names(file: Path) -> Vocabulary:
    """The names of the dictionary, after the background's.

    Raises:
        DataError: the file is missing, or is not of this format.
    """
    data = read_json(file, HINT)
    lists = data if isinstance(data, dict) else {}
    found = []
    for key in ("obj", "rel"):
        names = lists.get(key)
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise DataError(f"{file} has no list {key} of names.", hint=HINT)
        found.append((BACKGROUND, *names))
    return Vocabulary(*found)


def write_open_images(
    folder: Path, vocabulary: Vocabulary, splits: Mapping[Split, Sequence["Drawn"]]
) -> None:
    """Write drawn scenes as a dataset that `OpenImages` reads."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / NAMES).parent.mkdir(exist_ok=True)
    for split, scenes in splits.items():
        annotations = []
        for number, drawn in enumerate(scenes):
            name = f"{split}-{number:06d}"
            drawn.picture.save(folder / FOLDER / f"{name}.jpg", quality=95)
            annotations.append(
                {
                    "img_fn": name,
                    "img_size": list(drawn.picture.size),
                    "bbox": [list(box) for box in drawn.boxes],
                    "det_labels": [number - 1 for number in drawn.classes],
                    "rel": [
                        [s, o, predicate - 1] for s, o, predicate in drawn.relations
                    ],
                }
            )
        (folder / ANNOTATIONS.format(split)).write_text(json.dumps(annotations))
    names = {"obj": vocabulary.objects[1:], "rel": vocabulary.predicates[1:]}
    (folder / NAMES).write_text(json.dumps(names))


def _size(record: Record) -> tuple[int, int]:
    sides = record.list_of("img_size", int)
    if len(sides) != 2:
        raise record.error("img_size", "is not width and height")
    size = sides[0], sides[1]
    check_size(record, "img_size", size)
    return size


def _relation(record: Record, members: list[Any]) -> Relation:
    if len(members) != 3 or not all(type(member) is int for member in members):
        raise record.error("rel", "has a member that is not three whole numbers")
    return members[0], members[1], members[2] + 1


def _numbers(record: Record, field: str, members: list[Any]) -> list[float]:
    if not all(type(member) in (int, float) for member in members):
        raise record.error(field, "has a member that is not numbers")
    return members
