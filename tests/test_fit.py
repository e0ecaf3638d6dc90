"""The largest value that fits: laws, limits, and what raises it."""

import json
import sys
from dataclasses import replace

import pytest
from settled_bands import settle

from memplan.comparing.engines import Estimates
from memplan.errors import MemplanError, PlanError
from memplan.estimate import estimate
from memplan.fit import as_dict, fit
from memplan.plan import TrainingPlan
from memplan.searching.looking import FIELDS, value_of
from memplan.units import GiB, MiB

MODULE = sys.modules["memplan.fit"]
"""`memplan.fit` is the function."""
NF4 = {"trainable": "lora", "quantization": "nf4"}
PLANS = [
    (TrainingPlan(model="gpt2", gpu="rtx-4090"), "per_device_train_batch_size"),
    (TrainingPlan(model="gpt2", gpu_memory_bytes=4 * GiB), "seq_len"),
    (TrainingPlan(model="llama-2-7b", gpu="rtx-4090", **NF4), "seq_len"),
    pytest.param(
        TrainingPlan(model="t5-large", gpu="a100-40gb"),
        "target_seq_len",
        marks=pytest.mark.slow,
    ),
    (TrainingPlan(model="openflamingo-9b", gpu="a100-80gb"), "images_per_sample"),
    (
        TrainingPlan(model="tinyllama-1.1b", gpu="rtx-4090", trainable="lora"),
        "lora_rank",
    ),
    (TrainingPlan(model="qwen2-vl-7b", gpu="a100-40gb", **NF4), "image_size"),
    (
        TrainingPlan(
            model="llama-2-7b",
            gpu="rtx-4090",
            workload="generate",
            precision="bf16-pure",
        ),
        "max_new_tokens",
    ),
]


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    settle(monkeypatch)


def fits(plan, field, value):
    try:
        return estimate(replace(plan, **{field: value})).fits
    except MemplanError:
        return None


def ids(value):
    return value.model if isinstance(value, TrainingPlan) else str(value)


@pytest.mark.parametrize(("plan", "field"), PLANS, ids=ids)
def test_what_is_found_fits_and_the_next_does_not(plan, field):
    found = fit(plan, field, tricks=["checkpointing-full"])
    assert fits(plan, field, found.value) is True
    assert fits(plan, field, found.breaking_value) is not True
    assert found.surely is None or found.surely <= found.value
    for change in found.changes:
        assert change.value > found.value
        assert estimate(change.plan).fits
        assert fits(change.plan, field, change.breaking_value) is not True


def test_it_is_what_looking_at_every_value_finds():
    for field, plan in (
        ("per_device_train_batch_size", TrainingPlan(model="gpt2", gpu="rtx-4090")),
        (
            "seq_len",
            TrainingPlan(
                model="gpt2",
                gpu_memory_bytes=3200 * MiB,
                per_device_train_batch_size=8,
            ),
        ),
        (
            "per_device_train_batch_size",
            TrainingPlan(model="clip-vit-base-patch32", gpu_memory_bytes=4 * GiB),
        ),
    ):
        every = range(1, 256 if field == "seq_len" else 65)
        fitting = [value for value in every if fits(plan, field, value)]
        found = fit(plan, field, tricks=["checkpointing-full"], most=every[-1])
        assert 1 < found.value == max(fitting) < every[-1]


def test_a_larger_card_fits_no_less():
    values = [
        fit(
            TrainingPlan(model="gpt2", gpu_memory_bytes=size * GiB),
            "per_device_train_batch_size",
            tricks=["lora"],
        ).value
        or 0
        for size in range(2, 40, 4)
    ]
    assert values == sorted(values)
    assert values[0] == 0 < values[-1]


def test_headroom_lowers_it():
    plan = TrainingPlan(model="gpt2", gpu="rtx-4090")
    full, half = (
        fit(
            replace(plan, headroom_fraction=part),
            "per_device_train_batch_size",
            tricks=["lora"],
        )
        for part in (0.0, 0.5)
    )
    assert full.value > half.value


def test_narrow_fits_are_told_apart():
    """reserved + context <= total - headroom: at least, likely, and at most."""
    plan = TrainingPlan(model="gpt2", gpu="rtx-4090")
    found = fit(plan, "per_device_train_batch_size", tricks=["exact"])
    assert 0 < found.surely < found.likely < found.value

    def at(value):
        return estimate(replace(plan, per_device_train_batch_size=value))

    assert not at(found.likely).fits_narrowly
    assert at(found.likely + 1).fits_narrowly
    budget = at(1).peak.device_bytes + at(1).headroom_bytes - at(1).device.context_bytes
    assert at(found.surely).reserved.high_bytes <= budget
    assert at(found.surely + 1).reserved.high_bytes > budget


def test_the_model_is_a_limit_and_is_named():
    found = fit(TrainingPlan(model="gpt2", gpu="h100-80gb"), "seq_len")
    assert (found.value, found.breaking_value) == (1024, 1025)
    assert found.stopped_by == "model"
    assert "longer than gpt2 allows (1024)" in found.refusal
    assert found.changes == found.left_out == ()


def test_images_come_in_what_becomes_a_token():
    plan = TrainingPlan(model="qwen2-vl-7b", gpu="a100-40gb", **NF4)
    found = fit(plan, "image_size", tricks=["checkpointing-full"])
    assert found.value % 28 == 0
    assert found.breaking_value == found.value + 28


def test_shots_end_where_models_are_evaluated():
    plan = TrainingPlan(model="flamingo-tiny", workload="mme", gpu="rtx-4090")
    found = fit(plan, "num_shots")
    assert found.value == 32
    assert "33 shots" in found.refusal


