"""Files that pages are made from: captures, reports and comparisons."""

from dataclasses import replace
from pathlib import Path

import comparisons
from capture_files import BLOCKS, CURVE, block, capture_file
from captures import capture, out_of_memory_capture
from record_files import plan_of, report_of

from memplan.captures.capture_file import write_capture
from memplan.report import StepTiming, to_json
from memplan.running.rehearsal import out_of_memory_of
from memplan.views.page.content import page_of
from memplan.views.page.data import as_data
from memplan.views.page.html import as_html
from memplan.views.page.inputs import read_inputs

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
HOSTILE_LINK = '<a href="https://example.com/">%{x}</a>&amp;{{ 7 * 7 }}'


def program(folder: Path, **changes) -> Path:
    """A capture of a program, with what it held by module and over its step."""
    seen = capture(**{"blocks": BLOCKS, "curve": CURVE, **changes})
    whole = capture_file(seen)
    report = replace(whole.report, memplan_version="0.1.0")
    return _capture(folder / "run.mplan", replace(whole, report=report))


def of_one_plan(folder: Path) -> list[Path]:
    """The same plan estimated, rehearsed and measured, each with its own figures."""
    return [
        _report(folder / f"{source}.json", report_of(plan_of(), **how))
        for source, how in {
            "estimated": {"source": "estimated", "reserved": 1.0},
            "rehearsed": {"source": "rehearsed", "factor": 1.02},
            "measured": {"source": "measured", "factor": 1.03},
        }.items()
    ]


def timed(folder: Path, name: str, rate: float, factor: float) -> Path:
    """A measured report with a speed."""
    timing = StepTiming(
        num_steps=10, median_ms=8000 / rate, low_ms=1, high_ms=9, samples_per_s=rate
    )
    report = replace(report_of(plan_of(), factor=factor), timing=timing)
    return _report(folder / f"{name}.json", report)


def out_of_memory(folder: Path) -> Path:
    """A capture of a program that ended for want of memory."""
    whole = capture_file(out_of_memory_capture())
    error = out_of_memory_of(whole.processes[0])
    report = replace(whole.report, fits=False, out_of_memory=error)
    return _capture(folder / "ended.mplan", replace(whole, report=report))


def compared(folder: Path) -> Path:
    return comparisons.written(folder / "tricks.json")


def hostile(folder: Path) -> list[Path]:
    """Names that would be markup, scripts and templates, wherever one can stand."""
    curve = {**CURVE, "phases": [{**CURVE["phases"][0], "phase": HOSTILE}]}
    holders = [{**one, "module": HOSTILE_LINK} for one in capture()["holders"]]
    seen = capture(
        blocks=[*BLOCKS, block(f"a.{HOSTILE}", 900), block(HOSTILE_LINK, 800)],
        curve=curve,
        holders=holders,
        versions={HOSTILE: HOSTILE, "torch": "2.14.1"},
        assumptions=[HOSTILE, HOSTILE_LINK],
        model={**capture()["model"], "name": HOSTILE},
    )
    made = comparisons.comparison()
    names = [replace(one, title=HOSTILE, cost=HOSTILE_LINK) for one in made.entries]
    whole = capture_file(seen, command=("python", HOSTILE))
    return [
        _capture(folder / "a<b>.mplan", whole),
        comparisons.written(folder / "c.json", replace(made, entries=tuple(names))),
    ]


def html_of(*files: Path) -> str:
    """Their page."""
    inputs = read_inputs(files)
    return as_html(page_of(inputs), as_data(inputs))


def _capture(path: Path, whole) -> Path:
    write_capture(whole, path)
    return path


def _report(path: Path, report) -> Path:
    path.write_text(to_json(report))
    return path
