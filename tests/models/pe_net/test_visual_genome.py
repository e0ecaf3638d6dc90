"""VG150 is read as it was written, and what is wrong with it is named."""

import json
import pickle
import shutil
from dataclasses import replace
from random import Random

import pytest

h5py = pytest.importorskip("h5py")
pytest.importorskip("PIL")

from memplan.data.records import BadRecordError, Policy  # noqa: E402
from memplan.errors import DataError  # noqa: E402
from memplan.models.pe_net.generated import VOCABULARY, draw_scenes  # noqa: E402
from memplan.models.pe_net.scenes import usable_scenes  # noqa: E402
from memplan.models.pe_net.visual_genome import (  # noqa: E402
    GRAPHS,
    NAMES,
    PICTURES,
    VisualGenome,
    write_visual_genome,
)

DRAWN = draw_scenes(6, 1)
SPLITS = ["val", "val", "train", "train", "test", "test"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    write_visual_genome(folder, VOCABULARY, list(zip(SPLITS, DRAWN, strict=True)))
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A dataset that a test may damage."""
    return shutil.copytree(written, tmp_path / "vg")


def read(folder, split="train"):
    return VisualGenome(folder, split, num_validation=2)


def scenes(folder, split="train"):
    return list(usable_scenes(read(folder, split)))


@pytest.mark.parametrize(
    ("split", "drawn"),
    [("val", DRAWN[:2]), ("train", DRAWN[2:4]), ("test", DRAWN[4:])],
)
def test_a_split_comes_back_as_it_was_written(written, split, drawn):
    found = scenes(written, split)
    assert len(found) == len(drawn)
    for scene, one in zip(found, drawn, strict=True):
        assert scene.size == one.picture.size
        assert scene.classes == one.classes
        assert scene.relations == one.relations
        for box, expected in zip(scene.boxes, one.boxes, strict=True):
            # Boxes are whole numbers at 1024 to the longer side.
            assert box == pytest.approx(expected, abs=0.2)


def test_names_are_those_of_the_vocabulary(written):
    assert read(written).vocabulary == VOCABULARY


def test_five_thousand_pictures_validate_unless_told(written):
    assert len(VisualGenome(written, "train")) == 0
    assert len(VisualGenome(written, "val")) == 4


def test_halves_are_cut_off_as_published(folder):
    change(folder, "boxes_1024", lambda boxes: boxes.__setitem__(..., [50, 20, 35, 11]))
    box = scenes(folder)[0].boxes[0]
    # 50 - 35 / 2 = 32.5 -> 32, 20 - 11 / 2 = 14.5 -> 14; 96 pixels are 1024.
    expected = [96 / 1024 * x for x in (32, 14, 32 + 35, 14 + 11)]
    assert box == pytest.approx(expected)


def test_boxes_are_clipped_to_the_picture(folder):
    change(
        folder, "boxes_1024", lambda boxes: boxes.__setitem__(..., [0, 0, 4000, 4000])
    )
    assert scenes(folder)[0].boxes[0] == (0, 0, 95, 63)


def test_pictures_without_boxes_or_relations_are_left_out(folder):
    change(folder, "img_to_first_rel", lambda rows: rows.__setitem__(2, -1))
    assert len(scenes(folder)) == 1
    change(folder, "img_to_first_box", lambda rows: rows.__setitem__(3, -1))
    assert len(read(folder)) == 0


def test_corrupted_pictures_are_listed_and_have_no_row(folder):
    listed = json.loads((folder / PICTURES).read_text())
    listed.insert(1, {"image_id": 1722, "width": 10, "height": 10})
    (folder / PICTURES).write_text(json.dumps(listed))
    found = scenes(folder, "test")
    assert [scene.picture.name for scene in found] == ["5.jpg", "6.jpg"]


def change(folder, name, edit):
    with h5py.File(folder / GRAPHS, "r+") as file:
        values = file[name][()]
        edit(values)
        file[name][...] = values


@pytest.mark.parametrize(
    ("name", "edit", "where", "problem"),
    [
        ("labels", lambda a: a.__setitem__(..., 99), "labels", "has a class that"),
        ("labels", lambda a: a.__setitem__(..., 0), "labels", "has a class that"),
        ("predicates", lambda a: a.__setitem__(..., 99), "predicates", "a predicate"),
        (
            "relationships",
            lambda a: a.__setitem__(..., 0),
            "relationships",
            "names a box that the picture has not",
        ),
        (
            "boxes_1024",
            lambda a: a.__setitem__((..., 2), 0),
            "boxes_1024",
            "has a box of no size",
        ),
        (
            "img_to_last_box",
            lambda a: a.__setitem__(..., 10**6),
            "img_to_last_box",
            "names rows that are not there",
        ),
        (
            "img_to_last_rel",
            lambda a: a.__setitem__(..., 0),
            "img_to_last_rel",
            "names rows that are not there",
        ),
    ],
)
def test_a_bad_row_is_named(folder, name, edit, where, problem):
    change(folder, name, edit)
    with pytest.raises(BadRecordError) as caught:
        scenes(folder)
    assert f"{GRAPHS}, record 3, field {where}: " in caught.value.message
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("width", "96", "is a text, a whole number is needed"),
        ("height", 0, "is no size of a picture"),
        ("image_id", None, "is null, a whole number is needed"),
    ],
)
def test_a_bad_picture_of_the_list_is_named(folder, field, value, problem):
    listed = json.loads((folder / PICTURES).read_text())
    listed[2][field] = value
    (folder / PICTURES).write_text(json.dumps(listed))
    with pytest.raises(BadRecordError) as caught:
        scenes(folder)
    assert f"{PICTURES}, record 3, field" in caught.value.message
    assert problem in caught.value.message


def test_bad_rows_are_skipped_and_counted_where_that_is_chosen(folder):
    change(folder, "labels", lambda a: a.__setitem__(slice(8, 9), 99))
    usable = usable_scenes(read(folder), Policy.SKIP)
    assert len(list(usable)) == 1
    assert usable.skipped == {"labels: has a class that the vocabulary has not": 1}


@pytest.mark.parametrize("name", [GRAPHS, NAMES, PICTURES])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"There is no file .*{name}"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (GRAPHS, "no HDF5", "is no HDF5 file, or a damaged one"),
        (NAMES, "{", "is not JSON"),
        (NAMES, "[]", "is no object"),
        (NAMES, "{}", "has no label_to_idx that numbers names from 1"),
        (NAMES, '{"label_to_idx": {"a": 2}}', "has no label_to_idx that numbers"),
        (PICTURES, "{}", "is no list of objects"),
        (PICTURES, "[]", "lists 0 pictures"),
    ],
)
def test_a_file_of_another_kind_is_named(folder, name, content, problem):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=problem) as caught:
        read(folder)
    assert name in caught.value.message


def test_a_truncated_file_of_graphs_is_named(folder):
    whole = (folder / GRAPHS).read_bytes()
    (folder / GRAPHS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is no HDF5 file, or a damaged one"):
        read(folder)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda f: f.pop("labels"), "has no dataset labels"),
        (lambda f: replaced(f, "labels", [[1]]), "datasets of unlike lengths: labels"),
        (lambda f: replaced(f, "split", [[0]] * 6), "a dataset split of another shape"),
        (lambda f: replaced(f, "split", [0.5] * 6), "a dataset split of another shape"),
    ],
)
def test_datasets_of_another_shape_are_named(folder, edit, problem):
    with h5py.File(folder / GRAPHS, "r+") as file:
        edit(file)
    with pytest.raises(DataError, match=problem):
        read(folder)


def replaced(file, name, values):
    del file[name]
    file[name] = values


class TestPictures:
    """A picture is opened when its scene is drawn."""

    @pytest.fixture
    def training(self, folder):
        pytest.importorskip("torchvision")
        from memplan.models import find_model
        from memplan.models.pe_net.data import TrainingScenes

        config = replace(find_model("pe-net-tiny").config, num_pairs_per_image=8)
        return folder, TrainingScenes(read(folder), config, 85)

    @pytest.mark.parametrize(
        ("damage", "problem"),
        [
            (lambda file: file.unlink(), "names a picture that is not there"),
            (
                lambda file: file.write_bytes(file.read_bytes()[:300]),
                "is a damaged picture",
            ),
            (
                lambda file: shutil.copy(enlarged(file), file),
                "names a picture of another size than its boxes",
            ),
        ],
    )
    def test_one_that_cannot_be_used_is_named(self, training, damage, problem):
        folder, samples = training
        damage(folder / "VG_100K" / "3.jpg")
        with pytest.raises(BadRecordError) as caught:
            samples.draw(0, Random(0))
        assert f"{PICTURES}, record 3, field image_id: {problem}" in (
            caught.value.message
        )

    def test_one_that_cannot_be_used_is_passed_over_where_that_is_chosen(
        self, training
    ):
        from memplan.data.loading import Loading, batches
        from memplan.models.pe_net.data import collate

        folder, samples = training
        (folder / "VG_100K" / "3.jpg").write_bytes(b"")
        loading = Loading(batch_size=2, shuffles=False, policy=Policy.SKIP)
        batch = next(batches(samples, collate, loading))
        assert len(batch.content["images"]) == 2
        assert batch.skipped == ("image_id: is no picture that can be read",)

    def test_a_worker_may_be_given_the_dataset(self, training):
        _, samples = training
        copy = pickle.loads(pickle.dumps(samples))
        first, second = (one.draw(1, Random(3)) for one in (samples, copy))
        assert first.pairs.tolist() == second.pairs.tolist()
        assert (first.picture == second.picture).all()

    def test_a_sample_has_a_quarter_of_annotated_pairs_at_most(self, training):
        _, samples = training
        sample = samples.draw(0, Random(0))
        assert len(sample.pairs) == len(sample.predicates) == 8
        assert (sample.predicates > 0).sum() <= 2


def enlarged(file):
    from PIL import Image

    other = file.with_suffix(".other.jpg")
    Image.new("RGB", (50, 50)).save(other)
    return other
