"""Visual Genome's 150 classes and 50 predicates, in the files that SGG code shares.

    VG-SGG-with-attri.h5           boxes, classes and relations of all pictures
    VG-SGG-dicts-with-attri.json   names of the classes
    image_data.json                number and size of each picture
    VG_100K/<image_id>.jpg         the pictures

As Scene-Graph-Benchmark.pytorch reads them (`data/datasets/visual_genome.py`).
"""

import json
from collections.abc import Sequence
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
    import numpy as np

    from memplan.models.pe_net.generated import Drawn

GRAPHS = "VG-SGG-with-attri.h5"
NAMES = "VG-SGG-dicts-with-attri.json"
PICTURES = "image_data.json"
FOLDER = "VG_100K"
HINT = f"VG150 as released is {GRAPHS}, {NAMES}, {PICTURES} and {FOLDER}/."

BOX_SCALE = 1024
"""The longer side of every picture, in the units of its boxes."""
CORRUPTED = frozenset({1592, 1722, 4616, 4617})
"""Pictures that are listed, and have no row in the file of graphs."""
NUM_VALIDATION = 5000
"""Pictures at the beginning of the training split that validate."""
TEST_SPLIT = 2
NUM_ATTRIBUTES = 10

PER_PICTURE = (
    "split",
    "img_to_first_box",
    "img_to_last_box",
    "img_to_first_rel",
    "img_to_last_rel",
)
PER_BOX = ("labels", f"boxes_{BOX_SCALE}")
PER_RELATION = ("relationships", "predicates")
WIDTHS = {f"boxes_{BOX_SCALE}": 4, "relationships": 2, "labels": 1, "predicates": 1}


class VisualGenome:
    """One split of VG150; pictures without boxes or without relations are left out.

    Args:
        folder: of the four parts above.
        num_validation: pictures of the training split that validate instead.

    Raises:
        DataError: a file is missing, or is not of this format.
    """

    def __init__(
        self, folder: Path, split: Split, *, num_validation: int = NUM_VALIDATION
    ) -> None:
        self.folder = folder
        self.file = folder / GRAPHS
        self.vocabulary = read_names(folder / NAMES)
        self._graphs = read_graphs(self.file)
        self._pictures = read_pictures(folder / PICTURES)
        num_rows = len(self._graphs["split"])
        if len(self._pictures) != num_rows:
            raise DataError(
                f"{folder / PICTURES} lists {len(self._pictures)} pictures that are "
                f"not corrupted, and {self.file} has {num_rows}.",
                hint="Take both files from one release: their order connects them.",
            )
        self._rows = self._rows_of(split, num_validation)

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, index: int) -> Record:
        row = self._rows[index]
        fields = {name: int(self._graphs[name][row]) for name in PER_PICTURE}
        return Record(self.file, row + 1, {**fields, "picture": self._pictures[row]})

    def parse(self, record: Record) -> Scene:
        graphs, names = self._graphs, self.vocabulary
        listed: Record = record.fields["picture"]
        size = listed.of_type("width", int), listed.of_type("height", int)
        check_size(listed, "width", size)

        first = record.fields["img_to_first_box"]
        boxes_field = f"boxes_{BOX_SCALE}"
        boxes = _rows_between(record, graphs[boxes_field], "box")
        corners = _corners(boxes)
        check_boxes(record, boxes_field, corners)
        classes = [
            int(row[0]) for row in _rows_between(record, graphs["labels"], "box")
        ]
        check_classes(record, "labels", classes, names.objects, len(corners))

        relations = self._relations(record, first)
        fields = ("relationships", "predicates")
        check_relations(record, fields, relations, names.predicates, len(corners))
        scale = max(size) / BOX_SCALE
        return Scene(
            record=listed,
            picture=self.folder / FOLDER / f"{listed.of_type('image_id', int)}.jpg",
            picture_field="image_id",
            size=size,
            boxes=tuple(clip([scale * x for x in box], size) for box in corners),
            classes=tuple(classes),
            relations=tuple(relations),
        )

    def _relations(self, record: Record, first_box: int) -> list[Relation]:
        if record.fields["img_to_first_rel"] < 0:
            return []
        pairs = _rows_between(record, self._graphs["relationships"], "rel")
        predicates = _rows_between(record, self._graphs["predicates"], "rel")
        return [
            (int(pair[0]) - first_box, int(pair[1]) - first_box, int(predicate[0]))
            for pair, predicate in zip(pairs, predicates, strict=True)
        ]

    def _rows_of(self, split: Split, num_validation: int) -> list[int]:
        graphs = self._graphs
        rows = [
            row
            for row, (flag, box, relation) in enumerate(
                zip(
                    graphs["split"],
                    graphs["img_to_first_box"],
                    graphs["img_to_first_rel"],
                    strict=True,
                )
            )
            if (flag == TEST_SPLIT) == (split == "test") and box >= 0 and relation >= 0
        ]
        if split == "val":
            return rows[:num_validation]
        return rows[num_validation:] if split == "train" else rows


def read_names(file: Path) -> Vocabulary:
    """The names that the dictionaries number from 1.

    Raises:
        DataError: the file is missing, or is not of this format.
    """
    data = read_json(file, HINT)
    if not isinstance(data, dict):
        raise _format_error(file, "is no object")
    return Vocabulary(
        _numbered(file, data, "label_to_idx"), _numbered(file, data, "predicate_to_idx")
    )


