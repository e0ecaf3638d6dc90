"""Capture files, made by hand."""

from captures import capture

from memplan.capture_file import CaptureFile
from memplan.hardware import find_gpu
from memplan.rehearsal import Subject, completed, report_of


def capture_file(*processes, command=("python", "train.py")):
    """Of some processes; the report is that of the first."""
    seen = [completed(process) for process in processes or [capture()]]
    subject = Subject(gpu=find_gpu("rtx-4090"), command=command)
    return CaptureFile(report=report_of(seen[0], subject), processes=tuple(seen))
