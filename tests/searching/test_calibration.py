"""Efficiencies: assumed, until there are measured records."""

from dataclasses import replace

import pytest
from record_files import keep, plan_of, record_of, report_of

from memplan.errors import RecordError
from memplan.estimating.speed import counted_step
from memplan.report import StepTiming
from memplan.searching.calibration import EFFICIENCY, efficiency_of


def timed(plan, reached, **changes):
    """A record of a step that reached that part of its counted speed."""
    took_ms = 1000 * counted_step(plan).seconds / reached
    timing = StepTiming(num_steps=5, median_ms=took_ms, low_ms=took_ms, high_ms=took_ms)
    report = replace(report_of(plan, **changes), timing=timing)
    return record_of(plan, report=report)


def test_without_records_it_is_assumed():
    found = efficiency_of("a100-80gb")
    assert (found.fraction, found.num_records) == (EFFICIENCY, 0)


def test_it_is_the_median_of_the_card_s_records(tmp_path):
    small, large = plan_of(), plan_of(per_device_train_batch_size=4)
    folder = keep(
        tmp_path,
        slow=timed(small, 0.3),
        usual=timed(large, 0.45),
        quick=timed(replace(small, seq_len=128), 0.5),
        untimed=record_of(plan_of(seq_len=64)),
        elsewhere=timed(plan_of(gpu="a100-80gb"), 0.9),
    )
    found = efficiency_of("rtx-4090", folder)
    assert found.fraction == pytest.approx(0.45)
    assert found.num_records == 3
    assert efficiency_of("h100-80gb", folder).fraction == EFFICIENCY


def test_a_rehearsal_s_clock_means_nothing(tmp_path):
    folder = keep(tmp_path, rehearsed=timed(plan_of(), 0.1, source="rehearsed"))
    assert efficiency_of("rtx-4090", folder).num_records == 0


def test_a_folder_that_is_none_is_an_error(tmp_path):
    with pytest.raises(RecordError):
        efficiency_of("rtx-4090", tmp_path / "none")
