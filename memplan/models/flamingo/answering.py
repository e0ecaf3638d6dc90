"""Answers questions about pictures with a trained Flamingo or OpenFlamingo."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.models.checkpoint import read_tokenizer
from memplan.models.flamingo.data import Collate, Sample
from memplan.models.flamingo.generation import Search, generate
from memplan.models.flamingo.module import Flamingo
from memplan.models.flamingo.pictures import preparation_of
from memplan.models.flamingo.prompts import VQA, Example, Writer, few_shot

if TYPE_CHECKING:
    from PIL.Image import Image

EXAMPLES = (
    Example("yes", "Is this a sentence? Please answer yes or no."),
    Example("no", "Is this a number? Please answer yes or no."),
)
"""What a prompt without shots shows of the form of an answer (2204.14198, 4.2)."""


class FlamingoAnswerer:
    """An `Answerer`: zero shots, after two examples of text alone."""

    def __init__(self, module: Flamingo, tokenizer: Any, max_new_tokens: int) -> None:
        self.module = module
        self.writer = Writer(module.config, tokenizer)
        module.set_new_tokens(self.writer.eoc_id, self.writer.media_id)
        self.search = Search(
            max_new_tokens=max_new_tokens, end_token_ids=self.writer.end_ids
        )
        self._task = VQA[module.config.variant]
        self._prepare = preparation_of(module.config)
        self._collate = Collate(self.writer.pad_id, pads_left=True)

    def answer(self, images: "Sequence[Image]", questions: Sequence[str]) -> list[str]:
        """One response to each question about the image in the same place."""
        samples = [
            self._sample(image, question)
            for image, question in zip(images, questions, strict=True)
        ]
        inputs = self._collate(samples)
        del inputs["labels"]
        weight = self.module.perceiver.latents
        inputs["vision_x"] = inputs["vision_x"].to(weight.dtype)
        moved = {name: tensor.to(weight.device) for name, tensor in inputs.items()}
        return [
            self.writer.read(ids) for ids in generate(self.module, self.search, **moved)
        ]

    def _sample(self, image: "Image", question: str) -> Sample:
        chunks = few_shot(self._task, EXAMPLES, num_shots=0, question=question)
        written = self.writer.write(chunks, is_whole=False)
        pictures = self._prepare(image)[None, None]
        return Sample(written.ids, written.ids, written.seen(), pictures)


def make_answerer(
    module: Flamingo, folder: Path, max_new_tokens: int
) -> FlamingoAnswerer:
    """Answers by the tokenizer of a checkpoint's folder.

    Raises:
        DataError: there is none.
    """
    return FlamingoAnswerer(module, read_tokenizer(folder), max_new_tokens)
