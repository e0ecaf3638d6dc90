"""T5: a position bias that layers share, its gated MLP, and its head."""

import json

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import ModelConfigError
from memplan.formulas.backward import run_backward
from memplan.formulas.setting import Batch, Setting
from memplan.formulas.tape import Tape
from memplan.formulas.weights import Storing
from memplan.models.t5.config import T5Config
from memplan.models.t5.formula import forward

XL = {
    "d_model": 2048,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
XXL = {**XL, "d_model": 4096, "d_ff": 10240, "num_heads": 64}
SMALL = T5Config(dropout_rate=0.0)
BIASES = "SelfAttention.relative_attention_bias.weight"


@pytest.fixture
def plan(tmp_path):
    def make(config=None, **options):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"model_type": "t5", **(config or {})}))
        return TrainingPlan(model=str(file), torch="2.14", **options)

    return make


def trace(config, *, trainable=("",), seq_len=64, **setting):
    """A traced step in fp32 of 2 samples with 16 tokens to answer."""
    policy = Storing(dtype="fp32", trainable=trainable, frozen_dtype="fp32")
    tape = Tape(policy=policy, setting=Setting(**setting))
    batch = Batch(size=2, seq_len=seq_len, target_seq_len=16)
    loss = forward(tape, config, batch)
    tape.end_phase("loss")
    run_backward(tape, loss)
    tape.end_phase("backward")
    return tape


def saved_bytes(config, **options):
    tape = trace(config, **options)
    return next(p.end.saved_bytes for p in tape.phases if p.name == "loss")


@pytest.mark.parametrize(
    ("config", "published"), [(XL, 2_849_757_184), (XXL, 11_135_332_352)]
)
def test_flan_t5_has_its_published_parameters(plan, config, published):
    assert estimate(plan(config)).model.parameters == published


def test_a_tied_head_has_no_table_of_its_own(plan):
    tied = estimate(plan({**XL, "tie_word_embeddings": True})).model.parameters
    assert tied == 2_849_757_184 - 32128 * 2048 == 2_783_959_040


def test_version_1_0_has_one_projection_into_the_mlp(plan):
    D, F, H = 512, 2048, 8
    attention, norm = 4 * D * H * 64, D
    encoder = 6 * (attention + 2 * D * F + 2 * norm)
    decoder = 6 * (2 * attention + 2 * D * F + 3 * norm)
    total = 32128 * D + encoder + decoder + 2 * norm + 2 * 32 * H
    assert estimate(plan()).model.parameters == total == 60_506_624


def test_each_stack_has_one_table_of_biases():
    tape = trace(SMALL)
    biases = {name: p for name, p in tape.parameters.items() if name.endswith(BIASES)}
    assert {name.split(".")[0] for name in biases} == {"encoder", "decoder"}
    assert all(p.count == 1 and p.shape == (32, 8) for p in biases.values())


def test_every_trained_parameter_gets_a_gradient_of_its_size():
    tape = trace(SMALL)
    total = sum(p.num_elements * p.count for p in tape.parameters.values())
    assert tape.phases[-1].end.gradient_bytes == 4 * total


def test_eager_attention_saves_scores_but_no_bias():
    """Of 6 encoder layers the softmax, of 6 decoder layers that over the encoder's."""
    more = saved_bytes(SMALL, attention="eager", seq_len=128)
    more -= saved_bytes(SMALL, attention="eager", seq_len=64)
    scores = 4 * 2 * 8 * (128**2 - 64**2)
    cross_scores = 4 * 2 * 8 * 16 * (128 - 64)
    tokens = 2 * (128 - 64) * bytes_per_token()
    assert more == 6 * (scores + cross_scores) + BUCKETS + tokens


def test_fused_attention_saves_a_bias_for_all_samples_in_every_layer():
    """Copies of the learned one, and one tensor of zeros that decoder layers share."""
    more = saved_bytes(SMALL, seq_len=128) - saved_bytes(SMALL, seq_len=64)
    copies = 4 * 8 * (128**2 - 64**2)
    zeros = 4 * 8 * 16 * (128 - 64)
    log_sum_exp = 4 * 8
    tokens = 2 * (128 - 64) * (bytes_per_token() + 6 * log_sum_exp)
    assert more == 6 * copies + zeros + BUCKETS + tokens


BUCKETS = 8 * (128**2 - 64**2)
"""int64 buckets of pairs of positions, saved once for the gradient of their table."""


def bytes_per_token(D=512, F=2048):
    """fp32 bytes that a token of the encoder leaves behind, but for scores."""
    norm = 4 * D + 4 + 4 * D  # its input, the root, the normalised input
    attention = 4 * D + 3 * 4 * D + 4 * D  # input, query, key and value, output
    mlp = 4 * D + 4 * F  # its input, and the output of relu
    keys_and_values = 2 * 4 * D  # of a decoder layer
    encoder_output = 4 * D
    return 6 * (2 * norm + attention + mlp + keys_and_values) + norm + encoder_output


def test_generation_caches_keys_and_values_of_prompt_and_answer(plan):
    """Cross-attention keeps those of the prompt, self-attention those of the answer."""
    report = estimate(
        plan(
            XL,
            workload="generate",
            precision="bf16-pure",
            seq_len=512,
            max_new_tokens=64,
        )
    )
    cache = 2 * 24 * (32 * 64) * 2 * (512 + 64)
    assert report.components.functionality_specific == cache


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["T5EncoderModel"]}, "Training a T5EncoderModel"),
        ({"feed_forward_proj": "gated-mish"}, "'gated-mish'"),
    ],
)
def test_what_is_not_covered_is_refused(plan, config, message):
    with pytest.raises(ModelConfigError, match=message):
        estimate(plan(config))
