"""How PE-Net trains: SGD with momentum, warmed up, its rate cut twice.

As its published training does (scripts/train.sh, tools/relation_train_net.py,
solver/build.py): one card, 8 pictures an update, fp32, gradients clipped at 5.0.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from memplan.data.loading import Loading, Samples
from memplan.models.pe_net.data import Sample, collate
from memplan.models.pe_net.faster_rcnn import RegionMlp
from memplan.models.pe_net.module import PENet
from memplan.models.pe_net.relation_head import UnionFeatures
from memplan.runner.training.fitting import Recipe, Source

BATCH_SIZE = 8
NUM_STEPS = 60_000
BASE_LR = 1e-3
"""Of one picture; the rate is that of all pictures of an update."""
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
"""Of weights; biases have none."""
MAX_GRAD_NORM = 5.0
MILESTONES = (28_000, 48_000)
GAMMA = 0.1
WARMUP_STEPS = 500
WARMUP_FACTOR = 0.1


def recipe(
    model: PENet,
    *,
    batch_size: int = BATCH_SIZE,
    milestones: Sequence[int] = MILESTONES,
    warmup_steps: int = WARMUP_STEPS,
) -> Recipe:
    """Let the relation head train, and say how it moves.

    Args:
        batch_size: pictures of an update, of all processes: the rate grows with them.
        milestones: updates after which the rate is a tenth of what it was.
        warmup_steps: updates until the rate is whole.
    """
    freeze_detector(model)
    optimizer = make_optimizer(model, batch_size)
    return Recipe(
        optimizer=optimizer,
        schedule=make_schedule(optimizer, milestones, warmup_steps),
        max_grad_norm=MAX_GRAD_NORM,
    )


def source(samples: Samples[Sample], loading: Loading) -> Source:
    """Scenes as a run reads them: annotated ones, or those the detector found."""
    return Source(name="scenes", samples=samples, collate=collate, loading=loading)


def freeze_detector(model: PENet) -> None:
    """Let the relation head train, and nothing else."""
    model.requires_grad_(False)
    model.roi_heads["relation"].requires_grad_(True)


@torch.no_grad()
def start_from_detector(model: PENet) -> None:
    """Both extractors of the relation head begin as the detector's."""
    box, relation = model.roi_heads["box"], model.roi_heads["relation"]
    trained = cast(RegionMlp, box.feature_extractor)
    union = cast(UnionFeatures, relation.union_feature_extractor)
    for copy in (
        cast(RegionMlp, relation.box_feature_extractor),
        union.feature_extractor,
    ):
        copy.fc6.load_state_dict(trained.fc6.state_dict())
        copy.fc7.load_state_dict(trained.fc7.state_dict())


def make_optimizer(model: nn.Module, batch_size: int = BATCH_SIZE) -> torch.optim.SGD:
    """SGD on all that is not frozen, for so many pictures an update."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    biases = [p for name, p in trained.items() if "bias" in name]
    weights = [p for name, p in trained.items() if "bias" not in name]
    groups = [
        {"params": weights, "weight_decay": WEIGHT_DECAY},
        {"params": biases, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=batch_size * BASE_LR, momentum=MOMENTUM)


def make_schedule(
    optimizer: torch.optim.Optimizer,
    milestones: Sequence[int] = MILESTONES,
    warmup_steps: int = WARMUP_STEPS,
) -> torch.optim.lr_scheduler.LambdaLR:
    """`WarmupMultiStepLR`: from a tenth up to the rate, later a tenth at each step."""

    def factor(step: int) -> float:
        cut = GAMMA ** bisect_right(milestones, step)
        if step >= warmup_steps:
            return cut
        done = step / warmup_steps
        return cut * (WARMUP_FACTOR * (1 - done) + done)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
