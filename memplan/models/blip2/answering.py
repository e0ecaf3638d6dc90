"""Answers questions with a BLIP-2 or InstructBLIP of transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPTS = {
    "blip-2": "Question: {} Answer:",
    "instructblip": "{}",
}
"""As the papers ask: BLIP-2 in a frame, InstructBLIP as it stands."""


class Blip2Answerer:
    """An `Answerer`: one picture before each question."""

    def __init__(self, module: Any, processor: Any, max_new_tokens: int) -> None:
        self.module = module
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self._prompt = PROMPTS[module.config.model_type]
        language = module.language_model.config
        self._repeats_prompt = not language.is_encoder_decoder
        if self._repeats_prompt:
            # The answer follows the last token, so what pads goes before the first.
            processor.tokenizer.padding_side = "left"

    def answer(self, images: "Sequence[Image]", questions: Sequence[str]) -> list[str]:
        """One response to each question about the image in the same place."""
        inputs = self.processor(
            images=list(images),
            text=[self._prompt.format(question) for question in questions],
            padding=True,
            return_tensors="pt",
        ).to(self.module.device, self.module.dtype)
        tokens = self.module.generate(
            **inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens
        )
        if self._repeats_prompt:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]


def make_answerer(module: Any, folder: Path, max_new_tokens: int) -> Blip2Answerer:
    """Answers by the processor that a checkpoint's folder has.

    Raises:
        DataError: there is none, or it is another model's.
    """
    from transformers import Blip2Processor, InstructBlipProcessor

    is_blip2 = module.config.model_type == "blip-2"
    cls = Blip2Processor if is_blip2 else InstructBlipProcessor
    try:
        processor = cls.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{folder} has no {cls.__name__} that can be read: {_first_line(error)}.",
            hint="Save the processor beside the weights: save_pretrained(folder).",
        ) from error
    if processor.num_query_tokens is None:
        processor.num_query_tokens = module.config.num_query_tokens
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    if image_token != module.config.image_token_id:
        raise DataError(
            f"<image> is token {image_token} of the tokenizer in {folder}, and token "
            f"{module.config.image_token_id} of the model.",
            hint="Correct image_token_id in its config.json.",
        )
    return Blip2Answerer(module, processor, max_new_tokens)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
