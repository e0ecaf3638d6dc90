"""A Flamingo that trains in seconds, and words for what it sees."""

from dataclasses import replace

import torch

from memplan.models import find_model
from memplan.models.flamingo import module as flamingo
from memplan.models.flamingo.data import Pages, Reading
from memplan.models.flamingo.miniature import COLORS
from memplan.models.flamingo.prompts import Writer

LOUDNESS = 10.0
"""A language model of initial weights could not say anything for certain."""


def words():
    """A tokenizer of a word for each colour."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["?", "</s>", "<s>", "<", "image", ">", *COLORS]
    vocabulary = {word: index for index, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="?",
        eos_token="</s>",
        bos_token="<s>",
    )


def small_model(name):
    """The preset with fewer words and visual tokens."""
    model = find_model(name)
    config = model.config
    return replace(
        model,
        config=replace(
            config,
            text_config=replace(config.text_config, vocab_size=64),
            resampler=replace(config.resampler, num_latents=8),
        ),
    )


def build(model):
    """The module, and what writes its texts."""
    torch.manual_seed(0)
    module = flamingo.build(model.config, torch.float32, None)
    module.get_input_embeddings().weight.data.mul_(LOUDNESS)
    writer = Writer(model.config, words())
    module.set_new_tokens(writer.eoc_id, writer.media_id)
    return module, writer


def pages(file, model, writer, **changes):
    """All of every page."""
    reading = Reading(**({"max_tokens": 64, "max_pictures": 3} | changes))
    return Pages(file, writer, model.config, reading)
