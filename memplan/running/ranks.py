"""Every rank of a job: which reported, which died, and which the report is about.

A launcher starts one process a rank, on one machine or on many. Each writes a capture;
of a rank that was killed there is none, and the others know how many they were.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from memplan.report import MemoryReport, RankMemory
from memplan.running.rehearsal import (
    Capture,
    Subject,
    has_something_to_report,
    most_loaded,
    peak_of,
    report_of,
)

DIED = "died"


def report_of_ranks(captures: Sequence[Capture], subject: Subject) -> MemoryReport:
    """The report of the most loaded of several processes, with a row for each rank."""
    with_device = [capture for capture in captures if capture["device"]]
    useful = [c for c in with_device if has_something_to_report(c)]
    chosen = most_loaded(useful or with_device)
    return with_ranks(report_of(chosen, subject), captures)


def with_ranks(report: MemoryReport, captures: Sequence[Capture]) -> MemoryReport:
    """The report of one rank with what became of the others."""
    rows = rank_rows(captures)
    if not rows:
        return report
    world_size = max(capture["world_size"] for capture in captures)
    lines = [f"rank {report.rank} of {world_size} held most, and is the one reported"]
    dead = [row.rank for row in rows if row.ended == DIED]
    if dead:
        lines.append(
            f"nothing came back of {_listed(dead)}: what {_it(dead)} held is not known"
        )
    here = {row.rank for row in rows}
    elsewhere = [rank for rank in range(world_size) if rank not in here]
    if elsewhere:
        lines.append(
            f"{_listed(elsewhere)} ran on other nodes, each of which wrote a file of "
            "its own; `memplan gather` joins them"
        )
    return replace(report, ranks=rows, assumptions=(*report.assumptions, *lines))


def rank_rows(captures: Iterable[Capture]) -> tuple[RankMemory, ...]:
    """A row for each rank that a launcher started; none where it started one alone."""
    ranks = _by_rank(captures)
    rows = [_row(capture) for capture in ranks.values()]
    nodes = {
        rank: _node(capture)
        for capture in ranks.values()
        for rank in _ranks_of_its_node(capture)
    }
    rows += [
        RankMemory(rank=rank, node=nodes[rank], ended=DIED)
        for rank in missing_ranks(ranks.values())
    ]
    return tuple(sorted(rows, key=lambda row: row.rank))


def missing_ranks(captures: Iterable[Capture]) -> tuple[int, ...]:
    """Ranks that were on the machine of one that reported, and left nothing."""
    ranks = _by_rank(captures)
    expected = {
        rank for capture in ranks.values() for rank in _ranks_of_its_node(capture)
    }
    return tuple(sorted(expected - set(ranks)))


def _by_rank(captures: Iterable[Capture]) -> dict[int, Capture]:
    """One capture a rank: a rank has workers too, and may have been started anew.

    A process that plays a rank has no others beside it.
    """
    best: dict[int, Capture] = {}
    for capture in captures:
        if capture["world_size"] < 2 or capture.get("is_alone"):
            continue
        other = best.setdefault(capture["rank"], capture)
        if _how_much(capture) > _how_much(other):
            best[capture["rank"]] = capture
    return best


def _how_much(capture: Capture) -> tuple[bool, int]:
    return bool(capture["device"]), len(capture["steps"])


def _ranks_of_its_node(capture: Capture) -> range:
    """The ranks of the machine of this one, which a launcher numbers in a row."""
    size = capture.get("local_world_size") or capture["world_size"]
    first = max(capture["rank"] - capture["local_rank"], 0)
    return range(first, min(first + size, capture["world_size"]))


def _node(capture: Capture) -> int:
    return int(capture.get("node") or 0)


def _row(capture: Capture) -> RankMemory:
    row = RankMemory(
        rank=capture["rank"],
        node=_node(capture),
        ended=capture["ended"],
        error=capture["error"] or "",
    )
    if not capture["device"]:
        return row
    peak = peak_of(capture)
    return replace(
        row,
        allocated_bytes=peak.allocated_bytes,
        reserved_bytes=peak.reserved_bytes,
        device_bytes=peak.device_bytes,
    )


def _listed(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 8 to 15`, `ranks 1, 5 and 6`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 2 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def _it(ranks: Sequence[int]) -> str:
    return "it" if len(ranks) == 1 else "they"
