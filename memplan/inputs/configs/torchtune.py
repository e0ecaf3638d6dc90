"""torchtune's YAML: what its recipes are run with.

Sources: torchtune 0.6, `recipes/` and `torchtune/models/`; its files since 0.0.1. How
many GPUs there are, and with them whether weights are sharded, `tune run` is told.
"""

from collections.abc import Mapping
from typing import Any

from memplan.inputs.configs import harmless
from memplan.inputs.configs.format import Document, Keys, Reading, Source, wrong
from memplan.inputs.configs.losses import CHUNKS, say_chunks
from memplan.inputs.configs.names import say_optimizer
from memplan.inputs.configs.section import Section, decide
from memplan.inputs.configs.torchtune_keys import (
    ATTENTION,
    CHUNKED,
    MLP,
    OPTIMIZERS,
    OUTPUT,
    PRESETS,
    WHOLE,
    builder_of,
    keys_of,
)
from memplan.plan import TrainingPlan

OF_FSDP = ("fsdp_cpu_offload", "fsdp_reshard_after_forward", "custom_sharded_layers")
"""Keys that only recipes for several GPUs have, which shard by FSDP2."""


class Torchtune:
    """A recipe's configuration."""

    name = "torchtune"
    title = "torchtune config"
    suffix = ".yaml"

    def knows(self, document: Document) -> bool:
        for part in ("model", "optimizer", "tokenizer", "checkpointer"):
            table = document.get(part)
            if isinstance(table, Mapping) and "_component_" in table:
                return True
        return "model_checkpoint" in document and "tokenizer_checkpoint" in document

    def read(self, source: Source) -> Reading:
        reading = Reading()
        recipe = Section(_interpolated(source.document, reading))
        _read_model(recipe, reading)
        _read_batch(recipe, reading)
        _read_precision(recipe, reading)
        _read_optimizer(recipe, reading)
        _read_activations(recipe, reading)
        _read_sharding(recipe, reading)
        _read_loss(recipe, reading)
        for key in recipe.left(harmless.TORCHTUNE):
            reading.miss(key)
        return reading

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        return keys_of(plan, document)


def _component(section: Section, name: str) -> tuple[str | None, Section]:
    """A component and its arguments; the first versions had its name alone."""
    value = section.value(name)
    if isinstance(value, str):
        return value, Section({}, name)
    arguments = section.section(name)
    return arguments.text("_component_"), arguments


def _read_model(recipe: Section, reading: Reading) -> None:
    path, model = _component(recipe, "model")
    _, kind, builder = builder_of(path or "")
    preset = PRESETS.get(builder)
    if preset:
        reading.say("model._component_", model=preset)
    elif builder:
        reading.miss("model._component_", f"{builder} is no preset of memplan")
    if not preset:
        reading.open_fields.add("model")
    if kind:
        reading.say("model._component_", trainable="lora")
        _read_adapters(kind, model, reading)
    for key in model.left(harmless.TORCHTUNE_MODEL):
        reading.miss(key)


def _read_adapters(kind: str, model: Section, reading: Reading) -> None:
    rank, dropout = model.count("lora_rank"), model.number("lora_dropout")
    decide(reading, model.key("lora_rank"), "lora_rank", rank, 8)
    decide(reading, model.key("lora_dropout"), "lora_dropout", dropout, 0.0)
    attention = model.texts("lora_attn_modules")
    targets = tuple(ATTENTION.get(part, part) for part in attention or ())
    if model.flag("apply_lora_to_mlp"):
        targets += MLP
    if model.flag("apply_lora_to_output"):
        targets += (OUTPUT,)
    decide(reading, model.key("lora_attn_modules"), "lora_targets", targets or None)
    is_quantized = model.flag("quantize_base")
    if is_quantized or (is_quantized is None and kind == "qlora"):
        reading.say("model._component_", quantization="nf4")
        what = "nf4 of torchao, counted as bitsandbytes': its constants are smaller"
        reading.miss("model._component_", what)
    else:
        reading.suppose("model._component_", quantization="none")
    if model.flag("use_dora") or kind == "dora":
        reading.miss(model.key("use_dora"), "magnitudes of DoRA are not counted")


def _read_batch(recipe: Section, reading: Reading) -> None:
    batch = recipe.count("batch_size")
    steps = recipe.count("gradient_accumulation_steps")
    decide(reading, "batch_size", "per_device_train_batch_size", batch)
    key = "gradient_accumulation_steps"
    decide(reading, key, key, steps, 1)
    _, tokenizer = _component(recipe, "tokenizer")
    _, dataset = _component(recipe, "dataset")
    longest = tokenizer.count("max_seq_len")
    if longest:
        reading.say("tokenizer.max_seq_len", seq_len=longest)
    else:
        decide(reading, "dataset.max_seq_len", "seq_len", dataset.count("max_seq_len"))
        reading.open_fields.add("seq_len")
    if dataset.flag("packed"):
        reading.miss("dataset.packed", "packs need a mask, which is not counted")
    norm = recipe.number("clip_grad_norm")
    if norm == float("inf"):
        reading.miss("clip_grad_norm", "norms that are logged are counted as clipped")
        norm = 1.0
    decide(reading, "clip_grad_norm", "max_grad_norm", norm, 0.0)


