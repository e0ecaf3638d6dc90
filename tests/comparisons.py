"""A comparison of tricks, made by hand: no formula can change its figures."""

from dataclasses import replace

from capture_files import capture_file

from memplan.comparing.comparison import (
    Comparison,
    Entry,
    LeftOut,
    Speed,
    TechniqueRow,
    Variant,
)
from memplan.comparing.files import to_json
from memplan.plan import TrainingPlan
from memplan.report import Components, MemoryReport
from memplan.units import MiB
from memplan.views.command import command_of

PLAN = TrainingPlan(model="gpt2", gpu="rtx-4090", per_device_train_batch_size=16)
CONTEXT = 500 * MiB
CHANGES = {
    "checkpointing-full": {"activation_checkpointing": "full"},
    "half-batch": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "8-bit-adam": {"optim": "adamw-8bit"},
}
FLAGS = {
    "checkpointing-full": "--activation-checkpointing full",
    "half-batch": "--per-device-train-batch-size 8 --gradient-accumulation-steps 2",
    "8-bit-adam": "--optim adamw-8bit",
}
TITLES = {
    "checkpointing-full": "checkpoint every layer",
    "half-batch": "half the batch, twice the steps",
    "8-bit-adam": "8-bit Adam",
}
FOUND = {
    # Activations and optimizer states in MiB, samples per second.
    (): (24_000, 1600, 12.0),
    ("checkpointing-full",): (19_700, 1600, 9.1),
    ("half-batch",): (21_000, 1600, 11.2),
    ("8-bit-adam",): (24_000, 400, 12.1),
    ("checkpointing-full", "half-batch"): (17_300, 1600, 8.6),
    ("checkpointing-full", "half-batch", "8-bit-adam"): (17_300, 400, 8.7),
}


def comparison(**changes) -> Comparison:
    """It does not fit; it fits with two of three tricks. Speeds are counted."""
    chain = [variant(*list(CHANGES)[: number + 1]) for number in range(len(CHANGES))]
    made = Comparison(
        memplan_version="0.1.0",
        by="estimate",
        plan=PLAN,
        entries=tuple(entry(name) for name in CHANGES),
        baseline=variant(),
        alone=tuple(map(variant, CHANGES)),
        greedy=tuple(chain),
        fits_after=2,
        table=(
            TechniqueRow(
                technique="gradient checkpointing",
                best="checkpointing-full",
                memory="yes",
                saved_bytes=4300 * MiB,
                speed="costs",
                speed_change_fraction=9.1 / 12 - 1,
            ),
            TechniqueRow(
                technique="DataLoader",
                best=None,
                memory="no",
                saved_bytes=None,
                speed="unknown",
                speed_change_fraction=None,
                note="it works in host memory",
            ),
        ),
        left_out=(LeftOut(name="lora", reason="every weight is trained"),),
        assumptions=("speeds are bounds from below",),
    )
    return replace(made, **changes)


def variant(*tricks) -> Variant:
    """The plan with some tricks."""
    plan = PLAN
    for name in tricks:
        plan = replace(plan, **CHANGES[name])
    activations, states, rate = FOUND[tricks]
    batch = plan.per_device_train_batch_size * plan.gradient_accumulation_steps
    return Variant(
        tricks=tricks,
        flags=FLAGS[tricks[-1]] if tricks else "",
        command=command_of(plan),
        report=report(plan, activations * MiB, states * MiB),
        speed=Speed(basis="counted", step_ms=1000 * batch / rate, samples_per_s=rate),
    )


def report(plan, activations, states) -> MemoryReport:
    """As if it had been estimated."""
    components = Components(
        weights=800 * MiB,
        gradients=800 * MiB,
        optimizer_states=states,
        activations=activations,
        temporary_buffers=600 * MiB,
    )
    whole = capture_file().report
    need = components.total + CONTEXT
    budget = whole.headroom_bytes + whole.peak.device_bytes
    return replace(
        whole,
        memplan_version="0.1.0",
        source="estimated",
        plan=plan,
        command=None,
        model=replace(whole.model, name="gpt2"),
        components=components,
        peak=replace(
            whole.peak,
            requested_bytes=components.total,
            allocated_bytes=components.total,
            reserved_bytes=components.total,
            device_bytes=need,
        ),
        fits=need <= budget,
        headroom_bytes=budget - need,
        holders=(),
    )


def entry(name) -> Entry:
    return Entry(
        name=name,
        title=TITLES[name],
        technique="gradient checkpointing",
        exactness="rounding",
        cost="It computes the forward pass a second time.",
        source="arXiv 1604.06174",
    )


def written(path, made=None):
    """Where a file is that has a comparison's JSON."""
    path.write_text(to_json(made or comparison()))
    return path
