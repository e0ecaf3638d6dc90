"""Records of measurements: read back as written; what is none is named."""

import json
from dataclasses import asdict, replace

import pytest
from captures import capture

from memplan import TrainingPlan, estimate
from memplan.errors import RecordError
from memplan.hardware import find_gpu
from memplan.report import Components
from memplan.running.rehearsal import Subject, report_of
from memplan.validation.records import Record, read_record, records_under, write_record

PLAN = TrainingPlan(model="gpt2", gpu="rtx-4090")
REPORT = report_of(capture(), Subject(gpu=find_gpu("rtx-4090"), plan=PLAN))
RECORD = Record(
    entry="gpt2",
    plan=PLAN,
    ended="finished",
    report=REPORT,
    measured_at="2026-11-23T16:00:00+00:00",
)


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "rtx-4090" / "gpt2.json"
    write_record(RECORD, path)
    assert read_record(path) == RECORD


def test_a_run_that_came_to_nothing_is_a_record_too(tmp_path):
    for ended in ("out_of_memory", "failed", "timeout"):
        record = replace(RECORD, ended=ended, report=None, error="x")
        write_record(record, tmp_path / f"{ended}.json")
        assert read_record(tmp_path / f"{ended}.json") == record


def test_a_plan_may_be_written_with_what_differs_from_its_defaults(tmp_path):
    data = json.loads(json.dumps(asdict(RECORD)))
    data["plan"] = {"model": "gpt2", "gpu": "rtx-4090"}
    (tmp_path / "short.json").write_text(json.dumps(data))
    assert read_record(tmp_path / "short.json") == RECORD


def test_a_file_is_not_overwritten_unless_that_is_asked_for(tmp_path):
    path = tmp_path / "gpt2.json"
    write_record(RECORD, path)
    with pytest.raises(RecordError, match="exists"):
        write_record(replace(RECORD, entry="other"), path)
    write_record(replace(RECORD, entry="other"), path, force=True)
    assert read_record(path).entry == "other"


def test_the_machine_may_decide_the_card_of_a_plan(tmp_path):
    elsewhere = replace(PLAN, gpu="t4", torch="2.13")
    report = replace(REPORT, plan=elsewhere)
    write_record(replace(RECORD, report=report), tmp_path / "elsewhere.json")
    assert read_record(tmp_path / "elsewhere.json").report == report


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"report": None}, "a run that finished has one"),
        ({"measured_at": "yesterday"}, "'yesterday' is no date"),
        ({"report": estimate(PLAN)}, "it is estimated"),
        ({"plan": replace(PLAN, seq_len=8)}, "of another plan"),
        ({"report": replace(REPORT, plan=None)}, "of another plan"),
        (
            {"report": replace(REPORT, peak=replace(REPORT.peak, device_bytes=1))},
            "not in order",
        ),
        ({"report": replace(REPORT, components=Components())}, "do not add up"),
    ],
)
def test_what_contradicts_itself_is_neither_written_nor_read(tmp_path, changes, says):
    record = replace(RECORD, **changes)
    path = tmp_path / "record.json"
    with pytest.raises(RecordError, match=says):
        write_record(record, path)
    assert not path.exists()
    path.write_text(json.dumps(asdict(record)))
    with pytest.raises(RecordError, match=says):
        read_record(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"ended": "well"}, "ended"),
        ({"entry": None}, "entry"),
        ({"plan": {"model": "gpt2", "zero_stage": 7}}, "There is no ZeRO stage 7"),
        ({"report": {"source": "measured"}}, "report"),
    ],
)
def test_a_field_that_is_wrong_is_named(tmp_path, change, says):
    data = {**json.loads(json.dumps(asdict(RECORD))), **change}
    (tmp_path / "record.json").write_text(json.dumps(data))
    with pytest.raises(RecordError, match=says):
        read_record(tmp_path / "record.json")


def test_files_that_are_no_records_are_named_and_the_others_read(tmp_path):
    write_record(RECORD, tmp_path / "rtx-4090" / "b.json")
    write_record(RECORD, tmp_path / "rtx-4090" / "a.json")
    (tmp_path / "cut.json").write_text('{"schema_version": 1, "entry"')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "notes.txt").write_text("no record, and not named as one")
    found = records_under(tmp_path)
    assert [path.name for path, _ in found.records] == ["a.json", "b.json"]
    names = [path.name for path, _ in found.broken]
    assert names == ["bytes.json", "cut.json", "deep.json", "folder.json", "list.json"]
    assert all(reason for _, reason in found.broken)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="is no folder"):
        records_under(tmp_path / "measured")
