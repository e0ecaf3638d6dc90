"""A real training run over data: one batch of each dataset in turn, then one update.

As Flamingo trains (section 3.3 of its paper): the gradients of the datasets are
weighted and accumulated, and the optimizer steps once for all. A run over one dataset
is the case of a single source.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from memplan.data.loading import Batch, Collate, Loading, Samples, batches
from memplan.errors import DataError

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT = "step-*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A dataset of a mixture."""

    name: str
    samples: Samples[Any]
    collate: Collate
    loading: Loading
    weight: float = 1.0
    """Of its gradients in an update."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the parameters move."""

    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None
    """Steps once an update."""
    max_grad_norm: float = 0.0
    """0: gradients are not clipped."""
    adjust_gradients: Callable[[], None] | None = None
    """Called when all gradients of an update are there, before they are clipped."""


def make_accelerator(
    num_sources: int = 1, gradient_accumulation_steps: int = 1, **settings: Any
) -> "Accelerator":
    """An Accelerator that steps after all micro-batches of an update.

    Args:
        num_sources: datasets of the mixture.
        gradient_accumulation_steps: micro-batches of each dataset in an update.
        settings: passed on, such as mixed_precision="bf16".
    """
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

    plugin = GradientAccumulationPlugin(
        num_steps=num_sources * gradient_accumulation_steps, sync_with_dataloader=False
    )
    return Accelerator(gradient_accumulation_plugin=plugin, **settings)


class Fitting:
    """A model in training.

    Args:
        accelerator: of `make_accelerator` for as many sources.
        model: returns its loss as `.loss` for a batch of any source.
    """

    def __init__(
        self,
        accelerator: "Accelerator",
        model: nn.Module,
        recipe: Recipe,
        sources: Sequence[Source],
    ) -> None:
        self.accelerator = accelerator
        self.recipe = recipe
        self.sources = tuple(sources)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.model, self.optimizer = accelerator.prepare(model, recipe.optimizer)
        self.steps_done = 0
        self.skipped: Counter[str] = Counter()
        """Records passed over, by dataset and what was wrong."""
        micro_batches = accelerator.gradient_accumulation_steps
        self.rounds, rest = divmod(micro_batches, len(self.sources))
        if rest:
            raise ValueError(
                f"{micro_batches} micro-batches for {len(self.sources)} sources"
            )
        self._batches: list[Iterator[Batch]] | None = None
        accelerator.register_for_checkpointing(self)
        if recipe.schedule is not None:
            accelerator.register_for_checkpointing(recipe.schedule)

    def fit(self, num_steps: int) -> list[dict[str, float]]:
        """So many updates; the losses of each, by the name of the dataset."""
        return [self.step() for _ in range(num_steps)]

    def step(self) -> dict[str, float]:
        """One update; the mean loss of every dataset's micro-batches."""
        if self._batches is None:
            self._batches = self._start()
        self.model.train()
        losses = {source.name: 0.0 for source in self.sources}
        for _ in range(self.rounds):
            for source, its_batches in zip(self.sources, self._batches, strict=True):
                batch = next(its_batches)
                self.skipped.update(f"{source.name}: {it}" for it in batch.skipped)
                losses[source.name] += self._micro_batch(source, batch) / self.rounds
        self.steps_done += 1
        schedule = self.recipe.schedule
        if schedule is not None and not self.accelerator.optimizer_step_was_skipped:
            schedule.step()
        return losses

    def _micro_batch(self, source: Source, batch: Batch) -> float:
        from accelerate.utils import send_to_device

        accelerator, recipe = self.accelerator, self.recipe
        content = send_to_device(batch.content, accelerator.device, non_blocking=True)
        with accelerator.accumulate(self.model):
            loss = self.model(**content).loss
            # Accelerate divides by all micro-batches; the mean is over a source's own.
            accelerator.backward(loss * (source.weight * len(self.sources)))
            if accelerator.sync_gradients:
                if recipe.adjust_gradients is not None:
                    recipe.adjust_gradients()
                if recipe.max_grad_norm:
                    accelerator.clip_grad_norm_(self.trained, recipe.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        value: float = loss.detach().item()
        return value

    # Checkpoints

    def save(self, folder: Path) -> Path:
        """Write a checkpoint below a folder; it appears there when it is whole."""
        target = folder / f"step-{self.steps_done:08d}"
        partial = folder / f"partial-{self.steps_done:08d}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
        return target

    def resume(self, folder: Path) -> int:
        """Go on from the newest checkpoint below a folder; the updates it has seen.

        Raises:
            DataError: there is none.
        """
        found = sorted(folder.glob(CHECKPOINT))
        if not found:
            raise DataError(
                f"There is no checkpoint in {folder}.", hint="Start the run anew."
            )
        self.accelerator.load_state(str(found[-1]))
        self._batches = None
        return self.steps_done

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the run itself."""
        return {"steps_done": self.steps_done, "skipped": dict(self.skipped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps_done = state["steps_done"]
        self.skipped = Counter(state["skipped"])

    def _start(self) -> list[Iterator[Batch]]:
        """Every source from where the updates so far have left it."""
        return [
            batches(
                source.samples,
                source.collate,
                source.loading,
                start=self.steps_done * self.rounds,
                rank=self.accelerator.process_index,
                num_ranks=self.accelerator.num_processes,
            )
            for source in self.sources
        ]
