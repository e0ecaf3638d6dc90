"""MPT against sums written by hand."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError

D, N, H, V, L = 512, 4, 8, 2048, 512
MPT = {
    "model_type": "mpt",
    "d_model": D,
    "n_heads": H,
    "n_layers": N,
    "vocab_size": V,
}


@pytest.fixture
def report(tmp_path):
    """The report of a plan for a changed configuration."""

    def of(changes=None, **fields):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**MPT, **(changes or {})}))
        fields = {"seq_len": L, "precision": "fp32", "gpu": "a100-80gb", **fields}
        return estimate(TrainingPlan(model=str(file), torch="2.14", **fields))

    return of


def saved(report, changes=None, **fields):
    """Bytes saved for backward when the forward pass ends, step 1."""
    first = next(p for p in report(changes, **fields).phases if p.phase == "loss")
    return first.end_allocated_bytes


def test_parameters_are_a_table_and_layers_without_biases(report):
    total = V * D + N * (12 * D * D + 2 * D) + D
    assert report().model.parameters == total
    untied = report({"tie_word_embeddings": False}).model.parameters
    assert untied == total + V * D


def test_dropouts_save_a_byte_an_element_of_scores_and_states(report):
    dropped = saved(report, {"attn_config": {"attn_pdrop": 0.1}})
    # What was dropped of the weights is saved beside the softmax, for the product.
    scores = H * L * L * (1 + 4)
    assert dropped - saved(report) == N * (2 * L * D + scores)


def test_its_attention_is_step_by_step_by_itself(report):
    assert saved(report) == saved(report, attn_implementation="eager")


@pytest.mark.parametrize("kernel", ["math", "efficient", "flash", "cudnn"])
def test_it_has_no_kernel(report, kernel):
    with pytest.raises(PlanError, match="MPT computes its attention step by step"):
        report(attn_implementation=kernel)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 7}, "7 heads"),
        ({"attn_config": {"clip_qkv": 8.0}}, "Clipped"),
        ({"attn_config": {"attn_pdrop": 2}}, "attn_pdrop"),
        ({"architectures": ["MptForTokenClassification"]}, "not covered"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused(report, changes, message):
    with pytest.raises(ModelConfigError, match=message):
        report(changes)
