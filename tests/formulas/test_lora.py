"""Adapters beside frozen layers, plain and quantized, by hand arithmetic."""

import pytest

from memplan import TrainingPlan, estimate
from memplan.errors import PlanError, UnknownNameError
from memplan.formulas.backward import run_backward
from memplan.formulas.layers import embedding, scale, token_embedding
from memplan.formulas.linear import linear
from memplan.formulas.setting import LowRank, Setting
from memplan.formulas.stacks import repeat_layers
from memplan.formulas.tape import Tape
from memplan.formulas.weights import Storing

ROWS, K, N, R = 6, 64, 32, 4
"""Rows of the input, features in and out, rank."""


def tape_of(
    dtype="bf16",
    autocast=None,
    quantization="none",
    rank=R,
    dropout=0.0,
    checkpointing="none",
):
    """A tape on which every linear layer is frozen, and adapted where rank is not 0."""
    return Tape(
        policy=Storing(
            dtype=dtype,
            trainable=(),
            frozen_dtype=dtype,
            compute_dtype=autocast or dtype,
            quantization=quantization,
        ),
        setting=Setting(
            autocast=autocast,
            checkpointing=checkpointing,
            quantization=quantization,
            low_rank=LowRank(rank=rank, targets=("q_proj",), dropout=dropout)
            if rank
            else None,
        ),
    )


def saved_bytes(tape, dtype="bf16"):
    """What a layer holds for backward beside its input."""
    x = tape.require_gradient(tape.tensor((ROWS, K), dtype))
    before = tape.live.saved_bytes
    y = linear(tape, "q_proj", x, N, bias=False)
    assert y.shape == (ROWS, N)
    return tape.live.saved_bytes - before


def test_a_frozen_layer_saves_no_activation():
    assert saved_bytes(tape_of(rank=0)) == 0


def test_beside_a_bf16_layer_the_input_is_saved_in_fp32_and_so_is_the_low_rank():
    assert saved_bytes(tape_of()) == 4 * ROWS * K + 4 * ROWS * R


def test_dropout_saves_a_mask_beside_what_it_let_through():
    assert saved_bytes(tape_of(dropout=0.1)) == (4 * ROWS * K + ROWS * K + 4 * ROWS * R)


def test_autocast_saves_activations_in_bf16():
    tape = tape_of("fp32", autocast="bf16")
    assert saved_bytes(tape, "fp32") == 2 * ROWS * K + 2 * ROWS * R


def test_autocast_keeps_casts_of_the_frozen_weight_and_of_the_adapters():
    tape = tape_of("fp32", autocast="bf16")
    saved_bytes(tape, "fp32")
    assert tape.live.temporary_bytes == 2 * N * K + 2 * R * K + 2 * N * R


def test_a_4_bit_layer_saves_nothing():
    assert saved_bytes(tape_of(quantization="nf4", rank=0)) == 0


def test_under_autocast_a_4_bit_layer_returns_the_dtype_it_was_given():
    tape = tape_of("fp32", autocast="bf16", quantization="nf4", rank=0)
    x = tape.tensor((ROWS, K), "fp32")
    assert linear(tape, "q_proj", x, N, bias=False).dtype == "fp32"


def test_a_4_bit_layer_holds_its_weight_dequantized_while_it_multiplies():
    tape = tape_of(quantization="nf4", rank=0)
    linear(tape, "q_proj", tape.input((ROWS, K), "bf16"), N, bias=False)
    assert tape.peak.at.temporary_bytes == 2 * ROWS * N + 2 * N * K


def test_an_8_bit_layer_keeps_its_input():
    tape = tape_of(quantization="int8", rank=0)
    x = tape.require_gradient(tape.tensor((ROWS, K), "bf16"))
    hidden = scale(tape, x)
    before = tape.live.saved_bytes
    linear(tape, "q_proj", hidden, N, bias=False)
    assert tape.live.saved_bytes - before == 2 * ROWS * K


def test_an_8_bit_layer_holds_its_product_in_int32_and_in_fp16():
    tape = tape_of(quantization="int8", rank=0)
    linear(tape, "q_proj", tape.input((ROWS, K), "bf16"), 4 * N, bias=False)
    quantized, scales = ROWS * K, 4 * ROWS
    product = 4 * ROWS * 4 * N + 2 * ROWS * 4 * N
    assert tape.peak.at.temporary_bytes == (
        quantized + scales + product + 2 * ROWS * 4 * N
    )


def test_a_transposed_layer_in_8_bits_has_a_scale_for_each_output():
    tape = tape_of(quantization="int8", rank=0)
    x = tape.input((ROWS, K), "bf16")
    linear(tape, "c_attn", x, N, bias=False, transposed=True)
    assert tape.parameters["c_attn.weight"].stored.num_bytes == N * K + 4 * N


