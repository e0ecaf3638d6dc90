"""Which model a run of MME asks, and whose weights: without torch, before the load."""

import json
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from memplan.errors import DataError, ModelConfigError
from memplan.mme.answering import MODULES
from memplan.models import Model, find_model, preset_names

PATTERNS = ("*.safetensors", "pytorch_model*.bin", "*.json", "*.model", "*.txt")
"""Files of a checkpoint that decide answers: weights, sizes, tokenizers."""
FROM_TRANSFORMERS = ("blip-2", "instructblip")
"""Saved by transformers, with all of its own configuration."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder of weights, and the model that they are of."""

    name: str
    """As the user named the model."""
    folder: Path
    model_type: str
    model: Model | None
    """Of memplan's own systems; transformers reads its own configurations itself."""

    def digest(self) -> str:
        """Of the files' contents: a run does not go on with other weights."""
        total = sha256()
        for pattern in PATTERNS:
            for file in sorted(self.folder.glob(pattern)):
                with file.open("rb") as content:
                    total.update(file.name.encode())
                    total.update(file_digest(content, "sha256").digest())
        return total.hexdigest()[:16]


def find_checkpoint(model: str, folder: Path | None = None) -> Checkpoint:
    """The checkpoint of a preset in a folder, or the folder that the model is.

    Raises:
        MemplanError: there is no such model, or the folder is not of it.
    """
    if model in preset_names():
        return _of_preset(model, folder)
    if folder is not None:
        raise DataError(
            f"{model} is a folder of its own, and --checkpoint names another.",
            hint="Give one of the two, or a preset with a checkpoint.",
        )
    path = Path(model).expanduser()
    if not path.is_dir():
        raise DataError(
            f"{model} is neither a preset nor a folder with a checkpoint.",
            hint="See `memplan models` for presets; nothing is downloaded.",
        )
    model_type = _model_type(path)
    _check_answers(model_type, f"A {model_type} in {path}")
    own = None if model_type in FROM_TRANSFORMERS else find_model(str(path))
    return Checkpoint(model, path, model_type, own)


def _of_preset(name: str, folder: Path | None) -> Checkpoint:
    model = find_model(name)
    model_type = str(model.source["model_type"])
    _check_answers(model_type, name)
    if folder is None:
        raise DataError(
            f"{name} is a list of sizes, without weights.",
            hint="Add --checkpoint with the folder of its trained weights.",
        )
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.", hint="Check --checkpoint.")
    if (folder / "config.json").exists():
        saved = find_model(str(folder))
        if saved.config != model.config:
            raise DataError(
                f"The checkpoint in {folder} is not of {name}: its config.json has "
                "other sizes.",
                hint=f"Leave the preset out: --model {folder}",
            )
    return Checkpoint(name, folder, model_type, model)


def _check_answers(model_type: str, what: str) -> None:
    if model_type not in MODULES:
        raise DataError(
            f"{what} answers no questions about pictures.",
            hint=f"These do: {', '.join(MODULES)}.",
        )


def _model_type(folder: Path) -> str:
    file = folder / "config.json"
    try:
        model_type = json.loads(file.read_text(encoding="utf-8"))["model_type"]
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} has no config.json, so it is no checkpoint.",
            hint="Name its preset with --model, and this folder with --checkpoint.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelConfigError(
            f"{file} holds no model configuration.",
            hint="Save the model anew with save_pretrained(folder).",
        ) from error
    return str(model_type)
