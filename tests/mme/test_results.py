"""Files of results: what is damaged is named by file and line."""

import pytest
from golden import write_golden

from memplan.errors import DataError
from memplan.mme.results import result_line, score_folder

PAIR = "1.jpg\tIs it?\tYes\tYes\n1.jpg\tIs it not?\tNo\tNo\n"


@pytest.fixture
def folder(tmp_path):
    return write_golden(tmp_path / "results")


def refusal(folder):
    with pytest.raises(DataError) as caught:
        score_folder(folder)
    assert caught.value.exit_code == 2
    return caught.value.message


def test_missing_files_are_all_named(folder):
    (folder / "color.txt").unlink()
    (folder / "OCR.txt").unlink()
    assert "lacks 2 of 14 files of results: color.txt, OCR.txt" in refusal(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    assert "no-such is no folder" in refusal(tmp_path / "no-such")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is empty"),
        (PAIR.encode() + b"\n", "line 3: is blank"),
        (PAIR.encode() + b"2.jpg\tIs it?\tYes\n", "line 3: has 3 fields, 4 are needed"),
        (b"1.jpg\tIs it?\tYes\tyes\tno\n", "line 1: has 5 fields"),
        (PAIR.replace("No\tNo", "Maybe\tNo").encode(), "line 2: the right answer is"),
        (PAIR.replace("\tYes\tYes", "\t Yes\tYes").encode(), "line 1: the right"),
        ((PAIR + PAIR.split("\n")[0] + "\n").encode(), "ends at line 3, between two"),
        (b"1.jpg\tIs it?\tYes\tYes\n1.jpg\t\xff\tNo\tNo\n", "line 2: is not UTF-8"),
        (PAIR.replace("\t", " ").encode(), "line 1: has 1 fields"),
        (b"\0" * 4096, "line 1: has 1 fields"),
        (PAIR.replace("Is it?", "Is\rit?").encode(), "line 1: has 2 fields"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_damage_is_named_by_file_and_line(folder, text, says):
    (folder / "scene.txt").write_bytes(text)
    message = refusal(folder)
    assert str(folder / "scene.txt") in message
    assert says in message


def test_several_damaged_files_are_counted(folder):
    for name in ("count", "scene", "OCR"):
        (folder / f"{name}.txt").write_bytes(b"")
    message = refusal(folder)
    assert "count.txt is empty (2 more files are damaged)" in message


def test_a_folder_in_the_place_of_a_file_is_missing(folder):
    (folder / "count.txt").unlink()
    (folder / "count.txt").mkdir()
    assert "count.txt" in refusal(folder)


def test_ends_of_lines_of_another_system_are_read(folder):
    file = folder / "count.txt"
    before = score_folder(folder)
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert score_folder(folder) == before


def test_a_last_line_without_an_end_is_read(folder):
    file = folder / "count.txt"
    before = score_folder(folder)
    file.write_bytes(file.read_bytes().removesuffix(b"\n"))
    assert score_folder(folder) == before


def test_pairs_of_two_images_are_scored_and_noted(folder):
    (folder / "count.txt").write_text(PAIR.replace("1.jpg", "2.jpg", 1))
    notes = score_folder(folder).notes
    assert notes[0] == "1158 images, and MME has 1187: no MME scores"
    assert notes[1].startswith("count.txt: 1 pairs of lines name two images")


def test_a_subtask_without_any_answer_scores_zero_and_is_noted(folder):
    (folder / "count.txt").write_text(
        PAIR.replace("\tYes\n", "\t?\n").replace("\tNo\n", "\t?\n")
    )
    score = score_folder(folder)
    assert next(task for task in score.tasks if task.name == "count").score == 0
    assert score.notes[1].startswith("no answer is yes or no in count: scored 0")


@pytest.mark.parametrize(
    "response",
    ["yes\nit is", "yes\tno", "\r\nyes", "", "y\N{LINE SEPARATOR}es", "ja\v"],
)
def test_any_response_makes_one_line_of_four_fields(response, folder):
    line = result_line("1.jpg", "Is it?", "Yes", response)
    assert line.count("\t") == 3
    (folder / "count.txt").write_text(line + line, encoding="utf-8", newline="")
    score_folder(folder)
