"""Phi and Phi-3 against sums written by hand."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError

D, F, N, H, G, V, L = 512, 1024, 4, 8, 2, 2048, 512
K = D // H
SIZES = {
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": N,
    "num_attention_heads": H,
    "num_key_value_heads": G,
    "vocab_size": V,
}
PHI = {"model_type": "phi", **SIZES}
PHI3 = {"model_type": "phi3", **SIZES}


@pytest.fixture
def report(tmp_path):
    """The report of a plan for a changed configuration."""

    def of(config, changes=None, **fields):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**config, **(changes or {})}))
        fields = {"seq_len": L, "precision": "fp32", "gpu": "a100-80gb", **fields}
        return estimate(TrainingPlan(model=str(file), torch="2.14", **fields))

    return of


def saved(report, config, changes=None, **fields):
    """Bytes saved for backward when the forward pass ends, step 1."""
    phases = report(config, changes, **fields).phases
    return next(p for p in phases if p.phase == "loss").end_allocated_bytes


def test_phi_has_biases_one_norm_a_layer_and_a_head_of_its_own(report):
    projections = 2 * (D * D + D) + 2 * (D * G * K + G * K)
    layer = projections + 2 * D * F + F + D + 2 * D
    total = 2 * V * D + V + N * layer + 2 * D
    assert report(PHI).model.parameters == total


def test_phi_3_is_llama_with_fused_projections(report):
    fused = report(PHI3).model.parameters
    assert fused == report({**SIZES, "model_type": "llama"}).model.parameters


@pytest.mark.parametrize("config", [PHI, PHI3], ids=["phi", "phi3"])
def test_the_rotated_part_may_stand_among_the_rope_parameters(report, config):
    factor = {"partial_rotary_factor": 0.25}
    new = {"rope_parameters": {"rope_type": "default", **factor}}
    assert saved(report, config, factor) == saved(report, config, new)


@pytest.mark.parametrize("config", [PHI, PHI3], ids=["phi", "phi3"])
def test_a_flash_output_in_head_order_is_copied_to_rows(report, config):
    """Efficient attention gives rows, its row sums padded to 32: here no more."""
    kernels = [
        saved(report, config, precision="bf16-pure", attn_implementation=kernel)
        for kernel in ("flash", "efficient")
    ]
    assert kernels[0] - kernels[1] == N * 2 * L * D


@pytest.mark.parametrize(
    ("config", "times"), [(PHI, 2), (PHI3, 2)], ids=["phi", "phi3"]
)
def test_dropouts_save_a_byte_an_element(report, config, times):
    more = saved(report, config, {"resid_pdrop": 0.1}) - saved(report, config)
    assert more == times * N * L * D


def test_a_window_that_the_sequence_reaches_costs_a_mask_a_layer(report):
    windows = [saved(report, PHI3, {"sliding_window": size}) for size in (L, L + 1)]
    # In fp32 the mask that is added. Key and value are repeated for all heads, and the
    # value is then no view any more that holds the whole projection.
    repeated = 2 * 4 * L * H * K
    fused = 4 * L * (H + 2 * G) * K
    assert windows[0] - windows[1] == N * (4 * L * (L - G * K) + repeated - fused)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (PHI, {"num_attention_heads": 7}, "7 heads"),
        (PHI, {"partial_rotary_factor": 0.33}, "odd"),
        (PHI, {"hidden_act": "never-heard"}, "never-heard"),
        (PHI, {"qk_layernorm": True}, "qk_layernorm"),
        (PHI, {"architectures": ["PhiForTokenClassification"]}, "not covered"),
        (PHI3, {"num_key_value_heads": 3}, "3 key-value heads"),
        (PHI3, {"partial_rotary_factor": 0.33}, "odd"),
        (PHI3, {"hidden_act": "never-heard"}, "never-heard"),
        (PHI3, {"architectures": ["Phi3ForSequenceClassification"]}, "not covered"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused(report, config, changes, message):
    with pytest.raises(ModelConfigError, match=message):
        report(config, changes)
