"""PEFT's `adapter_config.json`, as `save_pretrained` writes it.

Source: peft 0.21, `tuners/lora/config.py` and `config.py`.
"""

import re
from collections.abc import Mapping
from typing import Any

from memplan.formulas.setting import ALL_LINEAR
from memplan.inputs.configs import harmless
from memplan.inputs.configs.format import Document, Keys, Reading, Source, wrong
from memplan.inputs.configs.names import hub_name, model_name
from memplan.inputs.configs.section import Section, decide
from memplan.plan import TrainingPlan

DEFAULT_RANK = 8
MOVES_MEMORY = {
    "layer_replication": "layers that are there twice are counted once",
    "layers_pattern": "adapters are counted in all layers",
    "layers_to_transform": "adapters are counted in all layers",
    "lora_bias": "biases of adapters are not counted",
    "modules_to_save": "modules that train beside the adapters are counted as frozen",
    "rank_pattern": "one rank is counted for all layers",
    "target_parameters": "adapters of parameters outside linear layers",
    "trainable_token_indices": "rows of the embeddings that train",
    "use_dora": "magnitudes and norms of DoRA are not counted",
}
"""Keys of LoRA that no field says; what is counted instead."""
NAMES = re.compile(r"\.[*+](?:\\\.)?(?:(\w+)|\((?:\?:)?(\w+(?:\|\w+)*)\))\$?")
r"""A regular expression that is a list of names: `.*\.(q_proj|v_proj)`."""


class Peft:
    """The adapters of a model."""

    name = "peft"
    title = "PEFT adapter config"
    suffix = ".json"

    def knows(self, document: Document) -> bool:
        return "peft_type" in document

    def read(self, source: Source) -> Reading:
        reading = Reading()
        section = Section(source.document)
        _read_model(section, reading)
        kind = section.text("peft_type")
        if kind != "LORA":
            reading.miss("peft_type", f"{kind} has no formula")
            return reading
        reading.say("peft_type", trainable="lora")
        decide(reading, "r", "lora_rank", section.count("r"), DEFAULT_RANK)
        dropout = section.number("lora_dropout")
        decide(reading, "lora_dropout", "lora_dropout", dropout, 0.0)
        read_targets(section, "target_modules", reading)
        if (section.choice("bias", "none", "all", "lora_only") or "none") != "none":
            reading.miss("bias", "biases that train are counted as frozen")
        for key in section.left(harmless.PEFT):
            reading.miss(key, MOVES_MEMORY.get(key, "not known to memplan"))
        return reading

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        keys: Keys = {}
        if plan.model is not None:
            keys[("base_model_name_or_path",)] = hub_name(plan.model)
        if plan.revision is not None:
            keys[("revision",)] = plan.revision
        if plan.trainable == "lora":
            keys |= {
                ("peft_type",): "LORA",
                ("r",): plan.lora_rank,
                ("lora_dropout",): plan.lora_dropout,
                ("target_modules",): targets_written(
                    plan, document.get("target_modules")
                ),
            }
        return keys


def read_targets(section: Section, name: str, reading: Reading) -> None:
    """Which linear layers get adapters; a list of names, all-linear, or a pattern."""
    value = section.value(name)
    targets = _targets(value)
    if targets is None and isinstance(value, str):
        reading.miss(
            section.key(name),
            f"the pattern {value!r}; adapters are counted in the usual layers",
        )
    elif targets is None:
        raise wrong(section.key(name), value, "be a list of names, or a pattern")
    else:
        reading.say(section.key(name), lora_targets=targets)


def targets_written(plan: TrainingPlan, present: Any) -> Any:
    """What a file says of them: as it does already, where it says the same."""
    if present is not None and (_targets(present) or ()) == plan.lora_targets:
        return present
    if ALL_LINEAR in plan.lora_targets:
        return ALL_LINEAR
    return list(plan.lora_targets) or None


def _targets(value: Any) -> tuple[str, ...] | None:
    """Names of layers; None where a value is no list of names."""
    if value is None:
        return ()
    if isinstance(value, list):
        return tuple(value) if all(isinstance(item, str) for item in value) else None
    if value == ALL_LINEAR:
        return (ALL_LINEAR,)
    found = NAMES.fullmatch(value) if isinstance(value, str) else None
    return tuple((found[1] or found[2]).split("|")) if found else None


def _read_model(section: Section, reading: Reading) -> None:
    name = section.text("base_model_name_or_path")
    revision = section.text("revision")
    if name and revision:  # of a preset there is one revision
        reading.say("base_model_name_or_path", model=name)
        reading.say("revision", revision=revision)
    elif name:
        reading.say("base_model_name_or_path", model=model_name(name))


PEFT = Peft()
