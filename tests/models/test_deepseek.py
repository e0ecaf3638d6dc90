"""DeepSeek-V2 and V3: latent attention, routed experts and shared ones."""

import json

import pytest
from built_models import counted_parameters, real_parameters

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError
from memplan.models import find_model

V3 = {
    "model_type": "deepseek_v3",
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 96,
    "kv_lora_rank": 64,
}
V2 = {**V3, "model_type": "deepseek_v2", "q_lora_rank": None}
PER_HEAD = 128 + 64


@pytest.fixture
def report(tmp_path):
    def of(config, **fields):
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config))
        fields = {"seq_len": 512, "precision": "fp32", "gpu": "a100-80gb", **fields}
        return estimate(TrainingPlan(model=str(file), torch="2.14", **fields))

    return of


@pytest.mark.parametrize(
    "config",
    [
        V3,
        V2,
        {**V2, "q_lora_rank": 96, "mlp_bias": True},
        {**V3, "attention_bias": True, "tie_word_embeddings": True},
        {**V3, "first_k_dense_replace": 0, "n_shared_experts": 2},
        {**V3, "first_k_dense_replace": 9, "v_head_dim": 64},
    ],
    ids=str,
)
def test_every_parameter_is_that_of_transformers(config):
    assert counted_parameters(config) == real_parameters(config)


def test_a_null_of_a_preset_is_that_of_its_config():
    assert find_model("deepseek-v2-lite").config.q_lora_rank is None
    assert find_model("deepseek-v3").config.q_lora_rank == 1536


def saved(report):
    """Bytes saved for backward when the loss is computed, step 1."""
    first = next(p for p in report.phases if p.phase == "loss")
    return first.end_allocated_bytes


def test_keys_and_values_are_expanded_for_every_head(report):
    """In training no latent is kept for them: each head has its own key and value."""
    few, many = (report({**V2, "v_head_dim": size}) for size in (64, 128))
    more_values = 4 * 4 * 512 * 4 * 64  # layers, fp32, tokens, heads
    more_parameters = 4 * (many.model.parameters - few.model.parameters)
    # The value and the output, both of them of each head.
    assert saved(many) - saved(few) - more_parameters >= 2 * more_values


def test_flash_takes_no_values_narrower_than_keys(report):
    with pytest.raises(PlanError, match="heads are 192 and 128"):
        report(V3, precision="bf16-pure", attn_implementation="flash")


def test_routed_experts_add_parameters_and_no_activations(report):
    few, many = (report({**V3, "n_routed_experts": experts}) for experts in (16, 32))
    more_parameters = 4 * (many.model.parameters - few.model.parameters)
    assert saved(many) - saved(few) == pytest.approx(more_parameters, rel=0.02)


def test_dense_layers_come_first(report):
    all_dense = report({**V3, "first_k_dense_replace": 4}).model.parameters
    one_sparse = report({**V3, "first_k_dense_replace": 3}).model.parameters
    D, F, M, E = 256, 512, 128, 16
    sparse = E * 3 * D * M + E * D + 3 * D * M
    assert one_sparse - all_dense == sparse - 3 * D * F


@pytest.mark.parametrize("mode", ["none", "full", "every-2", "selective"])
def test_checkpointing_keeps_the_parameters(report, mode):
    plain = report(V3).model
    assert report(V3, activation_checkpointing=mode).model == plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 2}, "4 heads with 2"),
        ({"qk_rope_head_dim": 63}, "odd"),
        ({"num_experts_per_tok": 17}, "17 of 16 experts"),
        ({"rope_interleave": False}, "rope_interleave"),
        ({"output_router_logits": True}, "router"),
        ({"hidden_act": "mish"}, "mish"),
        ({"architectures": ["DeepseekV3ForSequenceClassification"]}, "not covered"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused(report, changes, message):
    with pytest.raises(ModelConfigError, match=message):
        report({**V3, **changes})


def test_a_v2_without_experts_for_a_token_is_no_configuration(report):
    config = {key: value for key, value in V2.items() if key != "num_experts_per_tok"}
    with pytest.raises(ModelConfigError, match="num_experts_per_tok"):
        report(config)
