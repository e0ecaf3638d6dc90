"""MMICL as a PyTorch module: an InstructBLIP whose Q-Former reads no instruction.

As its code runs it (github.com/HaozheZhao/MIC, `--using_instruct_qformer False`). The
pictures of a sample come padded to one number, with a mask of those that are there.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration
from transformers.models.instructblip.modeling_instructblip import (
    BaseModelOutputWithVisionQformerOutputs,
)

from memplan.formulas.setting import Batch
from memplan.models.blip2.config import Blip2Config
from memplan.models.blip2.formula import check_prompt

PICTURE_TOKEN = 32100
"""The placeholder of a picture's tokens among T5's additional special tokens."""


def build(config: Blip2Config, dtype: torch.dtype, attention: str | None) -> nn.Module:
    """The model with initial weights in `dtype`, on the default device."""
    wanted = {} if attention is None else {"attn_implementation": attention}
    model: nn.Module = MmiclForConditionalGeneration._from_config(
        InstructBlipConfig(
            vision_config=_fields(config.vision_config),
            qformer_config=_fields(config.qformer_config),
            text_config=_fields(config.text) | {"decoder_start_token_id": 0},
            num_query_tokens=config.num_query_tokens,
            image_token_id=PICTURE_TOKEN,
        ),
        dtype=dtype,
        **wanted,
    )
    return model


def make_batch(
    config: Blip2Config, batch: Batch, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Pictures that are all there, each with its placeholders in the prompt."""
    check_prompt(config, batch)
    B, n, size = batch.size, batch.images_per_sample, batch.image_size
    input_ids = torch.randint(0, PICTURE_TOKEN, (B, batch.seq_len))
    input_ids[:, : n * config.num_query_tokens] = PICTURE_TOKEN
    return {
        "pixel_values": torch.randn(B, n, 3, size, size, dtype=dtype),
        "img_mask": torch.ones(B, n, dtype=torch.int64),
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": torch.randint(0, PICTURE_TOKEN, (B, batch.target_seq_len)),
    }


class MmiclForConditionalGeneration(InstructBlipForConditionalGeneration):  # type: ignore[misc]
    """InstructBLIP's parts on several pictures a sample."""

    def forward(self, pixel_values: Tensor, img_mask: Tensor, **arguments: Any) -> Any:
        """Pictures [B, n, 3, H, W] and which of them are there [B, n]."""
        pictures = pixel_values.flatten(0, 1)
        if not bool(img_mask.all()):
            pictures = pictures[img_mask.flatten().bool()]
        return super().forward(
            pixel_values=pictures, qformer_input_ids=None, **arguments
        )

    def get_image_features(
        self, pixel_values: Tensor, **_: Any
    ) -> BaseModelOutputWithVisionQformerOutputs:
        """Each picture through the tower, and its queries through the Q-Former."""
        vision_outputs = self.vision_model(pixel_values=pixel_values)
        image_embeds = vision_outputs.last_hidden_state
        query_tokens = self.query_tokens.expand(image_embeds.shape[0], -1, -1)
        qformer_outputs = self.qformer(
            query_embeds=query_tokens,
            encoder_hidden_states=image_embeds,
            encoder_attention_mask=torch.ones(
                image_embeds.shape[:-1], dtype=torch.int64, device=image_embeds.device
            ),
            # There is no instruction, so it is the queries that are the input.
            input_ids=None,
            attention_mask=None,
        )
        features = BaseModelOutputWithVisionQformerOutputs(
            **vision_outputs, vision_outputs=vision_outputs
        )
        features.qformer_outputs = qformer_outputs
        features.pooler_output = self.language_projection(
            qformer_outputs.last_hidden_state
        )
        return features


def _fields(part: Any) -> dict[str, Any]:
    """A part of the configuration under transformers' own names."""
    values = {name: getattr(part, name) for name in part.__slots__}
    return {name: value for name, value in values.items() if value is not None}
