"""How MMICL trains: two stages of one recipe (run_script/flickr/*.sh, config/*.json).

Stage I aligns: Q-Former and projection learn, both towers are frozen. Stage II tunes
in context: the projection learns on, and of the language model the query and value
projections. Both with AdamW, all parameters decayed, under DeepSpeed's WarmupLR, in
bf16 throughout (`--full_bf16_training`).
"""

from functools import partial
from math import log

import torch
from torch import nn

from memplan.data.loading import Loading
from memplan.models import Model
from memplan.models.mmicl.data import PADDED_PICTURES, Collate, Mic
from memplan.plan import TrainingPlan
from memplan.runner.training.fitting import Recipe, Source
from memplan.runner.training.trainable import freeze, trained_parameters

LEARNING_RATE = 1e-4
LEARNING_RATES = {"stage-1": 5e-5}
"""Of stages whose scripts have another (`*_qformer_projection.sh`)."""
WEIGHT_DECAY = 5e-4
WARMUP_FRACTION = 0.2
MAX_GRAD_NORM = 1.0
"""The Trainer's default, which the published configuration leaves to it."""
BATCH_SIZE = 3
"""Of one GPU of six; the first release had 10 for XL."""
GRADIENT_ACCUMULATION_STEPS = 8
STAGES = ("stage-1", "stage-2-qv")


def recipe(
    module: nn.Module,
    model: Model,
    stage: str,
    num_steps: int,
    learning_rate: float | None = None,
) -> Recipe:
    """Let a stage's parameters train, and say how they move.

    Args:
        module: the model; its other parameters are frozen.
        model: its preset, which names the stages.
        stage: `stage-1`, `stage-2-qv`, or another trainable set of the preset.
        num_steps: updates of the stage; a fifth of them are its warmup.
        learning_rate: after the warmup; by default that of the published scripts.

    Raises:
        UnknownNameError: the preset has no such stage.
    """
    freeze(TrainingPlan(model=model.name, trainable=stage), model, module)
    optimizer = torch.optim.AdamW(
        trained_parameters(module),
        lr=learning_rate or LEARNING_RATES.get(stage, LEARNING_RATE),
        weight_decay=WEIGHT_DECAY,
    )
    num_warmup = int(WARMUP_FRACTION * num_steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, partial(warmup, num_steps=num_warmup)
    )
    return Recipe(optimizer=optimizer, schedule=schedule, max_grad_norm=MAX_GRAD_NORM)


def source(
    samples: Mic, loading: Loading, padded_pictures: int = PADDED_PICTURES
) -> Source:
    """MIC as a run reads it: there is one dataset, mixed before it was written."""
    collate = Collate(samples.prompts.pad_id, padded_pictures)
    return Source(name="mic", samples=samples, collate=collate, loading=loading)


def warmup(step: int, num_steps: int) -> float:
    """Part of the learning rate: rises as the logarithm, and then stays.

    DeepSpeed's WarmupLR with its default `warmup_type`; it takes two steps at least.
    """
    return min(1.0, log(step + 1) / log(max(2, num_steps)))
