"""A round of measuring: a line for each plan as it ends, then all of them as a page."""

from collections import Counter
from collections.abc import Sequence

from memplan.campaign.measuring import STATES, Outcome
from memplan.campaign.plans import Sized
from memplan.units import GiB


def line_of(outcome: Outcome) -> str:
    """`gpt2.plain            finished        14.43 GiB    3.1 s`."""
    parts = [f"{outcome.name:40}", f"{outcome.state:13}"]
    if outcome.device_bytes is not None:
        parts.append(f"{_gib(outcome.device_bytes):>7} GiB")
    if outcome.seconds:
        parts.append(f"{outcome.seconds:5.1f} s")
    return "  ".join([*parts, outcome.said]).rstrip()


def counts_of(outcomes: Sequence[Outcome]) -> str:
    """`12 finished, 1 out of memory, 3 no time`."""
    counts = Counter(outcome.state for outcome in outcomes)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def listed(plans: Sequence[Sized]) -> str:
    """Names and what they are estimated to take, by group."""
    lines, group = [], None
    for sized in plans:
        if sized.entry.group != group:
            group = sized.entry.group
            lines += ["", f"{group}:"]
        needed = "?" if sized.needed_bytes is None else _gib(sized.needed_bytes)
        line = f"  {sized.entry.name:40}{needed:>8} GiB  {sized.left_out}"
        lines.append(line.rstrip())
    return "\n".join(lines[1:])


def summary_of(title: str, lines: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """All of a round, as a page that lies beside the records."""
    rows = [
        f"| {outcome.name} | {outcome.state} | {_cell(outcome.device_bytes)} | "
        f"{_cell(outcome.sized.needed_bytes)} | {outcome.seconds:.1f} | "
        f"{_plain(outcome.said)} |"
        for outcome in outcomes
    ]
    return "\n".join(
        [
            f"# {title}",
            "",
            *lines,
            "",
            f"{counts_of(outcomes)}.",
            "",
            "| plan | ended | device, GiB | estimated, GiB | s | |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GiB:.2f}"


def _cell(size_bytes: int | None) -> str:
    return "" if size_bytes is None else _gib(size_bytes)


def _plain(text: str) -> str:
    """A text that stays within its cell."""
    return " ".join(text.replace("|", "\\|").split())
