"""Answers questions about pictures with a trained MMICL."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.models.checkpoint import read_tokenizer
from memplan.models.mmicl.data import image_processor, pad_prompts, pixels
from memplan.models.mmicl.module import MmiclForConditionalGeneration
from memplan.models.mmicl.prompts import Prompts, single_image

if TYPE_CHECKING:
    from PIL.Image import Image


class MmiclAnswerer:
    """An `Answerer`: each question with its picture declared before it."""

    def __init__(
        self,
        module: MmiclForConditionalGeneration,
        tokenizer: Any,
        max_new_tokens: int,
    ) -> None:
        config = module.config
        self.module = module
        self.prompts = Prompts(
            tokenizer, config.num_query_tokens, config.text_config.vocab_size
        )
        module.set_placeholder(self.prompts.placeholder_id)
        self.max_new_tokens = max_new_tokens
        self._processor = image_processor(config.vision_config.image_size)

    def answer(self, images: "Sequence[Image]", questions: Sequence[str]) -> list[str]:
        """One response to each question about the image in the same place."""
        prompts = [self.prompts.encode(single_image(it)) for it in questions]
        inputs = pad_prompts(prompts, self.prompts.pad_id)
        inputs["pixel_values"] = pixels(self._processor, images).unsqueeze(1)
        device = self.module.query_tokens.device
        answers = self.module.generate(
            **{name: tensor.to(device) for name, tensor in inputs.items()},
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.max_new_tokens,
        )
        return [self.prompts.decode(answer) for answer in answers]


def make_answerer(
    module: MmiclForConditionalGeneration, folder: Path, max_new_tokens: int
) -> MmiclAnswerer:
    """Answers by the tokenizer of a checkpoint's folder.

    Raises:
        DataError: there is none.
    """
    return MmiclAnswerer(module, read_tokenizer(folder), max_new_tokens)
