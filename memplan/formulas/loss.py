"""Losses over a vocabulary: the largest tensors of many fine-tuning runs.

Letters: N rows (tokens that are predicted), V vocabulary.
"""

from math import prod

from memplan.formulas.layers import cast, upper
from memplan.formulas.tape import Tape, Tensor


def causal_lm_loss(t: Tape, logits: Tensor) -> Tensor:
    """transformers' ForCausalLMLoss: upcast logits, shift labels, cross-entropy.

    An fp32 copy of the logits lives until the loss is computed; of N * V logits only
    the log-softmax in fp32 is saved.
    """
    upcast = cast(t, logits, "fp32")
    num_rows = prod(logits.shape[:-1])
    labels = t.tensor((num_rows,), "int64")
    loss = cross_entropy(t, upcast)
    del labels
    return loss


def cross_entropy(t: Tape, logits: Tensor) -> Tensor:
    """`F.cross_entropy`: log_softmax saves its output, nll_loss the same tensor.

    Backward makes the gradient of the log-softmax, zeros but for the labels, and from
    it that of the logits: at its height 3 tensors of N * V.
    """
    source = upper(t, logits)
    logs = t.apply(
        "log_softmax", (source,), source.shape, source.dtype, saves_output=True
    )
    return t.apply("nll_loss", (logs,), (), logs.dtype, saved=(logs,), stats_bytes=4)
