"""Open Images' scene graphs are read as written, and what is wrong with them named."""

import csv
import json
import shutil

import pytest

pytest.importorskip("PIL")

from memplan.data.records import BadRecordError, Policy
from memplan.errors import DataError
from memplan.models.pe_net.generated import VOCABULARY, draw_scenes
from memplan.models.pe_net.open_images import (
    NAMES,
    OpenImages,
    write_open_images,
)
from memplan.models.pe_net.open_images_csv import (
    COLUMNS,
    OpenImagesRows,
)
from memplan.models.pe_net.scenes import BACKGROUND, usable_scenes

DRAWN = draw_scenes(4, 1)
FILE = "annotations/vrd-train-anno.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    write_open_images(folder, VOCABULARY, {"train": DRAWN[:3], "test": DRAWN[3:]})
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A dataset that a test may damage."""
    return shutil.copytree(written, tmp_path / "oi")


@pytest.mark.parametrize(
    ("split", "drawn"), [("train", DRAWN[:3]), ("test", DRAWN[3:])]
)
def test_a_split_comes_back_as_it_was_written(written, split, drawn):
    dataset = OpenImages(written, split)
    assert dataset.vocabulary == VOCABULARY
    for scene, one in zip(usable_scenes(dataset), drawn, strict=True):
        assert scene.size == one.picture.size
        assert (scene.boxes, scene.classes) == (one.boxes, one.classes)
        assert scene.relations == one.relations
        assert scene.picture.exists()


def change(folder, **fields):
    annotations = json.loads((folder / FILE).read_text())
    annotations[1] |= fields
    (folder / FILE).write_text(json.dumps(annotations))


@pytest.mark.parametrize("field", ["bbox", "rel"])
def test_pictures_without_boxes_or_relations_are_left_out(folder, field):
    change(folder, **{field: []})
    assert len(OpenImages(folder, "train")) == 2


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("img_fn", 7, "is a whole number, a text is needed"),
        ("img_size", [96], "is not width and height"),
        ("img_size", [96, 0], "is no size of a picture"),
        ("bbox", [[1, 2, 3]], "has a box of other than four numbers"),
        ("bbox", [[1, 2, 3, "4"]], "has a member that is not numbers"),
        ("bbox", [[5, 5, 5, 9]], "has a box of no size"),
        ("bbox", [[1, 1, float("nan"), 9]], "has a box of no size"),
        ("bbox", {}, "is an object, a list is needed"),
        ("det_labels", [0], "has not one class for each box"),
        ("det_labels", [0, 1, 2, 4], "has a class that the vocabulary has not"),
        ("rel", [[0, 1]], "has a member that is not three whole numbers"),
        ("rel", [[0, 9, 0]], "names a box that the picture has not"),
        ("rel", [[0, 1, 4]], "has a predicate that the vocabulary has not"),
        ("rel", [[0, 1, True]], "has a member that is not three whole numbers"),
    ],
)
def test_a_bad_record_is_named(folder, field, value, problem):
    change(folder, **{field: value})
    with pytest.raises(BadRecordError) as caught:
        list(usable_scenes(OpenImages(folder, "train")))
    assert f"vrd-train-anno.json, record 2, field {field}: {problem}." in (
        caught.value.message
    )


def test_a_bad_record_is_skipped_and_counted_where_that_is_chosen(folder):
    change(folder, rel=None)
    usable = usable_scenes(OpenImages(folder, "train"), Policy.SKIP)
    assert len(list(usable)) == 2
    assert usable.skipped == {"rel: is null, a list is needed": 1}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (FILE, "{}", "is no list of objects"),
        (FILE, "[1]", "is no list of objects"),
        (FILE, "[", "is not JSON"),
        (NAMES, "[]", "has no list obj of names"),
        (NAMES, '{"obj": [], "rel": [1]}', "has no list rel of names"),
    ],
)
def test_a_file_of_another_kind_is_named(folder, name, content, problem):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=problem):
        OpenImages(folder, "train")


def test_a_missing_file_is_named(written):
    with pytest.raises(DataError, match=r"There is no file .*vrd-val-anno\.json"):
        OpenImages(written, "val")


class TestRows:
    """The official files: a row for each relation."""

    @pytest.fixture
    def rows(self, tmp_path):
        DRAWN[0].picture.save(tmp_path / "0a1b.png")
        (tmp_path / "0a1b.png").rename(tmp_path / "0a1b.jpg")
        (tmp_path / "classes.csv").write_text("/m/01,Dog\n/m/02,Cat\n/m/03,Wooden\n")

        def write(*changes):
            base = {
                "ImageID": "0a1b",
                "LabelName1": "/m/01",
                "LabelName2": "/m/02",
                "RelationshipLabel": "near",
                **dict.fromkeys(("XMin1", "YMin1", "XMin2", "YMin2"), "0.25"),
                **dict.fromkeys(("XMax1", "YMax1"), "0.5"),
                **dict.fromkeys(("XMax2", "YMax2"), "0.75"),
            }
            with (tmp_path / "vrd.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(base | change for change in changes)
            return OpenImagesRows(
                tmp_path / "vrd.csv", tmp_path / "classes.csv", tmp_path
            )

        return write

    def test_rows_of_a_picture_are_one_scene(self, rows):
        dataset = rows({}, {"RelationshipLabel": "above", "LabelName2": "/m/01"})
        assert dataset.vocabulary.objects == (BACKGROUND, "Cat", "Dog")
        assert dataset.vocabulary.predicates == (BACKGROUND, "above", "near")
        (scene,) = usable_scenes(dataset)
        # The dog of both rows is one; the second row's other dog is larger.
        assert scene.classes == (2, 1, 2)
        assert scene.relations == ((0, 1, 2), (0, 2, 1))
        assert scene.boxes[0] == (24, 16, 48, 32)

    def test_what_an_object_is_relates_it_to_none(self, rows):
        dataset = rows({}, {"RelationshipLabel": "is", "LabelName2": "/m/03"})
        assert dataset.vocabulary.objects == (BACKGROUND, "Cat", "Dog")
        (scene,) = usable_scenes(dataset)
        assert len(scene.relations) == 1

    @pytest.mark.parametrize(
        ("change", "field", "problem"),
        [
            ({"XMax2": "wide"}, "XMax2", "is no number"),
            ({"XMax2": "1.5"}, "XMax2", "is not between 0 and 1"),
            ({"XMax2": "0.1"}, "XMin2", "has a box of no size"),
            ({"LabelName2": ""}, "LabelName2", "is empty"),
        ],
    )
    def test_a_bad_row_is_named_by_its_line(self, rows, change, field, problem):
        dataset = rows({}, change)
        with pytest.raises(BadRecordError) as caught:
            list(usable_scenes(dataset))
        assert f"vrd.csv, record 3, field {field}: {problem}." in caught.value.message

    def test_a_missing_picture_is_named(self, rows):
        dataset = rows({"ImageID": "ffff"})
        with pytest.raises(BadRecordError, match="names a picture that is not there"):
            list(usable_scenes(dataset))

    def test_another_vocabulary_may_lack_a_name(self, rows, tmp_path):
        rows({})
        dataset = OpenImagesRows(
            tmp_path / "vrd.csv", tmp_path / "classes.csv", tmp_path, VOCABULARY
        )
        with pytest.raises(BadRecordError, match="LabelName1: has a class that"):
            list(usable_scenes(dataset))

    def test_missing_columns_and_files_are_named(self, tmp_path):
        (tmp_path / "classes.csv").write_text("")
        (tmp_path / "vrd.csv").write_text("ImageID,LabelName1\n")
        with pytest.raises(DataError, match="has no column RelationshipLabel"):
            OpenImagesRows(tmp_path / "vrd.csv", tmp_path / "classes.csv", tmp_path)
        with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
            OpenImagesRows(tmp_path / "nowhere.csv", tmp_path / "classes.csv", tmp_path)
