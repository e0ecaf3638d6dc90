"""How Flamingo (arXiv 2204.14198, 3.3, 4.1.4) and OpenFlamingo (2308.01390, 3.3) train.

Resampler and gated blocks learn beside frozen towers, with AdamW and a learning rate
that rises and stays. A batch of each dataset in turn, gradients weighted and
accumulated, makes one update.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn, optim
from transformers import get_constant_schedule_with_warmup

from memplan.data.loading import Loading
from memplan.models import Model
from memplan.models.flamingo.config import FlamingoConfig
from memplan.models.flamingo.data import Collate, Pages
from memplan.models.flamingo.module import Flamingo
from memplan.plan import TrainingPlan
from memplan.runner.training.fitting import Recipe, Source
from memplan.runner.training.trainable import freeze

LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.1
MAX_GRAD_NORM = 1.0
WARMUP_STEPS = {"flamingo": 5000, "openflamingo": 1875}
"""OpenFlamingo's as its script has it; the default of its code is 5000."""


@dataclass(frozen=True, slots=True)
class Share:
    """A dataset's part in an update."""

    weight: float
    """lambda, of its gradients."""
    batch_size: int
    """The paper's in its ablations, over all chips; OpenFlamingo's of one GPU."""


MIXTURES = {
    "flamingo": {
        "m3w": Share(1.0, 256),
        "align": Share(0.2, 512),
        "ltip": Share(0.2, 512),
        "vtp": Share(0.03, 64),
    },
    "openflamingo": {"laion": Share(0.2, 64), "mmc4": Share(1.0, 32)},
}
"""What each was trained on, in turn: pages, pairs and videos; pairs and pages."""


def recipe(
    module: Flamingo,
    model: Model,
    *,
    trainable: str = "default",
    learning_rate: float = LEARNING_RATE,
    num_warmup_steps: int | None = None,
) -> Recipe:
    """Let what the authors trained train, and say how it moves.

    Args:
        module: the model; its other parameters are frozen.
        model: its preset, which names what trains.
        trainable: another set of the preset.
        learning_rate: after the warmup.
        num_warmup_steps: the variant's own, unless given.

    Raises:
        UnknownNameError: the preset has no such set.
    """
    config: FlamingoConfig = model.config
    freeze(TrainingPlan(model=model.name, trainable=trainable), model, module)
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (decayed if is_decayed(config, name) else kept).append(parameter)
    optimizer = optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": kept, "weight_decay": 0.0},
        ],
        lr=learning_rate,
    )
    if num_warmup_steps is None:
        num_warmup_steps = WARMUP_STEPS[config.variant]
    return Recipe(
        optimizer=optimizer,
        schedule=get_constant_schedule_with_warmup(optimizer, num_warmup_steps),
        max_grad_norm=MAX_GRAD_NORM,
        adjust_gradients=None if config.is_paper else only_new_rows(module),
    )


def is_decayed(config: FlamingoConfig, name: str) -> bool:
    """All but the resampler in the paper, the blocks' matrices in OpenFlamingo."""
    if config.is_paper:
        return not name.startswith("perceiver.")
    is_block = "gated_cross_attn_layer" in name
    return is_block and not any(part in name for part in ("_gate", "norm", "bias"))


def only_new_rows(module: Flamingo) -> Callable[[], None]:
    """Let the embeddings of the two new tokens alone move.

    The whole table has a gradient and states of the optimizer; nothing decays it, so
    rows without a gradient stay where they are. The published code multiplies by a
    mask, which takes two more tables for a moment; here the rows are put by.
    """

    table: Any = module.get_input_embeddings()

    def mask() -> None:
        gradient = table.weight.grad
        if gradient is not None:
            rows = [module.eoc_token_id, module.media_token_id]
            kept = gradient[rows]
            gradient.zero_()
            gradient[rows] = kept

    return mask


def mixture(
    config: FlamingoConfig,
    datasets: Mapping[str, Pages],
    loading: Mapping[str, Loading],
) -> list[Source]:
    """The sources of an update, in their order, weighted as the variant's own.

    Args:
        datasets: by the names that `MIXTURES` has for the variant; any of them.
        loading: of each.
    """
    return [
        Source(
            name=name,
            samples=datasets[name],
            collate=Collate(datasets[name].writer.pad_id),
            loading=loading[name],
            weight=share.weight,
        )
        for name, share in MIXTURES[config.variant].items()
        if name in datasets
    ]
