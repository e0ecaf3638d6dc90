"""Scores of MME as its official tool computes them (`eval_tool/calculation.py`).

A subtask's score is 100 acc + 100 acc+, of 200: acc is the share of questions answered
rightly, acc+ that of images with both questions right. Perception is the sum of ten
subtasks, cognition of four. What the tool does with odd answers is kept to the letter
(docs/mme.md): published scores rest on it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Literal

from memplan.mme.tasks import CATEGORIES, TASKS, Category

Answer = Literal["yes", "no", "other"]
PREFIX_LENGTH = 4
"""Characters of an answer in which the tool looks for a yes or a no."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One question: the right answer, and what was answered."""

    truth: Answer
    answer: Answer

    @property
    def is_right(self) -> bool:
        return self.truth == self.answer


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """The counts of one subtask; positive is yes."""

    name: str
    category: Category
    num_images: int
    num_right: int
    """Of its questions, two an image."""
    num_both_right: int
    """Of its images."""
    tp: int
    fn: int
    fp: int
    tn: int
    other: int
    """Answers that are neither yes nor no: wrong, and in none of the four above."""

    @property
    def acc(self) -> float:
        return self.num_right / (2 * self.num_images)

    @property
    def acc_plus(self) -> float:
        return self.num_both_right / self.num_images

    @property
    def score(self) -> float:
        """Each share times 100, then the sum: in this order to the tool's last bit."""
        return self.acc * 100 + self.acc_plus * 100

    @property
    def precision(self) -> float:
        """Of the answers yes, the share that is right; 0 where there are none."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        """Of the questions with an answer whose right one is yes, the share found."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0


@dataclass(frozen=True, slots=True)
class MmeScore:
    """The whole benchmark."""

    tasks: tuple[TaskScore, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the scores should know."""

    @property
    def perception(self) -> float:
        """Of 2000."""
        return self.total("perception")

    @property
    def cognition(self) -> float:
        """Of 800."""
        return self.total("cognition")

    def of(self, category: Category) -> list[TaskScore]:
        """The subtasks of one category, in the tool's order."""
        return [task for task in self.tasks if task.category == category]

    def total(self, category: Category) -> float:
        """The sum of the subtasks of one category."""
        # One after the other, as the tool does: sum() would round less.
        return reduce(add, (task.score for task in self.of(category)), 0.0)


def parse_answer(response: str) -> Answer:
    """What the tool takes a response for.

    A response that is not just yes or no counts by its first four characters, spaces
    included, and wherever in them the word stands: "know" is a no.
    """
    lowered = response.lower()
    if lowered in ("yes", "no"):
        return "yes" if lowered == "yes" else "no"
    prefix = lowered[:PREFIX_LENGTH]
    if "yes" in prefix:
        return "yes"
    return "no" if "no" in prefix else "other"


def score_task(name: str, images: Iterable[tuple[Answered, Answered]]) -> TaskScore:
    """Count one subtask, of at least one image."""
    category = next(task.category for task in TASKS if task.name == name)
    pairs = list(images)
    answers = [answered for pair in pairs for answered in pair]

    def count(truth: Answer, answer: Answer) -> int:
        return answers.count(Answered(truth, answer))

    return TaskScore(
        name=name,
        category=category,
        num_images=len(pairs),
        num_right=sum(answered.is_right for answered in answers),
        num_both_right=sum(one.is_right and other.is_right for one, other in pairs),
        tp=count("yes", "yes"),
        fn=count("yes", "no"),
        fp=count("no", "yes"),
        tn=count("no", "no"),
        other=sum(answered.answer == "other" for answered in answers),
    )


def as_official_text(score: MmeScore) -> str:
    """What the tool prints, to the letter."""
    lines = []
    for category in CATEGORIES:
        title, total = category.capitalize(), score.total(category)
        lines += [f"=========== {title} ===========", f"total score: {total} \n"]
        lines += [f"\t {t.name}  score: {t.score}" for t in score.of(category)]
        lines += ["\n"]
    return "\n".join(lines) + "\n"
