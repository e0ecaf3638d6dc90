"""A tiny MMICL that reads bytes, and a reader of MIC for it."""

from dataclasses import replace

import pytest

from memplan.models import find_model
from memplan.models.mmicl.miniature import SIZE, byte_tokenizer
from memplan.models.mmicl.prompts import Prompts


@pytest.fixture(scope="module", autouse=True)
def small_tensors(one_thread):
    """Of every test here."""


@pytest.fixture(scope="session")
def config():
    """The preset's without dropout, and with a vocabulary of bytes."""
    config = find_model("mmicl-tiny").config
    return replace(
        config,
        qformer_config=replace(
            config.qformer_config,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        text_config=replace(config.text, vocab_size=384, dropout_rate=0.0),
    )


@pytest.fixture(scope="session")
def prompts(config):
    return Prompts(byte_tokenizer(), config.num_query_tokens, config.text.vocab_size)


@pytest.fixture(scope="session")
def new_model(config, prompts):
    """Makes a model with the same initial weights each time."""
    import torch

    from memplan.models.mmicl import module

    def build():
        torch.manual_seed(0)
        model = module.build(config, torch.float32, None)
        model.set_placeholder(prompts.placeholder_id)
        # A pretrained T5 looks at close and at far tokens by different heads; from
        # the flat biases of a new one, positions take thousands of steps to learn.
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name:
                torch.nn.init.normal_(parameter, std=3.0)
        return model

    return build


@pytest.fixture(scope="session")
def read(prompts):
    """Reads a file of MIC for that model."""
    from memplan.models.mmicl.data import Mic

    def mic(file, **options):
        return Mic(file, prompts, SIZE, **options)

    return mic
