"""What moves memory and is not in the figures is said beside them."""

import pytest

from memplan import TrainingPlan, estimate


def lines_of(**fields):
    """Assumptions and what is not modelled, as one text each."""
    report = estimate(
        TrainingPlan(
            **{"model": "llama-2-7b", "trainable": "lora", "seq_len": 64} | fields
        )
    )
    return "\n".join(report.assumptions), "\n".join(report.unsupported)


def test_paged_states_are_named_as_outside_the_allocator():
    _, unsupported = lines_of(optim="paged_adamw_8bit")
    assert "paged optimizer states: unified memory outside the allocator" in unsupported


def test_outliers_of_an_8_bit_base_are_named_as_depending_on_the_data():
    _, unsupported = lines_of(quantization="int8")
    assert "outlier columns" in unsupported
    assert "outlier columns" not in lines_of(quantization="nf4")[1]


@pytest.mark.parametrize(
    ("precision", "others"),
    [
        ("bf16-mixed", "weights in fp32, as prepare_model_for_kbit_training leaves"),
        ("bf16-pure", "weights in bf16, as they were loaded"),
    ],
)
def test_the_recipe_of_a_quantized_base_is_said(precision, others):
    assumed, _ = lines_of(quantization="nf4", precision=precision)
    assert others in assumed


@pytest.mark.parametrize("optim", ["sgd", "rmsprop", "adam", "adagrad"])
def test_optimizers_that_would_copy_gradients_to_decay_say_so(optim):
    assert f"no weight decay: for it {optim} would copy" in lines_of(optim=optim)[0]


@pytest.mark.parametrize("optim", ["adamw", "adam_fused", "adafactor", "lion_8bit"])
def test_optimizers_that_decay_in_place_say_nothing(optim):
    assert "weight decay" not in lines_of(optim=optim)[0]
