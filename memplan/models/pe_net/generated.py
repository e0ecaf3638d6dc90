"""Drawn scenes whose relations can be seen, and only guessed at from the classes.

Squares whose colour is their class. A square with a coloured dot is a subject, one with
a white dot an object: every subject is related to every object, by the predicate of its
dot's colour. Which predicate that is leans on the two classes, as it does in the world,
so that guessing from classes alone is better than chance and far from right.
"""

from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from memplan.models.pe_net.scenes import BACKGROUND, Box, Relation, Vocabulary

OBJECTS = {
    "brick": (178, 34, 34),
    "leaf": (0, 128, 0),
    "water": (30, 60, 200),
    "sand": (230, 200, 120),
}
PREDICATES = {
    "near": (255, 0, 255),
    "above": (0, 255, 255),
    "holding": (255, 255, 0),
    "behind": (0, 0, 0),
}
VOCABULARY = Vocabulary((BACKGROUND, *OBJECTS), (BACKGROUND, *PREDICATES))
LEANING = 0.3
"""How often the predicate is the one that the two classes lean to."""

SIZE = (96, 64)
CELL = 32
"""Pixels of a side of the places that squares lie in."""
SQUARE = 24
DOT = 12
NUM_SQUARES = 4
PAPER = (128, 128, 128)
WHITE = (255, 255, 255)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A picture, and what is in it."""

    picture: Image.Image
    boxes: tuple[Box, ...]
    classes: tuple[int, ...]
    relations: tuple[Relation, ...]


def draw_scenes(count: int, seed: int) -> list[Drawn]:
    """So many different scenes, the same for the same seed."""
    random = Random(seed)
    return [draw_scene(random) for _ in range(count)]


def draw_scene(random: Random) -> Drawn:
    """One or two subjects, one or two objects, and squares without a dot."""
    picture = Image.new("RGB", SIZE, PAPER)
    boxes = _places(random)
    classes = tuple(random.randint(1, len(OBJECTS)) for _ in boxes)
    num_subjects, num_objects = random.randint(1, 2), random.randint(1, 2)
    objects = range(num_subjects, num_subjects + num_objects)

    colours = list(OBJECTS.values())
    for box, number in zip(boxes, classes, strict=True):
        _fill(picture, box, SQUARE, colours[number - 1])
    for place in objects:
        _fill(picture, boxes[place], DOT, WHITE)
    relations = []
    for subject in range(num_subjects):
        predicate = _predicate(classes[subject], classes[objects[0]], random)
        _fill(picture, boxes[subject], DOT, list(PREDICATES.values())[predicate - 1])
        relations += [(subject, object_, predicate) for object_ in objects]
    return Drawn(
        picture=picture, boxes=boxes, classes=classes, relations=tuple(relations)
    )


def _places(random: Random) -> tuple[Box, ...]:
    columns, rows = SIZE[0] // CELL, SIZE[1] // CELL
    cells = [(CELL * x, CELL * y) for x in range(columns) for y in range(rows)]
    boxes = []
    for x, y in random.sample(cells, NUM_SQUARES):
        left = x + random.randint(0, CELL - SQUARE - 1)
        top = y + random.randint(0, CELL - SQUARE - 1)
        boxes.append((left, top, left + SQUARE, top + SQUARE))
    return tuple(boxes)


def _predicate(subject: int, object_: int, random: Random) -> int:
    if random.random() < LEANING:
        return 1 + (subject + 2 * object_) % len(PREDICATES)
    return random.randint(1, len(PREDICATES))


def _fill(
    picture: Image.Image, box: Box, side: int, colour: tuple[int, int, int]
) -> None:
    """Paint a square of so many pixels in the middle of a box."""
    left, top = (box[0] + box[2] - side) / 2, (box[1] + box[3] - side) / 2
    ImageDraw.Draw(picture).rectangle((left, top, left + side, top + side), fill=colour)
