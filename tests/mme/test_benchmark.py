"""The official layout is read as it is found on disk."""

import pytest
from PIL import Image

from memplan.errors import DataError
from memplan.mme.benchmark import open_pictures, read_benchmark
from memplan.mme.miniature import DRAWINGS, write_miniature
from memplan.mme.tasks import TASKS


@pytest.fixture
def folder(tmp_path):
    return write_miniature(tmp_path / "mme")


def root_of(folder):
    return folder / "MME_Benchmark"


def refusal(folder):
    with pytest.raises(DataError) as caught:
        read_benchmark(folder)
    return caught.value.message


def test_every_subtask_is_read_in_the_tools_order(folder):
    benchmark = read_benchmark(folder)
    assert list(benchmark) == [task.name for task in TASKS]
    assert {len(questions) for questions in benchmark.values()} == {4}


def test_the_two_questions_of_an_image_follow_each_other(folder):
    for questions in read_benchmark(folder).values():
        for one, other in zip(questions[::2], questions[1::2], strict=True):
            assert one.picture == other.picture
            assert {one.truth, other.truth} == {"Yes", "No"}
            assert one.text.endswith("Please answer yes or no.")


@pytest.mark.parametrize(
    "below", ["", "MME_Benchmark", "MME_Benchmark_release_version"]
)
def test_the_subtasks_are_found_in_the_folders_of_the_archive(folder, tmp_path, below):
    outer = tmp_path / "outer"
    outer.mkdir()
    target = outer / below if below else outer
    if below == "MME_Benchmark_release_version":
        target = target / "MME_Benchmark"
        target.parent.mkdir()
    if below == "":
        outer.rmdir()
    root_of(folder).rename(target)
    assert len(read_benchmark(outer)) == 14


def test_both_layouts_and_both_kinds_of_pictures_are_read(folder):
    benchmark = read_benchmark(folder)
    assert benchmark["scene"][0].picture.parent.name == "images"
    assert benchmark["count"][0].picture.parent.name == "count"
    names = {question.image for question in benchmark["count"]}
    assert names == {"0001.png", "0002.jpg"}


def test_a_layout_is_recognised_by_its_folders(folder):
    """Whatever the subtask is in the original."""
    scene = root_of(folder) / "scene"
    for part in ("images", "questions_answers_YN"):
        for file in (scene / part).iterdir():
            file.rename(scene / file.name)
        (scene / part).rmdir()
    assert len(read_benchmark(folder)["scene"]) == 4


@pytest.mark.parametrize("ending", ["", "\n", "\n\n", "\n  \n", "\r\n\r\n"])
def test_blank_last_lines_are_ignored(folder, ending):
    file = root_of(folder) / "count" / "0001.txt"
    before = read_benchmark(folder)["count"]
    file.write_text(file.read_text().strip() + ending, newline="")
    assert read_benchmark(folder)["count"] == before


def test_hidden_copies_of_an_archive_are_no_questions(folder):
    (root_of(folder) / "count" / "._0001.txt").write_bytes(b"\0\5\26\7")
    (root_of(folder) / "count" / "._0001.png").write_bytes(b"\0\5\26\7")
    assert len(read_benchmark(folder)["count"]) == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"Is it? Yes\nIs it not?\tNo\n", "line 1: is not a question"),
        (b"Is it?\tYes\n\nIs it not?\tMaybe\n", "line 3: the answer 'Maybe'"),
        (b"Is it?\tYes\n", "has 1 questions"),
        (b"", "has 0 questions"),
        (b"\tYes\nIs it not?\tNo\n", "line 1: is not a question"),
        (b"\xff\tYes\nIs it not?\tNo\n", "is not UTF-8"),
    ],
)
def test_a_damaged_text_is_named_by_file_and_line(folder, text, says):
    file = root_of(folder) / "scene" / "questions_answers_YN" / "0002.txt"
    file.write_bytes(text)
    message = refusal(folder)
    assert str(file) in message
    assert says in message


def test_a_missing_picture_is_named(folder):
    (root_of(folder) / "count" / "0002.jpg").unlink()
    assert "0002.txt asks about a picture that is not in" in refusal(folder)


def test_a_missing_subtask_is_named(folder):
    (root_of(folder) / "OCR").rename(root_of(folder) / "ocr-old")
    assert "lacks 1 of 14 subtasks: OCR" in refusal(folder)


def test_a_subtask_without_questions_is_named(folder):
    for file in (root_of(folder) / "OCR").glob("*.txt"):
        file.unlink()
    assert "OCR holds no questions" in refusal(folder)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    assert "no folder of an MME subtask" in refusal(tmp_path)
    assert "no folder of an MME subtask" in refusal(tmp_path / "no-such")


def test_a_truncated_picture_is_named(folder):
    question = read_benchmark(folder)["count"][2]
    question.picture.write_bytes(question.picture.read_bytes()[:200])
    with pytest.raises(DataError, match=r"0002\.jpg is a damaged picture"):
        open_pictures([question])


def test_the_miniature_is_the_same_again(folder, tmp_path):
    again = write_miniature(tmp_path / "again")
    for file in folder.rglob("*.*"):
        assert (again / file.relative_to(folder)).read_bytes() == file.read_bytes()


def test_another_seed_gives_another_miniature(folder, tmp_path):
    other = write_miniature(tmp_path / "other", seed=1)
    assert read_benchmark(other)["OCR"][0].text != read_benchmark(folder)["OCR"][0].text


def test_the_miniature_overwrites_nothing(folder):
    with pytest.raises(DataError, match="not empty"):
        write_miniature(folder)


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_two_pictures_of_different_answers_differ(name, tmp_path):
    """The answer is in the picture: the same questions, other answers, other pixels."""
    folder = write_miniature(tmp_path / "many", num_images=24)
    answers = {}
    for question in read_benchmark(folder)[name]:
        with Image.open(question.picture) as picture:
            pixels = picture.convert("RGB").reduce(8).tobytes()
        key = (question.picture.suffix, pixels)
        assert (
            answers.setdefault((question.text, *key), question.truth) == question.truth
        )
