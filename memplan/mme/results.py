"""Files of results: one a subtask, a line for every question.

    image \\t question \\t Yes|No \\t response

Two lines that follow each other are one image. What the official tool would stop at is
reported by file and line.
"""

from io import StringIO
from pathlib import Path

from memplan.errors import DataError
from memplan.mme.scoring import Answered, MmeScore, TaskScore, parse_answer, score_task
from memplan.mme.tasks import NUM_IMAGES, TASKS

FIELDS = ("image", "question", "right answer", "response")
HINT = "A line has the image, the question, Yes or No, and the response, with tabs."


class _DamagedError(Exception):
    """What is wrong with a file of results; the message begins with the file."""


def score_folder(folder: Path) -> MmeScore:
    """Score the fourteen files of results in a folder.

    Raises:
        DataError: one is missing or damaged; the first is named, by file and line.
    """
    _check_complete(folder)
    scores, notes, damages = [], [], []
    for task in TASKS:
        try:
            score, said = _score_file(task.name, folder / f"{task.name}.txt")
        except _DamagedError as damage:
            damages.append(str(damage))
            continue
        scores.append(score)
        notes += said
    if damages:
        more = f" ({len(damages) - 1} more files are damaged)" if damages[1:] else ""
        raise DataError(f"{damages[0]}{more}.", hint=HINT)
    return MmeScore(tuple(scores), (*_size(scores), *notes, *_no_answers(scores)))


def result_line(image: str, question: str, truth: str, response: str) -> str:
    """One line of a file; a response is put on one line, without tabs."""
    flat = response.replace("\r", "").replace("\n", "").replace("\t", " ")
    return f"{image}\t{question}\t{truth}\t{flat}\n"


def _check_complete(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(
            f"{folder} is no folder.", hint="Give the folder with the files of results."
        )
    missing = [t.name for t in TASKS if not (folder / f"{t.name}.txt").is_file()]
    if missing:
        names = ", ".join(f"{name}.txt" for name in missing)
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(TASKS)} files of results: {names}.",
            hint="Every subtask has one; `memplan mme run` writes them all.",
        )


def _score_file(name: str, file: Path) -> tuple[TaskScore, list[str]]:
    """A subtask's score, and what is odd about its file."""
    lines = _lines(file)
    images, names = [], []
    for number in range(1, len(lines), 2):
        pair = [_parse(file, n, lines[n - 1]) for n in (number, number + 1)]
        images.append((pair[0][1], pair[1][1]))
        names.append((pair[0][0], pair[1][0]))
    if len(lines) % 2:
        _parse(file, len(lines), lines[-1])
        raise _DamagedError(f"{file} ends at line {len(lines)}, between two questions")
    score = score_task(name, images)
    return score, _mixed_pairs(name, names)


def _lines(file: Path) -> list[str]:
    """The lines as Python reads a text, each with its end."""
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _DamagedError(f"{file}, line {line}: is not UTF-8") from None
    except OSError as error:
        raise _DamagedError(f"{file} cannot be read: {error.strerror}") from error
    if not text:
        raise _DamagedError(f"{file} is empty")
    return StringIO(text, newline=None).readlines()


def _parse(file: Path, number: int, line: str) -> tuple[str, Answered]:
    """The image's name, and the answer with its line's end, as the tool has it."""
    where = f"{file}, line {number}"
    fields = line.split("\t")
    if not line.strip():
        raise _DamagedError(f"{where}: is blank")
    if len(fields) != len(FIELDS):
        raise _DamagedError(
            f"{where}: has {len(fields)} fields, {len(FIELDS)} are needed"
        )
    image, _, truth, response = fields
    lowered = truth.lower()
    if lowered not in ("yes", "no"):
        raise _DamagedError(
            f"{where}: the right answer is {truth!r}, neither Yes nor No"
        )
    right = parse_answer(lowered)
    return image, Answered(right, parse_answer(response))


def _mixed_pairs(name: str, pairs: list[tuple[str, str]]) -> list[str]:
    mixed = [2 * i + 1 for i, (one, other) in enumerate(pairs) if one != other]
    if not mixed:
        return []
    return [
        f"{name}.txt: {len(mixed)} pairs of lines name two images, the first at line "
        f"{mixed[0]}; scored as pairs, as the official tool does"
    ]


def _size(scores: list[TaskScore]) -> list[str]:
    num_images = sum(score.num_images for score in scores)
    if num_images == NUM_IMAGES:
        return []
    return [f"{num_images} images, and MME has {NUM_IMAGES}: no MME scores"]


def _no_answers(scores: list[TaskScore]) -> list[str]:
    names = [score.name for score in scores if score.other == 2 * score.num_images]
    if not names:
        return []
    return [
        f"no answer is yes or no in {', '.join(names)}: scored 0, where the official "
        "tool stops in scikit-learn"
    ]
