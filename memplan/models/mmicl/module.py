"""MMICL as a PyTorch module: an InstructBLIP whose Q-Former reads no instruction.

As its code runs it (github.com/HaozheZhao/MIC, `--using_instruct_qformer False`). The
pictures of a sample come padded to one number, with a mask of those that are there:
only these pass the vision tower and the Q-Former, and the 32 visual tokens of each
overwrite the embeddings of as many placeholders in the prompt, in their order.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration
from transformers.models.instructblip.modeling_instructblip import (
    BaseModelOutputWithVisionQformerOutputs,
)

from memplan.formulas.prompts import check_prompt
from memplan.formulas.setting import Batch
from memplan.models.blip2.config import Blip2Config
from memplan.models.mmicl.prompts import FLAN_T5_PLACEHOLDER_ID


def build(
    config: Blip2Config, dtype: torch.dtype, attention: str | None
) -> "MmiclForConditionalGeneration":
    """The model with initial weights in `dtype`, on the default device."""
    wanted = {} if attention is None else {"attn_implementation": attention}
    model: MmiclForConditionalGeneration = MmiclForConditionalGeneration._from_config(
        InstructBlipConfig(
            vision_config=_fields(config.vision_config),
            qformer_config=_fields(config.qformer_config),
            text_config=_fields(config.text) | {"decoder_start_token_id": 0},
            num_query_tokens=config.num_query_tokens,
            image_token_id=FLAN_T5_PLACEHOLDER_ID,
        ),
        dtype=dtype,
        **wanted,
    )
    return model


def make_batch(
    config: Blip2Config, batch: Batch, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Pictures that are all there, each with its placeholders in the prompt."""
    check_prompt(batch, config.num_query_tokens)
    B, n, size = batch.size, batch.images_per_sample, batch.image_size
    input_ids = torch.randint(0, FLAN_T5_PLACEHOLDER_ID, (B, batch.seq_len))
    input_ids[:, : n * config.num_query_tokens] = FLAN_T5_PLACEHOLDER_ID
    return {
        "pixel_values": torch.randn(B, n, 3, size, size, dtype=dtype),
        "img_mask": torch.ones(B, n, dtype=torch.int64),
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": torch.randint(0, FLAN_T5_PLACEHOLDER_ID, (B, batch.target_seq_len)),
    }


class MmiclForConditionalGeneration(InstructBlipForConditionalGeneration):  # type: ignore[misc]
    """InstructBLIP's parts on several pictures a sample."""

    def __init__(self, config: InstructBlipConfig) -> None:
        super().__init__(config)
        if not self.language_model.config.scale_decoder_outputs:
            self._give_the_head_its_own_table()

    def forward(
        self, pixel_values: Tensor, img_mask: Tensor | None = None, **arguments: Any
    ) -> Any:
        """Pictures [B, n, 3, H, W] and which of them are there [B, n].

        Other arguments are those of `InstructBlipForConditionalGeneration`: the prompt
        with its placeholders, a mask of its padding, labels.
        """
        return super().forward(
            pixel_values=present(pixel_values, img_mask),
            qformer_input_ids=None,
            use_cache=False,
            **arguments,
        )

    @torch.no_grad()
    def generate(
        self, pixel_values: Tensor, img_mask: Tensor | None = None, **arguments: Any
    ) -> Tensor:
        """Token ids of answers, from the decoder's start token on."""
        answers: Tensor = super().generate(
            pixel_values=present(pixel_values, img_mask),
            qformer_input_ids=None,
            **arguments,
        )
        return answers

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

    def set_placeholder(self, token_id: int) -> None:
        """The token in whose places pictures are put, where it is not FLAN-T5's."""
        self.config.image_token_id = token_id

    def _give_the_head_its_own_table(self) -> None:
        """Undo what transformers does to every T5: FLAN-T5's two tables are not tied.

        Its `T5Config` forgets `tie_word_embeddings: false`, and keeps of it only that
        the decoder's output is not scaled.
        """
        language = self.language_model
        head = "lm_head.weight"
        language._tied_weights_keys = {
            name: table
            for name, table in language._tied_weights_keys.items()
            if name != head
        }
        language.all_tied_weights_keys.pop(head, None)
        self.all_tied_weights_keys.pop(f"language_model.{head}", None)
        # DeepSpeed's stage 3 has left nothing of the table's shape here.
        table, sizes = language.shared.weight, language.config
        language.lm_head.weight = nn.Parameter(
            table.new_empty(sizes.vocab_size, sizes.d_model)
        )
        nn.init.normal_(language.lm_head.weight, std=sizes.d_model**-0.5)


def present(pixel_values: Tensor, img_mask: Tensor | None) -> Tensor:
    """Of pictures [B, n, 3, H, W] those that do not pad a sample, one after another."""
    pictures = pixel_values.flatten(0, 1)
    if img_mask is None or bool(img_mask.all()):
        return pictures
    return pictures[img_mask.flatten().bool()]


def _fields(part: Any) -> dict[str, Any]:
    """A part of the configuration under transformers' own names."""
    values = {name: getattr(part, name) for name in part.__slots__}
    return {name: value for name, value in values.items() if value is not None}