def read_graphs(file: Path) -> dict[str, "np.ndarray[Any, Any]"]:
    """The arrays of all pictures.

    Raises:
        DataError: the file is missing, or is not of this format.
    """
    import h5py

    try:
        with h5py.File(file, "r") as opened:
            wanted = (*PER_PICTURE, *PER_BOX, *PER_RELATION)
            missing = [name for name in wanted if name not in opened]
            if missing:
                raise _format_error(file, f"has no dataset {missing[0]}")
            arrays = {name: opened[name][()] for name in wanted}
    except FileNotFoundError as error:
        raise DataError(f"There is no file {file}.", hint=HINT) from error
    except OSError as error:
        raise _format_error(file, "is no HDF5 file, or a damaged one") from error
    for names in (PER_PICTURE, PER_BOX, PER_RELATION):
        if len({len(arrays[name]) for name in names}) > 1:
            listed = ", ".join(names)
            raise _format_error(file, f"has datasets of unlike lengths: {listed}")
    for name, array in arrays.items():
        width = WIDTHS.get(name)
        shape = array.shape if width is None else array.shape[1:]
        if (array.ndim != 1 if width is None else shape != (width,)) or (
            array.dtype.kind not in "iu"
        ):
            raise _format_error(file, f"has a dataset {name} of another shape or type")
    return arrays


def read_pictures(file: Path) -> list[Record]:
    """The pictures that the rows of the graphs stand for, in their order.

    Raises:
        DataError: the file is missing, or is not of this format.
    """
    records = read_objects(file, HINT)
    return [one for one in records if one.fields.get("image_id") not in CORRUPTED]


def write_visual_genome(
    folder: Path,
    vocabulary: Vocabulary,
    splits: Sequence[tuple[Split, "Drawn"]],
) -> None:
    """Write drawn scenes as the four parts of a dataset that `VisualGenome` reads.

    A picture of the split `val` goes into the training split, whose beginning
    validates; so those come first.
    """
    import h5py
    import numpy as np

    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    columns: dict[str, list[Any]] = {name: [] for name in PER_PICTURE}
    boxes: list[list[float]] = []
    labels: list[int] = []
    relations: list[tuple[int, int]] = []
    predicates: list[int] = []
    listed = []
    for number, (split, drawn) in enumerate(splits, 1):
        width, height = drawn.picture.size
        drawn.picture.save(folder / FOLDER / f"{number}.jpg", quality=95)
        listed.append({"image_id": number, "width": width, "height": height})
        first_box, first_relation = len(boxes), len(relations)
        scale = BOX_SCALE / max(width, height)
        for left, top, right, bottom in drawn.boxes:
            centre = [(left + right) / 2, (top + bottom) / 2]
            boxes.append([scale * x for x in (*centre, right - left, bottom - top)])
        labels += drawn.classes
        for subject, object_, predicate in drawn.relations:
            relations.append((first_box + subject, first_box + object_))
            predicates.append(predicate)
        columns["split"].append(TEST_SPLIT if split == "test" else 0)
        columns["img_to_first_box"].append(first_box)
        columns["img_to_last_box"].append(len(boxes) - 1)
        any_relation = len(relations) > first_relation
        columns["img_to_first_rel"].append(first_relation if any_relation else -1)
        columns["img_to_last_rel"].append(len(relations) - 1 if any_relation else -1)
    with h5py.File(folder / GRAPHS, "w") as file:
        for name, column in columns.items():
            file[name] = np.array(column, dtype=np.int32)
        file[f"boxes_{BOX_SCALE}"] = np.rint(boxes).astype(np.int32).reshape(-1, 4)
        file["labels"] = np.array(labels, dtype=np.int64).reshape(-1, 1)
        file["relationships"] = np.array(relations, dtype=np.int32).reshape(-1, 2)
        file["predicates"] = np.array(predicates, dtype=np.int64).reshape(-1, 1)
        file["attributes"] = np.zeros((len(boxes), NUM_ATTRIBUTES), dtype=np.int64)
    (folder / PICTURES).write_text(json.dumps(listed))
    names = {
        "label_to_idx": _numbers(vocabulary.objects),
        "predicate_to_idx": _numbers(vocabulary.predicates),
    }
    (folder / NAMES).write_text(json.dumps(names))


def _rows_between(
    record: Record, rows: "np.ndarray[Any, Any]", kind: str
) -> "np.ndarray[Any, Any]":
    """A picture's part of the boxes, or of the relations; its last row is included."""
    first = record.fields[f"img_to_first_{kind}"]
    last = record.fields[f"img_to_last_{kind}"]
    if not 0 <= first <= last < len(rows):
        raise record.error(f"img_to_last_{kind}", "names rows that are not there")
    return rows[first : last + 1]


def _corners(boxes: "np.ndarray[Any, Any]") -> list[list[int]]:
    """Left, top, right, bottom of centre, width and height.

    The published code halves whole numbers and keeps whole numbers.
    """
    centres, sizes = boxes[:, :2], boxes[:, 2:]
    first = (centres - sizes / 2).astype(boxes.dtype)
    corners = [(*a, *(a + b)) for a, b in zip(first, sizes, strict=True)]
    return [[int(x) for x in one] for one in corners]


def _numbered(file: Path, data: dict[str, Any], key: str) -> tuple[str, ...]:
    """The names of a dictionary from name to number, after the background's."""
    problem = _format_error(file, f"has no {key} that numbers names from 1")
    numbers = data.get(key)
    if not isinstance(numbers, dict):
        raise problem
    names = {number: name for name, number in numbers.items() if name != BACKGROUND}
    if set(names) != set(range(1, len(names) + 1)):
        raise problem
    return (BACKGROUND, *(names[number] for number in range(1, len(names) + 1)))


def _numbers(names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names) if number}


def _format_error(file: Path, problem: str) -> DataError:
    return DataError(f"{file} {problem}.", hint=HINT)
