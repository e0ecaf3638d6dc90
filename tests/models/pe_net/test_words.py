"""Embeddings begin with word vectors, and say which do not."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")

from memplan.data.records import BadRecordError  # noqa: E402
from memplan.errors import DataError  # noqa: E402
from memplan.models import find_model  # noqa: E402
from memplan.models.pe_net import module  # noqa: E402
from memplan.models.pe_net.scenes import BACKGROUND, Vocabulary  # noqa: E402
from memplan.models.pe_net.words import begin_embeddings  # noqa: E402

VOCABULARY = Vocabulary(
    (BACKGROUND, "dog", "fire hydrant", "zzz"),
    (BACKGROUND, "on", "in front of", "qqq"),
)
VECTORS = """\
the 9 9 9
dog 1 0 0
hydrant 0 1 0
on 0 0 1
in 2 0 0
front 0 4 0
"""


@pytest.fixture(scope="module")
def model():
    config = replace(
        find_model("pe-net-tiny").config,
        num_object_classes=4,
        num_predicate_classes=4,
        embed_dim=3,
    )
    return module.build(config, torch.float32, None)


@pytest.fixture
def vectors(tmp_path):
    def write(text):
        file = tmp_path / "glove.txt"
        file.write_text(text)
        return file

    return write


def test_a_class_has_the_vector_of_its_name_or_its_longest_word(model, vectors):
    begin_embeddings(model, VOCABULARY, vectors(VECTORS))
    predictor = model.roi_heads["relation"].predictor
    assert predictor.obj_embed.weight[1:3].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert torch.equal(predictor.obj_embed.weight, predictor.obj_embed1.weight)


def test_a_predicate_has_that_of_its_name_or_the_mean_of_its_words(model, vectors):
    begin_embeddings(model, VOCABULARY, vectors(VECTORS))
    embedded = model.roi_heads["relation"].predictor.rel_embed.weight
    # "of" has none: the mean of the other two.
    assert embedded[1:3].tolist() == [[0, 0, 1], [1, 2, 0]]


def test_names_without_a_vector_are_told(model, vectors):
    begun = begin_embeddings(model, VOCABULARY, vectors(VECTORS))
    assert begun.found == ("dog", "fire hydrant", "on", "in front of")
    assert begun.summary() == (
        "4 names begin with word vectors, 4 at random (__background__, zzz, qqq)"
    )


def test_without_a_file_all_begin_at_random(model):
    begun = begin_embeddings(model, VOCABULARY)
    assert begun.found == ()
    assert len(begun.random) == 8


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("dog 1 2", "field dog: is 2 numbers, 3 are needed"),
        ("dog 1 x 3", "field dog: is not numbers"),
        ("dog", "field dog: is not numbers"),
    ],
)
def test_a_bad_line_that_is_needed_is_named(model, vectors, line, problem):
    with pytest.raises(BadRecordError) as caught:
        begin_embeddings(model, VOCABULARY, vectors(f"the 1\n{line}\n"))
    assert f"glove.txt, record 2, {problem}." in caught.value.message


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt cannot be read"):
        begin_embeddings(model, VOCABULARY, tmp_path / "nowhere.txt")
