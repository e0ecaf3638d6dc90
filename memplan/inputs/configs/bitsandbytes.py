"""bitsandbytes, as transformers writes its `BitsAndBytesConfig`.

A file may hold it alone, or be a model's config.json with a `quantization_config`.
Source: transformers 5.23, `utils/quantization_config.py`. In 4 bits the formulas count
bitsandbytes' nf4 without double quantization, computed in the dtype of the precision.
"""

from collections.abc import Mapping
from typing import Any

from memplan.formulas.weights import AUTOCAST_DTYPE, STORED_DTYPE
from memplan.inputs.configs import harmless
from memplan.inputs.configs.format import Document, Keys, Reading, Source, at
from memplan.inputs.configs.names import LONG_DTYPES, dtype_name
from memplan.inputs.configs.section import Section
from memplan.plan import TrainingPlan

NESTED = "quantization_config"
METHOD = "bitsandbytes"
USUAL: dict[str, tuple[Any, str]] = {
    "bnb_4bit_blocksize": (64, "constants are counted for each 64 elements"),
    "llm_int8_threshold": (6.0, "decides how many columns are outliers"),
    "bnb_4bit_quant_storage": (
        "uint8",
        "lets weights in 4 bits be sharded; they are counted whole on each rank",
    ),
}
"""Keys whose usual value is what the formulas have, and what another one does."""
OTHERS = {
    "bnb_4bit_use_double_quant": "double quantization: its constants are smaller",
    "llm_int8_skip_modules": "which modules are quantized is the model's default here",
    "llm_int8_enable_fp32_cpu_offload": "modules on the host are counted on the card",
    "llm_int8_has_fp16_weight": "weights in 16 bits beside those in 8",
}
"""Keys that move memory when they are set, and what is counted instead."""
KEYS = frozenset(
    ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_compute_dtype")
)
KNOWN = KEYS | harmless.BITSANDBYTES | USUAL.keys() | OTHERS.keys()


class BitsAndBytes:
    """A quantization config, alone or in a config.json."""

    name = "bitsandbytes"
    title = "bitsandbytes quantization config"
    suffix = ".json"

    def knows(self, document: Document) -> bool:
        if isinstance(document.get(NESTED), Mapping):
            return "model_type" in document or document.keys() == {NESTED}
        if "quant_method" in document:
            return True
        return bool(document.keys() & KEYS) and document.keys() <= KNOWN

    def read(self, source: Source) -> Reading:
        reading = Reading()
        if "model_type" in source.document:
            reading.say("model_type", model=str(source.file))
        if NESTED in source.document:
            read_quantization(Section(source.document).section(NESTED), reading)
        else:
            read_quantization(Section(source.document), reading)
        return reading

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        place = (NESTED,) if NESTED in document else ()
        return {
            (*place, *key): value
            for key, value in quantization_keys(
                plan, at(document, *place) or {}
            ).items()
        }


def read_quantization(
    section: Section, reading: Reading, *, compute_dtype: str = "float32"
) -> None:
    """What a quantization config says.

    Args:
        compute_dtype: where the config leaves it out, of 4 bits.
    """
    method = section.text("quant_method") or METHOD
    if method != METHOD:
        reading.miss(section.key("quant_method"), f"{method} has no formula")
        return
    if section.flag("load_in_8bit"):
        reading.say(section.key("load_in_8bit"), quantization="int8")
    elif section.flag("load_in_4bit"):
        reading.say(section.key("load_in_4bit"), quantization="nf4")
        _read_4bit(section, reading, compute_dtype)
    else:
        reading.suppose(section.key("load_in_4bit"), quantization="none")
        return
    for name, (usual, what) in USUAL.items():
        value = section.value(name)
        if value is not None and value != usual:
            reading.miss(section.key(name), what)
    for name, what in OTHERS.items():
        if section.value(name):
            reading.miss(section.key(name), what)
    for key in section.left(KNOWN):
        reading.miss(key)


def quantization_keys(plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
    """The keys of a plan in a quantization config that is there already."""
    if document.get("quant_method") not in (None, METHOD):
        return {}
    keys: Keys = {
        ("load_in_4bit",): plan.quantization == "nf4",
        ("load_in_8bit",): plan.quantization == "int8",
    }
    if plan.quantization == "nf4":
        kind = document.get("bnb_4bit_quant_type")
        stored = STORED_DTYPE[plan.precision]
        computed = AUTOCAST_DTYPE.get(plan.precision, stored)
        keys[("bnb_4bit_quant_type",)] = kind if kind == "fp4" else "nf4"
        keys[("bnb_4bit_compute_dtype",)] = LONG_DTYPES[computed]
    return keys


def _read_4bit(section: Section, reading: Reading, compute_dtype: str) -> None:
    kind = section.choice("bnb_4bit_quant_type", "nf4", "fp4") or "fp4"
    if kind == "fp4":
        reading.miss(
            section.key("bnb_4bit_quant_type"), "fp4 is counted as nf4, of its size"
        )
    computed = section.text("bnb_4bit_compute_dtype") or compute_dtype
    if dtype_name(computed) != "bf16":
        reading.miss(
            section.key("bnb_4bit_compute_dtype"),
            f"computed in {computed}; the plan computes in the dtype of its precision",
        )


BITSANDBYTES = BitsAndBytes()
