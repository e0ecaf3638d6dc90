"""Asks a model every question of MME, and keeps every answer once."""

from collections.abc import Callable, Mapping, Sequence

from memplan.mme.answering import Answerer
from memplan.mme.benchmark import Question, open_pictures
from memplan.mme.journal import Journal

Progress = Callable[[str, int], None]
"""Told of a subtask and how many of its questions are answered."""


def evaluate(
    benchmark: Mapping[str, Sequence[Question]],
    answerer: Answerer,
    journal: Journal,
    *,
    batch_size: int,
    progress: Progress = lambda task, num_answered: None,
) -> None:
    """Answer what is not answered yet, batch by batch, a subtask after the other.

    Raises:
        DataError: a picture is damaged, or an answer cannot be kept.
    """
    for task, questions in benchmark.items():
        num_answered = journal.resume(questions, batch_size)
        progress(task, num_answered)
        for start in range(num_answered, len(questions), batch_size):
            asked = questions[start : start + batch_size]
            texts = [question.text for question in asked]
            journal.append(asked, answerer.answer(open_pictures(asked), texts))
            progress(task, start + len(asked))
