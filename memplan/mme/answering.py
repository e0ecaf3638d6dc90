"""Who answers: pictures with a question each in, texts out.

A system takes part with a module `memplan.models.<system>.answering` that has

    def make_answerer(module, folder, max_new_tokens) -> Answerer

where `module` is its model with the weights of a checkpoint, in eval mode, on the
device and in the dtype that were asked for, and `folder` is that checkpoint, for a
tokenizer. It is called under no_grad and, where the precision is a mixed one, autocast:
so it only has to write the prompts, generate greedily, and decode. Where the system is
found is `MODULES`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

MODULES = {
    "blip-2": "memplan.models.blip2.answering",
    "flamingo": "memplan.models.flamingo.answering",
    "instructblip": "memplan.models.blip2.answering",
    "mmicl": "memplan.models.mmicl.answering",
}
"""What makes the answerer of a config.json's model_type."""


class Answerer(Protocol):
    """A model that answers questions about pictures."""

    def answer(self, images: "Sequence[Image]", questions: Sequence[str]) -> list[str]:
        """One response to each question about the image in the same place.

        Greedy: the same batch gets the same responses. They come without the prompt,
        without special tokens and without space around them.
        """
        ...
