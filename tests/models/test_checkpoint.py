"""Checkpoints of memplan's own systems: what was saved is what is loaded."""

import json

import pytest

from memplan.errors import DataError

torch = pytest.importorskip("torch", reason="checkpoints are torch's")
pytest.importorskip("safetensors", reason="checkpoints are safetensors")

from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from memplan.models.checkpoint import load_weights, save_checkpoint  # noqa: E402


class Tied(nn.Module):
    """A head that shares its weight with a table, and a buffer."""

    def __init__(self, seed, width=4):
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(8, width)
        self.head = nn.Linear(width, 8, bias=False)
        self.head.weight = self.table.weight
        self.norm = nn.LayerNorm(width)
        self.register_buffer("map", torch.randn(3))


def same(one, other):
    mine, its = one.state_dict(), other.state_dict()
    return all(torch.equal(mine[name], its[name]) for name in mine)


def test_what_was_saved_is_loaded(tmp_path):
    saved, loaded = Tied(0), Tied(1)
    save_checkpoint(tmp_path / "new", saved, {"model_type": "tied"})
    load_weights(tmp_path / "new", loaded)
    assert same(saved, loaded)
    assert loaded.head.weight is loaded.table.weight
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config == {"model_type": "tied"}


def test_weights_come_in_the_dtype_of_the_model(tmp_path):
    save_checkpoint(tmp_path, Tied(0), {})
    loaded = Tied(1).to(torch.bfloat16)
    load_weights(tmp_path, loaded)
    assert torch.equal(loaded.norm.weight, Tied(0).norm.weight.to(torch.bfloat16))
    assert loaded.map.dtype == torch.bfloat16


def in_parts(folder):
    """A checkpoint in two files with an index, as a large one is saved."""
    weights = {name: w.clone() for name, w in Tied(0).state_dict().items()}
    names = sorted(weights)
    parts = {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
    places = {}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, folder / file)
        places |= dict.fromkeys(held, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return index


def test_several_files_are_one_checkpoint(tmp_path):
    in_parts(tmp_path)
    loaded = Tied(1)
    load_weights(tmp_path, loaded)
    assert same(Tied(0), loaded)


def test_a_missing_part_is_named(tmp_path):
    in_parts(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(DataError, match=r"no model-2\.safetensors"):
        load_weights(tmp_path, Tied(1))


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"other": 1}'])
def test_a_damaged_index_is_named(tmp_path, text):
    in_parts(tmp_path).write_text(text)
    with pytest.raises(DataError, match=r"index\.json is damaged"):
        load_weights(tmp_path, Tied(1))


def test_a_missing_weight_is_named(tmp_path):
    weights = {name: w.clone() for name, w in Tied(0).state_dict().items()}
    del weights["norm.bias"], weights["map"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"lacks the weight \S+ and 1 more"):
        load_weights(tmp_path, Tied(1))


def test_a_foreign_weight_is_named(tmp_path):
    weights = {name: w.clone() for name, w in Tied(0).state_dict().items()}
    save_file(weights | {"other": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="has the weight other"):
        load_weights(tmp_path, Tied(1))


def test_another_shape_is_named(tmp_path):
    save_checkpoint(tmp_path, Tied(0, width=6), {})
    with pytest.raises(DataError, match=r"is \[.*6.*\], and \[.*4.*\] in the model"):
        load_weights(tmp_path, Tied(1))


def test_a_damaged_file_is_named(tmp_path):
    save_checkpoint(tmp_path, Tied(0), {})
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match="is damaged"):
        load_weights(tmp_path, Tied(1))


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(DataError, match="has no weights"):
        load_weights(tmp_path, Tied(1))
