"""Small data whose answers are in the pictures, and a tokenizer without a file.

For tests, demonstrations and first steps: every record asks for the color of one of its
pictures, so whoever looks at another picture is wrong.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from memplan.models.mmicl.prompts import PROXIES, interconnected_images

COLORS = {
    "red": (220, 30, 30),
    "green": (30, 170, 60),
    "blue": (40, 60, 210),
    "yellow": (235, 215, 40),
}
SIZE = 56
"""Pixels of a side."""


def byte_tokenizer() -> Any:
    """ByT5's: every byte a token, and an end after each text, as FLAN-T5's has it."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer(extra_ids=0)


def write_sample(
    folder: Path,
    num_records: int = 12,
    *,
    num_pictures: Sequence[int] = (1, 2, 3),
    seed: int = 0,
) -> Path:
    """A valid MIC: which color one of some pictures has.

    Args:
        num_pictures: one of these numbers is drawn for each record.

    Returns:
        The file of records; the pictures lie beside it.
    """
    random = Random(seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(num_records):
        colors = random.choices(list(COLORS), k=random.choice(num_pictures))
        paths = [f"./pictures/{number}-{index}.png" for index in range(len(colors))]
        for path, color in zip(paths, colors, strict=True):
            Image.new("RGB", (SIZE, SIZE), COLORS[color]).save(folder / path)
        asked = random.randrange(len(colors))
        record = {
            "input_text": interconnected_images(
                f"Color of {PROXIES[asked]}?", len(colors)
            ),
            "input_image": paths,
            "output_text": colors[asked],
            "output_image": "",
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    file = folder / "mic.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    return file
