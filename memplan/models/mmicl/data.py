"""MIC, the data that MMICL is tuned on: JSON Lines that name pictures in a folder.

    {"input_text": "image 0 is <image0>图.\\nWhat color is it?",
     "input_image": ["./pictures/0.png"], "output_text": "red", "output_image": ""}

`input_image` may also be the path of a single picture. Exemplars are drawn when a
sample is, from 0 to 5 of them, as `data_preprocess.py` of the published code does once
for all; unlike there, the query is never its own exemplar, and is numbered after a
single one too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from memplan.data import Policy, Record, Usable, open_picture, read_json_lines
from memplan.data.padding import IGNORED, padded
from memplan.models.mmicl.prompts import (
    PLACEHOLDER,
    Example,
    Prompts,
    in_context,
)

MAX_PICTURES = 10
"""Records with more are left out, as the published preprocessing does."""
MAX_EXEMPLARS = 5
PADDED_PICTURES = 12
"""Of the published on-the-fly collator; data preprocessed before is padded to 8."""
MAX_TOKENS = 512
"""Of a prompt: the length of FLAN-T5's tokenizer and of the published scripts."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt with its pictures, and the answer."""

    input_ids: list[int]
    labels: list[int]
    pixel_values: Tensor
    """[n, 3, H, W]"""


class Mic:
    """A file of MIC; draws samples from it.

    Args:
        file: JSON Lines.
        prompts: makes token ids of texts.
        image_size: pixels of a side, as the vision tower takes them.
        folder: that paths of pictures are relative to; by default the file's own.
        policy: for records that cannot be used.
        max_exemplars: each sample gets from none to so many.
        max_pictures: of a sample; a collator of 8 cannot hold more.
        max_tokens: of a prompt. Exemplars for which there is no room are left out.

    Raises:
        DataError: the file cannot be read, or a record under Policy.REFUSE.
    """

    def __init__(
        self,
        file: Path,
        prompts: Prompts,
        image_size: int,
        *,
        folder: Path | None = None,
        policy: Policy = Policy.REFUSE,
        max_exemplars: int = MAX_EXEMPLARS,
        max_pictures: int = MAX_PICTURES,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self.prompts = prompts
        self.folder = folder or file.parent
        self.max_exemplars = max_exemplars
        self.max_pictures = max_pictures
        self.max_tokens = max_tokens
        self._processor = image_processor(image_size)
        usable = Usable(read_json_lines(file), parse, policy)
        read = list(usable)
        self.skipped = usable.skipped
        """How many records were skipped, by what was wrong."""
        self.examples = [e for e in read if len(e.content.pictures) <= MAX_PICTURES]
        self.num_left_out = len(read) - len(self.examples)
        """Records with too many pictures."""

    def __len__(self) -> int:
        return len(self.examples)

    def draw(self, index: int, random: Random) -> Sample:
        """One record as the query, and some others before it.

        Raises:
            BadRecordError: a picture cannot be opened, or the query alone has more
                pictures or tokens than there is room for.
        """
        query = self.examples[index]
        num_left = self.max_pictures - len(query.content.pictures)
        if num_left < 0:
            raise query.record.error(
                "input_image", f"has more than {self.max_pictures} pictures"
            )
        exemplars = self._exemplars(index, num_left, random)
        input_ids = self._encode(exemplars, query)
        while exemplars and len(input_ids) > self.max_tokens:
            exemplars.pop()
            input_ids = self._encode(exemplars, query)
        if len(input_ids) > self.max_tokens:
            raise query.record.error(
                "input_text", f"takes more than {self.max_tokens} tokens"
            )
        pictures = [
            open_picture(self.folder / path, read.record, "input_image")
            for read in (*exemplars, query)
            for path in read.content.pictures
        ]
        return Sample(
            input_ids,
            self.prompts.encode_answer(query.content.answer),
            pixels(self._processor, pictures),
        )

    def _exemplars(self, index: int, num_pictures: int, random: Random) -> "list[Read]":
        """Some of the other records, whose pictures are so many at most."""
        count = min(random.randint(0, self.max_exemplars), len(self) - 1)
        drawn = random.sample(range(len(self) - 1), count)
        others = [self.examples[other + (other >= index)] for other in drawn]
        so_far = accumulate(len(other.content.pictures) for other in others)
        return others[: sum(total <= num_pictures for total in so_far)]

    def _encode(self, exemplars: "Sequence[Read]", query: "Read") -> list[int]:
        contents = [exemplar.content for exemplar in exemplars]
        return self.prompts.encode(in_context(contents, query.content).text)


@dataclass(frozen=True, slots=True)
class Read:
    """An example with paths for pictures, and where it was read."""

    content: Example
    record: Record


def parse(record: Record) -> Read:
    """The example in a record.

    Raises:
        BadRecordError: a field is missing, of the wrong type or empty, or placeholders
            and pictures are not as many.
    """
    text, answer = record.text("input_text"), record.text("output_text")
    if isinstance(record.fields.get("input_image"), str):
        paths = [record.text("input_image")]
    else:
        paths = record.texts("input_image")
    if not paths:
        raise record.error("input_image", "is empty")
    if text.count(PLACEHOLDER) != len(paths):
        raise record.error(
            "input_text", f"has not one {PLACEHOLDER} for each picture of input_image"
        )
    # What was read is not kept: there are millions of records.
    return Read(Example(text, tuple(paths), answer), replace(record, fields={}))


@dataclass(frozen=True, slots=True)
class Collate:
    """Pads the samples of a batch: pictures to one number, tokens to the longest."""

    pad_id: int
    padded_pictures: int = PADDED_PICTURES

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """The arguments of the model's forward pass."""
        shape = samples[0].pixel_values.shape[1:]
        pixel_values = torch.zeros(len(samples), self.padded_pictures, *shape)
        img_mask = torch.zeros(pixel_values.shape[:2], dtype=torch.int64)
        for index, sample in enumerate(samples):
            num_pictures = len(sample.pixel_values)
            pixel_values[index, :num_pictures] = sample.pixel_values
            img_mask[index, :num_pictures] = 1
        return {
            "pixel_values": pixel_values,
            "img_mask": img_mask,
            **pad_prompts([sample.input_ids for sample in samples], self.pad_id),
            "labels": padded([sample.labels for sample in samples], IGNORED),
        }


def pad_prompts(prompts: Sequence[list[int]], pad_id: int) -> dict[str, Tensor]:
    """Token ids with a mask of those that are there."""
    present = [[1] * len(prompt) for prompt in prompts]
    return {
        "input_ids": padded(prompts, pad_id),
        "attention_mask": padded(present, 0),
    }


def image_processor(image_size: int) -> Any:
    """InstructBLIP's: bicubic, normalised by CLIP's mean and deviation."""
    from transformers import BlipImageProcessor

    return BlipImageProcessor(size={"height": image_size, "width": image_size})


def pixels(processor: Any, pictures: Sequence[Image.Image]) -> Tensor:
    """[n, 3, H, W]"""
    values: Tensor = processor(list(pictures), return_tensors="pt")["pixel_values"]
    return values
