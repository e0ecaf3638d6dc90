"""Captures: what was written is what is read."""

import json
import os

import pytest
from captures import capture

from memplan.capture_file import CaptureFile, read_capture, write_capture
from memplan.errors import CaptureFileError
from memplan.hardware import find_gpu
from memplan.rehearsal import Subject, completed, report_of


def capture_file(*processes):
    """Of some processes; the report is that of the first."""
    seen = [completed(process) for process in processes or [capture()]]
    subject = Subject(gpu=find_gpu("rtx-4090"), command=("python", "train.py"))
    return CaptureFile(report=report_of(seen[0], subject), processes=tuple(seen))


def test_what_was_written_is_what_is_read(tmp_path):
    written = capture_file(capture(), capture(rank=1, world_size=2))
    write_capture(written, tmp_path / "run.mplan")
    read = read_capture(tmp_path / "run.mplan")
    assert read.report == written.report
    assert list(read.processes) == json.loads(json.dumps(written.processes))
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
