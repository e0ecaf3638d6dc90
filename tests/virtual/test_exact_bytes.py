"""Requested bytes of the real PyTorch on the virtual card equal formulas made by hand.

byte_counts.py takes two training steps with small models on a virtual H100; each line
of a formula here says what is held. All of it is to the byte.
"""

import importlib.util
import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "byte_counts.py"
PRECISIONS = ("fp32", "bf16", "autocast")

# The sizes of byte_counts.py: batch B of sequences of L tokens, T in all; width D, H
# heads, width F of the gated feed-forward, N blocks, vocabulary V; K classes; P
# pictures of side S, C channels; R the rank of the adapters.
B, L, D, H, F, N, V = 4, 512, 512, 8, 1376, 4, 32000
T = B * L
K, P, S, C, R = 1000, 16, 64, 64, 16

WORKSPACE = 32 * 2**20
"""cuBLAS on Hopper: one for each thread that multiplies matrices."""

TORCH_CASES = [
    f"{model} {precision} foreach"
    for model in ("decoder", "encoder", "convolution")
    for precision in PRECISIONS
]
TORCH_CASES += ["decoder bf16 fused", "decoder bf16 forloop"]
TORCH_CASES += ["checkpointed bf16 foreach"]
BITSANDBYTES_CASES = ["decoder bf16 8bit", "adapted bf16 fused"]


@pytest.fixture(scope="module")
def counted(run_on):
    """What PyTorch counted, by case and moment; one process takes all cases."""
    return json.loads(run_on("h100-80gb", PROGRAM.read_text(), *TORCH_CASES))


