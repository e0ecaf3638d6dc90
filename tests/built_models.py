"""The parameters of a model as transformers builds it, and as its formula counts it."""

import re
from collections import Counter

import pytest

from memplan import TrainingPlan
from memplan.estimating.step import trace_step
from memplan.formulas.optimizers import find_optimizer
from memplan.formulas.parameters import module_path
from memplan.models import model_of_config


def real_parameters(config):
    """How often the library's own module has a parameter of that name and shape.

    Numbers of layers are `*`, as the formulas write them where layers repeat.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from memplan.runner.training.model import build_model, set_ties

    model = model_of_config("built", config, "a test")
    with torch.device("meta"):
        module = build_model(model, torch.float32, None)
    set_ties(model, module)
    return Counter(
        (without_numbers(name), tuple(parameter.shape))
        for name, parameter in module.named_parameters()
    )


def counted_parameters(config, **fields):
    """The same of the formula."""
    model = model_of_config("built", config, "a test")
    plan = TrainingPlan(model="built", **fields)
    step = trace_step(plan, model, find_optimizer("adamw"), (9, 0), (2, 14), 132)
    counted = Counter()
    for parameter in step.parameters:
        name = without_numbers(module_path(parameter.name))
        counted[name, parameter.shape] += parameter.count
    return counted


def without_numbers(name):
    return re.sub(r"\.\d+\.", ".*.", name)
