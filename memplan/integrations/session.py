"""One training that is predicted, recorded and logged; the same for every trainer.

At the first forward pass the batch is there, and with it the prediction. After the
watched steps there is the peak. Whatever cannot be done is said in one sentence, and
the training goes on.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from memplan.errors import MemplanError, PlanError
from memplan.inputs import Found
from memplan.inputs.batch import named_arguments
from memplan.inputs.live import model_in
from memplan.recording import Recording
from memplan.report import MemoryReport
from memplan.units import GiB, format_gib

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle

logger = logging.getLogger("memplan")

TOLERANCE = 0.05
"""A prediction that is off by more than this part of the peak is worth a warning."""

Find = Callable[[Mapping[str, Any]], Found]
"""The plan of a training, by the arguments that its model is first called with."""
Log = Callable[[dict[str, float]], None]
"""Hands metrics to whatever loggers there are."""


class Session:
    """From the beginning of a training to its end, however it ends."""

    def __init__(self, run: Recording, log: Log, *, speaks: bool) -> None:
        """`speaks` on the one rank that has something to say."""
        self.run = run
        self.estimate: MemoryReport | None = None
        self._log = log
        self._speaks = speaks
        self._hook: RemovableHandle | None = None
        self._has_peak = False
        self._samples: int | None = None

    def begin(self, model: "nn.Module", find: Find) -> None:
        """Watch from here on, and predict once the first batch is there."""
        self.run.__enter__()
        if not self.run.is_watching:
            return
        try:
            self._predict_with(model_in(model), find)
        except MemplanError as error:
            self._say_why_not(error)

    def step(self) -> None:
        """An optimizer step is over."""
        self.run.step(samples=self._samples)
        if self.run.is_watching or self._has_peak:
            return
        self._has_peak = True
        report = self.run.report
        if report is not None:
            self._log(metrics_of(report, self.estimate))
            self._compare(report)

    def end(self, error: BaseException | None = None) -> None:
        """Close the recording, and write what it has to write."""
        self._unhook()
        kind = None if error is None else type(error)
        self.run.__exit__(kind, error, None)

    def _predict_with(self, module: "nn.Module", find: Find) -> None:
        """Predict when this module is called, and never again.

        Raises:
            PlanError: it is compiled, and what is called is not the module.
        """
        if getattr(module, "_compiled_call_impl", None) or hasattr(module, "_orig_mod"):
            raise PlanError(
                "The model is compiled, and the formulas are those of eager mode.",
                hint="`memplan rehearse` compiles it.",
            )

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._unhook()
            self._predict(find, named_arguments(module, args, kwargs))

        self._hook = module.register_forward_pre_hook(before, with_kwargs=True)

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _predict(self, find: Find, batch: Mapping[str, Any]) -> None:
        try:
            found = find(batch)
            estimate = found.estimate()
        except MemplanError as error:
            self._say_why_not(error)
            return
        except Exception:  # it is not for a prediction to end a training
            logger.warning("memplan: the prediction failed", exc_info=True)
            return
        plan = found.plan
        self._samples = (
            plan.per_device_train_batch_size * plan.gradient_accumulation_steps
        )
        self.estimate = estimate
        if found.is_named:
            self.run.plan = plan
        self._log(prediction_of(estimate))
        if self._speaks:
            logger.info(
                "memplan: estimated peak %s allocated, %s on the device (%s)",
                format_gib(estimate.peak.allocated_bytes),
                format_gib(estimate.peak.device_bytes),
                f"{plan.model}, {plan.precision}, {plan.optim}",
            )
            for line in found.not_read:
                logger.info("memplan: not in the estimate: %s", line)

    def _say_why_not(self, error: MemplanError) -> None:
        if self._speaks:
            logger.warning("memplan: no prediction. %s %s", error.message, error.hint)

    def _compare(self, report: MemoryReport) -> None:
        """One line of the peak; a warning where the prediction was off."""
        if not self._speaks:
            return
        peak = report.peak.allocated_bytes
        said = f"{report.source} peak {format_gib(peak)} allocated"
        if self.estimate is None or report.out_of_memory is not None:
            logger.info("memplan: %s", said)
            return
        error = self.estimate.peak.allocated_bytes / peak - 1
        tell = logger.warning if abs(error) > TOLERANCE else logger.info
        tell(
            "memplan: %s, estimated %s (%+.1f %%); most of the difference in %s",
            said,
            format_gib(self.estimate.peak.allocated_bytes),
            100 * error,
            _furthest_off(report, self.estimate),
        )


def prediction_of(estimate: MemoryReport) -> dict[str, float]:
    """What is logged before the first step."""
    return {
        "memplan/estimated_peak_allocated_gib": _gib(estimate.peak.allocated_bytes),
        "memplan/estimated_device_gib": _gib(estimate.peak.device_bytes),
    }


def metrics_of(report: MemoryReport, estimate: MemoryReport | None) -> dict[str, float]:
    """What is logged once the steps have shown it."""
    peak = report.peak
    metrics = {
        "memplan/peak_requested_gib": _gib(peak.requested_bytes),
        "memplan/peak_allocated_gib": _gib(peak.allocated_bytes),
        "memplan/peak_reserved_gib": _gib(peak.reserved_bytes),
        "memplan/device_gib": _gib(peak.device_bytes),
    }
    for name, num_bytes in asdict(report.components).items():
        metrics[f"memplan/{name}_gib"] = _gib(num_bytes)
    if estimate is not None:
        error = estimate.peak.allocated_bytes / peak.allocated_bytes - 1
        metrics["memplan/error_percent"] = round(100 * error, 2)
    return metrics


def _gib(num_bytes: int) -> float:
    return round(num_bytes / GiB, 4)


def _furthest_off(report: MemoryReport, estimate: MemoryReport) -> str:
    """The component whose bytes differ most: `activations`."""
    seen, said = asdict(report.components), asdict(estimate.components)
    name = max(seen, key=lambda name: abs(seen[name] - said[name]))
    return name.replace("_", " ")