@pytest.fixture(scope="module")
def counted_bitsandbytes(run_on):
    for package in ("bitsandbytes", "peft"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return json.loads(run_on("h100-80gb", PROGRAM.read_text(), *BITSANDBYTES_CASES))


def weight_bytes(precision):
    """Bytes of one trained number."""
    return 2 if precision == "bf16" else 4


# ---- what is trained ----


def decoder_block_matrices():
    return (
        3 * D * D  # queries, keys and values
        + D * D  # the projection behind attention
        + 3 * D * F  # gate, up, down
    )


def decoder_matrices():
    """Numbers in the matrices that multiply: blocks and head."""
    return N * decoder_block_matrices() + V * D


def decoder_parameters():
    norms = N * 2 * D + D
    return V * D + decoder_matrices() + norms


def encoder_matrices():
    block = 3 * D * D + D * D + 2 * D * 4 * D
    return N * block + K * D


def encoder_parameters():
    embeddings = V * D + L * D
    norms = (1 + 2 * N) * 2 * D
    biases = N * (3 * D + D + 4 * D + D) + K
    return embeddings + norms + encoder_matrices() + biases


def convolution_kernels():
    return 9 * 3 * C + 2 * (9 * C * C)


def convolution_parameters():
    norms = 3 * 2 * C
    return convolution_kernels() + norms + K * C + K


PARAMETERS = {
    "decoder": decoder_parameters(),
    "encoder": encoder_parameters(),
    "convolution": convolution_parameters(),
}
NUM_PARAMETER_TENSORS = {"decoder": 1 + 6 * N + 2 + N}


def batch_bytes(model, precision):
    """The batch, and the buffers that came with the model."""
    match model:
        case "decoder":
            return 8 * T  # token ids
        case "encoder":
            return 8 * T + 8 * B  # token ids, labels
        case "convolution":
            E = weight_bytes(precision)
            pictures = E * P * 3 * S * S + 8 * P  # and their labels
            statistics = 3 * (2 * E * C + 8)  # running mean and variance; their count
            return pictures + statistics


# ---- what the forward pass leaves for the backward pass ----


def decoder_activations(precision):
    if precision == "autocast":
        return decoder_activations_autocast()
    E = weight_bytes(precision)
    block = (
        E * T * D + 4 * T  # output of the first norm; 1 / rms of each token, in fp32
        + 3 * E * T * D  # queries, keys and values
        + E * T * D  # output of attention, which the projection reads as well
        + 4 * B * H * L + 8 + 8  # log-sum-exp; seed and offset of the dropout
        + E * T * D  # residual sum, the input of the second norm
        + E * T * D + 4 * T  # output of the second norm, 1 / rms
        + 4 * E * T * F  # gate, up, silu(gate), their product
        + E * T * D  # residual sum, the input of the next norm
    )  # fmt: skip
    return (
        E * T * D  # embeddings, the input of the first norm
        + N * block
        + E * T * D + 4 * T  # output of the last norm, 1 / rms
        + decoder_loss()
    )  # fmt: skip


def decoder_activations_autocast():
    """The residual stream stays in fp32; every matrix product reads bf16 copies."""
    block = (
        4 * T  # 1 / rms; the norm's output lives on only as the copy
        + 2 * T * D  # that the first product reads
        + 2 * 3 * T * D  # queries, keys and values
        + 2 * T * D  # output of attention
        + 4 * B * H * L + 8 + 8  # log-sum-exp; seed and offset
        + 4 * T * D  # residual sum
        + 4 * T  # 1 / rms
        + 2 * 2 * T * D  # gate and up read a copy each: only weights are cached
        + 4 * 2 * T * F  # gate, up, silu(gate), their product
        + 4 * T * D  # residual sum
    )  # fmt: skip
    return (
        2 * decoder_matrices()  # the copies of the weights, saved by the products
        + 4 * T * D  # embeddings
        + N * block
        + 2 * T * D + 4 * T  # the copy that the head reads; 1 / rms of the last norm
        + decoder_loss()
    )  # fmt: skip


def decoder_loss():
    return (
        4 * T * V  # log-probabilities in fp32
        + 4  # sum of the class weights
        + 4  # the loss
    )


def checkpointed_activations():
    """Of each block its input alone; pure bf16."""
    return (
        N * 2 * T * D  # inputs of the blocks
        + 2 * T * D  # input of the last norm
        + 2 * T * D + 4 * T  # its output, 1 / rms
        + decoder_loss()
    )  # fmt: skip


def encoder_activations(precision):
    if precision == "autocast":
        return encoder_activations_autocast()
    E = weight_bytes(precision)
    block = (
        3 * E * T * D  # queries, keys and values; their input is the norm's output
        + E * T * D  # output of attention
        + 4 * B * H * L + 8 + 8  # log-sum-exp; seed and offset
        + T * D  # mask of the dropout, a byte each
        + E * T * D + 2 * 4 * T  # input of the norm; mean and 1 / deviation
        + E * T * D  # output of the norm, which the feed-forward reads
        + 2 * 4 * E * T * D  # input and output of the gelu
        + T * D  # mask of the dropout
        + E * T * D + 2 * 4 * T  # input of the norm; mean and 1 / deviation
        + E * T * D  # output of the norm, which the next block reads
    )  # fmt: skip
    return (
        8 * L  # positions
        + E * T * D + 2 * 4 * T  # sum of the embeddings; mean and 1 / deviation
        + E * T * D  # output of the norm
        + N * block
        + E * B * K  # log-probabilities
        + E  # sum of the class weights
        + E  # the loss
    )  # fmt: skip


def encoder_activations_autocast():
    """Norms compute in fp32; the products read bf16 copies of their outputs."""
    block = (
        2 * T * D  # the copy that queries, keys and values are made of
        + 2 * 3 * T * D  # queries, keys and values
        + 2 * T * D  # output of attention
        + 4 * B * H * L + 8 + 8  # log-sum-exp; seed and offset
        + T * D  # mask of the dropout
        + 4 * T * D + 2 * 4 * T  # input of the norm; mean and 1 / deviation
        + 2 * T * D  # the copy that the feed-forward reads
        + 2 * 4 * 2 * T * D  # input and output of the gelu
        + T * D  # mask of the dropout
        + 4 * T * D + 2 * 4 * T  # input of the norm; mean and 1 / deviation
    )  # fmt: skip
    return (
        2 * encoder_matrices()  # the copies of the weights, saved by the products
        + 8 * L  # positions
        + 4 * T * D + 2 * 4 * T  # sum of the embeddings; mean and 1 / deviation
        + N * block
        + 2 * B * D  # the copy of the first tokens that the head reads
        + 2 * B * K  # log-probabilities in bf16,
        + 4 * B * K  # and their copy in fp32 for the loss
        + 4  # sum of the class weights
        + 4  # the loss
    )  # fmt: skip


def convolution_activations(precision):
    E = 4 if precision == "fp32" else 2
    saved = 0
    for side in (S, S // 2, S // 4):
        outputs = P * C * side * side
        saved += (
            E * outputs  # output of the convolution, the input of the norm
            + 2 * 4 * C  # mean and 1 / deviation of each channel, in fp32
            + E * outputs  # output of the ReLU
            + 8 * outputs // 4  # which of each four is the largest
        )
        if side > S // 4:
            saved += E * outputs // 4  # pooled, the input of the next convolution
    saved += E * P * C  # means over the last pictures, which the head reads
    if precision != "autocast":
        # log-probabilities, sum of the class weights, the loss
        return saved + E * P * K + E + E
    return saved + (
        2 * convolution_kernels() + 2 * K * C  # the copies of the weights
        + 2 * P * 3 * S * S  # the copy of the pictures
        + 2 * P * K + 4 * P * K  # log-probabilities in bf16, their copy in fp32
        + 4 + 4  # sum of the class weights, the loss
    )  # fmt: skip


ACTIVATIONS = {
    "decoder": decoder_activations,
    "encoder": encoder_activations,
    "convolution": convolution_activations,
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ACTIVATIONS)
class TestOneStep:
    def test_built_are_the_parameters_and_the_batch(self, counted, model, precision):
        held = weight_bytes(precision) * PARAMETERS[model]
        held += batch_bytes(model, precision)
        assert counted[f"{model} {precision} foreach"]["built"]["live"] == held

    def test_forward_leaves_what_backward_reads(self, counted, model, precision):
        case = counted[f"{model} {precision} foreach"]
        held = ACTIVATIONS[model](precision) + WORKSPACE
        assert case["forward 1"]["live"] - case["built"]["live"] == held

    def test_backward_leaves_gradients_and_the_loss(self, counted, model, precision):
        case = counted[f"{model} {precision} foreach"]
        gradients = weight_bytes(precision) * PARAMETERS[model]
        # The loss has the precision of the logits; the decoder's are made fp32 before.
        in_bf16 = precision == "bf16" and model != "decoder"
        loss = 2 if in_bf16 else 4
        held = gradients + loss + 2 * WORKSPACE  # backward has a thread of its own
        assert case["backward 1"]["live"] - case["built"]["live"] == held

    def test_adamw_leaves_two_states(self, counted, model, precision):
        case = counted[f"{model} {precision} foreach"]
        states = 2 * weight_bytes(precision) * PARAMETERS[model]
        assert case["step 1"]["live"] - case["backward 1"]["live"] == states
        assert case["step 2"]["live"] == case["step 1"]["live"]

    def test_foreach_takes_one_number_a_parameter(self, counted, model, precision):
        case = counted[f"{model} {precision} foreach"]
        roots = weight_bytes(precision) * PARAMETERS[model]  # of the second moments
        assert case["step 2"]["peak"] - case["backward 2"]["live"] == roots

    def test_the_second_step_has_the_states_more(self, counted, model, precision):
        case = counted[f"{model} {precision} foreach"]
        states = 2 * weight_bytes(precision) * PARAMETERS[model]
        backward_workspace = WORKSPACE
        more = states + backward_workspace
        assert case["forward 2"]["live"] - case["forward 1"]["live"] == more


@pytest.mark.parametrize("precision", PRECISIONS)
class TestDecoderPeaks:
    def test_forward_holds_the_logits_beside_their_log_probabilities(
        self, counted, precision
    ):
        forward = counted[f"decoder {precision} foreach"]["forward 2"]
        assert forward["peak"] - forward["live"] == 4 * T * V

    def test_backward_begins_with_two_gradients_of_the_logits(self, counted, precision):
        case = counted[f"decoder {precision} foreach"]
        gradients = 4 * T * V + 4 * T * V  # of the log-probabilities, of the logits
        assert case["backward 2"]["peak"] - case["forward 2"]["live"] == gradients


class TestOptimizers:
    def test_fused_counts_its_steps_on_the_card(self, counted):
        case = counted["decoder bf16 fused"]
        states = 2 * 2 * PARAMETERS["decoder"]
        steps = 4 * NUM_PARAMETER_TENSORS["decoder"]
        assert case["step 1"]["live"] - case["backward 1"]["live"] == states + steps

    def test_fused_takes_nothing_for_a_moment(self, counted):
        case = counted["decoder bf16 fused"]
        assert case["step 2"]["peak"] == case["backward 2"]["live"]

    def test_forloop_takes_two_of_the_largest_parameter(self, counted):
        case = counted["decoder bf16 forloop"]
        largest = 2 * V * D  # the head, which comes last
        held = (
            largest  # root of its second moment
            + largest  # the quotient made of it
            + 2 * D  # the quotient before, of the last norm, until this one is bound
        )
        assert case["step 2"]["peak"] - case["backward 2"]["live"] == held

    def test_8_bit_keeps_a_byte_a_state_and_a_scale_for_256(self, counted_bitsandbytes):
        case = counted_bitsandbytes["decoder bf16 8bit"]
        quantized = V * D + decoder_matrices()
        norms = (2 * N + 1) * D  # of less than 4096 numbers each: kept in fp32
        states = 2 * quantized + 2 * 4 * quantized // 256 + 2 * 4 * norms
        maps = 2 * 4 * 256  # the value of each byte, signed and unsigned
        assert case["step 1"]["live"] - case["backward 1"]["live"] == states + maps


def test_checkpointing_keeps_the_input_of_each_block(counted):
    case = counted["checkpointed bf16 foreach"]
    held = checkpointed_activations() + WORKSPACE
    assert case["forward 1"]["live"] - case["built"]["live"] == held


def test_checkpointing_leaves_what_plain_training_leaves(counted):
    checkpointed = counted["checkpointed bf16 foreach"]
    plain = counted["decoder bf16 foreach"]
    for moment in ("built", "backward 1", "step 1", "backward 2", "step 2"):
        assert checkpointed[moment]["live"] == plain[moment]["live"]


class TestAdaptersOverNf4:
    """Three layers D x D in nf4, their statistics compressed, under adapters."""

    NUM_LAYERS = 3
    ADAPTERS = NUM_LAYERS * 2 * R * D

    def test_built_are_half_bytes_their_scales_and_adapters(self, counted_bitsandbytes):
        num_blocks = D * D // 64
        layer = (
            D * D // 2  # two weights in a byte
            + num_blocks  # a scale for each block of 64, itself in a byte
            + 4 * num_blocks // 256  # a scale for 256 scales
            + 4  # their mean
            + 4 * 16  # the values of nf4
            + 4 * 256  # the values of a scale's byte
        )
        values = 4 * 256  # the last once more, kept by the library
        batch = 2 * T * D
        held = self.NUM_LAYERS * layer + values + 4 * self.ADAPTERS + batch
        case = counted_bitsandbytes["adapted bf16 fused"]
        assert case["built"]["live"] == held

    def test_forward_leaves_inputs_in_fp32_for_the_adapters(self, counted_bitsandbytes):
        layer = (
            4 * T * D  # the input as the first adapter reads it
            + 4 * T * R  # what the second adapter reads
            + 2 * T * D  # output of the ReLU
        )
        loss = 4
        case = counted_bitsandbytes["adapted bf16 fused"]
        held = self.NUM_LAYERS * layer + loss + WORKSPACE
        assert case["forward 1"]["live"] - case["built"]["live"] == held

    def test_only_adapters_have_gradients_and_states(self, counted_bitsandbytes):
        case = counted_bitsandbytes["adapted bf16 fused"]
        gradients, loss = 4 * self.ADAPTERS, 4
        held = gradients + loss + 2 * WORKSPACE
        assert case["backward 1"]["live"] - case["built"]["live"] == held
        states = (
            2 * 4 * self.ADAPTERS + 4 * 2 * self.NUM_LAYERS
        )  # and steps on the card
        assert case["step 1"]["live"] - case["backward 1"]["live"] == states
