"""Checkpoints of memplan's own systems: a folder with weights, sizes and a tokenizer.

    config.json               the model_type and the sizes, as a preset has them
    model.safetensors         or several files and model.safetensors.index.json
    tokenizer.json, ...       as transformers saves a tokenizer

The weights are as accelerate saves those of a run, so a checkpoint of a training run is
one as soon as the other files lie beside it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import nn

from memplan.errors import DataError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
HINT = "Give the folder of a checkpoint of this very model."


def save_checkpoint(
    folder: Path, module: nn.Module, config: Mapping[str, Any], tokenizer: Any = None
) -> Path:
    """Write a folder that `load_weights` and `find_model` read; the folder.

    Args:
        config: the model's `source`: its model_type and sizes.
        tokenizer: one of transformers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(config), indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    save_model(module, str(folder / WEIGHTS))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    return folder


@torch.no_grad()
def load_weights(folder: Path, module: nn.Module) -> None:
    """Copy a checkpoint's weights into a model, each in the model's own dtype.

    Raises:
        DataError: a weight is missing, foreign, of another shape, or a file is damaged.
    """
    own = module.state_dict()
    loaded: set[str] = set()
    for file in weight_files(folder):
        weights = _read(file)
        for name, weight in weights.items():
            if name not in own:
                raise DataError(
                    f"{file} has the weight {name}, which the model has not.", hint=HINT
                )
            if weight.shape != own[name].shape:
                raise DataError(
                    f"{name} in {file} is {list(weight.shape)}, and "
                    f"{list(own[name].shape)} in the model.",
                    hint=HINT,
                )
        module.load_state_dict(weights, strict=False)
        loaded.update(weights)
    # Of tied weights one is saved; the others are the same memory.
    places = {own[name].data_ptr() for name in loaded}
    missing = [n for n in own if n not in loaded and own[n].data_ptr() not in places]
    refuse_missing(folder, missing, HINT)


def refuse_missing(folder: Path, names: Sequence[str], hint: str) -> None:
    """Name the first of the weights that a checkpoint lacks.

    Raises:
        DataError: there is one.
    """
    if names:
        more = f" and {len(names) - 1} more" if names[1:] else ""
        raise DataError(f"{folder} lacks the weight {names[0]}{more}.", hint=hint)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint's folder.

    Raises:
        DataError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} holds no tokenizer.",
            hint="Save the tokenizer of the language model there.",
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint's weights.

    Raises:
        DataError: there are none.
    """
    index = folder / INDEX
    files = [folder / WEIGHTS]
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = [folder / name for name in sorted(set(names.values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{index} is damaged.", hint=HINT) from error
    for file in files:
        if not file.is_file():
            raise DataError(
                f"{folder} has no weights: there is no {file.name}.", hint=HINT
            )
    return files


def _read(file: Path) -> dict[str, torch.Tensor]:
    try:
        weights: dict[str, torch.Tensor] = load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is damaged: {error}.", hint=HINT) from error
    return weights
