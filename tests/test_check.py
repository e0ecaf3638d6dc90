"""Verdicts of `check`, on reports whose figures are made by hand."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
from comparisons import comparison, variant
from hypothesis import given
from hypothesis import strategies as st

from memplan import TrainingPlan, estimate
from memplan.check import as_dict, check, to_json
from memplan.errors import MemplanError, PlanError
from memplan.report import Band, Components, ReservedMemory
from memplan.units import GiB

module = import_module("memplan.check")
GPT2 = TrainingPlan(model="gpt2", gpu="rtx-4090")
GPT2_REPORT = estimate(GPT2)
CODES = {"fits": 0, "narrow": 0, "does not fit": 1, "cannot say": 2}


def report(need, card=24.0, low=None, reserved=None, headroom=0.0, **changes):
    """Of a run that needs so many GiB of a card of so many, without context.

    `reserved` is what PyTorch reserves: likely, and at most.
    """
    total, bytes_needed = int(card * GiB), int(need * GiB)
    left = total - int(total * headroom) - bytes_needed
    low = need if low is None else low
    return replace(
        GPT2_REPORT,
        plan=replace(GPT2, context_bytes=0, gpu_memory_bytes=total),
        device=replace(GPT2_REPORT.device, total_bytes=total, context_bytes=0),
        peak=replace(
            GPT2_REPORT.peak,
            requested_bytes=bytes_needed,
            allocated_bytes=bytes_needed,
            reserved_bytes=bytes_needed,
            device_bytes=bytes_needed,
        ),
        band=Band(low_bytes=int(low * GiB), high_bytes=bytes_needed, basis="by hand"),
        reserved=reserved
        and ReservedMemory(
            likely_bytes=int(reserved[0] * GiB),
            low_bytes=bytes_needed,
            high_bytes=int(reserved[1] * GiB),
            basis="by hand",
        ),
        fits=left >= 0,
        headroom_bytes=left,
        headroom_fraction=headroom,
        **{
            "components": Components(activations=bytes_needed),
            "unsupported": (),
            **changes,
        },
    )


@pytest.fixture
def checked(monkeypatch):
    """Checks a report made by hand; no way out is looked for."""
    monkeypatch.setattr(module, "_fix", lambda plan: None)

    def run(found, **options):
        monkeypatch.setattr(module, "_report", lambda plan, by: found)
        return check(found.plan, **options)

    return run


@pytest.mark.parametrize(
    ("made", "options", "verdict", "code"),
    [
        ({"need": 20}, {}, "fits", 0),
        ({"need": 24}, {}, "fits", 0),
        ({"need": 25}, {}, "does not fit", 1),
        ({"need": 23, "headroom": 0.05}, {}, "does not fit", 1),
        # Likely more than there is, at most more, and never.
        ({"need": 22, "reserved": (25, 26)}, {}, "narrow", 0),
        ({"need": 22, "reserved": (23, 26)}, {}, "fits", 0),
        ({"need": 22, "reserved": (25, 26)}, {"strict": True}, "narrow", 1),
        ({"need": 22, "reserved": (23, 26)}, {"strict": True}, "narrow", 1),
        ({"need": 20, "reserved": (22, 23)}, {"strict": True}, "fits", 0),
        ({"need": 20}, {"not_read": ["fsdp.x"]}, "fits", 0),
        ({"need": 20}, {"not_read": ["fsdp.x"], "strict": True}, "cannot say", 2),
        ({"need": 30}, {"not_read": ["fsdp.x"], "strict": True}, "cannot say", 2),
        ({"need": 20, "unsupported": ("paged",)}, {}, "fits", 0),
        ({"need": 20, "unsupported": ("paged",)}, {"strict": True}, "cannot say", 2),
        ({"need": 30, "unsupported": ("paged",)}, {"strict": True}, "does not fit", 1),
    ],
)
def test_the_verdict_and_its_exit_code(checked, made, options, verdict, code):
    found = checked(report(**made), **options)
    assert (found.verdict, found.exit_code) == (verdict, code)


@pytest.mark.parametrize(
    ("made", "verdict", "code"),
    [
        ({"need": 20}, "fits", 0),
        ({"need": 22, "reserved": (25, 26)}, "narrow", 0),
        # Within the headroom, and within the band: it is not certain.
        ({"need": 23.5, "headroom": 0.05}, "cannot say", 0),
        ({"need": 25, "low": 23.9}, "cannot say", 0),
        ({"need": 25, "low": 24.1}, "does not fit", 1),
    ],
)
def test_the_lower_bound_fails_on_what_is_certain(checked, made, verdict, code):
    found = checked(report(**made), lower_bound=True)
    assert (found.verdict, found.exit_code) == (verdict, code)


def test_model_states_alone_are_certain_whatever_the_band_says(checked):
    states = Components(weights=20 * GiB, gradients=3 * GiB, optimizer_states=2 * GiB)
    found = checked(report(25, low=1, components=states), lower_bound=True)
    assert (found.low_bytes, found.exit_code) == (25 * GiB, 1)


def test_a_context_that_is_assumed_is_not_certain():
    """The catalogue has none of this card."""
    assumed = check(replace(GPT2, gpu="v100-32gb"))
    assert assumed.report.device.context_bytes == 500 * 2**20
    assert assumed.low_bytes == assumed.report.band.low_bytes
    known = check(replace(GPT2, gpu="v100-32gb", context_bytes=GiB))
    assert known.low_bytes == known.report.band.low_bytes + GiB


def test_a_parameter_count_that_fits_says_nothing_and_one_that_does_not_all():
    plan = TrainingPlan(parameters=10**9, gpu="rtx-4090")
    assert check(plan).exit_code == 2
    assert check(plan, lower_bound=True).exit_code == 0
    large = replace(plan, parameters=7 * 10**9)
    assert check(large).exit_code == 1
    assert check(large, lower_bound=True).exit_code == 1


def test_doubts_are_named(checked):
    narrow = report(22, reserved=(25, 26), unsupported=("paged states",))
    found = checked(narrow, not_read=["a.yaml: b"])
    assert found.not_read == ("a.yaml: b",)
    modelled, beside = found.doubts
    assert modelled.endswith("paged states")
    assert "likely reserves" in beside
    assert "2.00 GiB too much" in beside
    [beside] = checked(report(22, reserved=(23, 25))).doubts
    assert "may reserve" in beside
    [within] = checked(report(24.5, low=23)).doubts
    assert "within the band" in within


def test_both_questions_at_once_are_refused():
    with pytest.raises(PlanError, match="two questions"):
        check(GPT2, strict=True, lower_bound=True)


def test_what_has_no_figure_is_an_error_with_code_2():
    with pytest.raises(MemplanError) as refused:
        check(TrainingPlan(model="no-such-model"))
    assert refused.value.exit_code == 2


def test_the_way_out_is_the_trick_that_changes_least(monkeypatch):
    found = comparison(gentlest="half-batch")
    monkeypatch.setattr(import_module("memplan.compare"), "compare", lambda plan: found)
    fix = module._fix(found.plan)
    assert fix.tricks == ("half-batch",)
    assert fix.flags == (
        "--per-device-train-batch-size 8 --gradient-accumulation-steps 2"
    )
    assert fix.device_bytes == variant("half-batch").need_bytes


def test_or_the_chain_where_none_is_enough_alone(monkeypatch):
    found = comparison(gentlest=None)
    monkeypatch.setattr(import_module("memplan.compare"), "compare", lambda plan: found)
    fix = module._fix(found.plan)
    assert fix.tricks == ("checkpointing-full", "half-batch")
    assert fix.flags == (
        "--per-device-train-batch-size 8 --gradient-accumulation-steps 2 "
        "--activation-checkpointing full"
    )


def test_the_way_out_of_a_real_plan_fits():
    found = check(TrainingPlan(model="gpt2-xl", gpu="rtx-3090", torch="2.14"))
    assert found.exit_code == 1
    assert found.fix is not None
    assert found.fix.command.startswith("memplan check gpt2-xl")
    assert found.fix.device_bytes < 24 * GiB


def test_its_json_is_whole():
    found = check(GPT2)
    data = json.loads(to_json(found))
    assert data == json.loads(json.dumps(as_dict(found)))
    assert (data["kind"], data["schema_version"]) == ("check", 1)
    assert data["report"]["peak"]["device_bytes"] == found.report.peak.device_bytes


@given(
    batch=st.integers(1, 64),
    model=st.sampled_from(["gpt2", "bert-large", "llama-2-7b"]),
    gpu=st.sampled_from(["t4", "rtx-4090", "a100-80gb"]),
    zero_stage=st.integers(0, 3),
)
def test_what_certainly_cannot_fit_does_not_fit(batch, model, gpu, zero_stage):
    """1 of the lower bound implies 1 of the check, and 0 of strict implies 0 of all."""
    plan = TrainingPlan(
        model=model,
        gpu=gpu,
        per_device_train_batch_size=batch,
        num_gpus=4,
        zero_stage=zero_stage,
    )
    found = estimate(plan)
    low = module._low_bytes(plan, found)
    certain = module._without_doubt(found, low)
    usual = module._verdict(found, False, ())
    strict = module._exit_code(module._verdict(found, True, ()), True, False)
    assert certain != "does not fit" or usual == "does not fit"
    assert strict != 0 or CODES[usual] == 0
