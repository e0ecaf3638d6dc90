"""Qwen2-VL's forward pass, and Qwen2.5-VL's, as in their modules of transformers.

Letters: B batch, N pictures, L tokens of the prompt, D hidden size of the language
model.
"""

from memplan.formulas.decoder import predict
from memplan.formulas.layers import cast, token_embedding
from memplan.formulas.prompts import check_prompt, masked_scatter
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.formulas.tensors import Tensor, Weight
from memplan.models.llama.formula import decoder
from memplan.models.qwen_vl.config import QwenVlConfig, image_tokens
from memplan.models.qwen_vl.vision import vision_tower


def batch_bytes(config: QwenVlConfig, batch: Batch) -> int:
    """Patches in fp32, each for two moments of a video; the rest in int64.

    That is token ids, labels, the kinds of tokens, and the grid of each picture.
    """
    tower = config.vision_config
    num_pictures = batch.size * batch.images_per_sample
    pixels = tower.in_channels * batch.image_size**2 * tower.temporal_patch_size
    return num_pictures * (4 * pixels + 3 * 8) + 3 * 8 * batch.size * batch.seq_len


def forward(t: Tape, config: QwenVlConfig, batch: Batch) -> Tensor:
    """`Qwen2VLForConditionalGeneration.forward` with labels: the loss."""
    check_prompt(batch, image_tokens(config, batch.image_size))
    text = config.text_config
    with t.scope("model.language_model.embed_tokens"):
        table = t.weight(
            "weight", (text.vocab_size, text.hidden_size), is_tied=config.ties_head
        )
    with t.scope("model"):
        hidden_states = multimodal_states(t, config, batch, table)
    shared = table if config.ties_head else None
    return predict(t, batch, hidden_states, text.vocab_size, table=shared)


def multimodal_states(
    t: Tape, config: QwenVlConfig, batch: Batch, table: Weight
) -> Tensor:
    """`Qwen2VLModel.forward`: what the tower returned lives until it returns."""
    inputs_embeds = token_embedding(t, table, (batch.size, batch.seq_len))
    num_pictures = batch.size * batch.images_per_sample
    with t.scope("visual"):
        last, merged = vision_tower(t, config, num_pictures, batch.image_size)
    # Split by pictures and joined again.
    image_embeds = t.apply(
        "cat", (merged,), merged.shape, merged.dtype, passes_views=True
    )
    image_embeds = cast(t, image_embeds, inputs_embeds.dtype)
    inputs_embeds = masked_scatter(t, inputs_embeds, image_embeds)
    hidden_states = decoder(
        t,
        config.text_config,
        inputs_embeds,
        batch.seq_len,
        "language_model",
        num_tables=batch.size,
    )
    del last, merged, image_embeds, inputs_embeds
    return hidden_states
