"""MMICL's forward pass (arXiv 2309.07915 and its code, HaozheZhao/MIC).

An InstructBLIP whose Q-Former gets no instruction (`--using_instruct_qformer False`):
its text branch is there and unused. Pictures of a sample come padded to one number,
[B, n, 3, 224, 224] with a mask; those that are there pass the vision tower and the
Q-Former together, and each gives 32 query outputs that overwrite the embeddings of as
many placeholder tokens in T5's prompt.

Letters: B batch, n pictures of a sample, L tokens of the prompt.
"""

from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor
from memplan.models.blip2.config import Blip2Config
from memplan.models.blip2.formula import captioning_loss
from memplan.models.t5.formula import target_len


def forward(t: Tape, config: Blip2Config, batch: Batch) -> Tensor:
    """`InstructBlipForConditionalGeneration.forward` as MMICL runs it: the loss."""
    return captioning_loss(t, config, batch, num_text_tokens=0)


def batch_bytes(config: Blip2Config, batch: Batch) -> int:
    """Pictures as weights are stored; prompt with mask, labels, mask of pictures."""
    num_pictures = batch.size * batch.images_per_sample
    num_tokens = batch.size * (2 * batch.seq_len + target_len(batch))
    num_values = num_pictures * 3 * batch.image_size**2
    return batch.stored_item_bytes * num_values + 8 * (num_tokens + num_pictures)