def test_nothing_breaks_up_to_what_is_asked():
    plan = TrainingPlan(model="gpt2", gpu="h100-80gb")
    found = fit(plan, "per_device_train_batch_size", most=8)
    assert (found.value, found.breaking_value) == (8, None)
    assert found.stopped_by == "limit"


def test_not_even_one_fits_and_what_would_make_it():
    plan = TrainingPlan(model="llama-2-7b", gpu="rtx-4090")
    found = fit(plan, "per_device_train_batch_size")
    assert (found.value, found.surely, found.breaking_value) == (None, None, 1)
    assert found.plan_that_fits is None
    assert {"nf4", "offload-fsdp2"} <= {change.trick for change in found.changes}


def test_what_grows_is_the_difference_of_the_two():
    found = fit(
        TrainingPlan(model="gpt2", gpu="rtx-4090"), "per_device_train_batch_size"
    )
    more = found.breaking.peak.allocated_bytes - found.found.peak.allocated_bytes
    assert found.growth.total == more > 0
    assert found.growth.weights == 0 < found.growth.activations


def test_changes_come_by_what_they_cost():
    found = fit(
        TrainingPlan(model="gpt2", gpu="rtx-4090"), "per_device_train_batch_size"
    )
    kinds = [change.exactness for change in found.changes]
    order = ["exact", "rounding", "different optimisation", "different model"]
    assert kinds == sorted(kinds, key=order.index)
    exact = [c.speed_change_fraction for c in found.changes if c.exactness == "exact"]
    known = [speed for speed in exact if speed is not None]
    assert exact[: len(known)] == sorted(known, reverse=True)
    every = {change.trick for change in found.changes}
    left = {one.name: one.reason for one in found.left_out}
    assert not every & left.keys()
    assert left["batch-half"] == "the micro-batch is one sample"


def test_only_permitted_tricks_are_tried():
    plan = TrainingPlan(model="gpt2", gpu="rtx-4090")
    found = fit(plan, "per_device_train_batch_size", tricks=["exact"])
    assert {change.exactness for change in found.changes} == {"exact"}


@pytest.mark.parametrize(
    ("plan", "field", "said"),
    [
        (TrainingPlan(model="gpt2"), "lora_rank", "changes nothing"),
        (TrainingPlan(model="gpt2"), "max_new_tokens", "belongs to the workload"),
        (TrainingPlan(model="gpt2"), "image_size", "takes no images"),
        (TrainingPlan(model="gpt2"), "seq-len", "no field to make larger"),
        (TrainingPlan(model="llava-1.5-7b"), "image_size", "336 pixels"),
        (TrainingPlan(parameters=10**9), "seq_len", "parameter count"),
        (TrainingPlan(model="gpt2", seq_len=4096), "seq_len", "longer than gpt2"),
        (TrainingPlan(model="no-such"), "seq_len", "no-such"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_said(plan, field, said):
    with pytest.raises(MemplanError, match=said):
        fit(plan, field)


class Running(Estimates):
    """Runs that need more than was estimated, by a figure."""

    by = "rehearse"

    def __init__(self, more_bytes):
        self.more_bytes = more_bytes
        self.looked_at = []

    def look(self, plans):
        for plan, report in super().look(plans):
            self.looked_at.append(plan.per_device_train_batch_size)
            peak = replace(
                report.peak, device_bytes=report.peak.device_bytes + self.more_bytes
            )
            left = report.headroom_bytes - self.more_bytes
            yield (
                plan,
                replace(
                    report,
                    source="rehearsed",
                    peak=peak,
                    headroom_bytes=left,
                    fits=left >= 0,
                    reserved=None,
                ),
            )


@pytest.mark.parametrize("more_bytes", [-3 * GiB, 0, 700 * MiB, 6 * GiB, 23 * GiB])
def test_a_run_has_the_last_word(monkeypatch, more_bytes):
    """Both ends are run: the largest fits there, and the next does not."""
    engine = Running(more_bytes)
    monkeypatch.setattr(MODULE, "engine_of", lambda by, jobs: engine)
    plan = TrainingPlan(model="gpt2", gpu="rtx-4090")
    field = "per_device_train_batch_size"
    found = fit(plan, field, by="rehearse", tricks=["exact"])
    fitting = [
        value
        for value in range(1, 40)
        if estimate(replace(plan, **{field: value})).headroom_bytes >= more_bytes
    ]
    assert found.value == max(fitting, default=None)
    assert {found.value, found.breaking_value} - {None} <= set(engine.looked_at)
    assert len(engine.looked_at) <= 4
    assert found.breaking.source == "rehearsed"


def test_what_cannot_be_run_is_said(monkeypatch):
    class Refusing:
        by = "rehearse"

        def look(self, plans):
            return ((plan, "there is no compiler") for plan in plans)

    monkeypatch.setattr(MODULE, "engine_of", lambda by, jobs: Refusing())
    with pytest.raises(PlanError, match="there is no compiler"):
        fit(TrainingPlan(model="gpt2"), "seq_len", by="rehearse")


def test_its_json_is_plain():
    found = fit(TrainingPlan(model="gpt2", gpu="rtx-4090"), "seq_len")
    data = json.loads(json.dumps(as_dict(found)))
    assert data["schema_version"] == 1
    assert data["kind"] == "fit"
    assert data["value"] == found.value
    assert data["patch"] is None
    assert data["found"]["peak"]["device_bytes"] == found.found.peak.device_bytes


def test_every_field_has_a_value_to_start_from():
    plan = TrainingPlan(model="openflamingo-9b", workload="mme", gpu="a100-80gb")
    values = {field: value_of(plan, field) for field in FIELDS}
    assert values["images_per_sample"] == 1
    assert values["num_shots"] == 0
    assert min(values.values()) >= 0
