"""What decoder-only language models share: gated MLP, head and loss.

Letters: B batch, L sequence length, D hidden size, F inner size of the MLP,
V vocabulary.
"""

from memplan.formulas.chunked_loss import chunked_causal_lm_loss
from memplan.formulas.layers import activation, multiply, softcap
from memplan.formulas.linear import linear, linear_weights
from memplan.formulas.loss import causal_lm_loss, keep_as_fp32, last_token
from memplan.formulas.parallel import gather_sequence, scatter_sequence
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor, Weight


def gated_mlp(
    t: Tape,
    x: Tensor,
    inner_size: int,
    act: str,
    *,
    bias: bool = False,
    name: str = "mlp",
) -> Tensor:
    """`LlamaMLP`: down(act(gate(x)) * up(x)), [B, L, D] in and out."""
    with t.scope(name):
        whole = gather_sequence(t, x)
        gate = activation(t, act, linear(t, "gate_proj", whole, inner_size, bias=bias))
        down = linear(
            t,
            "down_proj",
            multiply(t, gate, linear(t, "up_proj", whole, inner_size, bias=bias)),
            x.shape[-1],
            bias=bias,
        )
        return scatter_sequence(t, down)


def predict(
    t: Tape,
    batch: Batch,
    hidden_states: Tensor,
    vocab_size: int,
    *,
    table: Weight | None = None,
    bias: bool = False,
    is_capped: bool = False,
) -> Tensor:
    """The head of a causal LM on its last hidden states: the loss with labels.

    `table` is the embeddings' where the head is tied to them. To generate, the last
    position alone gets logits.
    """
    if batch.has_labels and t.setting.cross_entropy_chunks > 1:
        with t.scope("lm_head"):
            weights = linear_weights(
                t, hidden_states.shape[-1], vocab_size, bias=bias, weight=table
            )
        loss = chunked_causal_lm_loss(t, hidden_states, *weights)
        keep_as_fp32(t, hidden_states)  # what the head hands on as logits
        return loss
    predicting = hidden_states if batch.has_labels else last_token(t, hidden_states)
    logits = linear(t, "lm_head", predicting, vocab_size, bias=bias, weight=table)
    if is_capped:
        logits = softcap(t, logits)
    if not batch.has_labels:
        return logits
    loss = causal_lm_loss(t, logits)
    hidden_states.release()  # a local of the model's, which has returned
    keep_as_fp32(t, logits)
    return loss
