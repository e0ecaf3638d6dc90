"""From what the user named to a model: preset, folder, config.json or hub id."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memplan.errors import ModelConfigError, ProfileError, UnknownNameError
from memplan.models.family import Family

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FAMILY_OF_MODEL_TYPE = {
    "bert": "bert",
    "clip": "clip",
    "deepseek_v2": "deepseek",
    "deepseek_v3": "deepseek",
    "flamingo": "flamingo",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "llama": "llama",
    "llava": "llava",
    "mistral": "llama",
    "mixtral": "mixtral",
    "mpt": "mpt",
    "opt": "opt",
    "phi": "phi",
    "phi3": "phi3",
    "pe-net": "pe_net",
    "qwen2": "llama",
    "qwen2_5_vl": "qwen_vl",
    "qwen2_vl": "qwen_vl",
    "qwen3": "llama",
    "siglip": "siglip",
    "vit": "vit",
    "t5": "t5",
    "blip-2": "blip2",
    "instructblip": "instructblip",
    "mmicl": "mmicl",
}
"""The package under `memplan.models` that covers a config.json's model_type."""

MAX_SIZE = 2**31
"""No dimension of a model is larger."""
MAX_LAYERS = 10_000
"""No model is deeper; DeepSpeed's buckets are filled layer by layer."""
UNREAD_KEYS = {
    "quantization_config": "--quantization says how a frozen base is stored",
    "auto_map": "remote code is never run, the architecture is taken for the usual one",
    "pruned_heads": "every head is counted",
}
"""Keys of a config.json that can move memory and are not read; what holds instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model whose memory can be computed."""

    name: str
    family: Family
    config: Any
    source: Mapping[str, Any] = field(default_factory=dict)
    """The config.json as it was read, with what does not decide sizes."""
    defaults: Mapping[str, int] = field(default_factory=dict)
    """seq_len, target_seq_len, images_per_sample, image_size of its published use."""
    trainable_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Named sets of regular expressions of parameter names."""
    default_trainable: str = "all"
    frozen_dtype: str | None = None
    """What frozen parts are stored in, where it is not the precision's own dtype."""
    notes: tuple[str, ...] = ()
    """What a reader of its figures should know."""


def find_model(name: str, revision: str | None = None) -> Model:
    """The model of that name.

    Raises:
        UnknownNameError: no preset, path or hub id is meant.
        ModelConfigError: its configuration cannot be read or is not covered.
    """
    if name in preset_names():
        return _preset(name)
    path = Path(name).expanduser()
    if path.exists() or name.endswith(".json") or name.startswith((".", "/", "~")):
        return model_of_config(name, _read_config(path), str(path))
    if name.count("/") == 1 and not name.startswith("/"):
        return model_of_config(name, _fetch_config(name, revision), name)
    raise UnknownNameError.of("model", name, preset_names())


@cache
def preset_names() -> tuple[str, ...]:
    """All presets under `profiles/models/`, sorted."""
    folder = files("memplan.profiles") / "models"
    return tuple(
        sorted(
            entry.name.removesuffix(".toml")
            for entry in folder.iterdir()
            if entry.name.endswith(".toml")
        )
    )


def family_of(model_type: str) -> Family:
    """The family that covers a model_type, imported when asked for."""
    package = import_module(f"memplan.models.{FAMILY_OF_MODEL_TYPE[model_type]}")
    family: Family = package.FAMILY
    return family


@cache
def read_preset(name: str) -> dict[str, Any]:
    """A preset's file as it stands."""
    import tomllib

    file = files("memplan.profiles") / "models" / f"{name}.toml"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(
            f"The preset {name}.toml is damaged: {error}.", hint="Reinstall memplan."
        ) from error


@cache
def _preset(name: str) -> Model:
    data = read_preset(name)
    # What a config.json says by null, which TOML cannot.
    config = data["config"] | dict.fromkeys(data.get("null", ()))
    model = model_of_config(name, config, f"the preset {name}")
    return Model(
        name=name,
        family=model.family,
        config=model.config,
        source=model.source,
        defaults=data.get("defaults", {}),
        trainable_sets={
            key: tuple(patterns)
            for key, patterns in data.get("trainable_sets", {}).items()
        },
        default_trainable=data.get("default_trainable", "all"),
        frozen_dtype=data.get("frozen_dtype"),
        notes=model.notes + tuple(data.get("notes", ())),
    )


