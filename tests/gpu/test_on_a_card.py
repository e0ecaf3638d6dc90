"""Plans on a card: that figures are in order, and close, and how far a rehearsal is."""

from dataclasses import replace

import pytest

from memplan import TrainingPlan
from memplan.estimating.card import card_context
from memplan.hardware import find_gpu, gpu_names
from memplan.units import MiB

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

DECODER = TrainingPlan(model="gpt2", seq_len=512)
PLANS = {
    "decoder": DECODER,
    "decoder, fp32": replace(DECODER, precision="fp32"),
    "decoder, checkpointed": replace(
        DECODER, activation_checkpointing="full", gradient_accumulation_steps=2
    ),
    "encoder": TrainingPlan(model="vit-base-patch16-224", optim="adamw_torch_fused"),
    "OpenFlamingo": TrainingPlan(model="openflamingo-tiny"),
    "MMICL": TrainingPlan(model="mmicl-tiny", precision="bf16-pure"),
    "a rank of eight": TrainingPlan(model="gpt2", num_gpus=8, zero_stage=3),
}
DEPENDS_ON_VALUES = {
    "PE-Net": TrainingPlan(model="pe-net-tiny", precision="fp32", optim="sgd_momentum")
}
"""Which pairs and boxes it keeps: a rehearsal, whose values are zeros, keeps others."""

CLOSE = 0.01
"""Allocated differs from requested by the rounding of blocks, and a request takes a
whole free block that is less than 1 MiB larger: which block is free follows from the
addresses of segments, and the driver may choose others than the virtual device."""
CONTEXT_CLOSE = 0.25
"""A context grows with every kernel that is loaded, and differs between drivers."""


@pytest.mark.parametrize("name", [*PLANS, *DEPENDS_ON_VALUES])
def test_figures_are_in_order_and_add_up(card, measured, name):
    report = measured((PLANS | DEPENDS_ON_VALUES)[name])
    peak = report.peak
    assert report.source == card
    assert (
        0
        < peak.requested_bytes
        <= peak.allocated_bytes
        <= peak.active_bytes
        <= peak.reserved_bytes
        <= peak.device_bytes
        <= report.device.total_bytes
    )
    assert report.components.total == peak.allocated_bytes
    assert report.unattributed_bytes < 0.01 * peak.allocated_bytes
    assert report.retries == 0
    assert report.device.context_bytes > 0


@pytest.mark.parametrize("name", PLANS)
def test_a_rehearsal_says_the_same(measured, rehearsed, name):
    """The same requests to the byte: nothing here depends on values or on time."""
    here, there = measured(PLANS[name]).peak, rehearsed(PLANS[name]).peak
    assert there.requested_bytes == here.requested_bytes
    assert there.allocated_bytes == pytest.approx(here.allocated_bytes, rel=CLOSE)
    assert (there.phase, there.module) == (here.phase, here.module)


@pytest.mark.parametrize("name", PLANS)
def test_a_rehearsal_finds_the_same_components(measured, rehearsed, name):
    here, there = measured(PLANS[name]), rehearsed(PLANS[name])
    for component in ("weights", "gradients", "optimizer_states", "activations"):
        mine = getattr(here.components, component)
        assert getattr(there.components, component) == mine, component


def test_the_context_is_that_of_the_catalogue(card, measured):
    report = measured(DECODER)
    if report.device.gpu not in gpu_names():
        pytest.skip(f"{report.device.gpu} is not in the catalogue")
    gpu = find_gpu(report.device.gpu)
    context, basis = card_context(gpu)
    seen = report.device.context_bytes
    if gpu.context_bytes is None and card == "measured":
        pytest.skip(f"{gpu.slug}: {basis}; it takes {seen / MiB:.0f} MiB here")
    assert seen == pytest.approx(context, rel=CONTEXT_CLOSE)


def test_steps_are_timed_on_a_card_and_nowhere_else(card, measured):
    timing = measured(DECODER).timing
    if card == "rehearsed":
        assert timing is None
        return
    assert timing.num_steps >= 5
    assert 0 < timing.low_ms <= timing.median_ms <= timing.high_ms
    assert timing.tokens_per_s == pytest.approx(512 / timing.median_ms * 1000, rel=0.01)
    assert 0 < timing.fraction_of_peak < 1


def test_a_rank_of_eight_holds_an_eighth_of_the_states(measured):
    sharded = measured(PLANS["a rank of eight"])
    whole = measured(replace(DECODER, seq_len=None))
    assert sharded.num_gpus == 8
    assert sharded.components.optimizer_states == pytest.approx(
        whole.components.optimizer_states / 8, rel=0.02
    )


def test_memory_ends_where_it_ends(card, measured):
    report = measured(replace(DECODER, per_device_train_batch_size=4096))
    assert not report.fits
    assert report.out_of_memory.asked_bytes > report.out_of_memory.free_bytes
    assert report.peak.reserved_bytes <= report.device.total_bytes
