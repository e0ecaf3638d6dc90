"""One synthetic micro-batch of the shape that a plan asks for.

Token ids lie within the vocabulary, pictures are noise, labels are valid. Nothing is
padded, so there is no mask, as for the estimate.
"""

import inspect
from typing import Any

import torch
from torch import nn

from memplan.formulas.setting import Batch
from memplan.models import Model
from memplan.models.batch import batch_of
from memplan.plan import TrainingPlan
from memplan.runner.training.model import own_module

Tensors = dict[str, Any]


def make_batch(
    plan: TrainingPlan, model: Model, module: nn.Module, dtype: torch.dtype
) -> Tensors:
    """The arguments of the model's forward pass with labels, on the default device.

    `dtype` is what weights are stored in: modules of memplan's own want pictures in it,
    those of transformers cast them.
    """
    batch = batch_of(plan, model)
    own = own_module(model)
    if own is not None:
        made: Tensors = own.make_batch(model.config, batch, dtype)
        return made
    adapted: Any = getattr(module, "get_base_model", None)
    base: Any = module if adapted is None else adapted()
    names = set(inspect.signature(type(base).forward).parameters)
    config = base.config
    tensors: Tensors = {}
    if "tokens" in model.family.inputs:
        tensors["input_ids"] = token_ids(
            config.get_text_config().vocab_size, batch.size, batch.seq_len
        )
    if "image_grid_thw" in names:
        tensors |= patches(config, batch)
    elif "images" in model.family.inputs:
        tensors["pixel_values"] = pictures(batch)
        own_size = model.family.default_image_size(model.config)
        if "interpolate_pos_encoding" in names and batch.image_size != own_size:
            tensors["interpolate_pos_encoding"] = True
    if "qformer_input_ids" in names:
        tensors |= instruction(config, batch)
    image_tokens = model.family.image_tokens(model.config, batch.image_size)
    if image_tokens:
        placeholders = image_tokens * batch.images_per_sample
        tensors["input_ids"][:, :placeholders] = config.image_token_id
    if "return_loss" in names:
        return tensors | {"return_loss": True}
    return tensors | {"labels": labels(model, config, batch, tensors)}


def token_ids(vocab_size: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, vocab_size, shape)


def pictures(batch: Batch) -> torch.Tensor:
    """[B * images, 3, H, W] in fp32, as an image processor normalises them."""
    size = batch.image_size
    return torch.randn(batch.size * batch.images_per_sample, 3, size, size)


def patches(config: Any, batch: Batch) -> Tensors:
    """Pictures of Qwen-VL: a row for each patch, twice as for a video of two frames."""
    vision = config.vision_config
    side = batch.image_size // vision.patch_size
    num_pictures = batch.size * batch.images_per_sample
    num_values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": torch.randn(num_pictures * side**2, num_values),
        "image_grid_thw": torch.tensor([[1, side, side]] * num_pictures),
        "mm_token_type_ids": torch.zeros(batch.size, batch.seq_len, dtype=torch.long),
    }


def instruction(config: Any, batch: Batch) -> Tensors:
    """What InstructBLIP's Q-Former reads: the prompt without the places of pictures."""
    num_pictures = batch.size * batch.images_per_sample
    num_tokens = min(
        batch.seq_len - config.num_query_tokens * batch.images_per_sample,
        config.qformer_config.max_position_embeddings,
    )
    ids = token_ids(config.qformer_config.vocab_size, num_pictures, num_tokens)
    return {"qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}


def labels(model: Model, config: Any, batch: Batch, tensors: Tensors) -> torch.Tensor:
    """Classes, the decoder's tokens, or the input's own: the model shifts them."""
    if "target_tokens" in model.family.inputs:
        vocab_size = config.get_text_config().vocab_size
        return token_ids(vocab_size, batch.size, batch.target_seq_len)
    if "tokens" not in model.family.inputs or _classifies(model):
        return token_ids(config.num_labels, batch.size)
    same: torch.Tensor = tensors["input_ids"].clone()
    return same


def _classifies(model: Model) -> bool:
    return "Classification" in getattr(model.config, "architecture", "")
