"""Small programs, event for event: what the allocator was asked, and what it took."""

import pytest
from allocator_events import events_of, first_difference, requests_of

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

PROGRAMS = ("decoder", "encoder", "convolutions")


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_asks_the_same_of_both_allocators(
    programs_measured, programs_rehearsed, name
):
    """Every request and every free, in their order, to the byte."""
    (_, here), (_, there) = programs_measured(name), programs_rehearsed(name)
    here, there = requests_of(events_of(here)), requests_of(events_of(there))
    assert len(here) > 900
    assert first_difference(here, there) is None


@pytest.mark.parametrize("name", PROGRAMS)
def test_both_allocators_take_the_same_segments(
    programs_measured, programs_rehearsed, name
):
    (_, here), (_, there) = programs_measured(name), programs_rehearsed(name)
    assert first_difference(events_of(here), events_of(there)) is None


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_peaks_of_a_program_are_those_of_its_rehearsal(
    programs_measured, programs_rehearsed, name
):
    (here, _), (there, _) = programs_measured(name), programs_rehearsed(name)
    assert there.peak.requested_bytes == here.peak.requested_bytes
    assert here.unattributed_bytes < 0.01 * here.peak.allocated_bytes
    assert here.components.total == here.peak.allocated_bytes
