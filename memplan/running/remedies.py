"""Single changes that may make a run fit, once it is known what it needs.

A card is held against the bytes that were rehearsed on another. A changed plan is
estimated, to see whether rehearsing it is worth the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from memplan.errors import MemplanError
from memplan.estimate import need_seen_from
from memplan.estimating.card import card_context, card_of
from memplan.estimating.changes import CHANGES_ANSWERS, Fields, as_flags, less_exact
from memplan.hardware import Gpu, all_gpus
from memplan.plan import TrainingPlan
from memplan.report import Remedy

MOST_CARDS = 3


@dataclass(frozen=True, slots=True)
class Change:
    """A plan that differs from another in one thing."""

    plan: TrainingPlan
    flags: str
    """What to type for it."""
    kind: str
    """What it changes: of several sizes of a change the least is wanted."""
    changes_answers: bool
    """Of a generation: other answers may come out."""


def cards_that_hold(
    device_bytes: int,
    gpu: Gpu,
    headroom_fraction: float,
    lowest_capability: tuple[int, int] = (0, 0),
) -> tuple[Remedy, ...]:
    """The smallest cards of the catalogue with room for what was rehearsed on `gpu`.

    A card below the lowest compute capability has no kernels in this build of PyTorch.
    """
    here, _ = card_context(gpu)
    remedies = []
    for card in sorted(all_gpus(), key=lambda card: (card.total_bytes, card.slug)):
        there, _ = card_context(card)
        need = device_bytes - here + there
        is_other = card.slug != gpu.slug
        has_kernels = (card.compute_capability or (0, 0)) >= lowest_capability
        has_room = need <= card.total_bytes * (1 - headroom_fraction)
        if is_other and has_kernels and has_room:
            change = f"--gpu {card.slug}"
            remedies.append(
                Remedy(change=change, basis="carried over", device_bytes=need)
            )
    return tuple(remedies[:MOST_CARDS])


def likely_changes(plan: TrainingPlan, device_bytes: int) -> Iterator[Change]:
    """Single changes of a plan, of which `device_bytes` were rehearsed, that may fit.

    The estimate of a change is shifted by as much as the estimate of this plan was off.
    """
    try:
        need = need_seen_from(plan, device_bytes)
    except MemplanError:  # a model that can be run, but has no formula
        return
    for change in _single_changes(plan):
        try:
            changed = replace(plan, **change)
            needed_bytes = need(changed)
        except MemplanError:  # the change does not go with the rest of the plan
            continue
        if needed_bytes <= card_of(plan).total_bytes:
            kind = next(iter(change))
            yield Change(
                changed,
                as_flags(change),
                kind,
                changes_answers=plan.generates and kind in CHANGES_ANSWERS,
            )


def _single_changes(plan: TrainingPlan) -> Iterator[Fields]:
    """From those that change the least of the training to those that change most."""
    if plan.generates:
        yield from _changes_of_a_generation(plan)
        return
    if plan.activation_checkpointing != "full":
        yield {"activation_checkpointing": "full"}
    batch, parts = plan.per_device_train_batch_size, 2
    while batch % parts == 0:
        yield {
            "per_device_train_batch_size": batch // parts,
            "gradient_accumulation_steps": parts * plan.gradient_accumulation_steps,
        }
        parts *= 2
    if plan.data_parallel > 1:
        for stage in range(plan.zero_stage + 1, 4):
            yield {"zero_stage": stage}
    if plan.zero_stage and not plan.offload_optimizer:
        yield {"offload_optimizer": True}
    if plan.optim.startswith("adamw") and "8bit" not in plan.optim:
        yield {"optim": "adamw-8bit"}
    if plan.precision in ("fp32", "tf32"):
        yield {"precision": "bf16-mixed"}
    if plan.precision != "bf16-pure":
        yield {"precision": "bf16-pure"}
    if plan.trainable != "lora":
        yield {"trainable": "lora"}
    elif plan.quantization == "none":
        yield {"quantization": "nf4"}


def _changes_of_a_generation(plan: TrainingPlan) -> Iterator[Fields]:
    """Fewer answers at once, then weights that are stored less exactly."""
    batch, parts = plan.per_device_train_batch_size, 2
    while batch % parts == 0:
        yield {"per_device_train_batch_size": batch // parts}
        parts *= 2
    yield from less_exact(plan)
