"""Names that other tools have for what a plan names too, one for each thing.

Two files that mean the same must come to the same plan, and a plan that was written to
a file and read again must be the same plan: so of several names one is the plan's.
"""

from functools import cache

from memplan.errors import UnknownNameError
from memplan.formulas.optimizers import find_optimizer
from memplan.inputs.configs.format import Reading
from memplan.models import preset_names
from memplan.models.catalogue import read_preset

DTYPES = {
    "float32": "fp32",
    "float": "fp32",
    "fp32": "fp32",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "fp16": "fp16",
}
"""Dtypes under the names that torch and configurations have for them."""

LONG_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What torch calls them."""

OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_foreach": "adamw",
    "adamw_torch_fused": "adamw_fused",
    "adamw_bnb_8bit": "adamw_8bit",
    "lion_32bit": "lion",
    "rmsprop_bnb_32bit": "rmsprop_bnb",
}
"""Names of the Trainer whose optimizer has a shorter name in memplan."""

NOT_OF_THE_TRAINER = frozenset(
    (
        *("adam", "adam_forloop", "adam_fused", "adamw_forloop"),
        *("sgd_momentum", "torch_adafactor"),
    )
)
"""Optimizers of a plan that the Trainer has no name for."""


def dtype_name(text: str) -> str | None:
    """The plan's name of a dtype: of `torch.bfloat16` it is bf16."""
    return DTYPES.get(text.lower().removeprefix("torch."))


def optimizer_name(name: str) -> str:
    """The plan's name of an optimizer that the Trainer has a name for, too."""
    key = name.strip().lower().replace("-", "_")
    return OPTIMIZERS.get(key, key)


def say_optimizer(reading: Reading, key: str, name: str) -> None:
    """An optimizer, if it is modelled; else it is listed, and another may be said."""
    try:
        find_optimizer(optimizer_name(name))
    except UnknownNameError:
        reading.miss(key, f"{name} has no formula")
        reading.open_fields.add("optim")
    else:
        reading.say(key, optim=optimizer_name(name))


def trainer_optimizer_name(name: str) -> str:
    """The other way: a name that the Trainer takes, where it has one."""
    key = optimizer_name(name)
    return {short: long for long, short in reversed(OPTIMIZERS.items())}.get(key, key)


def model_name(name: str) -> str:
    """The preset of a hub id, where there is one: it needs no network."""
    return _presets().get(name, name)


def hub_name(model: str) -> str:
    """The hub id of a preset, where it has one: what other tools can load."""
    if model in preset_names():
        return str(read_preset(model).get("hub_id", model))
    return model


@cache
def _presets() -> dict[str, str]:
    ids = {name: read_preset(name).get("hub_id") for name in preset_names()}
    return {hub_id: name for name, hub_id in ids.items() if hub_id}
