"""The captures of a job's machines, joined."""

from dataclasses import replace
from pathlib import Path

import pytest
from capture_files import capture_file
from captures import MIB, capture

from memplan.captures.gathering import gathered, process_of_rank, report_of_rank
from memplan.captures.redaction import redact
from memplan.errors import CaptureFileError
from memplan.running.ranks import DIED, with_ranks

A, B = Path("a.mplan"), Path("b.mplan")


def rank(number, *, more=0, **changes):
    """One of four ranks on two machines, the first of which is in `capture()`."""
    seen = capture(
        rank=number,
        local_rank=number % 2,
        local_world_size=2,
        world_size=4,
        node=number // 2,
        job="node-a:29500",
        **changes,
    )
    if more:
        seen["peak"]["reserved_bytes"] += more * MIB
    return seen


def node(*processes, **more):
    """What the launcher of one machine writes; the first rank holds most."""
    capture_of_node = capture_file(*processes, **more)
    report = with_ranks(capture_of_node.report, capture_of_node.processes)
    return replace(capture_of_node, report=report)


@pytest.fixture
def nodes():
    return (A, node(rank(0), rank(1))), (B, node(rank(2, more=100), rank(3)))


def test_joined_they_are_what_one_machine_would_have_written(nodes):
    whole = node(rank(2, more=100), rank(0), rank(1), rank(3))
    joined = gathered(nodes)
    assert joined.report == whole.report
    assert [process["rank"] for process in joined.processes] == [0, 1, 2, 3]
    assert joined.report.assumptions[-1] == (
        "rank 2 of 4 held most, and is the one reported"
    )


def test_the_order_of_the_files_does_not_matter(nodes):
    assert gathered(nodes).report == gathered(nodes[::-1]).report


def test_a_rank_that_died_stays_dead(nodes):
    alone = (A, node(rank(0)))
    joined = gathered([alone, nodes[1]])
    assert [row.ended for row in joined.report.ranks].count(DIED) == 1
    assert joined.report.ranks[1].ended == DIED
    assert any("nothing came back of rank 1" in a for a in joined.report.assumptions)


def test_files_of_different_jobs_are_for_diff(nodes):
    (path, first), _ = nodes
    other = capture_file(rank(2))
    other.processes[0]["job"] = "node-b:29500"
    with pytest.raises(CaptureFileError, match="different jobs") as caught:
        gathered([(path, first), (B, other)])
    assert "memplan diff a.mplan b.mplan" in caught.value.hint


def test_files_of_different_programs_are_for_diff(nodes):
    other = node(rank(2, argv=["other.py"]), rank(3, argv=["other.py"]))
    with pytest.raises(CaptureFileError, match="different programs"):
        gathered([nodes[0], (B, other)])


def test_launchers_differ_from_machine_to_machine():
    nodes = [
        node(
            rank(2 * n, argv=[f"/disk{n}/train.py", f"--local-rank={n}", "--lr=1"]),
            command=("torchrun", f"--node-rank={n}", "train.py", "--lr=1"),
        )
        for n in (0, 1)
    ]
    joined = gathered([(A, nodes[0]), (B, nodes[1])])
    assert [process["rank"] for process in joined.processes] == [0, 2]


def test_the_same_machine_twice(nodes):
    with pytest.raises(CaptureFileError, match=r"Rank 0 is in a.mplan and in b.mplan"):
        gathered([nodes[0], (B, nodes[0][1])])


@pytest.mark.parametrize("alone", [capture_file(), redact(node(rank(2), rank(3)))])
def test_a_capture_that_knows_no_job_joins_none(nodes, alone):
    with pytest.raises(CaptureFileError, match=r"b.mplan does not say which job"):
        gathered([nodes[0], (B, alone)])


def test_the_report_of_another_rank(nodes):
    joined = gathered(nodes)
    report = report_of_rank(joined, 1)
    assert report.rank == 1
    assert report.peak.reserved_bytes == 3000 * MIB
    assert report.device.gpu == "rtx-4090"
    assert report.ranks == joined.report.ranks
    assert report_of_rank(joined, None).rank == 2
    assert process_of_rank(joined, 3)["rank"] == 3


def test_a_rank_that_is_not_there(nodes):
    with pytest.raises(CaptureFileError, match="nothing of rank 7") as caught:
        process_of_rank(gathered(nodes), 7)
    assert caught.value.hint == "It has ranks 0 to 3."
    with pytest.raises(CaptureFileError, match="nothing of rank 0") as caught:
        process_of_rank(replace(capture_file(), processes=()), None)
    assert "report alone" in caught.value.hint


def test_a_rank_that_made_no_step(nodes):
    idle = rank(1, steps=[], peak=None, ended="crashed")
    with pytest.raises(CaptureFileError, match=r"Rank 1 made no step \(crashed\)"):
        report_of_rank(node(rank(0), idle), 1)
