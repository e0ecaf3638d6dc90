"""Pictures in a prompt: features take the places of placeholder tokens."""

from math import prod

from memplan.errors import PlanError
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor


def check_prompt(batch: Batch, image_tokens: int) -> None:
    """Every picture takes its tokens' places in the prompt.

    Raises:
        PlanError: the prompt is too short for them.
    """
    num_image_tokens = image_tokens * batch.images_per_sample
    if batch.seq_len < num_image_tokens:
        raise PlanError(
            f"A prompt of {batch.seq_len} tokens cannot hold {batch.images_per_sample} "
            f"pictures of {image_tokens} tokens each.",
            hint=f"Use --seq-len {num_image_tokens} or more.",
        )


def masked_scatter(t: Tape, inputs_embeds: Tensor, source: Tensor) -> Tensor:
    """`inputs_embeds.masked_scatter(mask, source)`: saves the mask of image tokens.

    A copy; the kernel makes the mask as large as the embeddings, and counts through it
    in int64. Backward clears a copy of the gradient, and selects from it by the three
    int64 indices of every element (`native/cuda/IndexKernel.cu`, `Nonzero.cu`).
    """
    B, L, _ = inputs_embeds.shape
    special_image_mask = t.tensor((B, L, 1), "bool")
    num_elements = prod(inputs_embeds.shape)
    return t.apply(
        "masked_scatter",
        (inputs_embeds, source),
        inputs_embeds.shape,
        inputs_embeds.dtype,
        saved=(special_image_mask,),
        scratch_bytes=(1 + 8) * num_elements,
        backward_scratch_bytes=num_elements + 3 * 8 * prod(source.shape),
    )
