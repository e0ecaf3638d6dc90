"""Answers with a cache are those without one; beams find what greed misses."""

from itertools import product

import pytest

from memplan.errors import PlanError
from memplan.models import find_model

torch = pytest.importorskip("torch", reason="modules need torch")
pytest.importorskip("transformers", reason="their towers are transformers'")

from memplan.models.flamingo import module as flamingo  # noqa: E402
from memplan.models.flamingo.config import LanguageConfig  # noqa: E402
from memplan.models.flamingo.generation import Search, generate  # noqa: E402

VARIANTS = ["mpt", "gpt_neox", "chinchilla"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(model_type, vocab_size=40):
    """A Flamingo of few tokens, with open gates and weights that tell them apart."""
    from dataclasses import replace

    paper = model_type == "chinchilla"
    config = find_model("flamingo-tiny" if paper else "openflamingo-tiny").config
    text = LanguageConfig(
        model_type=model_type,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=vocab_size,
        max_position_embeddings=64,
    )
    config = replace(config, text_config=text, cross_attn_every_n_layers=1)
    model = flamingo.build(config, torch.float32, None).eval()
    for name, parameter in model.lang_encoder.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.constant_(parameter, 1.0)
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def prompts(model, lengths, num_pictures=2):
    """Prompts padded on the left, with two pictures in each."""
    L, size = max(lengths), model.config.image_size
    input_ids = torch.zeros(len(lengths), L, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    for row, length in enumerate(lengths):
        ids = torch.randint(3, 30, (length,))
        ids[[0, length // 2]] = model.media_token_id
        input_ids[row, L - length :] = ids
        mask[row, L - length :] = 1
    pictures = torch.randn(len(lengths), num_pictures, 1, 3, size, size)
    return {"input_ids": input_ids, "vision_x": pictures, "attention_mask": mask}


def counted(model, inputs):
    return (inputs["input_ids"] == model.media_token_id).cumsum(dim=1)


def without_cache(model, num_tokens, input_ids, vision_x):
    """Greedy, the whole text read anew for every token."""
    start = input_ids.shape[1]
    indices = (input_ids == model.media_token_id).cumsum(dim=1)
    for _ in range(num_tokens):
        logits = model(input_ids, vision_x, image_indices=indices).logits
        token = logits[:, -1].argmax(dim=-1, keepdim=True)
        indices = torch.cat([indices, indices[:, -1:]], dim=1)
        input_ids = torch.cat([input_ids, token], dim=1)
    return input_ids[:, start:].tolist()


@pytest.mark.parametrize("model_type", VARIANTS)
@torch.no_grad()
def test_a_cache_changes_no_answer_nor_does_padding(model_type):
    model = build(model_type)
    inputs = prompts(model, [9, 6, 4])
    answers = generate(model, Search(max_new_tokens=8), **inputs)
    for row, length in enumerate([9, 6, 4]):
        expected = without_cache(
            model,
            8,
            inputs["input_ids"][row : row + 1, 9 - length :],
            inputs["vision_x"][row : row + 1],
        )
        assert [answers[row]] == expected


@pytest.mark.parametrize("model_type", VARIANTS)
@torch.no_grad()
def test_a_token_of_the_answer_sees_the_last_picture(model_type):
    model = build(model_type)
    inputs = prompts(model, [6])
    output = model(**inputs, use_cache=True)
    token = torch.tensor([[5]])
    cached = model(token, past_key_values=output.past_key_values, use_cache=True)
    whole = model(
        torch.cat([inputs["input_ids"], token], dim=1), inputs["vision_x"]
    ).logits[:, -1:]
    assert torch.allclose(cached.logits, whole, atol=1e-5)
    assert output.past_key_values.image_index.tolist() == [[2]]


@torch.no_grad()
def test_pictures_are_looked_at_once(monkeypatch):
    model = build("mpt")
    calls = []
    encode = model.encode_vision
    monkeypatch.setattr(
        model, "encode_vision", lambda *args: calls.append(1) or encode(*args)
    )
    generate(model, Search(max_new_tokens=5), **prompts(model, [6, 6]))
    assert len(calls) == 1


@torch.no_grad()
def test_an_answer_stops_before_its_end_token():
    model = build("mpt")
    inputs = prompts(model, [6, 5])
    whole = generate(model, Search(max_new_tokens=6), **inputs)
    end = whole[0][2]
    found = generate(model, Search(max_new_tokens=6, end_token_ids=[end]), **inputs)
    for cut, answer in zip(found, whole, strict=True):
        stop = answer.index(end) if end in answer else None
        assert cut == answer[:stop]


@pytest.mark.parametrize("model_type", ["mpt", "chinchilla"])
@torch.no_grad()
def test_enough_beams_find_the_likeliest_answer(model_type):
    model = build(model_type, vocab_size=4)
    inputs = prompts(model, [4])
    inputs["input_ids"] %= 4
    ends = {1}
    answers = torch.tensor(list(product(range(4), repeat=3)))
    ids = torch.cat([inputs["input_ids"].expand(len(answers), -1), answers], dim=1)
    pictures = inputs["vision_x"].expand(len(answers), *[-1] * 5)
    # New tokens see the last picture, whatever they are.
    indices = torch.cat([counted(model, inputs), torch.full((1, 3), 2)], dim=1)
    logits = model(ids, pictures, image_indices=indices.expand(len(ids), -1)).logits
    costs = logits[:, 3:-1].log_softmax(-1).gather(-1, answers[..., None])[..., 0]
    scores = {}
    for answer, cost in zip(answers.tolist(), costs, strict=True):
        length = answer.index(1) + 1 if 1 in answer else 3
        scores[tuple(answer[:length])] = float(cost[:length].sum())
    best = max(scores, key=scores.get)
    search = Search(max_new_tokens=3, num_beams=16, end_token_ids=ends)
    found = generate(model, search, **inputs)[0]
    assert found == [token for token in best if token not in ends]


@torch.no_grad()
def test_beams_are_those_of_transformers():
    model = build("mpt")
    inputs = prompts(model, [7, 5])
    # Gates shut, it is an MPT, and transformers' own search can be asked.
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.zeros_(parameter)
    search = Search(max_new_tokens=6, num_beams=3)
    found = generate(model, search, **inputs)
    for layer in model.layers:
        layer.gated_cross_attn_layer = None
    expected = model.lang_encoder.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        num_beams=3,
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    assert found == expected[:, 7:].tolist()


def test_a_prompt_that_is_too_long_is_refused():
    model = build("mpt")
    with pytest.raises(PlanError, match="68 tokens"):
        generate(model, Search(max_new_tokens=60), **prompts(model, [8]))
