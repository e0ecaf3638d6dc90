"""A callback for Lightning's Trainer.

    from memplan.integrations.lightning import MemplanCallback

    trainer = Trainer(..., callbacks=[MemplanCallback(output="run.mplan")])

Metrics go to every logger of the Trainer.
"""

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback

from memplan.inputs import Found
from memplan.inputs.card import fields_of_card
from memplan.inputs.lightning import found_in
from memplan.integrations.session import Session
from memplan.recording import WATCHED_STEPS, Recording, record

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class MemplanCallback(Callback):  # type: ignore[misc]  # untyped where it is absent
    """Logs the predicted and the real peak of a training, and may keep a capture.

    Args:
        output: where the capture goes, a file named *.mplan; see `memplan.record`.
        force: overwrite it.
        watch_steps: how many steps are watched.

    Raises:
        MemplanError: the file exists, or its name or the number of steps is wrong.
    """

    def __init__(
        self,
        output: str | os.PathLike[str] | None = None,
        *,
        force: bool = False,
        watch_steps: int = WATCHED_STEPS,
    ) -> None:
        self._new_run = partial(record, output=output, watch_steps=watch_steps)
        self.run: Recording = self._new_run(force=force)
        """The recording: `run.report`, `run.captured`."""
        self._session: Session | None = None
        self._last_step = 0

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """The model and the optimizers are there; the first batch comes next."""
        if self.run.is_used:
            self.run = self._new_run(force=True)
        self._last_step = trainer.global_step
        self._session = Session(
            self.run,
            lambda metrics: _log(metrics, trainer),
            speaks=trainer.is_global_zero,
        )

        def find(batch: Mapping[str, Any]) -> Found:
            return found_in(trainer, pl_module, batch, fields_of_card())

        self._session.begin(pl_module, find)

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", *args: Any
    ) -> None:
        """A batch may be one of several between two steps."""
        if self._session is not None and trainer.global_step != self._last_step:
            self._last_step = trainer.global_step
            self._session.step()

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        self._close()

    def on_exception(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        exception: BaseException,
    ) -> None:
        self._close(exception)

    def _close(self, error: BaseException | None = None) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end(error)


def _log(metrics: dict[str, float], trainer: "Trainer") -> None:
    """Under the names that each logger groups by."""
    for logger in trainer.loggers:
        named = {
            key.replace("/", logger.group_separator): value
            for key, value in metrics.items()
        }
        logger.log_metrics(named, step=trainer.global_step)
