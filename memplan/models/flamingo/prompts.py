"""Texts with pictures in them as token ids, for training and for few-shot prompts.

A text is a row of chunks. A chunk begins with a picture or has none; `<EOC>` ends it,
and so stands before every picture and at the end:

    <BOS>Cute pets!<EOC><image>A puppy.<EOC><image>A cat.<EOC><EOS>

In the paper `<image>` is plain text and `<EOC>` a token of its own (arXiv 2204.14198,
3.1.3 and A.1); in OpenFlamingo both are tokens, and a text has no beginning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from memplan.errors import DataError
from memplan.models.flamingo.config import FlamingoConfig

IMAGE = "<image>"
END_OF_CHUNK = {"flamingo": "<EOC>", "openflamingo": "<|endofchunk|>"}
PAD = "<PAD>"
"""Added where a tokenizer has no padding, as OpenFlamingo does."""
NO_TOKEN = -1
NUM_TEXT_EXAMPLES = 2
"""Of a prompt without shots: examples that have lost their pictures (section 4.2)."""


class Tokenizer(Protocol):
    """What of transformers' tokenizers a text needs."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str: ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """A text, and whether a picture stands before it."""

    text: str
    has_picture: bool = True


@dataclass(frozen=True, slots=True)
class Written:
    """Token ids, and what of them belongs to pictures."""

    ids: list[int]
    pictures: list[int] = field(default_factory=list)
    """Where the tag of each picture begins."""
    predicted: list[bool] = field(default_factory=list)
    """Whether a loss asks for the token."""

    def seen(self, *, follows: bool = False) -> list[int]:
        """The picture that each token sees, from 1; 0 is none.

        The last one that began at the token or before. If the text `follows`, its
        pictures come after what they show: then the first one from the token on, and
        none after the last (p_next, section A.1.2).
        """
        begins = [0] * len(self.ids)
        for place in self.pictures:
            begins[place] = 1
        so_far = list(accumulate(begins))
        if not follows:
            return so_far
        coming = [n + 1 - here for n, here in zip(so_far, begins, strict=True)]
        return [n if n <= len(self.pictures) else 0 for n in coming]


class Writer:
    """Writes chunks in the tokens of one model.

    Args:
        config: whose way of writing, and how large a vocabulary.
        tokenizer: any; `<EOC>`, and what else is missing, is added to it.

    Raises:
        DataError: the vocabulary has no room for the tokenizer's.
    """

    def __init__(self, config: FlamingoConfig, tokenizer: Any) -> None:
        self.is_paper = config.is_paper
        self.tokenizer: Tokenizer = tokenizer
        self.end_of_chunk = END_OF_CHUNK[config.variant]
        vocab_size = config.text_config.vocab_size
        known = tokenizer.get_vocab()
        if self.is_paper and max(known.values()) == vocab_size - 1:
            # The learnt row needs a place: that of the token for what is unknown.
            self.eoc_id = known.get(self.end_of_chunk, tokenizer.unk_token_id)
        else:
            _add_tokens(tokenizer, self.end_of_chunk, is_paper=self.is_paper)
            self.eoc_id = tokenizer.convert_tokens_to_ids(self.end_of_chunk)
        self.image_ids = self._encode(IMAGE)
        self.bos_id = tokenizer.bos_token_id
        self.eos_id = tokenizer.eos_token_id
        self.pad_id = tokenizer.pad_token_id or self.eos_id or 0
        largest = max(tokenizer.get_vocab().values())
        if largest >= vocab_size or self.eoc_id is None:
            raise DataError(
                f"The tokenizer has ids up to {largest}, and the model a vocabulary of "
                f"{vocab_size}.",
                hint="Use the language model's own tokenizer.",
            )

    @property
    def media_id(self) -> int:
        """The token that is a picture's tag; none in the paper, where it is a text."""
        return NO_TOKEN if self.is_paper else self.image_ids[0]

    @property
    def end_ids(self) -> list[int]:
        """What ends an answer."""
        return [i for i in (self.eoc_id, self.eos_id) if i is not None]

    def write(
        self,
        chunks: Sequence[Chunk],
        *,
        is_whole: bool = True,
        learns_end: bool = True,
    ) -> Written:
        """The tokens of a text.

        Args:
            is_whole: whether it ends, or is left open for an answer.
            learns_end: whether a loss asks for the token that ends it.
        """
        written = Written([])
        if self.is_paper and self.bos_id is not None:
            _append(written, [self.bos_id], predicted=False)
        seen_picture = self.is_paper
        for number, chunk in enumerate(chunks):
            if number:
                _append(written, [self.eoc_id], predicted=seen_picture)
            if chunk.has_picture:
                written.pictures.append(len(written.ids))
                _append(written, self.image_ids, predicted=False)
            # OpenFlamingo learns nothing from a text before its first picture.
            seen_picture = seen_picture or chunk.has_picture
            _append(written, self._encode(self._clean(chunk.text)), seen_picture)
        if is_whole:
            _append(written, [self.eoc_id], predicted=seen_picture)
            if self.eos_id is not None:
                _append(written, [self.eos_id], predicted=learns_end)
        return written

    def read(self, ids: list[int]) -> str:
        """The text of an answer."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def _clean(self, text: str) -> str:
        """Without tags: a text cannot bring a picture that is not there."""
        return text.replace(IMAGE, "").replace(self.end_of_chunk, "")


@dataclass(frozen=True, slots=True)
class Task:
    """How an example is put; `{question}` is filled in."""

    prompt: str
    answer: str


CAPTION = {
    "flamingo": Task("Output:", " {answer}"),
    "openflamingo": Task("Output:", "{answer}"),
}
VQA = {
    "flamingo": Task("Question: {question} Answer:", " {answer}"),
    "openflamingo": Task("Question:{question} Short answer:", "{answer}"),
}


@dataclass(frozen=True, slots=True)
class Example:
    """One that is answered; its picture is kept beside."""

    answer: str
    question: str = ""


def few_shot(
    task: Task, examples: Sequence[Example], num_shots: int, question: str = ""
) -> list[Chunk]:
    """Examples with their pictures, in this order, and then the one that is asked.

    Without shots the first two examples are given as text alone, so that the model
    sees what form an answer has.

    Raises:
        DataError: there are fewer examples than that takes.
    """
    num_needed = num_shots or NUM_TEXT_EXAMPLES
    if len(examples) < num_needed:
        raise DataError(
            f"A prompt of {num_shots} shots takes {num_needed} examples, and there are "
            f"{len(examples)}.",
            hint="Give more examples, or ask for fewer shots.",
        )
    chunks = []
    for example in examples[:num_needed]:
        asked = task.prompt.format(question=example.question)
        text = asked + task.answer.format(answer=example.answer)
        chunks.append(Chunk(text, has_picture=num_shots > 0))
    return [*chunks, Chunk(task.prompt.format(question=question))]


def _append(written: Written, ids: Sequence[int], predicted: bool) -> None:
    written.ids.extend(ids)
    written.predicted.extend([predicted] * len(ids))


def _add_tokens(tokenizer: Any, end_of_chunk: str, *, is_paper: bool) -> None:
    """OpenFlamingo's tokens are two or three (`factory.py`), the paper's is one."""
    known = tokenizer.get_vocab()
    wanted = [end_of_chunk] if is_paper else [end_of_chunk, IMAGE]
    new = [token for token in wanted if token not in known]
    if new:
        tokenizer.add_tokens(new, special_tokens=True)
    if not is_paper and tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
