"""A small part of the grid, rehearsed anew: what is kept is what comes out today."""

import pytest

from memplan.errors import VirtualDeviceError
from memplan.validation.grid import grid, rehearsed, rehearsed_as, without_limit
from memplan.validation.replay import rehearsed_apart
from memplan.virtual.compiler import find_compiler
from memplan.virtual.wheels import find_torch

pytestmark = pytest.mark.slow

NAMES = ("siglip-02", "vit-01", "gpt2-05", "clip-03", "bert-02", "pe_net-02")
"""Small models: FSDP2 and DeepSpeed, 8-bit states, adapters, accumulation, Turing."""
KEPT = {one.entry: one for _, one in rehearsed().records if not one.plan.alloc_conf}
PLANS = [planned for planned in grid() if planned.name in NAMES]


@pytest.mark.parametrize("planned", PLANS, ids=lambda planned: planned.name)
def test_a_plan_of_the_grid_takes_what_it_took(planned):
    try:
        find_compiler()
        find_torch()
    except VirtualDeviceError as error:
        pytest.skip(error.message)
    kept = KEPT[planned.name].report
    report = rehearsed_apart(without_limit(planned))
    again = rehearsed_as(planned, report).report
    changed = {
        name: (version, again.versions.get(name))
        for name, version in kept.versions.items()
        if again.versions.get(name) != version and name != "python"
    }
    if changed:
        pytest.skip(f"kept of other versions: {changed}")
    assert again.peak == kept.peak
    assert again.components == kept.components
    assert again.phases == kept.phases
