"""The fourteen subtasks of MME, in the order in which its tool scores them."""

from dataclasses import dataclass
from typing import Literal

Category = Literal["perception", "cognition"]
CATEGORIES: tuple[Category, ...] = ("perception", "cognition")
QUESTIONS_OF_AN_IMAGE = 2


@dataclass(frozen=True, slots=True)
class Task:
    """One subtask."""

    name: str
    """Of its folder and of its file of results."""
    category: Category
    num_images: int
    """In the whole benchmark."""
    is_split: bool = False
    """Pictures and questions in folders of their own."""


TASKS = (
    Task("existence", "perception", 30),
    Task("count", "perception", 30),
    Task("position", "perception", 30),
    Task("color", "perception", 30),
    Task("posters", "perception", 147, is_split=True),
    Task("celebrity", "perception", 170, is_split=True),
    Task("scene", "perception", 200, is_split=True),
    Task("landmark", "perception", 200, is_split=True),
    Task("artwork", "perception", 200, is_split=True),
    Task("OCR", "perception", 20),
    Task("commonsense_reasoning", "cognition", 70),
    Task("numerical_calculation", "cognition", 20),
    Task("text_translation", "cognition", 20),
    Task("code_reasoning", "cognition", 20),
)
NUM_IMAGES = sum(task.num_images for task in TASKS)
