"""What a page is made from: captures, reports and comparisons, out of their files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memplan.captures.capture_file import CaptureFile
from memplan.captures.process import Process
from memplan.captures.reading import read_either, text_of
from memplan.captures.redaction import REDACTED, redact, redact_report
from memplan.comparing.comparison import Comparison, Variant
from memplan.comparing.files import from_json, is_comparison
from memplan.errors import MemplanError
from memplan.report import MemoryReport
from memplan.untrusted import plain_data
from memplan.views.command import command_of

VERBS = {"estimated": "estimate", "rehearsed": "rehearse", "measured": "profile"}
"""Who makes a report of its kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One file: a capture or report, or a comparison."""

    file: str
    """Its name, without the folders of a machine."""
    capture: CaptureFile | None = None
    comparison: Comparison | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One report, and what the page calls it."""

    label: str
    report: MemoryReport
    process: Process | None = None
    """What the process that it is about saw; of a report by itself None."""
    file: str = ""


def read_inputs(paths: Iterable[Path]) -> tuple[Input, ...]:
    """The files of a page.

    Raises:
        MemplanError: one of them cannot be read, or is nothing a page is made from.
    """
    return tuple(map(_read, paths))


def redacted(given: Input) -> Input:
    """The same figures without what tells of people, machines and folders."""
    comparison = given.comparison
    return replace(
        given,
        capture=given.capture and redact(given.capture),
        comparison=comparison and _redacted(comparison),
    )


def entries_of(inputs: Sequence[Input]) -> tuple[Entry, ...]:
    """The reports that were given by themselves, each with a name of its own."""
    captures = [(one.file, one.capture) for one in inputs if one.capture]
    labels = _labels([(file, capture.report) for file, capture in captures])
    return tuple(
        Entry(
            label=label,
            report=capture.report,
            process=_process(capture),
            file=file,
        )
        for label, (file, capture) in zip(labels, captures, strict=True)
    )


def comparisons_of(inputs: Sequence[Input]) -> tuple[Comparison, ...]:
    return tuple(one.comparison for one in inputs if one.comparison)


def command_behind(report: MemoryReport) -> str:
    """What makes a report again; empty where that was left out of it."""
    import shlex

    verb = VERBS[report.source]
    if report.plan is not None:
        return command_of(report.plan, verb)
    words = report.command or (REDACTED,)
    if REDACTED in words:
        return ""
    card = [] if report.source == "measured" else ["--gpu", report.device.gpu]
    return shlex.join(["memplan", verb, *card, "--", *words])


def run_of(report: MemoryReport) -> str:
    """`llama-2-7b on 8 x h100-80gb`."""
    gpu = report.device.gpu
    cards = f"{report.num_gpus} x {gpu}" if report.num_gpus > 1 else gpu
    return f"{report.model.name} on {cards}"


def _read(path: Path) -> Input:
    content = text_of(path)
    if content is not None:
        try:
            data = plain_data(content)
        except ValueError:
            data = None  # the reader of reports says what is wrong
        if is_comparison(data):
            return Input(file=path.name, comparison=_comparison(path, content))
    return Input(file=path.name, capture=read_either(path))


def _comparison(path: Path, content: bytes) -> Comparison:
    try:
        return from_json(content)
    except MemplanError as error:
        raise MemplanError(f"{path}: {error.message}", hint=error.hint) from error


def _process(capture: CaptureFile) -> Process | None:
    """Of many ranks the one that the report is about."""
    rank = capture.report.rank
    return next((one for one in capture.processes if one["rank"] == rank), None)


def _labels(reports: Sequence[tuple[str, MemoryReport]]) -> list[str]:
    """As short as they can be and still be told apart."""
    runs = {run_of(report) for _, report in reports}
    named = [
        report.source if len(runs) == 1 else f"{run_of(report)}, {report.source}"
        for _, report in reports
    ]
    labels = [
        f"{label} ({file})" if named.count(label) > 1 else label
        for label, (file, _) in zip(named, reports, strict=True)
    ]
    return [
        f"{label}, {index + 1}" if labels.count(label) > 1 else label
        for index, label in enumerate(labels)
    ]


def _redacted(comparison: Comparison) -> Comparison:
    baseline = _redacted_variant(comparison.baseline)
    return replace(
        comparison,
        plan=baseline.report.plan or comparison.plan,
        baseline=baseline,
        alone=tuple(map(_redacted_variant, comparison.alone)),
        greedy=tuple(map(_redacted_variant, comparison.greedy)),
    )


def _redacted_variant(variant: Variant) -> Variant:
    report = redact_report(variant.report)
    return replace(variant, report=report, command=command_behind(report))
