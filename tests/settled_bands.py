"""Figures of bands that stay: what is printed does not change with every new run."""

from importlib import import_module

from memplan.estimating.accuracy import (
    DEFAULT_SETTING,
    GENERATING,
    Accuracy,
    ClassFigures,
    LeftOut,
    Spread,
)

CLASSES = (
    GENERATING,
    "plans below 2 GiB, not sharded",
    "plans of adapters, not sharded",
    "plans sharded by DeepSpeed",
    "plans sharded by FSDP2",
    "plans without adapters, not sharded",
)


def settle(monkeypatch):
    """Put them in the place of the shipped ones."""
    module = import_module("memplan.estimating.accuracy")
    monkeypatch.setattr(module, "accuracy", lambda: SETTLED)


def _figures(name):
    return ClassFigures(
        num_plans=200,
        median_absolute_error_fraction=0.001,
        lowest_error_fraction=-0.02,
        highest_error_fraction=0.02,
        allocated=Spread(of=name, num_plans=200, low=0.99, median=1.0, high=1.01),
        reserved=Spread(of=name, num_plans=200, low=1.01, median=1.05, high=1.2),
    )


TESTED = LeftOut(
    num_plans=1200, allocated_within_fraction=0.96, reserved_above_fraction=0.01
)
SETTLED = Accuracy(
    torch=("2.14.1+cu130",),
    compared_on="2026-11-23",
    left_out={DEFAULT_SETTING: TESTED},
    classes={DEFAULT_SETTING: {name: _figures(name) for name in CLASSES}},
)