def model_of_config(name: str, data: Mapping[str, Any], where: str) -> Model:
    """The model of a configuration, which is checked; `where` is how errors call it.

    Raises:
        ModelConfigError: it is no configuration of a model, or is not covered.
    """
    model_type = data.get("model_type")
    if not isinstance(model_type, str):
        raise ModelConfigError(
            f"{where} has no model_type, so it is no model configuration.",
            hint="Give a config.json as Hugging Face models have it.",
        )
    if model_type not in FAMILY_OF_MODEL_TYPE:
        covered = ", ".join(sorted(FAMILY_OF_MODEL_TYPE))
        raise ModelConfigError(
            f"The architecture {model_type!r} of {where} is not covered yet.",
            hint=f"Covered: {covered}. `--parameters N` answers its model states.",
        )
    family = family_of(model_type)
    config = _validate(family.config_class, family.complete(data), where)
    check_ranges(config, where)
    family.check(config)
    unread = tuple(
        f"{key} of {where} is not read: {instead}"
        for key, instead in UNREAD_KEYS.items()
        if data.get(key)
    )
    return Model(
        name=name,
        family=family,
        config=config,
        source=dict(data),
        notes=family.notes + unread,
    )


def check_ranges(config: Any, where: str) -> None:
    """Sizes are counts and dropouts are probabilities, in nested parts as well.

    Raises:
        ModelConfigError: one is not.
    """
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            check_ranges(value, where)
        elif item.metadata.get("is_index"):
            pass  # its family knows what it counts from
        elif isinstance(value, int) and not isinstance(value, bool):
            least = 0 if item.default == 0 else 1
            most = MAX_LAYERS if "layer" in item.name else MAX_SIZE
            if not least <= value <= most:
                raise ModelConfigError(
                    f"{item.name} in {where} is {value}, which is no size.",
                    hint=f"It must lie between {least} and {most}.",
                )
        elif isinstance(value, float) and not 0 <= value < MAX_SIZE:
            raise ModelConfigError(
                f"{item.name} in {where} is {value}.", hint="It must be 0 or more."
            )
        if "drop" in item.name and isinstance(value, float) and value >= 1:
            raise ModelConfigError(
                f"{item.name} in {where} is {value}.",
                hint="A dropout is a probability below 1.",
            )


def _validate(config_class: type, data: Mapping[str, Any], where: str) -> Any:
    """Read the fields a family needs; others in a config.json do not decide sizes."""
    from pydantic import ValidationError

    try:
        return _validator(config_class).validate_python(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "configuration"
        problem = first["msg"][0].lower() + first["msg"][1:]
        raise ModelConfigError(
            f"{key} in {where} is wrong: {problem}.",
            hint="Compare it with the config.json of a published model of that kind.",
        ) from error


@cache
def _validator(config_class: type) -> "TypeAdapter[Any]":
    """Building one takes longer than an estimate."""
    from pydantic import TypeAdapter

    return TypeAdapter(config_class)


def _read_config(path: Path) -> dict[str, Any]:
    """A config.json, or the one in a folder."""
    file = path / "config.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ModelConfigError(
            f"There is no file {file}.", hint="Give a folder with a config.json in it."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelConfigError(
            f"{file} cannot be read: {error}.", hint="Give a text file of JSON."
        ) from error
    return _parse_config(text, str(file))


def _parse_config(text: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelConfigError(
            f"{where} is not JSON: {error}.", hint="Give a Hugging Face config.json."
        ) from error
    if not isinstance(data, dict):
        raise ModelConfigError(
            f"{where} holds no JSON object.", hint="Give a Hugging Face config.json."
        )
    return data


def _fetch_config(repo: str, revision: str | None) -> dict[str, Any]:
    """Only config.json of a hub id, from the cache or the network."""
    # The library would tell the hub about the machine beside asking for the file.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        file = hf_hub_download(repo, "config.json", revision=revision)
    except GatedRepoError as error:
        raise ModelConfigError(
            f"{repo} is gated, and this token has no access to it.",
            hint="Accept its terms on the hub and run `hf auth login`.",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelConfigError(
            f"{repo} has no revision {revision!r}.", hint="Leave --revision out."
        ) from error
    except RepositoryNotFoundError as error:
        raise UnknownNameError.of("model", repo, preset_names()) from error
    except LocalEntryNotFoundError as error:
        raise ModelConfigError(
            f"The config.json of {repo} is not cached and the hub cannot be reached.",
            hint="Give the path of its config.json, or a preset of `memplan models`.",
        ) from error
    except EntryNotFoundError as error:
        raise ModelConfigError(
            f"{repo} has no config.json.", hint="Give the id of a transformers model."
        ) from error
    except HFValidationError as error:
        raise UnknownNameError.of("model", repo, preset_names()) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelConfigError(
            f"The config.json of {repo} could not be fetched: {type(error).__name__}.",
            hint="Give the path of its config.json, or a preset of `memplan models`.",
        ) from error
    return _read_config(Path(file))
