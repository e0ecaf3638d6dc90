"""Gemma, Gemma 2 and Gemma 3 against sums written by hand."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError, PlanError

D, F, N, H, G, K, V, L = 512, 1024, 6, 8, 2, 128, 2048, 512
GEMMA = {
    "model_type": "gemma",
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": N,
    "num_attention_heads": H,
    "num_key_value_heads": G,
    "head_dim": K,
    "vocab_size": V,
}


@pytest.fixture
def report(tmp_path):
    """The report of a plan for a changed configuration."""

    def of(changes=None, **fields):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**GEMMA, **(changes or {})}))
        fields = {"seq_len": L, "precision": "fp32", "gpu": "a100-80gb", **fields}
        return estimate(TrainingPlan(model=str(file), torch="2.14", **fields))

    return of


def saved(report, changes=None, **fields):
    """Bytes saved for backward when the forward pass ends, step 1."""
    first = next(p for p in report(changes, **fields).phases if p.phase == "loss")
    return first.end_allocated_bytes


def test_parameters_are_a_table_and_layers(report):
    layer = 2 * D * H * K + 2 * D * G * K + 3 * D * F + 2 * D
    assert report().model.parameters == V * D + N * layer + D
    sandwich = report({"model_type": "gemma2"}).model.parameters
    assert sandwich - report().model.parameters == N * 2 * D
    third = report({"model_type": "gemma3_text"}).model.parameters
    assert third - sandwich == N * 2 * K


def test_a_norm_saves_eight_bytes_an_element_in_half_precision(report):
    """The fp32 input and what is multiplied by 1 + weight; Llama's is 4 + 2."""
    pure = {"precision": "bf16-pure", "attn_implementation": "eager"}
    changes = {"model_type": "gemma2", "attn_logit_softcapping": None}
    changes["sliding_window"] = 2 * L
    two_more = saved(report, changes, **pure) - saved(report, **pure)
    tanh = 2 * L * V
    per_norm = 8 * L * D + 4 * L + 4 * D
    # One mask more, of the sliding window, lives no longer than the forward pass.
    assert two_more == pytest.approx(2 * N * per_norm + tanh, rel=0.05)


def test_capped_scores_save_a_tanh(report):
    capped = {"model_type": "gemma2", "final_logit_softcapping": None}
    plain = {**capped, "attn_logit_softcapping": None}
    assert saved(report, capped) - saved(report, plain) == N * 4 * H * L * L


def test_capped_logits_save_a_tanh(report):
    capped = {"model_type": "gemma3_text", "final_logit_softcapping": 30.0}
    plain = {"model_type": "gemma3_text"}
    assert saved(report, capped) - saved(report, plain) == 4 * L * V


def test_a_window_that_the_sequence_reaches_costs_its_layers_alone(report):
    """Five of six layers get a mask, and keys and values for every head."""
    windows = [
        saved(report, {"model_type": "gemma3_text", "sliding_window": size})
        for size in (L, L + 1)
    ]
    repeated = 2 * 4 * L * (H - G) * K
    assert windows[0] - windows[1] == 5 * (4 * L * L + repeated)


def test_one_key_value_head_is_expanded_without_a_copy(report):
    """A value is saved as it is; a key, rotated, too."""
    third = {"model_type": "gemma3_text", "sliding_window": L}
    one = {**third, "num_key_value_heads": 1}
    plain = [saved(report, {**some, "sliding_window": L + 1}) for some in (third, one)]
    masked = [saved(report, some) for some in (third, one)]
    assert masked[1] - plain[1] == 5 * 4 * L * L
    assert masked[0] - plain[0] > masked[1] - plain[1]


@pytest.mark.parametrize("checkpointing", ["full", "every-2", "every-4", "selective"])
def test_layers_of_two_kinds_are_checkpointed(report, checkpointing):
    changes = {"model_type": "gemma3_text", "sliding_window": 64}
    changes["num_hidden_layers"] = 14
    plain = report(changes)
    fewer = report(changes, activation_checkpointing=checkpointing)
    assert fewer.model == plain.model
    assert saved(report, changes, activation_checkpointing=checkpointing) < saved(
        report, changes
    )


def test_layer_types_are_read(report):
    types = ["full_attention"] * N
    plain = {"model_type": "gemma3_text", "sliding_window": 2 * L}
    full = {**plain, "sliding_window": 64, "layer_types": types}
    assert saved(report, full) < saved(report, {**plain, "sliding_window": 64})


@pytest.mark.parametrize("checkpointing", ["none", "every-2", "full"])
@pytest.mark.parametrize("order", ["ssfsff", "ffffss", "sfsfsf", "sfffff", "ssssss"])
def test_layers_in_any_order_save_what_each_saves(report, order, checkpointing):
    def of(kinds):
        names = {"s": "sliding_attention", "f": "full_attention"}
        types = [names[kind] for kind in kinds]
        changes = {"model_type": "gemma3_text", "sliding_window": 64}
        return saved(
            report,
            {**changes, "layer_types": types},
            activation_checkpointing=checkpointing,
        )

    def shared_by_layers(order):
        """What checkpoints hold of the mask; a second pair of cosines and sines."""
        mask = L * L if "s" in order and checkpointing != "none" else 0
        return mask + (2 * 4 * L * K if len(set(order)) == 2 else 0)

    base, every = of("f" * N), of("s" * N)
    kept = {"none": order, "every-2": order[1::2], "full": ""}[checkpointing]
    of_all = every - base - shared_by_layers("s")
    expected = len(kept) and of_all * kept.count("s") // len(kept)
    assert of(order) - base == expected + shared_by_layers(order)


@pytest.mark.parametrize("kernel", ["math", "efficient", "flash", "cudnn"])
def test_gemma_2_has_no_kernel(report, kernel):
    with pytest.raises(PlanError, match="Gemma 2 computes its attention step by step"):
        report({"model_type": "gemma2"}, attn_implementation=kernel)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 7}, "7 heads cannot share 2"),
        ({"head_dim": 33}, "odd"),
        ({"hidden_act": "never-heard"}, "never-heard"),
        ({"model_type": "gemma2", "hidden_activation": "never-heard"}, "never-heard"),
        ({"architectures": ["GemmaForSequenceClassification"]}, "not covered"),
        ({"use_bidirectional_attention": True}, "both directions"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "name 6 layers"),
        ({"model_type": "gemma2", "layer_types": ["what"] * N}, "layer_types"),
        ({"model_type": "gemma2", "sliding_window": None}, "no size"),
    ],
    ids=str,
)
def test_what_is_not_covered_is_refused(report, changes, message):
    with pytest.raises(ModelConfigError, match=message):
        report(changes)
