"""A model built empty is filled: once where it is tied, with sane values, in place."""

import pytest

torch = pytest.importorskip("torch", reason="weights are tensors")
pytest.importorskip("accelerate", reason="accelerate builds a model empty")

from memplan.runner.training.weights import empty_parameters, materialise  # noqa: E402

CPU = torch.device("cpu")


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(50, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.head = torch.nn.Linear(8, 50, bias=True)
        self.register_buffer("places", torch.arange(3))


def test_parameters_are_on_meta_and_buffers_are_not():
    with empty_parameters(CPU):
        model = Tied()
    assert all(p.is_meta for p in model.parameters())
    assert model.places.tolist() == [0, 1, 2]


def test_a_tied_weight_is_made_once():
    with empty_parameters(CPU):
        model = Tied()
    model.head.weight = model.table.weight
    materialise(model, CPU)
    assert model.head.weight is model.table.weight


def test_values_are_those_of_an_untrained_model():
    with empty_parameters(CPU):
        model = Tied()
    model.table.requires_grad_(False)
    materialise(model, CPU)
    assert 0.01 < model.table.weight.std() < 0.03
    assert not model.table.weight.requires_grad
    assert torch.equal(model.norm.weight, torch.ones(8))
    assert torch.equal(model.norm.bias, torch.zeros(8))
    assert model.places.tolist() == [0, 1, 2]


def test_what_exists_is_left():
    with empty_parameters(CPU):
        model = Tied()
    model.norm = torch.nn.LayerNorm(8)
    weight = model.norm.weight
    materialise(model, CPU)
    assert model.norm.weight is weight
