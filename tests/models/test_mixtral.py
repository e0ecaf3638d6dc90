"""Mixtral: experts whose rows are as many as tokens have choices."""

import json

import pytest
from built_models import counted_parameters, real_parameters

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError

D, F, N, H, G, V, E = 256, 512, 3, 8, 2, 1000, 8
SMALL = {
    "model_type": "mixtral",
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": N,
    "num_attention_heads": H,
    "num_key_value_heads": G,
    "vocab_size": V,
    "num_local_experts": E,
}
ATTENTION = 2 * D * D + 2 * D * D * G // H
LAYER = ATTENTION + E * 3 * D * F + E * D + 2 * D


@pytest.fixture
def report(tmp_path):
    def of(changes=None, **fields):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**SMALL, **(changes or {})}))
        fields = {"seq_len": 512, "precision": "fp32", "gpu": "a100-80gb", **fields}
        return estimate(TrainingPlan(model=str(file), torch="2.14", **fields))

    return of


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": None},
        {"head_dim": 64, "num_local_experts": 4, "num_experts_per_tok": 1},
    ],
    ids=str,
)
def test_every_parameter_is_that_of_transformers(changes):
    config = {**SMALL, **changes}
    assert counted_parameters(config) == real_parameters(config)


def test_parameters_are_those_of_all_experts(report):
    assert report().model.parameters == 2 * V * D + N * LAYER + D


def saved(report):
    """Bytes saved for backward when the loss is computed, step 1."""
    first = next(p for p in report.phases if p.phase == "loss")
    return first.end_allocated_bytes


def test_a_choice_more_saves_its_rows_and_what_the_expert_makes_of_them(report):
    L = 512
    one, two = (saved(report({"num_experts_per_tok": k})) for k in (1, 2))
    # Rows in and out, gate and up together, the activation, and their product.
    assert two - one == pytest.approx(N * 4 * L * (2 * D + 4 * F), rel=0.03)


def test_experts_that_nobody_could_choose_save_nothing(report):
    few, many = (report({"num_local_experts": experts}) for experts in (4, 8))
    more_parameters = 4 * (many.model.parameters - few.model.parameters)
    assert saved(many) - saved(few) == pytest.approx(more_parameters, rel=0.01)


def test_autocast_leaves_the_experts_in_fp32(report):
    """So mixed precision saves there what fp32 does, and not half of it."""
    pure, mixed = (saved(report(precision=p)) for p in ("bf16-pure", "bf16-mixed"))
    states = 2 * report().model.parameters
    assert mixed - pure - states > N * 2 * 2 * 512 * (2 * D + 4 * F)


def test_a_report_says_that_the_routing_decides_no_size(report):
    assert any("routing" in line for line in report().assumptions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 9}, "9 of 8 experts"),
        ({"output_router_logits": True}, "router"),
        ({"router_jitter_noise": 0.1}, "jitter"),
        ({"num_attention_heads": 7}, "7 heads"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused(report, changes, message):
    with pytest.raises(ModelConfigError, match=message):
        report(changes)
