"""Llama, Mistral, Qwen2 and Qwen3 against sums written by hand."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError

D, F, N, H, G, V = 512, 1024, 4, 8, 2, 2048
K = D // H
LLAMA = {
    "model_type": "llama",
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": N,
    "num_attention_heads": H,
    "num_key_value_heads": G,
    "vocab_size": V,
    "max_position_embeddings": 8192,
}
ATTENTION = 2 * D * H * K + 2 * D * G * K
LAYER = ATTENTION + 3 * D * F + 2 * D
BODY = N * LAYER + D


@pytest.fixture
def report(tmp_path):
    """The report of a plan for a changed configuration."""

    def of(changes=None, **fields):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**LLAMA, **(changes or {})}))
        fields = {"seq_len": 512, "precision": "fp32", "gpu": "a100-80gb", **fields}
        return estimate(TrainingPlan(model=str(file), torch="2.14", **fields))

    return of


# Parameters


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({}, V * D),
        ({"tie_word_embeddings": True}, 0),
        ({"num_key_value_heads": None}, V * D + N * 2 * D * (H - G) * K),
        ({"head_dim": 32}, V * D - N * ATTENTION // 2),
        ({"attention_bias": True}, V * D + N * (H * K + 2 * G * K + D)),
        ({"mlp_bias": True}, V * D + N * (2 * F + D)),
        ({"model_type": "mistral"}, V * D),
        ({"model_type": "qwen2"}, V * D + N * (H + 2 * G) * K),
        ({"model_type": "qwen3", "head_dim": K}, V * D + N * 2 * K),
    ],
    ids=str,
)
def test_parameters_are_embeddings_layers_and_head(report, changes, more):
    assert report(changes).model.parameters == V * D + BODY + more


def test_fields_of_another_model_type_are_left_aside(report):
    plain = report({"model_type": "mistral"}).model.parameters
    biased = {"model_type": "mistral", "attention_bias": True, "mlp_bias": True}
    assert report(biased).model.parameters == plain


@pytest.mark.parametrize(
    ("model_type", "key_value_heads"), [("llama", H), ("mistral", 8), ("qwen2", 32)]
)
def test_absent_key_value_heads_are_those_of_transformers(
    report, tmp_path, model_type, key_value_heads
):
    named = {"model_type": model_type, "num_attention_heads": 64}
    if model_type == "llama":
        named["num_attention_heads"] = key_value_heads
    expected = report({**named, "num_key_value_heads": key_value_heads})
    absent = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
    file = tmp_path / "absent.json"
    file.write_text(json.dumps({**absent, **named}))
    actual = estimate(TrainingPlan(model=str(file), seq_len=512))
    assert actual.model.parameters == expected.model.parameters


def test_a_head_of_qwen3_has_128_unless_told(report):
    absent = report({"model_type": "qwen3"}).model.parameters
    told = report({"model_type": "qwen3", "head_dim": 128}).model.parameters
    assert absent == told


# Attention


def saved(report, changes=None, **fields):
    """Bytes saved for backward when the forward pass ends, step 1."""
    first = next(p for p in report(changes, **fields).phases if p.phase == "loss")
    return first.end_allocated_bytes


def test_a_window_that_the_sequence_reaches_costs_a_mask_a_layer(report):
    L = 1024
    windows = [
        saved(report, {"model_type": "mistral", "sliding_window": size}, seq_len=L)
        for size in (L, L + 1)
    ]
    # In fp32 the mask that is added; key and value are repeated for all heads too.
    repeated = 2 * 4 * L * (H - G) * K
    assert windows[0] - windows[1] == N * (4 * L * L + repeated)


@pytest.mark.parametrize("sliding_window", [None, 4096])
def test_qwen_leaves_its_window_aside_unless_it_is_used(report, sliding_window):
    changes = {"model_type": "qwen2", "sliding_window": sliding_window}
    plain = saved(report, {"model_type": "qwen2"}, seq_len=8192)
    assert saved(report, changes, seq_len=8192) == plain


def test_a_window_in_all_layers_of_qwen_is_a_window(report):
    used = {"layer_types": ["sliding_attention"] * N, "sliding_window": 512}
    everywhere = saved(report, {"model_type": "qwen2", **used})
    assert everywhere > saved(report, {"model_type": "qwen2"})


def test_eager_attention_saves_scores_of_every_head(report):
    L = 512
    more = saved(report, attn_implementation="eager") - saved(report)
    # The softmax; copies of q, k and v for all heads are saved in either case or less.
    assert more > N * 4 * H * L * L


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attn_implementation": "flash"}, "flash attention .* fp16 or bf16"),
        (
            {"attn_implementation": "flash", "gpu": "t4", "precision": "fp16-mixed"},
            r"model\.layers\.\*\.self_attn.* capability 8\.0",
        ),
        (
            {"attn_implementation": "efficient", "gpu": "t4", "precision": "bf16-pure"},
            "in bf16",
        ),
        ({"attn_implementation": "cudnn"}, "cudnn attention .* fp16 or bf16"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused(report, fields, message):
    with pytest.raises(PlanError, match=message) as refused:
        report(**fields)
    assert "--attn-implementation auto" in refused.value.hint


def test_one_layer_with_a_sequence_of_32k_saves_no_scores(report):
    L = 32768
    changes = {"num_hidden_layers": 1, "max_position_embeddings": L, "vocab_size": 32}
    bytes_saved = report(changes, seq_len=L).components.activations
    assert bytes_saved < 4 * H * L * L / 16


# Checkpointing


@pytest.mark.parametrize("precision", ["fp32", "bf16-pure"])
def test_more_is_kept_from_full_to_selective_to_no_checkpointing(report, precision):
    modes = ("full", "every-2", "none")
    sizes = [
        saved(report, precision=precision, activation_checkpointing=mode)
        for mode in modes
    ]
    assert sizes == sorted(sizes)
    selective = saved(report, precision=precision, activation_checkpointing="selective")
    assert sizes[0] < selective < sizes[-1]


@pytest.mark.parametrize("every", [2, 3, 5])
def test_every_n_has_the_parameters_of_all_layers(report, every):
    changes = {"num_hidden_layers": 7}
    plain = report(changes).model
    grouped = report(changes, activation_checkpointing=f"every-{every}").model
    assert grouped == plain


def test_layers_are_named_the_same_for_every_n(report):
    pattern = r"layers\.\*\.mlp\.up_proj"
    for mode in ("none", "every-2", "every-3"):
        model = report(trainable=pattern, activation_checkpointing=mode).model
        assert model.trainable_parameters == N * D * F


# The loss


def test_the_logits_of_a_large_vocabulary_are_the_peak(report):
    V, L = 150_000, 2048
    peak = report({"vocab_size": V}, seq_len=L, optim="sgd").peak
    assert peak.phase == "backward"
    assert peak.module.endswith("log_softmax")
    assert peak.requested_bytes > 3 * 4 * L * V


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 7}, "7 heads"),
        ({"num_key_value_heads": 3}, "3 key-value heads"),
        ({"head_dim": 33}, "odd"),
        ({"hidden_act": "never-heard"}, "never-heard"),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 2},
            "sliding window",
        ),
        (
            {
                "model_type": "qwen3",
                "layer_types": ["full_attention", "sliding_attention"] * 2,
            },
            "sliding window",
        ),
        ({"architectures": ["LlamaForSequenceClassification"]}, "not covered"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused(report, changes, message):
    with pytest.raises(ModelConfigError, match=message):
        report(changes)
