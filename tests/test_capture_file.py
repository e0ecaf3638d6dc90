"""Captures: what was written is what is read."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from capture_files import capture_file
from captures import MIB, capture

from memplan.captures import capture_file as module
from memplan.captures.capture_file import read_capture, write_capture
from memplan.captures.process import process_of
from memplan.errors import CaptureFileError
from memplan.report import to_json

HERE = Path(__file__).parent


def test_what_was_written_is_what_is_read(tmp_path):
    written = capture_file(capture(), capture(rank=1, world_size=2))
    write_capture(written, tmp_path / "run.mplan")
    read = read_capture(tmp_path / "run.mplan")
    assert read.report == written.report
    assert read.processes == tuple(map(process_of, written.processes))
    assert (
        read.processes[0]["steps"][2]["phases"][3]["peak_reserved_bytes"] == 3000 * MIB
    )
    assert read.processes[1]["rank"] == 1
    assert not read.is_redacted
    assert read.memplan_version == written.report.memplan_version


def test_the_same_capture_is_the_same_file(tmp_path):
    for name in ("a.mplan", "b.mplan"):
        write_capture(capture_file(), tmp_path / name)
    assert (tmp_path / "a.mplan").read_bytes() == (tmp_path / "b.mplan").read_bytes()


def test_a_file_that_is_there_is_overwritten_by_force_alone(tmp_path):
    file = tmp_path / "run.mplan"
    file.write_text("mine")
    with pytest.raises(CaptureFileError, match="exists already"):
        write_capture(capture_file(), file)
    assert file.read_text() == "mine"
    write_capture(capture_file(), file, force=True)
    assert read_capture(file).report.source == "rehearsed"
    assert os.listdir(tmp_path) == ["run.mplan"]


def test_a_writer_that_is_killed_leaves_a_whole_file_or_none(tmp_path):
    done = subprocess.run(
        [sys.executable, HERE / "killed_writers.py", tmp_path, "60"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    whole, none, unfinished = map(int, done.stdout.split())
    assert whole + none == 60
    assert whole > 0
    assert unfinished > 0, "no kill came in the middle of writing"


def test_a_file_beyond_what_is_allowed_loses_nothing(tmp_path):
    file = tmp_path / "run.mplan"
    file.write_text("mine")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(CaptureFileError, match="File too large"):
            write_capture(capture_file(), file, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == "mine"
    assert os.listdir(tmp_path) == ["run.mplan"]


def test_a_full_disk_is_one_sentence():
    with pytest.raises(CaptureFileError, match="No space left on device") as caught:
        write_capture(capture_file(), Path("/dev/full"))
    assert caught.value.exit_code == 2


def test_fields_that_are_not_known_are_left_out_when_read(tmp_path):
    newer = capture(colour="blue")
    newer["steps"][0]["phases"][0]["colour"] = "blue"
    newer["device"]["colour"] = "blue"
    write_capture(capture_file(newer), tmp_path / "newer.mplan")
    write_capture(capture_file(), tmp_path / "now.mplan")
    (with_more,) = read_capture(tmp_path / "newer.mplan").processes
    assert (with_more,) == read_capture(tmp_path / "now.mplan").processes


def test_where_ranks_are_too_many_the_less_loaded_lose_details(tmp_path, monkeypatch):
    blocks = [
        {
            "component": "weights",
            "module": f"layers.{number}",
            "name": "weight",
            "line": "",
            "bytes": 1,
            "count": 1,
        }
        for number in range(10_000)
    ]
    processes = [capture(rank=rank, world_size=8, blocks=blocks) for rank in range(8)]
    processes[5]["peak"]["reserved_bytes"] *= 2
    monkeypatch.setattr(module, "MOST_BYTES_OF_DETAILS", 3 * 2**20)
    write_capture(capture_file(*processes), tmp_path / "run.mplan")
    read = read_capture(tmp_path / "run.mplan")
    assert [process["rank"] for process in read.processes] == list(range(8))
    assert [len(process["steps"]) for process in read.processes] == [3] * 8
    kept = [process["rank"] for process in read.processes if process["blocks"]]
    assert kept == [0, 1, 5]
    assert read.left_out == (2, 3, 4, 6, 7)


def test_of_more_ranks_than_anybody_reads_the_most_loaded_are_there(
    tmp_path, monkeypatch
):
    processes = [capture(rank=rank, world_size=100) for rank in range(100)]
    processes[77]["peak"]["reserved_bytes"] *= 2
    whole = capture_file(*processes)
    room = 50_000 + len(to_json(whole.report, indent=None))
    monkeypatch.setattr(module, "MOST_BYTES", module.MOST_BYTES_OF_A_LIST + room)
    write_capture(whole, tmp_path / "run.mplan")
    read = read_capture(tmp_path / "run.mplan")
    ranks = [process["rank"] for process in read.processes]
    assert 77 in ranks
    assert 5 < len(ranks) < 40
    assert set(read.left_out) == set(range(100)) - set(ranks)
