"""Single changes that would have made a run fit, once it is known what it needs.

Cards and plans are not run again: a card is held against the bytes that were rehearsed,
and a changed plan is estimated, its estimate shifted by as much as the estimate of this
plan was off. Each says which of the two it is.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from memplan.card import card_context, card_of
from memplan.errors import MemplanError
from memplan.estimate import estimate
from memplan.hardware import Gpu, all_gpus
from memplan.plan import TrainingPlan
from memplan.report import Remedy

MOST_CARDS = 3


def cards_that_hold(
    device_bytes: int, gpu: Gpu, headroom_fraction: float
) -> tuple[Remedy, ...]:
    """The smallest cards of the catalogue with room for what was rehearsed on `gpu`."""
    here, _ = card_context(gpu)
    remedies = []
    for card in sorted(all_gpus(), key=lambda card: (card.total_bytes, card.slug)):
        there, _ = card_context(card)
        need = device_bytes - here + there
        if card.slug != gpu.slug and need <= card.total_bytes * (1 - headroom_fraction):
            remedies.append(
                Remedy(
                    change=f"--gpu {card.slug}", basis="rehearsed", device_bytes=need
                )
            )
    return tuple(remedies[:MOST_CARDS])


def changes_that_fit(plan: TrainingPlan, device_bytes: int) -> tuple[Remedy, ...]:
    """Single changes of the plan, of which `device_bytes` were rehearsed, that fit."""
    try:
        off_by = device_bytes - estimate(plan).peak.device_bytes
    except MemplanError:  # a model that can be run, but has no formula
        return ()
    room = card_of(plan).total_bytes * (1 - plan.headroom_fraction)
    remedies = []
    for change in _single_changes(plan):
        try:
            need = estimate(replace(plan, **change)).peak.device_bytes + off_by
        except MemplanError:  # the change does not go with the rest of the plan
            continue
        if need <= room:
            remedies.append(
                Remedy(change=_as_flags(change), basis="estimated", device_bytes=need)
            )
    return tuple(remedies)


def _single_changes(plan: TrainingPlan) -> Iterator[dict[str, Any]]:
    """From those that change the least of the training to those that change most."""
    if plan.activation_checkpointing != "full":
        yield {"activation_checkpointing": "full"}
    if plan.per_device_train_batch_size > 1:
        yield {
            "per_device_train_batch_size": plan.per_device_train_batch_size // 2,
            "gradient_accumulation_steps": 2 * plan.gradient_accumulation_steps,
        }
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


def _as_flags(change: dict[str, Any]) -> str:
    words = []
    for name, value in change.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return " ".join(words)
