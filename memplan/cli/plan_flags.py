"""The flags of a plan: declared once, taken by every verb that takes a plan."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memplan.cli.values import (
    parse_attention,
    parse_checkpointing,
    parse_count,
    parse_dtype,
    parse_fraction,
    parse_precision,
    parse_size,
    parse_targets,
)

if TYPE_CHECKING:
    from memplan.inputs.configs.reading import Asked

Text = str | None
Count = int | None

CONFIG = "config"
MODEL, TRAINED, STEP, SHARDED, CARD = (
    "Model and data",
    "What is trained",
    "The step",
    "Several GPUs",
    "The card",
)


def takes_plan(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the flags of a plan, ahead of its own.

    What was typed reaches the verb as keyword arguments named as the fields of
    `TrainingPlan`; None is left to the plan's own default.
    """
    own = [
        parameter
        for parameter in inspect.signature(verb).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    required = [p for p in own if p.default is inspect.Parameter.empty]
    defaulted = [p for p in own if p.default is not inspect.Parameter.empty]
    shared = inspect.signature(_flags).parameters.values()
    signature = inspect.Signature([*required, *shared, *defaulted])
    verb.__signature__ = signature  # type: ignore[attr-defined]
    return verb


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """Fields of a plan, as files of `--config` and the flags that were typed say."""
    return asked(flags).fields


def asked(flags: dict[str, Any]) -> "Asked":
    """The same, with what the files leave open; what they were read as is told.

    Raises:
        ConfigError: a file cannot be read, or is of no known format.
    """
    from memplan.inputs.configs.reading import Asked, read_files

    typed = {name: value for name, value in flags.items() if value is not None}
    files = typed.pop(CONFIG, None)
    if not files:
        return Asked(fields=typed)
    found = read_files(files, typed)
    for file in found.files:
        typer.echo(file.line, err=True)
    for line in found.not_read:
        typer.echo(f"not read: {line}", err=True)
    return found


def option(*names: str, help: str, panel: str, parser: Any = None) -> Any:
    """A flag; None leaves the plan's own default."""
    return typer.Option(*names, help=help, rich_help_panel=panel, parser=parser)


def _flags(
    model: Annotated[
        Text,
        typer.Argument(
            help="A preset of `memplan models`, a hub id, a folder, a config.json."
        ),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            help="A configuration of accelerate, DeepSpeed, the Trainer, TRL, ... "
            "Repeatable: later files win, and flags over all.",
            rich_help_panel=MODEL,
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        Text, option("--revision", help="Revision of a hub id.", panel=MODEL)
    ] = None,
    parameters: Annotated[
        Any,
        option(
            "--parameters",
            help="A bare parameter count in place of a model, like 7.5e9.",
            panel=MODEL,
            parser=parse_count,
        ),
    ] = None,
    workload: Annotated[
        Text, option("--workload", help="train, generate or mme.", panel=MODEL)
    ] = None,
    per_device_train_batch_size: Annotated[
        Count,
        option(
            "--per-device-train-batch-size",
            "--micro-batch-size",
            "--batch-size",
            help="Samples of a micro-batch on one GPU.  (default: 1)",
            panel=MODEL,
        ),
    ] = None,
    seq_len: Annotated[
        Count,
        option(
            "--seq-len",
            "--max-seq-length",
            "--max-length",
            "--cutoff-len",
            help="Tokens of a sample.  (default: the preset's)",
            panel=MODEL,
        ),
    ] = None,
    target_seq_len: Annotated[
        Count,
        option(
            "--target-seq-len",
            help="Tokens of the decoder of an encoder-decoder model.",
            panel=MODEL,
        ),
    ] = None,
    images_per_sample: Annotated[
        Count, option("--images-per-sample", help="Images of a sample.", panel=MODEL)
    ] = None,
    image_size: Annotated[
        Count, option("--image-size", help="Pixels of a side.", panel=MODEL)
    ] = None,
    max_new_tokens: Annotated[
        Count,
        option("--max-new-tokens", help="Tokens to generate.", panel=MODEL),
    ] = None,
    num_shots: Annotated[
        Count,
        option(
            "--num-shots",
            help="Of the workload mme: examples before a question.  (default: 0)",
            panel=MODEL,
        ),
    ] = None,
    trainable: Annotated[
        Text,
        option(
            "--trainable",
            help="default, all, lora, a named set, or regular expressions.",
            panel=TRAINED,
        ),
    ] = None,
    lora_rank: Annotated[
        Count,
        option("--lora-rank", "--lora-r", help="(default: 16)", panel=TRAINED),
    ] = None,
    lora_targets: Annotated[
        Any,
        option(
            "--lora-targets",
            "--lora-target-modules",
            help="Comma-separated names of linear layers.",
            panel=TRAINED,
            parser=parse_targets,
        ),
    ] = None,
    lora_dropout: Annotated[
        float | None,
        option("--lora-dropout", help="(default: 0)", panel=TRAINED),
    ] = None,
    frozen_dtype: Annotated[
        Any,
        option(
            "--frozen-dtype",
            help="fp32, bf16 or fp16: what frozen parts are stored in.",
            panel=TRAINED,
            parser=parse_dtype,
        ),
    ] = None,
    quantization: Annotated[
        Text,
        option(
            "--quantization",
            help="none, int8 or nf4: linear layers of a frozen base.",
            panel=TRAINED,
        ),
    ] = None,
    precision: Annotated[
        Any,
        option(
            "--precision",
            "--mixed-precision",
            help="fp32, tf32, bf16-mixed, fp16-mixed, bf16-pure or fp16-master.  "
            "(default: bf16-mixed)",
            panel=STEP,
            parser=parse_precision,
        ),
    ] = None,
    optim: Annotated[
        Text,
        option(
            "--optim",
            "--optimizer",
            help="adamw, adamw-8bit, sgd-momentum, adafactor, ... or a Trainer name.  "
            "(default: adamw)",
            panel=STEP,
        ),
    ] = None,
    gradient_accumulation_steps: Annotated[
        Count,
        option("--gradient-accumulation-steps", help="(default: 1)", panel=STEP),
    ] = None,
    max_grad_norm: Annotated[
        float | None,
        option("--max-grad-norm", help="0 clips nothing.  (default: 1)", panel=STEP),
    ] = None,
    activation_checkpointing: Annotated[
        Any,
        option(
            "--activation-checkpointing",
            "--gradient-checkpointing",
            help="none, full, selective, or every-N.  (default: none)",
            panel=STEP,
            parser=parse_checkpointing,
        ),
    ] = None,
    attn_implementation: Annotated[
        Any,
        option(
            "--attn-implementation",
            help="auto, eager, math, efficient, flash or cudnn.  (default: auto)",
            panel=STEP,
            parser=parse_attention,
        ),
    ] = None,
    offload_activations: Annotated[
        bool | None,
        option(
            "--offload-activations/--no-offload-activations",
            help="Saved activations wait in host memory.",
            panel=STEP,
        ),
    ] = None,
    cross_entropy_chunks: Annotated[
        Count,
        option(
            "--cross-entropy-chunks",
            help="Parts of the tokens that head and loss run over.  (default: 1)",
            panel=STEP,
        ),
    ] = None,
    torch_compile: Annotated[
        bool | None,
        option("--torch-compile/--no-torch-compile", help="Compiled.", panel=STEP),
    ] = None,
    accounting: Annotated[
        Text,
        option(
            "--accounting",
            help="torch (what is held), zero (16 bytes) or hf (18).  (default: torch)",
            panel=STEP,
        ),
    ] = None,
    ema: Annotated[
        bool | None,
        option("--ema/--no-ema", help="Averaged weights on the GPU.", panel=STEP),
    ] = None,
    num_gpus: Annotated[
        Count,
        option("--num-gpus", "--num-processes", help="(default: 1)", panel=SHARDED),
    ] = None,
    zero_stage: Annotated[
        Count, option("--zero-stage", help="0 to 3.  (default: 0)", panel=SHARDED)
    ] = None,
    sharding: Annotated[
        Text,
        option("--sharding", help="fsdp2 or deepspeed.", panel=SHARDED),
    ] = None,
    offload_optimizer: Annotated[
        bool | None,
        option(
            "--offload-optimizer/--no-offload-optimizer",
            help="Optimizer states in host memory.",
            panel=SHARDED,
        ),
    ] = None,
    offload_parameters: Annotated[
        bool | None,
        option(
            "--offload-parameters/--no-offload-parameters",
            help="Parameters in host memory (stage 3).",
            panel=SHARDED,
        ),
    ] = None,
    tensor_parallel: Annotated[
        Count, option("--tensor-parallel", help="Degree.", panel=SHARDED)
    ] = None,
    sequence_parallel: Annotated[
        bool | None,
        option(
            "--sequence-parallel/--no-sequence-parallel",
            help="Within the tensor-parallel group.",
            panel=SHARDED,
        ),
    ] = None,
    pipeline_parallel: Annotated[
        Count, option("--pipeline-parallel", help="Degree.", panel=SHARDED)
    ] = None,
    context_parallel: Annotated[
        Count, option("--context-parallel", help="Degree.", panel=SHARDED)
    ] = None,
    expert_parallel: Annotated[
        Count, option("--expert-parallel", help="Degree.", panel=SHARDED)
    ] = None,
    gpu: Annotated[
        Text,
        option(
            "--gpu",
            help="A card of `memplan gpus`, or all.  (default: h100-80gb)",
            panel=CARD,
        ),
    ] = None,
    gpu_memory_bytes: Annotated[
        Any,
        option(
            "--gpu-memory",
            help="Total memory in place of the card's, like 24GiB.",
            panel=CARD,
            parser=parse_size,
        ),
    ] = None,
    context_bytes: Annotated[
        Any,
        option(
            "--context-memory",
            help="CUDA context in place of the card's, like 500MiB.",
            panel=CARD,
            parser=parse_size,
        ),
    ] = None,
    headroom_fraction: Annotated[
        Any,
        option(
            "--headroom",
            help="Part of the card to stay free.  (default: 5%)",
            panel=CARD,
            parser=parse_fraction,
        ),
    ] = None,
    alloc_conf: Annotated[
        Text,
        option(
            "--alloc-conf",
            help="PYTORCH_ALLOC_CONF of the run, like expandable_segments:True.",
            panel=CARD,
        ),
    ] = None,
    torch: Annotated[
        Text,
        option("--torch", help="Version whose constants apply, like 2.11.", panel=CARD),
    ] = None,
) -> None:
    """The fields of a plan, as typer reads them from a signature."""