def test_quantizing_an_input_can_be_higher_than_multiplying_it():
    tape = tape_of(quantization="int8", rank=0)
    linear(tape, "q_proj", tape.input((ROWS, K), "bf16"), 8, bias=False)
    half, magnitudes, mask, quantized = 2, 2, 1, 1
    assert tape.peak.at.temporary_bytes == (
        (half + magnitudes + mask + quantized) * ROWS * K + 4 * ROWS
    )


def two_layers(quantization):
    """Saved bytes after forward and at the end of backward, checkpointed."""

    def body(t, x):
        return linear(t, "q_proj", scale(t, x), K, bias=False)

    tape = tape_of(quantization=quantization, rank=0, checkpointing="full")
    x = tape.require_gradient(tape.tensor((ROWS, K), "bf16"))
    y = repeat_layers(tape, "layer", 2, body, x)
    del x
    loss = tape.apply("sum", (y,), (), "fp32")
    del y
    tape.end_phase("forward")
    run_backward(tape, loss)
    tape.end_phase("backward")
    return [phase.end.saved_bytes for phase in tape.phases]


def test_checkpointed_4_bit_layers_hold_their_own_inputs_until_they_run_backward():
    # The first one's is a leaf, which outlives backward.
    assert two_layers("nf4") == [2 * 2 * ROWS * K, 2 * ROWS * K]


def test_checkpointing_cannot_let_go_of_what_8_bit_layers_keep():
    # Two inputs of layers, and two of their linear ones, which outlive backward as the
    # first layer's own does.
    assert two_layers("int8") == [2 * 2 * ROWS * K + 2 * 2 * ROWS * K, 3 * 2 * ROWS * K]


@pytest.mark.parametrize(("checkpointing", "wants"), [("none", False), ("full", True)])
def test_checkpointing_makes_the_output_of_a_frozen_token_table_want_a_gradient(
    checkpointing, wants
):
    tape = tape_of(checkpointing=checkpointing)
    table = tape.weight("embed_tokens", (100, K))
    assert (token_embedding(tape, table, (2, 3)).edge is not None) == wants
    assert embedding(tape, table, (2, 3)).edge is None


def lora(**fields):
    return estimate(
        TrainingPlan(
            **{
                "model": "llama-2-7b",
                "trainable": "lora",
                "precision": "bf16-pure",
                "seq_len": 512,
            }
            | fields
        )
    )


D, F, V, LAYERS = 4096, 11008, 32000, 32


def test_adapters_of_query_and_value_are_peft_s_default_of_llama():
    assert lora(lora_rank=16).model.trainable_parameters == LAYERS * 2 * 16 * (D + D)


def test_all_linear_leaves_out_the_output_embeddings_alone():
    report = lora(lora_rank=8, lora_targets=("all-linear",))
    attention, mlp = 4 * 8 * (D + D), 3 * 8 * (D + F)
    assert report.model.trainable_parameters == LAYERS * (attention + mlp)


def test_adapters_have_fp32_gradients_beside_a_bf16_base():
    components = lora(lora_rank=16, optim="adamw").components
    num_adapters = LAYERS * 2 * 16 * (D + D)
    assert components.optimizer_states == 2 * 4 * num_adapters


def test_a_4_bit_base_keeps_embeddings_and_norms_in_fp32_in_mixed_precision():
    """As `prepare_model_for_kbit_training` does."""
    num_quantized = LAYERS * (4 * D * D + 3 * D * F)
    tables = 7 * LAYERS * 4 * 16
    kept = 2 * V * D + (2 * LAYERS + 1) * D
    adapters = LAYERS * 2 * 16 * (D + D)
    report = lora(lora_rank=16, quantization="nf4", precision="bf16-mixed")
    assert report.components.weights == (
        num_quantized // 2 + 4 * num_quantized // 64 + tables + 4 * kept + 4 * adapters
    )


def test_an_8_bit_base_in_pure_bf16_keeps_embeddings_and_norms_in_bf16():
    num_quantized = LAYERS * (4 * D * D + 3 * D * F)
    scales = 4 * LAYERS * (5 * D + 2 * F)
    kept = 2 * V * D + (2 * LAYERS + 1) * D
    adapters = LAYERS * 2 * 16 * (D + D)
    report = lora(lora_rank=16, quantization="int8")
    assert report.components.weights == (
        num_quantized + scales + 2 * kept + 4 * adapters
    )


def test_an_unknown_target_is_answered_with_linear_layers_alone():
    with pytest.raises(UnknownNameError) as caught:
        lora(lora_targets=("attention",))
    assert caught.value.message == "There is no LoRA target named 'attention'."
    assert caught.value.hint == (
        "Known: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj and "
        "v_proj."
    )


def test_every_target_must_be_found():
    with pytest.raises(UnknownNameError, match="'query'"):
        lora(lora_targets=("q_proj", "query"))


def test_a_model_without_default_targets_asks_for_some():
    with pytest.raises(PlanError, match="no linear layers that LoRA adapts by default"):
        lora(model="pe-net-tiny", seq_len=None)
