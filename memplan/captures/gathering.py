"""The captures of a job that ran on several machines, as one; and one rank of many.

Each machine of a job writes what it saw. Joined, they are the capture that one machine
would have written.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from memplan.captures.capture_file import CaptureFile
from memplan.captures.process import Process
from memplan.errors import CaptureFileError
from memplan.hardware import custom_gpu
from memplan.report import MemoryReport, RankMemory
from memplan.running.ranks import DIED, with_ranks
from memplan.running.rehearsal import (
    Subject,
    has_something_to_report,
    most_loaded,
    report_of,
)

Named = tuple[Path, CaptureFile]
LOCAL_RANK = ("--local-rank", "--local_rank")
"""What `torch.distributed.launch` gives to each process."""


def gathered(captures: Sequence[Named]) -> CaptureFile:
    """Captures of one job as one.

    Raises:
        CaptureFileError: they are of different jobs, or of the same machine.
    """
    for other in captures[1:]:
        _check_alike(captures[0], other)
    _check_ranks(captures)
    processes = tuple(p for _, capture in captures for p in capture.processes)
    chosen = _chosen(processes)
    most = next(c for _, c in captures if chosen in c.processes)
    alone = replace(most, report=_of_itself(most))
    report = with_ranks(report_of_rank(alone, chosen["rank"]), processes)
    return CaptureFile(
        report=replace(report, ranks=_rows(captures) or report.ranks),
        processes=processes,
        is_redacted=any(capture.is_redacted for _, capture in captures),
        left_out=tuple(rank for _, capture in captures for rank in capture.left_out),
    )


def process_of_rank(capture: CaptureFile, rank: int | None) -> Process:
    """What a rank saw; by default the one that the report is about.

    Raises:
        CaptureFileError: there is no such rank, or nothing came back of it.
    """
    wanted = capture.report.rank if rank is None else rank
    processes = [p for p in capture.processes if p["rank"] == wanted]
    if not processes:
        known = sorted({process["rank"] for process in capture.processes})
        has = f"It has {_listed(known)}." if known else "It is of a report alone."
        raise CaptureFileError(f"The capture has nothing of rank {wanted}.", hint=has)
    return _chosen(processes)


def report_of_rank(capture: CaptureFile, rank: int | None) -> MemoryReport:
    """The report about one rank; by default as it was written.

    Raises:
        CaptureFileError: there is no such rank, or it had nothing to report.
    """
    if rank is None or rank == capture.report.rank:
        return capture.report
    process = process_of_rank(capture, rank)
    if not (process["device"] and has_something_to_report(process)):
        raise CaptureFileError(
            f"Rank {rank} made no step ({process['ended']}).",
            hint="--by rank shows all of them.",
        )
    known = capture.report
    gpu = custom_gpu(None, max(known.device.total_bytes, 1))
    subject = Subject(
        gpu=replace(gpu, slug=known.device.gpu),
        plan=known.plan,
        command=known.command,
        headroom_fraction=known.headroom_fraction,
    )
    return replace(report_of(process, subject), ranks=known.ranks)


def _chosen(processes: Sequence[Process]) -> Process:
    """The most loaded of those that have something to say, if any has."""
    with_device = [process for process in processes if process["device"]]
    useful = [p for p in with_device if has_something_to_report(p)]
    return most_loaded(useful) if useful else (with_device or [*processes])[0]


def _check_alike(one: Named, other: Named) -> None:
    """Whether two captures are of one job."""
    (path, capture), (other_path, other_capture) = one, other
    first, second = _jobs(capture), _jobs(other_capture)
    for file, jobs in ((path, first), (other_path, second)):
        if not jobs:
            raise CaptureFileError(
                f"{file} does not say which job it is of.",
                hint="Only processes of torchrun and the like know; --redact takes it "
                "out: gather first.",
            )
    is_same_program = _programs(capture) == _programs(other_capture)
    if first != second or not is_same_program:
        raise CaptureFileError(
            f"{path} and {other_path} are of different "
            f"{'jobs' if first != second else 'programs'}.",
            hint=f"Hold them against each other: memplan diff {path} {other_path}",
        )


def _jobs(capture: CaptureFile) -> set[str]:
    return {process["job"] for process in capture.processes if process.get("job")}


def _programs(capture: CaptureFile) -> set[tuple[str, ...]]:
    """What its processes run: the launchers of two machines differ in their flags."""
    return {
        (
            Path(next(iter(process["argv"]), "")).name,
            *(w for w in process["argv"][1:] if not w.startswith(LOCAL_RANK)),
        )
        for process in capture.processes
    }


def _check_ranks(captures: Sequence[Named]) -> None:
    """A rank is on one machine only."""
    seen: dict[int, Path] = {}
    for path, capture in captures:
        for rank in sorted({process["rank"] for process in capture.processes}):
            if rank in seen:
                raise CaptureFileError(
                    f"Rank {rank} is in {seen[rank]} and in {path}.",
                    hint="Give the file of each machine once.",
                )
        seen |= {process["rank"]: path for process in capture.processes}


def _rows(captures: Sequence[Named]) -> tuple[RankMemory, ...]:
    """A row for each rank: its own machine knows best how it ended."""
    rows: dict[int, RankMemory] = {}
    for _, capture in captures:
        for row in capture.report.ranks:
            if rows.setdefault(row.rank, row).ended == DIED:
                rows[row.rank] = row
    return tuple(rows[rank] for rank in sorted(rows))


def _of_itself(capture: CaptureFile) -> MemoryReport:
    """Its report without what it says of the ranks that it knew of."""
    report = capture.report
    bare = replace(report, ranks=(), assumptions=())
    of_ranks = with_ranks(bare, capture.processes).assumptions
    lines = tuple(line for line in report.assumptions if line not in of_ranks)
    return replace(report, ranks=(), assumptions=lines)


def _listed(ranks: Sequence[int]) -> str:
    if ranks[-1] - ranks[0] == len(ranks) - 1 and len(ranks) > 1:
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks[:20]))}"
