"""MMICL's prompts: pictures that are declared by name, and exemplars before a question.

As in its data and code (github.com/HaozheZhao/MIC: README, `data_preprocess.py`,
`tasks/vqa/dataset.py`). A text has one placeholder a picture; for the model it becomes
as many as a picture has visual tokens:

    image 0 is <image0>图.
    image 1 is <image1>图.
    Are both of one color?
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from memplan.errors import DataError

PLACEHOLDER = "图"
MAX_PICTURES = 20
"""There are proxy tokens for so many."""
PROXIES = tuple(f"<image{index}>" for index in range(MAX_PICTURES))
FLAN_T5_PLACEHOLDER_ID = 32100
"""FLAN-T5's tokenizer has 32100 tokens; the placeholder is the first one added."""
LABEL_MAX_LENGTH = 128
"""Tokens of an answer; what is longer is cut, as the published code does."""
NAME = re.compile(r"(<image|\b[Ii]mage )(\d+)")
"""A proxy token, or the name of a picture in words."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text with a placeholder for each of its pictures, and the answer to it."""

    text: str
    pictures: tuple[Any, ...]
    answer: str = ""


# The three formats


def single_image(question: str) -> str:
    """A question about one picture."""
    return interconnected_images(question, 1)


def interconnected_images(question: str, num_pictures: int) -> str:
    """A question about several pictures, which it may call by name."""
    declared = (f"{declaration(index)}.\n" for index in range(num_pictures))
    return "".join(declared) + question


def in_context(exemplars: Sequence[Example], query: Example) -> Example:
    """Exemplars with their answers, then the query: their pictures numbered through."""
    parts: list[str] = []
    pictures: list[Any] = []
    for exemplar in exemplars:
        parts.append(f"{renumber(exemplar, len(pictures))} {exemplar.answer}\n")
        pictures += exemplar.pictures
    parts.append(renumber(query, len(pictures)))
    pictures += query.pictures
    return Example("\n".join(parts), tuple(pictures), query.answer)


def declaration(index: int) -> str:
    """`image 0 is <image0>图`: what ties a picture to a name."""
    if index >= MAX_PICTURES:
        raise DataError(
            f"There is no proxy token for picture {index}.",
            hint=f"Use {MAX_PICTURES} pictures at most.",
        )
    return f"image {index} is {PROXIES[index]}{PLACEHOLDER}"


def renumber(example: Example, first: int) -> str:
    """The text of an example whose pictures come after `first` others."""

    def shifted(found: re.Match[str]) -> str:
        index = int(found[2])
        is_of_the_example = index < len(example.pictures)
        return f"{found[1]}{index + first if is_of_the_example else index}"

    return NAME.sub(shifted, example.text) if first else example.text


# To tokens


class Tokenizer(Protocol):
    """What of a tokenizer of transformers is used."""

    pad_token_id: int | None

    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]: ...
    def __len__(self) -> int: ...
    def add_tokens(self, new_tokens: list[str], special_tokens: bool) -> int: ...
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    def decode(self, token_ids: Any, skip_special_tokens: bool) -> str: ...


class Prompts:
    """Texts to token ids and back, by any tokenizer.

    Args:
        tokenizer: gets the placeholder and the proxies, where it lacks them.
        num_query_tokens: visual tokens of a picture.
        vocab_size: rows of the language model's table.

    Raises:
        DataError: it cannot pad, or the table has no rows for the tokens that it gets.
    """

    def __init__(
        self, tokenizer: Tokenizer, num_query_tokens: int, vocab_size: int
    ) -> None:
        if tokenizer.pad_token_id is None:
            raise DataError(
                "The tokenizer has no padding token.",
                hint="Use the tokenizer that belongs to the language model.",
            )
        tokenizer.add_tokens([PLACEHOLDER, *PROXIES], special_tokens=True)
        if len(tokenizer) > vocab_size:
            raise DataError(
                f"A tokenizer of {len(tokenizer)} tokens does not fit a table of "
                f"{vocab_size}.",
                hint="Use the tokenizer that belongs to the language model.",
            )
        self.tokenizer = tokenizer
        self.num_query_tokens = num_query_tokens
        self.placeholder_id = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        self.pad_id = tokenizer.pad_token_id

    def encode(self, text: str) -> list[int]:
        """Of a prompt, with the places of its pictures' visual tokens."""
        places = PLACEHOLDER * self.num_query_tokens
        return self._ids(text.replace(PLACEHOLDER, places))

    def encode_answer(self, text: str) -> list[int]:
        return self._ids(text, truncation=True, max_length=LABEL_MAX_LENGTH)

    def decode(self, token_ids: Iterable[int]) -> str:
        """An answer without special tokens, and without space around it.

        The table has more rows than the tokenizer has tokens: those stand for nothing.
        """
        known = [int(i) for i in token_ids if i < len(self.tokenizer)]
        return self.tokenizer.decode(known, skip_special_tokens=True).strip()

    def _ids(self, text: str, **options: Any) -> list[int]:
        ids: list[int] = self.tokenizer(text, **options)["input_ids"]
        return ids
