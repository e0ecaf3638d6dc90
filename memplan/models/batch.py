"""The micro-batch that a plan asks of a model: the same for every engine."""

from memplan.errors import PlanError
from memplan.formulas.setting import Batch
from memplan.formulas.tensors import ITEM_BYTES
from memplan.formulas.weights import STORED_DTYPE
from memplan.models.catalogue import Model
from memplan.plan import TrainingPlan
from memplan.units import ceil_div


def seq_len_of(plan: TrainingPlan, model: Model) -> int:
    """Tokens of a sample, over all context-parallel ranks."""
    family = model.family
    limit = family.max_seq_len(model.config)
    default = model.defaults.get("seq_len") or min(limit or 2048, 2048)
    seq_len = plan.seq_len or default
    if "tokens" in family.inputs and limit is not None and seq_len > limit:
        raise PlanError(
            f"A sequence of {seq_len} tokens is longer than {model.name} allows "
            f"({limit}).",
            hint=f"Use --seq-len {limit} or less.",
        )
    return seq_len


def batch_of(plan: TrainingPlan, model: Model) -> Batch:
    """The micro-batch, from the plan, the preset's defaults, and the model's limits."""
    defaults, family = model.defaults, model.family
    seq_len = seq_len_of(plan, model)
    if plan.generates and family.kv_bytes_per_token is None:
        raise PlanError(
            f"No generation by {model.name} is covered.", hint="Leave --workload out."
        )
    for name, wanted in (
        ("images_per_sample", "images"),
        ("image_size", "images"),
        ("target_seq_len", "target_tokens"),
    ):
        if getattr(plan, name) is not None and wanted not in family.inputs:
            raise PlanError(
                f"{model.name} takes no {wanted.replace('_', ' ')}.",
                hint=f"Leave --{name.replace('_', '-')} out.",
            )
    own_size = family.default_image_size(model.config)
    if family.has_fixed_image_size and plan.image_size not in (None, own_size):
        raise PlanError(
            f"{model.name} takes pictures of {own_size} pixels a side alone.",
            hint="Leave --image-size out.",
        )
    return Batch(
        size=plan.per_device_train_batch_size,
        seq_len=ceil_div(seq_len, plan.context_parallel)
        if "tokens" in family.inputs
        else 0,
        target_seq_len=plan.target_seq_len or defaults.get("target_seq_len", 128),
        images_per_sample=plan.images_per_sample
        or defaults.get("images_per_sample", 1),
        image_size=plan.image_size or defaults.get("image_size") or own_size,
        stored_item_bytes=ITEM_BYTES[STORED_DTYPE[plan.precision]],
        has_labels=plan.workload == "train",
    )
