"""A callback for transformers' Trainer.

    from memplan.integrations.transformers import MemplanCallback

    trainer = Trainer(..., callbacks=[MemplanCallback(output="run.mplan")])

Metrics go to whatever the Trainer reports to (TensorBoard, W&B, the console) and into
`trainer.state.log_history`.
"""

import atexit
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from memplan.inputs import Found
from memplan.inputs.card import fields_of_card
from memplan.inputs.trainer import found_in
from memplan.integrations.session import Session
from memplan.recording import WATCHED_STEPS, record

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments


class MemplanCallback(TrainerCallback):  # type: ignore[misc]  # untyped where absent
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
        self._run = self._new_run(force=force)
        self._session: Session | None = None

    @property
    def run(self) -> Any:
        """The recording: `run.report`, `run.captured`."""
        return self._run

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        *,
        model: "nn.Module",
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """The model and the optimizer are there; the first batch comes next."""
        if self._session is not None:
            # The training before has ended by an exception, or has trained enough.
            self._close()
        if self._run.is_used:
            self._run = self._new_run(force=True)
        handler = _calling_handler()
        self._session = Session(
            self._run,
            lambda metrics: _log(metrics, handler, args, state, control),
            speaks=state.is_world_process_zero,
        )
        atexit.register(self._close_at_exit)

        def find(batch: Mapping[str, Any]) -> Found:
            return found_in(args, model, optimizer, batch, fields_of_card())

        self._session.begin(model, find)

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        if self._session is not None:
            self._session.step()

    def on_train_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        **kwargs: Any,
    ) -> None:
        self._close()

    def _close(self, error: BaseException | None = None) -> None:
        atexit.unregister(self._close_at_exit)
        session, self._session = self._session, None
        if session is not None:
            session.end(error)

    def _close_at_exit(self) -> None:
        """A training that an exception ends has no event of its own."""
        self._close(getattr(sys, "last_value", None))


def _calling_handler() -> CallbackHandler | None:
    """The handler that calls this callback.

    Its other callbacks are the Trainer's reporters. It gives a callback everything but
    itself, and a callback of a list that is passed to the Trainer never sees that.
    """
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _log(
    metrics: dict[str, float],
    handler: CallbackHandler | None,
    args: "TrainingArguments",
    state: "TrainerState",
    control: "TrainerControl",
) -> None:
    """As `Trainer.log` does, but for what trainers built on it add to their own logs.

    `call_event` rather than `on_log`, which would take back that the Trainer is to log.
    """
    entry: dict[str, float] = dict(metrics)
    if state.epoch is not None:
        entry["epoch"] = state.epoch
    state.log_history.append({**entry, "step": state.global_step})
    if handler is not None:
        handler.call_event("on_log", args, state, control, logs=entry)
