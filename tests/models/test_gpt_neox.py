"""GPT-NeoX and Pythia against sums written by hand."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError

D, F, N, H, V, L = 512, 2048, 4, 8, 2048, 512
NEOX = {
    "model_type": "gpt_neox",
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": N,
    "num_attention_heads": H,
    "vocab_size": V,
}


@pytest.fixture
def report(tmp_path):
    """The report of a plan for a changed configuration."""

    def of(changes=None, **fields):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**NEOX, **(changes or {})}))
        fields = {"seq_len": L, "precision": "fp32", "gpu": "a100-80gb", **fields}
        return estimate(TrainingPlan(model=str(file), torch="2.14", **fields))

    return of


def saved(report, changes=None, **fields):
    """Bytes saved for backward when the forward pass ends, step 1."""
    first = next(p for p in report(changes, **fields).phases if p.phase == "loss")
    return first.end_allocated_bytes


@pytest.mark.parametrize(
    ("changes", "less"),
    [
        ({}, 0),
        ({"tie_word_embeddings": True}, V * D),
        ({"attention_bias": False}, N * 4 * D),
        ({"use_parallel_residual": False}, 0),
    ],
    ids=str,
)
def test_parameters_are_two_tables_and_layers(report, changes, less):
    layer = 4 * (D * D + D) + 2 * D * F + F + D + 4 * D
    total = 2 * V * D + N * layer + 2 * D
    assert report(changes).model.parameters == total - less


def test_one_after_the_other_saves_the_sum_between_them(report):
    """Beside each other attention and MLP read one input; else the MLP reads a sum."""
    after = saved(report, {"use_parallel_residual": False})
    assert after - saved(report) == N * 4 * L * D


def test_query_and_key_in_head_order_need_no_copy(report):
    """Step by step: the value alone is copied, as are all three of Llama."""
    two = {"per_device_train_batch_size": 2, "attn_implementation": "eager"}
    one = {"per_device_train_batch_size": 1, "attn_implementation": "eager"}
    per_sample = saved(report, **two) - saved(report, **one)
    kernel = saved(report, per_device_train_batch_size=2) - saved(report)
    scores = N * 4 * H * L * L
    # Both keep query, key and value; the kernel its output and row sums too.
    assert per_sample - kernel < scores + N * 4 * L * D


def test_dropouts_save_a_byte_an_element(report):
    dropped = saved(report, {"hidden_dropout": 0.1})
    assert dropped - saved(report) == (2 * N + 1) * L * D


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 7}, "7 heads"),
        ({"rotary_pct": 0.33}, "odd"),
        ({"hidden_act": "never-heard"}, "never-heard"),
        ({"architectures": ["GPTNeoXForQuestionAnswering"]}, "not covered"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused(report, changes, message):
    with pytest.raises(ModelConfigError, match=message):
        report(changes)
