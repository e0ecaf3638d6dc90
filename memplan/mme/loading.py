"""From a checkpoint to a model that answers, in the precision that a plan names."""

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from memplan.errors import DataError, PlanError
from memplan.formulas.weights import STORED_DTYPE
from memplan.mme.answering import MODULES, Answerer
from memplan.mme.checkpoints import FROM_TRANSFORMERS, Checkpoint
from memplan.models import Model
from memplan.models.checkpoint import load_weights, refuse_missing
from memplan.models.workload import ANSWER_TOKENS, generation_of
from memplan.plan import TrainingPlan
from memplan.runner.training.attention import attention_kernel, implementation
from memplan.runner.training.model import CLASSES, build_model, set_ties
from memplan.runner.training.precision import (
    DTYPES,
    autocast,
    compute_dtype,
    frozen_dtype,
    set_matmul_precision,
)
from memplan.runner.training.quantize import quantize
from memplan.units import format_gib

if TYPE_CHECKING:
    from PIL.Image import Image

HINT = "Save the model anew with save_pretrained(folder)."


def load_answerer(
    checkpoint: Checkpoint, plan: TrainingPlan, device: torch.device
) -> "AsPlanned":
    """The model of a checkpoint, ready to answer.

    Raises:
        DataError: the checkpoint is damaged, or incomplete.
    """
    _be_quiet()
    set_matmul_precision(plan)
    if checkpoint.model_type in FROM_TRANSFORMERS:
        module = _pretrained(checkpoint, plan, device)
    else:
        assert checkpoint.model is not None
        module = _own(checkpoint, checkpoint.model, plan, device)
    make = import_module(MODULES[checkpoint.model_type]).make_answerer
    num_tokens = plan.max_new_tokens or ANSWER_TOKENS
    answerer: Answerer = make(module.eval(), checkpoint.folder, num_tokens)
    return AsPlanned(answerer, module, plan, device)


class AsPlanned:
    """Answers without gradients, under the plan's autocast and attention kernel."""

    def __init__(
        self,
        answerer: Answerer,
        module: nn.Module,
        plan: TrainingPlan,
        device: torch.device,
    ) -> None:
        self.module = module
        self._answerer = answerer
        self._plan = plan
        self._device = device

    def answer(self, images: "Sequence[Image]", questions: Sequence[str]) -> list[str]:
        """As an `Answerer`.

        Raises:
            PlanError: the batch does not fit on the device.
        """
        try:
            with (
                torch.no_grad(),
                attention_kernel(self._plan),
                autocast(self._plan, self._device.type),
            ):
                return self._answerer.answer(images, questions)
        except torch.OutOfMemoryError as error:
            raise PlanError(
                f"{len(questions)} questions at once do not fit on {self._device}.",
                hint="Lower --batch-size or --precision; answers so far are kept.",
            ) from error


def _be_quiet() -> None:
    """Of what libraries say, only errors: there is a bar of our own.

    transformers warns of configurations that are not its own, and bitsandbytes of every
    layer's input that it casts.
    """
    from transformers.utils import logging as of_transformers

    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _own(
    checkpoint: Checkpoint, model: Model, plan: TrainingPlan, device: torch.device
) -> nn.Module:
    """One of memplan's systems; quantized weights come to the device as such."""
    plan = generation_of(plan, model)
    is_quantized = plan.quantization != "none"
    with torch.device("cpu") if is_quantized else device:
        module = build_model(model, frozen_dtype(plan, model), implementation(plan))
    set_ties(model, module)
    load_weights(checkpoint.folder, module)
    if is_quantized:
        quantize(plan, model, module, device)
    return module.to(device)


def _pretrained(
    checkpoint: Checkpoint, plan: TrainingPlan, device: torch.device
) -> nn.Module:
    """A model of transformers, which quantizes as it reads."""
    import transformers

    dtype = DTYPES[plan.frozen_dtype or STORED_DTYPE[plan.precision]]
    cls = getattr(transformers, CLASSES[checkpoint.model_type])
    wanted: dict[str, Any] = {"attn_implementation": implementation(plan)}
    if plan.quantization != "none":
        wanted["quantization_config"] = _quantization(plan)
    try:
        module, info = cls.from_pretrained(
            str(checkpoint.folder),
            local_files_only=True,
            dtype=dtype,
            device_map={"": device},
            output_loading_info=True,
            **{name: value for name, value in wanted.items() if value is not None},
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"The checkpoint in {checkpoint.folder} cannot be loaded: {first}.",
            hint=HINT,
        ) from error
    refuse_missing(checkpoint.folder, sorted(info["missing_keys"]), HINT)
    loaded: nn.Module = module
    return loaded


def _quantization(plan: TrainingPlan) -> Any:
    from transformers import BitsAndBytesConfig

    if plan.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=compute_dtype(plan),
    )


def usable_device(name: str | None) -> torch.device:
    """The device of that name; a GPU if there is one.

    Raises:
        PlanError: there is none of that name here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise PlanError(
            f"The device {name!r} cannot be used: {first}.", hint="Leave --device out."
        ) from error
    return device


def measured(device: torch.device) -> tuple[str, ...]:
    """What the run has taken of a GPU: what `--workload mme` of other verbs answers."""
    if device.type != "cuda":
        return ()
    allocated = torch.cuda.max_memory_allocated(device)
    reserved = torch.cuda.max_memory_reserved(device)
    return (
        f"measured on {torch.cuda.get_device_name(device)}: at most "
        f"{format_gib(allocated)} allocated, {format_gib(reserved)} reserved",
    )
