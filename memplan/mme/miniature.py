"""A benchmark in miniature: MME's folders, with pictures that hold the answers.

For tests, demonstrations, and tiny models: every question can be answered from its
picture, and each picture has a question with Yes and one with No. Names and counts are
of coloured shapes; where MME asks what a model must know, here it can be read.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memplan.errors import DataError
from memplan.mme.benchmark import IMAGES, TEXTS
from memplan.mme.tasks import TASKS, Task

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SIZE = 96
"""Pixels of a side."""
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
}
SHAPES = ("square", "circle", "triangle")
SIDES = {"left": (28, 48), "right": (68, 48), "top": (48, 28), "bottom": (48, 68)}
OPPOSITES = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
WORDS = {"ROT": "red", "HAUS": "house", "HUND": "dog", "BAUM": "tree"}
GROUND = (235, 235, 235)
ENDING = "Please answer yes or no."

Asked = tuple[str, str]
"""The question whose answer is yes, and the one whose answer is no."""
Drawing = Callable[["ImageDraw", random.Random], Asked]


def write_miniature(folder: Path, num_images: int = 2, seed: int = 0) -> Path:
    """Write so many images of every subtask; the folder that `memplan mme run` takes.

    Pictures are jpg and png, texts end with a blank line or do not, as in the original.

    Raises:
        DataError: the folder has something in it, or cannot be written.
    """
    root = folder / "MME_Benchmark"
    try:
        if folder.exists() and any(folder.iterdir()):
            raise DataError(
                f"{folder} is not empty.", hint="Give a folder that is not there yet."
            )
        for task in TASKS:
            for number in range(num_images):
                choices = random.Random(f"{seed} {task.name} {number}")
                _write_image(root / task.name, task, number, choices)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror}.",
            hint="Choose a folder that is yours.",
        ) from error
    return folder


def _write_image(folder: Path, task: Task, number: int, choices: random.Random) -> None:
    from PIL import Image, ImageDraw

    pictures, texts = folder, folder
    if task.is_split:
        pictures, texts = folder / IMAGES, folder / TEXTS
    for needed in (pictures, texts):
        needed.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (SIZE, SIZE), GROUND)
    true, false = DRAWINGS[task.name](ImageDraw.Draw(picture), choices)
    lines = [f"{true} {ENDING}\tYes", f"{false} {ENDING}\tNo"]
    if choices.random() < 0.5:
        lines.reverse()
    stem = f"{number + 1:04}"
    picture.save(pictures / f"{stem}.{'jpg' if number % 2 else 'png'}")
    blank_line = "\n" if number % 2 else ""
    text = "\n".join(lines) + "\n" + blank_line
    (texts / f"{stem}.txt").write_text(text, encoding="utf-8")


# What the subtasks draw and ask


def _existence(draw: "ImageDraw", choices: random.Random) -> Asked:
    shape, other = choices.sample(SHAPES, 2)
    _shape(draw, shape, choices.choice(list(COLORS)))
    return _both("Is there a {} in this image?", shape, other)


def _count(draw: "ImageDraw", choices: random.Random) -> Asked:
    number, other = choices.sample(range(1, 5), 2)
    color = choices.choice(list(COLORS))
    for center in list(SIDES.values())[:number]:
        _shape(draw, "circle", color, center, radius=12)
    question = "Are there a total of {} circles in this image?"
    return _both(question, str(number), str(other))


def _position(draw: "ImageDraw", choices: random.Random) -> Asked:
    shape, side = choices.choice(SHAPES), choices.choice(list(SIDES))
    _shape(draw, shape, choices.choice(list(COLORS)), SIDES[side], radius=18)
    question = f"Is the {shape} at the {{}} of the image?"
    return _both(question, side, OPPOSITES[side])


def _colored(question: str) -> Drawing:
    """A question about the colour of a shape, whatever the subtask calls it."""

    def drawing(draw: "ImageDraw", choices: random.Random) -> Asked:
        color, other = choices.sample(list(COLORS), 2)
        _shape(draw, choices.choice(SHAPES), color)
        return _both(question, color, other)

    return drawing


def _shaped(question: str) -> Drawing:
    """A question about the shape itself."""

    def drawing(draw: "ImageDraw", choices: random.Random) -> Asked:
        shape, other = choices.sample(SHAPES, 2)
        _shape(draw, shape, choices.choice(list(COLORS)))
        return _both(question, shape, other)

    return drawing


def _light(draw: "ImageDraw", choices: random.Random) -> Asked:
    """Red stops, green goes."""
    color = choices.choice(("red", "green"))
    draw.rectangle((30, 10, 66, 86), fill=(40, 40, 40))
    _shape(draw, "circle", color, (48, 30 if color == "red" else 66), radius=14)
    right, wrong = ("stop", "go") if color == "red" else ("go", "stop")
    return _both("Should I {} at this traffic light?", right, wrong)


def _word(draw: "ImageDraw", choices: random.Random) -> Asked:
    word, other = choices.sample(list(WORDS), 2)
    _text(draw, word)
    return _both('Is the word in the logo "{}"?', word.lower(), other.lower())


def _translation(draw: "ImageDraw", choices: random.Random) -> Asked:
    word, other = choices.sample(list(WORDS), 2)
    _text(draw, word)
    question = (
        'Is it appropriate to translate the German in the image into English "{}"?'
    )
    return _both(question, WORDS[word], WORDS[other])


def _sum(draw: "ImageDraw", choices: random.Random) -> Asked:
    one, other = choices.randint(1, 9), choices.randint(1, 9)
    _text(draw, f"{one}+{other}=?")
    question = "Is the answer to the arithmetic question in the image {}?"
    return _both(question, str(one + other), str(one + other + choices.randint(1, 5)))


def _code(draw: "ImageDraw", choices: random.Random) -> Asked:
    one, other = choices.randint(2, 9), choices.randint(2, 9)
    _text(draw, f"print({one}*{other})", size=15)
    question = "The image shows Python code. Is the output of the code '{}'?"
    return _both(question, str(one * other), str(one * other + choices.randint(1, 5)))


DRAWINGS: dict[str, Drawing] = {
    "existence": _existence,
    "count": _count,
    "position": _position,
    "color": _colored("Is there a {} shape in the image?"),
    "posters": _colored("Is the film on this poster called {}?"),
    "celebrity": _shaped("Is the figure in this image named {}?"),
    "scene": _colored("Is this a place with a {} sign?"),
    "landmark": _shaped("Is this a photo of the {}?"),
    "artwork": _colored("Is this artwork titled {}?"),
    "OCR": _word,
    "commonsense_reasoning": _light,
    "numerical_calculation": _sum,
    "text_translation": _translation,
    "code_reasoning": _code,
}


def _both(question: str, true: str, false: str) -> Asked:
    return question.format(true), question.format(false)


def _shape(
    draw: "ImageDraw",
    shape: str,
    color: str,
    center: Sequence[int] = (SIZE // 2, SIZE // 2),
    radius: int = 28,
) -> None:
    x, y = center
    box = (x - radius, y - radius, x + radius, y + radius)
    fill = COLORS[color]
    if shape == "square":
        draw.rectangle(box, fill=fill)
    elif shape == "circle":
        draw.ellipse(box, fill=fill)
    else:
        corners = [(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)]
        draw.polygon(corners, fill=fill)


def _text(draw: "ImageDraw", text: str, size: int = 22) -> None:
    """In the font that Pillow brings along, in the middle."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    middle = (SIZE // 2, SIZE // 2)
    draw.text(middle, text, fill=(0, 0, 0), font=font, anchor="mm")