def _read_precision(recipe: Section, reading: Reading) -> None:
    """What dtype says, all is in: there is no autocast."""
    dtype = recipe.choice("dtype", "bf16", "fp32", "fp16")
    if recipe.flag("full_bf16"):  # before 0.0.1
        dtype = "bf16"
    if dtype == "fp16":
        raise wrong("dtype", dtype, "be bf16 or fp32, as in torchtune")
    precision = {"bf16": "bf16-pure", "fp32": "fp32"}.get(dtype or "")
    decide(reading, "dtype", "precision", precision)
    if precision == "bf16-pure" and reading.fields.get("trainable") == "lora":
        reading.miss("dtype", "adapters in bf16 are counted in fp32, as PEFT has them")


def _read_optimizer(recipe: Section, reading: Reading) -> None:
    path, optimizer = _component(recipe, "optimizer")
    if path is None:
        return
    known = OPTIMIZERS.get(path) or OPTIMIZERS.get(f"torch.optim.{path}")
    name = known or path
    if known in ("adamw", "adam"):
        if optimizer.flag("fused"):
            name = f"{known}_fused"
        elif optimizer.flag("foreach") is False:
            name = f"{known}_forloop"
    elif known == "sgd" and optimizer.number("momentum"):
        name = "sgd_momentum"
    say_optimizer(reading, "optimizer._component_", name)
    if name.endswith("8bit"):
        what = "states of the embeddings, counted in fp32 as the Trainer has them"
        reading.miss("optimizer._component_", what)
    if known:
        for key in optimizer.left(harmless.TORCHTUNE_OPTIMIZER):
            reading.miss(key)
    if recipe.flag("optimizer_in_bwd"):
        what = "gradients that go as they come are counted all at once"
        reading.miss("optimizer_in_bwd", what)


def _read_activations(recipe: Section, reading: Reading) -> None:
    checkpoints = recipe.flag("enable_activation_checkpointing")
    value = None if checkpoints is None else "full" if checkpoints else "none"
    key = "enable_activation_checkpointing"
    if recipe.choice("ac_mode", "full", "selective") == "selective":
        key = "ac_option"
        option = recipe.value("ac_option")
        if option in (None, "op"):
            value = "selective"
        else:
            every = recipe.count("ac_option")
            value = "full" if every == 1 else f"every-{every}"
    decide(reading, key, "activation_checkpointing", value, "none")
    key = "enable_activation_offloading"
    decide(reading, key, "offload_activations", recipe.flag(key), False)
    compiles = recipe.value("compile")
    if isinstance(compiles, Mapping):
        parts = recipe.section("compile")
        compiles = parts.flag("model") is not False
    else:
        compiles = recipe.flag("compile")
    decide(reading, "compile", "torch_compile", compiles, False)


def _read_loss(recipe: Section, reading: Reading) -> None:
    path, loss = _component(recipe, "loss")
    name = (path or "").rpartition(".")[2]
    if name in CHUNKED:
        chunks = loss.count("num_output_chunks") or CHUNKS
        say_chunks(reading, "loss._component_", chunks)
    elif name in ("", WHOLE):
        decide(reading, "loss._component_", "cross_entropy_chunks", 1 if name else None)
    else:
        reading.miss("loss._component_", f"{name} is counted as cross-entropy")


def _read_sharding(recipe: Section, reading: Reading) -> None:
    """All that is sharded is so by FSDP2, over the ranks that `tune run` starts."""
    reading.open_fields.add("num_gpus")
    tensor = recipe.count("tensor_parallel_dim")
    context = recipe.count("context_parallel_dim")
    decide(reading, "tensor_parallel_dim", "tensor_parallel", tensor, 1)
    decide(reading, "context_parallel_dim", "context_parallel", context, 1)
    offloads = recipe.flag("fsdp_cpu_offload")
    reshards = recipe.flag("fsdp_reshard_after_forward")
    apart = recipe.texts("custom_sharded_layers")
    if apart:
        reading.miss("custom_sharded_layers", "counted in the units of the model")
    if offloads is None and reshards is None and apart is None:
        reading.open_fields.add("zero_stage")
        return
    reading.suppose(sharding="fsdp2")
    key = OF_FSDP[0] if reshards is None else OF_FSDP[1]
    reading.say(key, zero_stage=2 if reshards is False else 3)
    if offloads and reshards is False:
        what = "offload without resharding is counted on the GPU"
        reading.miss("fsdp_cpu_offload", what)
        offloads = False
    decide(reading, "fsdp_cpu_offload", "offload_parameters", offloads, False)
    decide(reading, "fsdp_cpu_offload", "offload_optimizer", offloads, False)


def _interpolated(value: Any, reading: Reading, *path: str) -> Any:
    """A document without values that are taken from other keys, which are listed."""
    if isinstance(value, Mapping):
        return {
            name: _interpolated(item, reading, *path, name)
            for name, item in value.items()
        }
    if not isinstance(value, str) or "${" not in value:
        return value
    if path[0] not in harmless.TORCHTUNE:
        what = f"{value} is for OmegaConf to look up, and is not"
        reading.miss(".".join(path), what)
    return None


TORCHTUNE = Torchtune()
