"""Small data whose answers are in the pictures, and a tokenizer without a file.

For tests, demonstrations and first steps: a page names the colours of its pictures, one
after the other, so whoever reads the wrong picture is wrong.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from memplan.models.flamingo.data import MMC4, OBELICS, PAIRS

COLORS = {
    "red": (220, 30, 30),
    "green": (30, 170, 60),
    "blue": (40, 60, 210),
    "yellow": (235, 215, 40),
    "black": (15, 15, 15),
    "white": (240, 240, 240),
    "pink": (240, 130, 180),
    "brown": (120, 70, 20),
}
SIZE = 48
"""Pixels of a side."""
SIMILARITY = 0.3
"""Of a text with its own picture, as MMC4's records have it."""


def byte_tokenizer() -> Any:
    """Every byte a token, and a beginning and an end: 258 of them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )


def write_sample(
    folder: Path,
    num_records: int = 12,
    *,
    max_pictures: int = 3,
    num_frames: int = 1,
    shows_colors: bool = True,
    seed: int = 0,
) -> None:
    """The same pages as MMC4 and as OBELICS have them, and pairs, valid all of them.

    Args:
        max_pictures: of a page, which has one at least.
        num_frames: of the pictures of pairs: several make videos.
        shows_colors: whether pictures have the colours that the texts name; else they
            have any, and there is nothing to learn from them.
    """
    random = Random(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    mmc4, obelics, pairs = [], [], []
    for number in range(num_records):
        colors = random.choices(list(COLORS), k=random.randint(1, max_pictures))
        names = [f"images/{number}-{index}.png" for index in range(len(colors))]
        for name, color in zip(names, colors, strict=True):
            _draw(folder / name, color if shows_colors else random.choice(list(COLORS)))
        mmc4.append(_mmc4(colors, names))
        obelics.append(_obelics(colors, names))
        pairs.append(_pair(colors[0], names[0], num_frames))
    for name, records in ((MMC4, mmc4), (OBELICS, obelics), (PAIRS, pairs)):
        lines = (json.dumps(record) + "\n" for record in records)
        (folder / name).write_text("".join(lines), encoding="utf-8")


def _mmc4(colors: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    return {
        "text_list": list(colors),
        "image_info": [
            {"image_name": name, "matched_text_index": i, "matched_sim": SIMILARITY}
            for i, name in enumerate(names)
        ],
    }


def _obelics(colors: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    texts, images = [], []
    for color, name in zip(colors, names, strict=True):
        images += [name, None]
        texts += [None, color]
    return {"images": images, "texts": texts}


def _pair(color: str, name: str, num_frames: int) -> dict[str, Any]:
    if num_frames > 1:
        return {"frames": [name] * num_frames, "text": color}
    return {"image": name, "text": color}


def _draw(file: Path, color: str) -> None:
    Image.new("RGB", (SIZE, SIZE), COLORS[color]).save(file)
