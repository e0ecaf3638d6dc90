"""Losses over a vocabulary: the largest tensors of many fine-tuning runs.

Letters: N rows (tokens that are predicted), V vocabulary.
"""

from memplan.formulas.layers import cast, upper
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor


def causal_lm_loss(t: Tape, logits: Tensor) -> Tensor:
    """transformers' ForCausalLMLoss: upcast logits, shift labels, cross-entropy.

    An fp32 copy of the logits lives until the loss is computed, and so do the labels
    with one more for each sample; of N * V logits only the log-softmax in fp32 is
    saved, and the shifted labels with it. The phase of the loss begins with the
    cross-entropy.
    """
    t.begin_loss()
    upcast = cast(t, logits, "fp32")
    *samples, length, _ = logits.shape
    padded = t.tensor((*samples, length + 1), "int64")
    shifted = t.tensor((*samples, length), "int64")
    t.end_phase("forward")
    loss = cross_entropy(t, upcast, shifted)
    del padded
    return loss


def last_token(t: Tape, hidden_states: Tensor) -> Tensor:
    """What generation hands to the head: the last position, a view."""
    B, _, D = hidden_states.shape
    return t.view(hidden_states, (B, 1, D))


def cross_entropy(t: Tape, logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """`F.cross_entropy`: log_softmax saves its output, nll_loss its input.

    It saves the labels too, given where they are not the batch's own
    (`derivatives.yaml`). In the dtype of the logits; autocast runs nll_loss in fp32, so
    that of half precision logits both log-softmax and its fp32 copy are saved. Backward
    makes the gradient of the log-softmax, zeros but for the labels, and from it that of
    the logits: at its height 3 tensors of N * V.
    """
    with t.scope("loss"):
        logs = t.apply(
            "log_softmax", (logits,), logits.shape, logits.dtype, saves_output=True
        )
        source = upper(t, logs)
        saved = (source,) if labels is None else (source, labels)
        return t.apply(
            "nll_loss", (source,), (), source.dtype, saved=saved, stats_bytes=4
        )


def mean_squared_error(t: Tape, predictions: Tensor) -> Tensor:
    """`F.mse_loss`, in fp32 under autocast: saves its input."""
    source = upper(t, predictions)
    return t.apply("mse_loss", (source,), (), source.dtype, saved=(source,))


def keep_as_fp32(t: Tape, *outputs: Tensor) -> None:
    """accelerate's `convert_outputs_to_fp32`, when the model has returned.

    Copies of outputs in half precision live until the loss alone is kept
    (`utils/operations.py`); autocast has exited by then.
    """
    t.exit_autocast()
    copies = [upper(t, output) for output in outputs]
    if t.setting.clones_outputs:
        t.note(_cloned_bytes(copies, outputs))
    del copies


def _cloned_bytes(copies: list[Tensor], outputs: tuple[Tensor, ...]) -> int:
    """What DDP's `_DDPSink` clones, less the outputs that the copies have replaced."""
    pairs = list(zip(copies, outputs, strict=True))
    replaced = {x.storage: x.num_bytes for copy, x in pairs if copy is not x}
    return sum(copy.num_bytes for copy, _ in pairs) - sum(replaced.values())
