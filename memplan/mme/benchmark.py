"""The benchmark on disk: the official folders, as they are downloaded.

    MME_Benchmark/color/0001.png, 0001.txt                          flat
    MME_Benchmark/scene/images/1.jpg, questions_answers_YN/1.txt    split

A text has two lines, `question \\t Yes` and `question \\t No`, in either order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memplan.errors import DataError
from memplan.mme.tasks import QUESTIONS_OF_AN_IMAGE, TASKS

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES, TEXTS = "images", "questions_answers_YN"
"""The folders of a split subtask."""
SUFFIXES = (".jpg", ".png", ".jpeg")
FOLDERS = (
    "",
    "MME_Benchmark",
    "MME_Benchmark_release_version",
    "MME_Benchmark_release_version/MME_Benchmark",
)
"""Where below the folder that a user names the subtasks may lie."""
HINT = "Unpack MME_Benchmark_release_version anew; its layout is in docs/mme.md."


@dataclass(frozen=True, slots=True)
class Question:
    """One of the two questions of an image."""

    task: str
    picture: Path
    text: str
    truth: str
    """Yes or No, as it is written."""

    @property
    def image(self) -> str:
        """The name of the image in files of results."""
        return self.picture.name


def read_benchmark(folder: Path) -> dict[str, list[Question]]:
    """The questions of every subtask, the two of an image one after the other.

    Raises:
        DataError: a subtask, a picture or a question is missing or malformed.
    """
    root = _root(folder)
    missing = [task.name for task in TASKS if not (root / task.name).is_dir()]
    if missing:
        raise DataError(
            f"{root} lacks {len(missing)} of {len(TASKS)} subtasks: "
            f"{', '.join(missing)}.",
            hint=HINT,
        )
    return {task.name: _read_task(task.name, root / task.name) for task in TASKS}


def open_pictures(questions: Sequence[Question]) -> "list[Image]":
    """The pictures of some questions, each decoded once.

    Raises:
        DataError: one is no picture, or damaged.
    """
    from memplan.data import Record, open_picture
    from memplan.data.records import BadRecordError

    opened = {}
    for path in dict.fromkeys(question.picture for question in questions):
        try:
            opened[path] = open_picture(path, Record(path, 1, {}), "")
        except BadRecordError as error:
            raise DataError(f"{path} {error.sort}.", hint=HINT) from error
    return [opened[question.picture] for question in questions]


def _root(folder: Path) -> Path:
    """The folder of the subtasks."""
    for below in FOLDERS:
        root = folder / below
        if any((root / task.name).is_dir() for task in TASKS):
            return root
    raise DataError(f"{folder} holds no folder of an MME subtask.", hint=HINT)


def _read_task(name: str, folder: Path) -> list[Question]:
    """Which of the two layouts it is shows in the folders that are there."""
    is_split = (folder / IMAGES).is_dir() and (folder / TEXTS).is_dir()
    pictures = folder / IMAGES if is_split else folder
    texts = folder / TEXTS if is_split else folder
    # macOS leaves hidden copies beside the files of an archive.
    files = sorted(f for f in texts.glob("*.txt") if not f.name.startswith("."))
    if not files:
        raise DataError(f"{texts} holds no questions.", hint=HINT)
    found = _pictures_by_stem(pictures)
    questions = []
    for file in files:
        if file.stem not in found:
            raise DataError(
                f"{file} asks about a picture that is not in {pictures}.", hint=HINT
            )
        questions += _read_questions(name, found[file.stem], file)
    return questions


def _pictures_by_stem(folder: Path) -> dict[str, Path]:
    """Of two pictures with one stem, the one whose suffix is listed first."""
    order = {suffix: place for place, suffix in enumerate(SUFFIXES)}
    pictures = [f for f in folder.iterdir() if f.suffix.lower() in order]
    pictures.sort(key=lambda f: (order[f.suffix.lower()], f.name), reverse=True)
    return {f.stem: f for f in pictures if not f.name.startswith(".")}


def _read_questions(task: str, picture: Path, file: Path) -> list[Question]:
    """The two questions in a text; blank lines are none."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{file} is not UTF-8.", hint=HINT) from None
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}.", hint=HINT
        ) from error
    questions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not fields[0]:
            raise DataError(
                f"{file}, line {number}: is not a question, a tab, and Yes or No.",
                hint=HINT,
            )
        text, truth = fields
        if truth.lower() not in ("yes", "no"):
            raise DataError(
                f"{file}, line {number}: the answer {truth!r} is neither Yes nor No.",
                hint=HINT,
            )
        questions.append(Question(task, picture, text, truth))
    if len(questions) != QUESTIONS_OF_AN_IMAGE:
        raise DataError(
            f"{file} has {len(questions)} questions, and every image of MME has two.",
            hint=HINT,
        )
    return questions
