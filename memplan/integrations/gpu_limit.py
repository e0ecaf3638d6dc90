"""What `limit_gpu_memory` asks of a test, and whether the test kept to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal, get_args

from memplan.errors import MemplanError, PlanError, UnknownNameError
from memplan.hardware import Gpu, find_gpu
from memplan.units import format_size

if TYPE_CHECKING:
    import pytest

    from memplan.report import Holder, MemoryReport, OutOfMemory

Of = Literal["allocated", "reserved", "device"]

BODY = "body of the test"
"""The mark under which the runner knows it."""
MOST_HOLDERS = 5
WIDTH = 80
USAGE = 'Write it like @pytest.mark.limit_gpu_memory("10GiB", gpu="rtx-4090").'
PHASES = ("forward", "loss", "backward", "optimizer", "evaluation")
"""Of training; what is done before has no name worth telling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """So much of a card, and no more."""

    num_bytes: int
    gpu: str = "h100-80gb"
    of: Of = "allocated"
    """By tensors; reserved by PyTorch's allocator; or all that the device needs, with
    the CUDA context."""


def limit_of(mark: "pytest.Mark") -> Limit:
    """What a marker asks.

    Raises:
        MemplanError: nothing sensible.
    """
    from memplan.cli.values import parse_size

    options = dict(mark.kwargs)
    sizes = [*mark.args, *([options.pop("size")] if "size" in options else [])]
    unknown = sorted(options.keys() - {"gpu", "of"})
    if len(sizes) != 1 or unknown:
        what = f"no {unknown[0]}" if unknown else f"one size, not {len(sizes)}"
        raise PlanError(f"limit_gpu_memory takes {what}.", hint=USAGE)
    num_bytes = parse_size(str(sizes[0]))
    if num_bytes <= 0:
        raise PlanError(f"A limit of {sizes[0]!r} leaves no memory.", hint=USAGE)
    of = options.get("of", "allocated")
    if of not in get_args(Of):
        raise UnknownNameError.of("kind of memory", str(of), get_args(Of))
    gpu = options.get("gpu")
    if gpu is None:
        return Limit(num_bytes=num_bytes, of=of)
    return Limit(num_bytes=num_bytes, gpu=find_gpu(str(gpu)).slug, of=of)


def problem_of(mark: "pytest.Mark") -> str:
    """Why a marker asks nothing sensible; empty where it does."""
    try:
        limit_of(mark)
    except MemplanError as error:
        return f"{error.message} {error.hint}"
    return ""


def broken_by(limit: Limit, capture: Mapping[str, Any], gpu: Gpu) -> str:
    """Why a test broke its limit, and what held the memory; empty where it kept to it.

    Args:
        capture: what was seen of the body, with its peak.
        gpu: the card that it ran on.
    """
    from memplan.running.rehearsal import (
        Subject,
        completed,
        out_of_memory_of,
        report_of,
    )

    capture = completed(capture)
    if capture["device"] is None:
        return ""
    report = report_of(capture, Subject(gpu=gpu, command=("pytest",)))
    error = out_of_memory_of(capture)
    if error is not None:
        return _ran_out(limit, report, error)
    took = _took(limit, report)
    return _exceeded(limit, report, took) if took > limit.num_bytes else ""


def _took(limit: Limit, report: "MemoryReport") -> int:
    """At most within the body, of what is limited."""
    [body] = [mark for mark in report.marked if mark.name == BODY][-1:]
    match limit.of:
        case "allocated":
            return body.peak_allocated_bytes
        case "reserved":
            return body.peak_reserved_bytes
        case "device":
            return body.peak_reserved_bytes + report.device.context_bytes


def _exceeded(limit: Limit, report: "MemoryReport", took: int) -> str:
    peak = report.peak
    of = "of the device" if limit.of == "device" else limit.of
    return "\n".join(
        [
            f"limited to {format_size(limit.num_bytes)} but took {format_size(took)} "
            f"{of} on {_card(report)}{_place(peak.phase, peak.module)}",
            *filter(None, [peak.line]),
            *_held("The largest at the peak", report.holders),
            *(f"\nNot in the figures: {line}" for line in report.unsupported),
        ]
    )


def _ran_out(limit: Limit, report: "MemoryReport", error: "OutOfMemory") -> str:
    return "\n".join(
        [
            f"limited to {format_size(limit.num_bytes)} but ran out of memory on "
            f"{_card(report)}{_place(error.phase, error.module)}",
            *filter(None, [error.line]),
            f"asked for {format_size(error.asked_bytes)} beside "
            f"{format_size(error.allocated_bytes)}, of "
            f"{format_size(report.device.total_bytes)}",
            *_held("The largest then", error.holders),
        ]
    )


def _card(report: "MemoryReport") -> str:
    return f"{report.device.gpu} ({report.source})"


def _place(phase: str, module: str) -> str:
    """`, at backward of layers.3`."""
    if phase not in PHASES:
        return ""
    return f", at {phase} of {module}" if module else f", at {phase}"


def _held(title: str, holders: "tuple[Holder, ...]") -> list[str]:
    """As the views of a report show them."""
    from rich.console import Console

    from memplan.views.rehearsed import holders_table
    from memplan.views.tables import print_lines

    if not holders:
        return []
    console = Console(file=StringIO(), width=WIDTH, color_system=None, highlight=False)
    print_lines(console, holders_table(holders[:MOST_HOLDERS]))
    text = console.file
    assert isinstance(text, StringIO)
    return ["", f"{title}:", text.getvalue().rstrip()]
