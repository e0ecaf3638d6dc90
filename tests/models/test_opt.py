"""OPT against sums written by hand."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError

D, F, N, H, V, P, L = 512, 2048, 4, 8, 2048, 1024, 512
OPT = {
    "model_type": "opt",
    "hidden_size": D,
    "ffn_dim": F,
    "num_hidden_layers": N,
    "num_attention_heads": H,
    "vocab_size": V,
    "max_position_embeddings": P,
}
LAYER = 4 * (D * D + D) + 2 * D * F + F + D + 4 * D
TOTAL = V * D + (P + 2) * D + N * LAYER + 2 * D


@pytest.fixture
def report(tmp_path):
    """The report of a plan for a changed configuration."""

    def of(changes=None, **fields):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**OPT, **(changes or {})}))
        fields = {"seq_len": L, "precision": "fp32", "gpu": "a100-80gb", **fields}
        return estimate(TrainingPlan(model=str(file), torch="2.14", **fields))

    return of


def saved(report, changes=None, **fields):
    """Bytes saved for backward when the forward pass ends, step 1."""
    first = next(p for p in report(changes, **fields).phases if p.phase == "loss")
    return first.end_allocated_bytes


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({}, 0),
        ({"tie_word_embeddings": False}, V * D),
        ({"word_embed_proj_dim": D}, 0),
        ({"word_embed_proj_dim": D // 2}, -V * D // 2 + D * D),
        ({"do_layer_norm_before": False}, -2 * D),
        ({"enable_bias": False}, -N * (5 * D + F)),
        ({"layer_norm_elementwise_affine": False}, -(4 * N + 2) * D),
    ],
    ids=str,
)
def test_parameters_are_words_positions_and_layers(report, changes, more):
    assert report(changes).model.parameters == TOTAL + more


def test_dropouts_save_a_byte_an_element(report):
    plain = saved(report, {"dropout": 0.0})
    assert saved(report) - plain == 2 * N * L * D


def test_the_relu_is_saved_once_for_itself_and_the_next_layer(report):
    """GELU saves its input beside what the next layer reads."""
    gelu = saved(report, {"activation_function": "gelu"})
    assert gelu - saved(report) == N * 4 * L * F


def test_a_sequence_is_no_longer_than_its_positions(report):
    from memplan.errors import PlanError

    with pytest.raises(PlanError, match="longer"):
        report(seq_len=P + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 7}, "7 heads"),
        ({"activation_function": "never-heard"}, "never-heard"),
        ({"layerdrop": 0.1}, "left out at random"),
        ({"architectures": ["OPTForSequenceClassification"]}, "not covered"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused(report, changes, message):
    with pytest.raises(ModelConfigError, match=message):
        report(changes)
