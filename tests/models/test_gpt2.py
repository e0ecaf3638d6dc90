"""GPT-2 against sums written by hand."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError


def parameters(V, P, D, N):
    """wte, wpe, N blocks of two norms, 3D + D and 4D + D projections, last norm."""
    block = 2 * 2 * D + (3 * D * D + 3 * D) + (D * D + D)
    block += (4 * D * D + 4 * D) + (4 * D * D + D)
    return V * D + P * D + N * block + 2 * D


@pytest.mark.parametrize(("name", "D", "N"), [("gpt2", 768, 12), ("gpt2-xl", 1600, 48)])
def test_parameters_are_those_of_the_paper_s_shape(name, D, N):
    report = estimate(TrainingPlan(model=name))
    assert report.model.parameters == parameters(50257, 1024, D, N)


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "gpt2", "n_embd": 768, "n_head": 7}))
    with pytest.raises(ModelConfigError, match="7 heads"):
        estimate(TrainingPlan(model=str(file)))


def test_generation_keeps_a_cache_of_two_vectors_a_layer_and_token():
    plan = TrainingPlan(
        model="gpt2",
        workload="generate",
        seq_len=100,
        max_new_tokens=28,
        per_device_train_batch_size=3,
        precision="bf16-pure",
    )
    report = estimate(plan)
    cache_bytes = 2 * 12 * 768 * 2 * (100 + 28) * 3
    assert report.components.functionality_specific == cache_bytes


def test_attention_scores_are_saved_by_eager_code_alone():
    def activations(kernel):
        plan = TrainingPlan(
            model="gpt2", attn_implementation=kernel, precision="fp32", gpu="a100-80gb"
        )
        return estimate(plan).components.activations

    L, H, N = 1024, 12, 12
    softmax, dropped, mask = 4 * H * L * L, 4 * H * L * L, H * L * L
    saved_more = activations("eager") - activations("efficient")
    assert saved_more > N * (softmax + dropped + mask) - 2**20
