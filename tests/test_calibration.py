"""Measured records widen the band of their card, and rehearsed ones never do."""

import tomllib
from dataclasses import asdict, replace
from importlib import import_module

import pytest
from record_files import keep, plan_of, record_of

from memplan import estimate
from memplan.estimating.accuracy import MeasuredAccuracy, allocated_band, measured_file
from memplan.validation.calibration import accuracies_of, as_toml
from memplan.validation.records import measured_folder, records_under
from memplan.validation.validate import validate

MODULE = import_module("memplan.estimating.accuracy")


@pytest.fixture
def records(tmp_path):
    """Two of a card, one of them for a generation, and one of another card."""
    return keep(
        tmp_path / "records",
        low=record_of(plan_of(), factor=1.25),
        high=record_of(plan_of(seq_len=512), factor=0.8),
        asked=record_of(plan_of(workload="generate", max_new_tokens=8), factor=1.05),
        other=record_of(plan_of(gpu="t4"), factor=1.01),
    )


@pytest.fixture
def measured(records, tmp_path, monkeypatch):
    """The figures of those records, in the place of memplan's own."""
    file = tmp_path / "measured.toml"
    file.write_text(as_toml(accuracies_of(validate(records_under(records)))))
    caches = (MODULE._measured, MODULE.measured_accuracy)
    monkeypatch.setattr(MODULE, "measured_file", lambda: file)
    for cached in caches:
        cached.cache_clear()
    yield file
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


def test_figures_are_kept_by_kind_and_card(measured):
    figures = tomllib.loads(measured.read_text())
    assert {kind: list(cards) for kind, cards in figures.items()} == {
        "generated": ["rtx-4090"],
        "trained": ["rtx-4090", "t4"],
    }
    of_card = figures["trained"]["rtx-4090"]
    assert of_card["num_plans"] == 2
    assert of_card["lowest_error_fraction"] == pytest.approx(-0.2, abs=1e-5)
    assert of_card["highest_error_fraction"] == pytest.approx(0.25, abs=1e-5)
    assert of_card["median_reserved_over_allocated"] == pytest.approx(1.1, abs=1e-5)


def test_a_band_says_that_it_rests_on_measurements_of_the_card(measured):
    band = estimate(plan_of()).band
    assert "2 plans measured on rtx-4090 (torch 2.14.1+cu130)" in band.basis
    assert "rehearsed on a virtual CUDA device" in band.basis
    peak = estimate(plan_of()).peak.allocated_bytes
    assert band.low_bytes <= peak / 1.249
    assert band.high_bytes >= peak / 0.801


def test_a_generation_has_a_band_of_its_own(measured):
    plan = plan_of(workload="generate", max_new_tokens=8)
    band = allocated_band(plan, 10**9, "rtx-4090")
    assert "1 plan measured on rtx-4090" in band.basis
    assert band.high_bytes >= 10**9 * 1.049  # it took 1.05 of its estimate


def test_measurements_never_make_a_band_narrower_than_rehearsals(measured):
    alone = allocated_band(plan_of(), 10**9, "h100-80gb")
    band = allocated_band(plan_of(), 10**9, "t4")
    assert "1 plan measured on t4" in band.basis
    assert band.low_bytes <= alone.low_bytes
    assert band.high_bytes >= alone.high_bytes


def test_another_card_says_that_it_was_not_checked(measured):
    basis = allocated_band(plan_of(), 10**9, "h100-80gb").basis
    assert "not checked against this card" in basis


def test_without_records_no_card_is_named():
    if measured_file().is_file():
        pytest.skip("there are measured records")
    basis = estimate(plan_of()).band.basis
    assert "measured" not in basis
    assert basis.endswith("not checked against a card")


def test_rehearsed_records_say_nothing_of_a_card(tmp_path):
    folder = keep(tmp_path, played=record_of(plan_of(), source="rehearsed"))
    assert accuracies_of(validate(records_under(folder))) == {}
    with pytest.raises(ValueError, match="nothing of a card"):
        accuracies_of(validate(records_under(folder), against="rehearsed"))


def test_no_records_are_no_file():
    assert as_toml({}) == ""


def test_shipped_figures_are_those_of_the_shipped_records():
    """`scripts/accuracy` was run when records came; the day of that may be any."""
    if not measured_folder().is_dir():
        assert not measured_file().is_file()
        return
    found = accuracies_of(validate(records_under(measured_folder())))
    shipped = tomllib.loads(measured_file().read_text(encoding="utf-8"))
    for (kind, gpu), figures in found.items():
        kept = MeasuredAccuracy(**{**shipped[kind][gpu], "torch": figures.torch})
        same_day = replace(kept, compared_on=figures.compared_on)
        assert asdict(same_day) == pytest.approx(asdict(figures), abs=1e-6)
