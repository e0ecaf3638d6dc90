"""Every preset has the parameters that were published for it, or counted on it."""

import pytest

from memplan import TrainingPlan, estimate
from memplan.models.catalogue import preset_names, read_preset


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_has_its_published_parameters(name):
    published = read_preset(name)["parameters"]
    size = estimate(TrainingPlan(model=name)).model
    assert size.parameters == published["total"]
    trainable = published.get("trainable")
    assert trainable is None or size.trainable_parameters == trainable


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_where_its_figures_are_from(name):
    assert read_preset(name)["source"]
