"""The part of a model that one rank holds under tensor and pipeline parallelism.

Decoder models alone, as Megatron divides them: a rank has its share of heads, of the
MLP and of the vocabulary, and its stage has a share of the layers. The first stage is
the one with the embedding and the most micro-batches in flight, the last the one with
the head and the loss: the more loaded of the two is reported.
"""

from dataclasses import replace

from memplan.errors import PlanError
from memplan.formulas.parallel import FIRST, LAST, WHOLE
from memplan.formulas.parameters import Stored
from memplan.formulas.setting import Batch
from memplan.formulas.tape import Tape
from memplan.models import Model
from memplan.plan import TrainingPlan

DEGREES = (
    "tensor_parallel",
    "pipeline_parallel",
    "context_parallel",
    "expert_parallel",
)


def stages_of(plan: TrainingPlan) -> tuple[str, ...]:
    """The pipeline stages that can be the most loaded."""
    return (WHOLE,) if plan.pipeline_parallel == 1 else (FIRST, LAST)


def part_of(plan: TrainingPlan, model: Model) -> Model:
    """The model as one rank of a stage sees it.

    Raises:
        PlanError: the model cannot be divided so.
    """
    check_degrees(plan, model)
    if plan.tensor_parallel == plan.pipeline_parallel == 1:
        return model
    divide = model.family.divide
    assert divide is not None
    part = divide(model.config, plan.tensor_parallel, plan.pipeline_parallel)
    return replace(model, config=part)


def check_degrees(plan: TrainingPlan, model: Model) -> None:
    """Degrees above 1 need a decoder model that they divide.

    Raises:
        PlanError: they do not suit.
    """
    if plan.expert_parallel > 1:
        raise PlanError(
            f"{model.name} has no experts to divide.",
            hint="Leave --expert-parallel out.",
        )
    wanted = [name for name in DEGREES if getattr(plan, name) > 1]
    if wanted and model.family.divide is None:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in wanted)
        raise PlanError(
            f"{flags} cover the GPT-2 and Llama families alone, and {model.name} is of "
            "neither.",
            hint="Use --zero-stage 3 to divide it over GPUs.",
        )
    if wanted and plan.workload != "train":
        raise PlanError(
            "Tensor, pipeline and context parallelism are covered for training alone.",
            hint="Leave --workload out, or the degrees.",
        )


def micro_batches_in_flight(plan: TrainingPlan, stage: str) -> int:
    """Micro-batches whose activations a stage holds under 1F1B (Korthikanti, 4.2.3)."""
    if stage != FIRST:
        return 1
    return min(plan.pipeline_parallel, plan.gradient_accumulation_steps)


def num_parameters(model: Model) -> int:
    """Parameters of the whole model, over all ranks."""
    tape = Tape(policy=lambda name, shape, is_linear: Stored("bf16", False, 0))
    with tape.no_grad():
        model.family.forward(tape, model.config, Batch(size=1, seq_len=1))
    return sum(p.num_elements * p.count for p in tape.parameters.values())
