"""Malformed and foreign configurations: one sentence and a hint, never anything else.

Every key of every preset's configuration is taken away or replaced by what does not
belong there, and files are damaged as files get damaged. `estimate` may answer or
refuse with a MemplanError; anything else is a bug.
"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memplan import MemplanError, TrainingPlan, estimate
from memplan.errors import ModelConfigError
from memplan.models.catalogue import preset_names, read_preset

WRONG = [
    None,
    0,
    -1,
    1.5,
    float("nan"),
    "many",
    "",
    [],
    {},
    [1, 2],
    {"a": 1},
    10**30,
    True,
]
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def answers_or_refuses(path, **fields):
    """Estimate; True where it answered. Any other exception fails the test."""
    try:
        report = estimate(TrainingPlan(model=str(path), **fields))
    except MemplanError as error:
        assert error.message
        assert error.hint
        assert "\n" not in error.message
        return False
    assert report.components.total == report.peak.allocated_bytes
    assert min(report.components.weights, report.peak.requested_bytes) > 0
    return True


FROM_THE_END = ("vision_feature_layer",)
"""Keys of a place that may be counted from the last one."""


def corpus():
    """(preset, key, wrong value): more than 200 damaged configurations."""
    return [
        pytest.param(name, key, id=f"{name}-{key}")
        for name in preset_names()
        for key in read_preset(name)["config"]
    ]


def test_the_corpus_is_large():
    assert len(corpus()) * (len(WRONG) + 1) > 200


@pytest.mark.parametrize(("preset", "key"), corpus())
def test_a_damaged_key_is_answered_or_refused(preset, key, tmp_path):
    config = dict(read_preset(preset)["config"])
    file = tmp_path / "config.json"
    original = config.pop(key)
    file.write_text(json.dumps(config))
    answers_or_refuses(file)
    for wrong in WRONG:
        file.write_text(json.dumps({**config, key: wrong}))
        answered = answers_or_refuses(file)
        if isinstance(original, int) and not isinstance(original, bool):
            never = ("many", [], {}) if key in FROM_THE_END else (-1, "many", [], {})
            assert not (answered and wrong in never), wrong


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "42",
        '"llama"',
        "{}",
        '{"model_type": 7}',
        '{"model_type": null}',
        '{"model_type": "never-heard"}',
        '{"model_type": "llama"}',
        '{"model_type": "llama", "hidden_size": 64',
        "not json at all",
        "model_type: llama",
        '{"model_type": ["llama"]}',
        '{"architectures": ["LlamaForCausalLM"]}',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=lambda text: text[:24] or "empty",
)
def test_text_that_is_no_configuration_is_refused(text, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ModelConfigError) as refused:
        estimate(TrainingPlan(model=str(file)))
    assert refused.value.hint


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"\x80\x81", b"\x00" * 64, b"\x89PNG\r\n"], ids=repr
)
def test_bytes_that_are_no_text_are_refused(content, tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ModelConfigError):
        estimate(TrainingPlan(model=str(file)))


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(ModelConfigError, match=r"config\.json"):
        estimate(TrainingPlan(model=str(tmp_path)))


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 3},
        {"num_key_value_heads": 3},
        {"hidden_act": "never-heard"},
        {"attention_dropout": 2.0},
        {"attention_dropout": float("nan")},
        {"head_dim": 0},
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_built_is_refused(change, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**TINY, **change}))
    with pytest.raises(ModelConfigError):
        estimate(TrainingPlan(model=str(file)))


def test_keys_that_move_memory_and_are_not_read_are_named(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**TINY, "quantization_config": {"bits": 4}}))
    report = estimate(TrainingPlan(model=str(file)))
    assert any("quantization_config" in line for line in report.assumptions)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.dictionaries(
        st.sampled_from([*TINY, "num_key_value_heads", "head_dim", "sliding_window"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**70), 2**70),
            st.floats(),
            st.text(max_size=8),
            st.lists(st.integers(), max_size=2),
        ),
        max_size=4,
    )
)
def test_any_change_of_a_configuration_is_answered_or_refused(changes, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**TINY, **changes}))
    answers_or_refuses(file)


FIELD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**50), 2**50),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["lora", "all", "nf4", "int8", "fp32", "bf16-pure", "generate", "mme"]
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    fields=st.dictionaries(
        st.sampled_from(
            [
                name
                for name in TrainingPlan.__dataclass_fields__
                if name not in ("model", "parameters", "lora_targets", "revision")
            ]
        ),
        FIELD_VALUES,
        max_size=4,
    )
)
def test_any_plan_is_answered_or_refused(fields):
    try:
        estimate(TrainingPlan(model="llama-2-7b", **fields))
    except MemplanError as error:
        assert error.hint
