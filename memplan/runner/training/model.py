"""The model of a plan as transformers, or memplan's own module, builds it.

The architecture and the sizes are those of `memplan.models.find_model`: a preset's
fields are the fields of a config.json, so both are read by the library's own
configuration class.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from memplan.models import Model
from memplan.models.catalogue import FAMILY_OF_MODEL_TYPE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CLASSES = {
    "blip-2": "Blip2ForConditionalGeneration",
    "clip": "CLIPModel",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "instructblip": "InstructBlipForConditionalGeneration",
    "llama": "LlamaForCausalLM",
    "llava": "LlavaForConditionalGeneration",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "mpt": "MptForCausalLM",
    "opt": "OPTForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen3": "Qwen3ForCausalLM",
    "siglip": "SiglipModel",
    "t5": "T5ForConditionalGeneration",
    "vit": "ViTForImageClassification",
}
"""The class of transformers that trains a model_type; BERT's config names its own."""

SAID_BY_NULL = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "q_lora_rank",
    "sliding_window",
)
"""Fields that a null switches off; of others it asks for the library's own value, which
some of its classes do not take it for."""


def build_model(model: Model, dtype: torch.dtype, attention: str | None) -> nn.Module:
    """The model in train mode, on the default device, with its own initial weights.

    `attention` is transformers' name of an implementation; None is the model's own.
    """
    module = own_module(model)
    built: nn.Module
    if module is not None:
        built = module.build(model.config, dtype, attention)
    else:
        cls = _class(model)
        wanted = {} if attention is None else {"attn_implementation": attention}
        built = cls._from_config(build_config(model), dtype=dtype, **wanted)
    return built.train()


def import_model(model: Model) -> None:
    """Import what builds the model; transformers does so when it is first asked for."""
    if own_module(model) is None:
        _class(model)


def own_module(model: Model) -> ModuleType | None:
    """The module of memplan that builds the model, where transformers has none."""
    model_type = model.source["model_type"]
    if model_type in CLASSES or model_type == "bert":
        return None
    return import_module(f"memplan.models.{FAMILY_OF_MODEL_TYPE[model_type]}.module")


def build_config(model: Model) -> "PreTrainedConfig":
    """The library's configuration of the model, without a cache of keys and values."""
    from transformers import CONFIG_MAPPING

    fields = {
        key: value
        for key, value in model.source.items()
        if value is not None or key in SAID_BY_NULL
    }
    config: PreTrainedConfig = CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
    complete(config)
    return config


def complete(config: Any) -> None:
    """Set what a run needs and a list of sizes leaves out."""
    for part in (config, *_parts(config)):
        if hasattr(part, "use_cache"):
            part.use_cache = False
        if part.model_type == "t5" and _start_token(part) is None:
            part.decoder_start_token_id = part.pad_token_id
    if getattr(config, "image_token_id", 0) is None:
        config.image_token_id = config.get_text_config().vocab_size - 1


def set_ties(model: Model, module: nn.Module) -> None:
    """Let head and table be one or two, as the configuration says.

    What was built empty has lost its ties. And T5's class ties both in any model made
    from its configuration alone, also where a checkpoint has two tables.
    """
    tie: Any = getattr(module, "tie_weights", None)
    if tie is not None:
        tie()
    language = model.source.get("text_config", model.source)
    if not language.get("tie_word_embeddings", True):
        _untie(module)


def _untie(module: nn.Module) -> None:
    owner: Any = getattr(module, "language_model", module)
    head, table = owner.get_output_embeddings(), owner.get_input_embeddings()
    if head.weight is table.weight:
        head.weight = nn.Parameter(torch.empty_like(table.weight).copy_(table.weight))


def _class(model: Model) -> Any:
    """The class of transformers; BERT's config names its own."""
    import transformers

    model_type = model.source["model_type"]
    is_bert = model_type == "bert"
    name = model.config.architecture if is_bert else CLASSES[model_type]
    return getattr(transformers, name)


def _start_token(config: Any) -> int | None:
    """What a decoder's answer begins with; a configuration may not have the field."""
    token: int | None = getattr(config, "decoder_start_token_id", None)
    return token


def _parts(config: Any) -> list[Any]:
    """Configurations within a configuration, at any depth."""
    found = []
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            found += [part, *_parts(part)]
    return found
