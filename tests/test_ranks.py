"""Rows for every rank: who reported, who died, who is on another node."""

from captures import CAPTURE, MIB, capture, out_of_memory_capture

from memplan.hardware import find_gpu
from memplan.runner.launch import Outcome
from memplan.running.endings import failure_of
from memplan.running.ranks import missing_ranks, rank_rows, report_of_ranks
from memplan.running.rehearsal import Subject, completed

SUBJECT = Subject(gpu=find_gpu("rtx-4090"), command=("torchrun", "train.py"))


def rank(number, world_size=4, *, node=0, per_node=None, reserved=3000, **changes):
    """The capture of a rank; nodes have their ranks in a row."""
    per_node = per_node or world_size
    return completed(
        capture(
            rank=number,
            world_size=world_size,
            local_rank=number % per_node,
            local_world_size=per_node,
            node=node,
            peak={**CAPTURE["peak"], "reserved_bytes": reserved * MIB},
            **changes,
        )
    )


def test_the_report_is_that_of_the_most_loaded_with_a_row_for_each():
    captures = [rank(0), rank(1, reserved=3300), rank(2), rank(3)]
    made = report_of_ranks(captures, SUBJECT)
    assert made.rank == 1
    assert [row.rank for row in made.ranks] == [0, 1, 2, 3]
    assert made.ranks[1].device_bytes == 3800 * MIB == made.peak.device_bytes
    assert {row.ended for row in made.ranks} == {"stopped"}
    assert "rank 1 of 4 held most, and is the one reported" in made.assumptions


def test_a_rank_that_left_nothing_died():
    captures = [rank(0), rank(2, ended="interrupted"), rank(3)]
    made = report_of_ranks(captures, SUBJECT)
    assert missing_ranks(captures) == (1,)
    [dead] = [row for row in made.ranks if row.ended == "died"]
    assert (dead.rank, dead.device_bytes) == (1, 0)
    assert any("nothing came back of rank 1" in line for line in made.assumptions)


def test_a_rank_that_never_used_its_card_is_not_dead():
    waits = completed(
        {
            **{key: CAPTURE[key] for key in ("pid", "versions", "allocator", "model")},
            "rank": 1,
            "local_rank": 1,
            "world_size": 2,
            "local_world_size": 2,
            "device": None,
            "ended": "crashed",
            "error": "OSError: no data",
        }
    )
    rows = rank_rows([rank(0, 2), waits])
    assert [(row.rank, row.ended, row.device_bytes) for row in rows][1] == (
        1,
        "crashed",
        0,
    )
    assert rows[1].error == "OSError: no data"


def test_ranks_of_other_nodes_are_neither_dead_nor_there():
    captures = [rank(2, 6, node=1, per_node=2), rank(3, 6, node=1, per_node=2)]
    made = report_of_ranks(captures, SUBJECT)
    assert [(row.rank, row.node) for row in made.ranks] == [(2, 1), (3, 1)]
    assert missing_ranks(captures) == ()
    [line] = [line for line in made.assumptions if "other nodes" in line]
    assert line.startswith("ranks 0, 1, 4 and 5 ran on other nodes")
    assert "memplan gather" in line


def test_nodes_together_are_the_whole_job():
    captures = [rank(number, 4, node=number // 2, per_node=2) for number in (0, 1, 3)]
    rows = rank_rows(captures)
    assert [(row.rank, row.node, row.ended) for row in rows] == [
        (0, 0, "stopped"),
        (1, 0, "stopped"),
        (2, 1, "died"),
        (3, 1, "stopped"),
    ]


def test_workers_and_launchers_are_no_ranks():
    launcher = completed({**capture(), "device": None})
    worker = completed({**rank(0, 2), "device": None, "ended": "finished"})
    assert [row.rank for row in rank_rows([launcher, worker, rank(0, 2), rank(1, 2)])]
    rows = rank_rows([launcher, worker, rank(0, 2), rank(1, 2)])
    assert [(row.rank, row.ended) for row in rows] == [(0, "stopped"), (1, "stopped")]


def test_a_process_that_plays_a_rank_has_none_beside_it():
    alone = {**rank(3, 8), "is_alone": True}
    assert rank_rows([alone]) == ()
    assert report_of_ranks([alone], SUBJECT).ranks == ()


def test_memorys_end_on_one_rank_is_the_result():
    out = {**out_of_memory_capture(), "rank": 1, "local_rank": 1, "world_size": 2}
    made = report_of_ranks([rank(0, 2, ended="interrupted"), completed(out)], SUBJECT)
    assert (made.rank, made.peak.phase) == (1, "backward")
    assert [row.ended for row in made.ranks] == ["interrupted", "out_of_memory"]


def failure(*captures, exit_code=1):
    outcome = Outcome(exit_code=exit_code, captures=captures, is_repeatable=True)
    return failure_of(outcome, captures, "torchrun")


def test_the_error_says_which_rank_died_and_keeps_the_code():
    error = failure(rank(0, 2, ended="interrupted"))
    assert error.message == "torchrun left with exit code 1 (rank 1 of 2 died)."
    assert error.exit_code == 1
    assert "killed from outside" in error.hint


def test_the_error_of_a_rank_comes_before_that_of_its_launcher():
    launcher = completed(
        {**capture(error="ChildFailedError: all of it"), "device": None}
    )
    crashed = rank(1, 2, ended="crashed", error="LookupError: mine")
    error = failure(launcher, rank(0, 2, ended="interrupted"), crashed)
    assert "(LookupError: mine)" in error.message


def test_what_fails_after_its_last_step_has_not_failed():
    assert failure(rank(0, 2), rank(1, 2)) is None
    assert failure(rank(0, 2), rank(1, 2, ended="crashed")) is not None
