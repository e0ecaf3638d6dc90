"""Every term of an estimate: the sums are those of the report, to the byte."""

from dataclasses import replace

import pytest
from explained import assert_adds_up, value_of

from memplan import TrainingPlan, estimate, from_json, to_json
from memplan.models.catalogue import preset_names

LLAMA = {
    "model": "llama-3.1-8b",
    "seq_len": 2048,
    "per_device_train_batch_size": 3,
    "gpu": "a100-80gb",
    "torch": "2.14",
}
SHARDED = [
    {"num_gpus": 8, "zero_stage": stage, "sharding": sharding, **more}
    for stage in (0, 1, 2, 3)
    for sharding in ("fsdp2", "deepspeed")
    for more in (
        {},
        {"gradient_accumulation_steps": 4},
        {"activation_checkpointing": "every-2"},
    )
]
OTHERS = [
    *({"optim": name} for name in ("adamw_fused", "adamw_8bit", "adafactor", "lion")),
    *({"precision": name} for name in ("fp32", "bf16-pure", "fp16-master")),
    *({"activation_checkpointing": name} for name in ("full", "selective", "every-3")),
    *({"attn_implementation": name} for name in ("eager", "math", "efficient")),
    {"trainable": "lora"},
    {"offload_activations": True},
    {"offload_activations": True, "activation_checkpointing": "full"},
    {
        "offload_activations": True,
        "activation_checkpointing": "full",
        "trainable": "lora",
    },
    {"cross_entropy_chunks": 3},
    {"cross_entropy_chunks": 8, "offload_activations": True, "precision": "fp32"},
    {"trainable": "lora", "quantization": "nf4"},
    {"trainable": "lora", "quantization": "int8", "precision": "fp16-mixed"},
    {"ema": True},
    {"offload_optimizer": True, "zero_stage": 2, "num_gpus": 4},
    {"offload_parameters": True, "zero_stage": 3, "num_gpus": 4},
    {"workload": "generate", "max_new_tokens": 100},
    {"tensor_parallel": 2, "num_gpus": 2},
    {"pipeline_parallel": 4, "num_gpus": 4, "gradient_accumulation_steps": 8},
    {"accounting": "zero"},
    {"accounting": "hf", "zero_stage": 3, "num_gpus": 8},
    {"context_bytes": 10**9},
]


def explained(**fields):
    """The report of a plan with its terms."""
    return estimate(TrainingPlan(**fields), explains=True)


def terms_of(report, component, name):
    """Those of a component whose name begins so."""
    return [
        term
        for term in report.explanation.terms
        if term.component == component and term.name.startswith(name)
    ]


@pytest.mark.parametrize("name", preset_names())
def test_the_terms_of_every_preset_add_up(name):
    assert_adds_up(explained(model=name))


@pytest.mark.parametrize("fields", [*SHARDED, *OTHERS], ids=str)
def test_the_terms_of_every_option_add_up(fields):
    assert_adds_up(explained(**LLAMA | fields))


@pytest.mark.parametrize(
    "preset", ["openflamingo-9b", "mmicl-flan-t5-xl", "blip2-flan-t5-xl"]
)
@pytest.mark.parametrize("mode", ["none", "full"])
def test_the_terms_of_several_towers_add_up(preset, mode):
    accumulated = {"gradient_accumulation_steps": 2, "zero_stage": 0, "num_gpus": 2}
    assert_adds_up(explained(model=preset, activation_checkpointing=mode))
    assert_adds_up(explained(model=preset, **accumulated))


@pytest.mark.parametrize("accounting", ["torch", "zero", "hf"])
@pytest.mark.parametrize("stage", [0, 3])
def test_the_terms_of_a_bare_count_add_up(accounting, stage):
    report = explained(
        parameters=7_500_000_001, accounting=accounting, zero_stage=stage, num_gpus=8
    )
    assert_adds_up(report)
    assert "7,500,000,001" in terms_of(report, "weights", "model states")[0].formula


def test_an_explanation_changes_nothing_else():
    plan = TrainingPlan(**LLAMA)
    report = estimate(plan, explains=True)
    assert estimate(plan).explanation is None
    assert replace(report, explanation=None) == estimate(plan)


def test_an_explanation_survives_json():
    report = explained(**LLAMA)
    assert from_json(to_json(report)) == report
    assert hash(report) == hash(from_json(to_json(report)))


def test_an_activation_of_repeated_layers_is_one_term():
    report = explained(**LLAMA)
    (term,) = terms_of(report, "activations", "model.layers.*.mlp.gate_proj linear")
    assert term.name.endswith(", saved for mlp silu")
    assert term.formula == "32 x b x s x f x 2 B = 32 x 3 x 2048 x 14336 x 2 B"
    assert term.bytes == 32 * 3 * 2048 * 14336 * 2
    assert report.explanation.letters["f"] == "inner size of the MLP, 14336"


def test_a_checkpointed_stack_keeps_the_inputs_of_its_layers():
    kept = {"activation_checkpointing": "full", "precision": "bf16-pure"}
    report = explained(**LLAMA | {"per_device_train_batch_size": 24}, **kept)
    (term,) = terms_of(report, "activations", "model.layers.* input")
    assert value_of(term.formula) == 32 * 24 * 2048 * 4096 * 2


def test_weights_are_parameters_times_bytes():
    (term,) = terms_of(explained(**LLAMA), "weights", "model.layers.*")
    assert term.formula == "32 x 218,112,000 x 4 B"


def test_a_shard_says_what_it_is_a_shard_of():
    report = explained(**LLAMA, num_gpus=8, zero_stage=3)
    (term,) = terms_of(report, "weights", "model.layers.*")
    assert term.name.endswith("this rank's shards of 6,979,584,000")
    assert term.formula == "32 x 27,264,000 x 4 B"


def test_a_4_bit_weight_is_halves_maxima_and_a_table():
    report = explained(**LLAMA, trainable="lora", quantization="nf4")
    largest = terms_of(report, "weights", "model.layers.*")[0]
    elements = 32 * 218_103_808
    assert largest.formula == (
        f"{elements // 2:,} + {elements // 64:,} x 4 + {32 * 7} x 64 B"
    )


def test_a_size_that_two_letters_could_stand_for_has_none():
    report = explained(**LLAMA | {"seq_len": 4096})
    assert not {"s", "h"} & set(report.explanation.letters)


def test_a_size_of_one_tower_lends_its_letter_to_no_other():
    # Hidden size of the language model, and inner size of the vision tower: 4096.
    report = explained(model="openflamingo-9b", workload="generate", max_new_tokens=8)
    assert not {"h", "f"} & set(report.explanation.letters)


def test_every_term_names_its_source():
    terms = explained(**LLAMA, num_gpus=8, zero_stage=3).explanation.terms
    assert all("memplan/" in term.source for term in terms)
    (silu,) = (t for t in explained(**LLAMA).explanation.terms if "mlp silu," in t.name)
    assert silu.source == ("derivatives.yaml; memplan/formulas/layers.py, activation")


def test_terms_stand_by_component_and_the_largest_first():
    terms = explained(**LLAMA).explanation.terms
    components = list(dict.fromkeys(term.component for term in terms))
    assert components[0] == "weights"
    assert components[-1] == "outside"
    for component in components:
        sizes = [term.bytes for term in terms if term.component == component]
        assert sizes == sorted(sizes, reverse=True)
