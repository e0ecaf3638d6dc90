"""Records for tests: reports of today's estimates, changed. Nothing was measured."""

from dataclasses import asdict, replace

from memplan import TrainingPlan, estimate
from memplan.report import Components, OutOfMemory
from memplan.units import MiB
from memplan.validation.records import Record, write_record

TORCH = "2.14.1+cu130"
TOTAL = 24000 * MiB
CONTEXT = 410 * MiB


def plan_of(**changes):
    return TrainingPlan(**{"model": "gpt2", "gpu": "rtx-4090", **changes})


def report_of(plan, *, factor=1.0, source="measured", reserved=1.1):
    """What an estimate says, every component by a factor, as if a run had said it."""
    on_card = replace(plan, gpu_memory_bytes=TOTAL, context_bytes=CONTEXT, torch="2.14")
    report = estimate(on_card)
    components = Components(
        **{name: round(b * factor) for name, b in asdict(report.components).items()}
    )
    reserved_bytes = round(components.total * reserved)
    return replace(
        report,
        source=source,
        plan=plan,
        device=replace(report.device, torch=TORCH),
        components=components,
        peak=replace(
            report.peak,
            requested_bytes=components.total,
            allocated_bytes=components.total,
            reserved_bytes=reserved_bytes,
            device_bytes=reserved_bytes + CONTEXT,
        ),
        reserved=None,
        savings=(),
    )


def record_of(plan, **changes):
    return Record(
        entry=changes.pop("entry", plan.model),
        plan=plan,
        ended=changes.pop("ended", "finished"),
        error=changes.pop("error", ""),
        measured_at="2026-11-23T12:00:00+00:00",
        report=changes["report"] if "report" in changes else report_of(plan, **changes),
    )


def keep(folder, **records):
    """Write records into a folder, under their names."""
    for name, record in records.items():
        write_record(replace(record, entry=name), folder / f"{name}.json")
    return folder


def out_of_memory_on(plan):
    """A record of a run that ended in its first step."""
    report = report_of(plan, factor=0.5)
    error = OutOfMemory(
        step=1,
        phase="forward",
        module="",
        line="",
        asked_bytes=MiB,
        segment_bytes=MiB,
        free_bytes=0,
        allocated_bytes=report.peak.allocated_bytes,
        reserved_bytes=report.peak.reserved_bytes,
        message="CUDA out of memory.",
        components=report.components,
    )
    return record_of(
        plan,
        ended="out_of_memory",
        report=replace(report, out_of_memory=error, fits=False),
    )
