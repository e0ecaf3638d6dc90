"""A loss in parts is the loss, and its gradients are those of the whole."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from memplan.runner.training.loss import split_loss  # noqa: E402

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
}
TYPES = {
    "gpt2": {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "opt": {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1},
    "mpt": {"vocab_size": 96, "d_model": 32, "n_layers": 2, "n_heads": 4},
    **dict.fromkeys(
        ("llama", "mistral", "phi", "gpt_neox", "qwen2", "qwen3", "gemma"), SIZES
    ),
    "phi3": {**SIZES, "pad_token_id": 0},
    "mixtral": {**SIZES, "num_local_experts": 2},
}


@pytest.mark.parametrize("num_parts", [2, 5])
@pytest.mark.parametrize("model_type", TYPES)
def test_loss_and_gradients_are_those_of_the_whole(model_type, num_parts):
    config = transformers.AutoConfig.for_model(model_type, **TYPES[model_type])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.randint(2, 96, (2, 11))
    labels = tokens.masked_fill(torch.rand(2, 11) < 0.3, -100)

    def run():
        model.zero_grad()
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        return loss, {n: p.grad for n, p in model.named_parameters()}

    whole, expected = run()
    names = {name for name, _ in model.named_parameters()}
    split_loss(model, num_parts)
    loss, gradients = run()
    assert {name for name, _ in model.named_parameters()} == names
    torch.testing.assert_close(loss, whole)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, msg=name)
