"""The first batch of a program that runs: its sizes, by the names of the arguments."""

import inspect
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from memplan.errors import PlanError
from memplan.inputs.configs.format import Reading
from memplan.models import Model

if TYPE_CHECKING:
    from torch import nn


def named_arguments(
    module: "nn.Module", args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """What a module is called with, by name."""
    if not args:
        return dict(kwargs)
    try:
        bound = inspect.signature(module.forward).bind_partial(*args, **kwargs)
    except TypeError:  # the call itself will say so
        return dict(kwargs)
    return {**bound.arguments, **kwargs}


def read_batch(batch: Mapping[str, Any], model: Model, reading: Reading) -> None:
    """The sizes of what the model is called with, by the names of its arguments."""
    shapes = {
        name: tuple(value.shape)
        for name, value in batch.items()
        if hasattr(value, "shape") and hasattr(value, "dtype")
    }
    inputs = model.family.inputs
    tokens = shapes.get("input_ids") or shapes.get("inputs_embeds")
    pictures = shapes.get("pixel_values")
    first = tokens or pictures
    if not first:
        raise PlanError(
            "The model is called with neither input_ids nor pixel_values.",
            hint="`memplan rehearse -- python train.py` takes any module.",
        )
    size = first[0]
    reading.fields["per_device_train_batch_size"] = size
    if tokens and "tokens" in inputs:
        reading.fields["seq_len"] = tokens[1]
    if pictures and "images" in inputs:
        reading.fields["images_per_sample"] = max(prod(pictures[:-3]) // size, 1)
        reading.fields["image_size"] = max(pictures[-2:])
    targets = shapes.get("labels") or shapes.get("decoder_input_ids")
    if targets and "target_tokens" in inputs:
        reading.fields["target_seq_len"] = targets[-1]
    if "attention_mask" in shapes and "tokens" in inputs:
        reading.not_read.append(
            "attention_mask: padding within a batch makes a mask of each layer's "
            "attention, and may have PyTorch choose another kernel"
        )
