"""What a plan can ask that cannot be trained here: said before anything is built."""

from memplan.errors import PlanError
from memplan.models import Model
from memplan.plan import TrainingPlan
from memplan.runner.training.quantize import check_library

NOT_TRAINED = {
    "tensor_parallel": "Tensor parallelism",
    "pipeline_parallel": "Pipeline parallelism",
    "context_parallel": "Context parallelism",
    "expert_parallel": "Expert parallelism",
}


def check_plan(plan: TrainingPlan) -> None:
    """Raises PlanError for a plan that this program cannot train."""
    if plan.model is None:
        raise PlanError(
            "A parameter count alone is no model that could be run.",
            hint="Name a model, or use `memplan estimate`.",
        )
    for name, noun in NOT_TRAINED.items():
        if getattr(plan, name) > 1:
            raise PlanError(
                f"{noun} is not run: accelerate's training step has none.",
                hint=f"Leave --{name.replace('_', '-')} out; `estimate` covers it.",
            )
    if plan.accounting != "torch":
        raise PlanError(
            f"The accounting {plan.accounting} is a convention; a run has none.",
            hint="Leave --accounting out.",
        )
    _check_offload(plan)
    if plan.quantization != "none":
        check_library()


def check_model(plan: TrainingPlan, model: Model) -> None:
    """Raises PlanError for a model that this program cannot train so."""


def _check_offload(plan: TrainingPlan) -> None:
    states_alone = plan.offload_optimizer and not plan.offload_parameters
    if plan.sharding == "fsdp2" and states_alone:
        raise PlanError(
            "FSDP2 offloads optimizer states with parameters and gradients alone.",
            hint="Add --offload-parameters, or choose --sharding deepspeed.",
        )
