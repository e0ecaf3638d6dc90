"""Bad records are named by file, record and field, and skipped or refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memplan.data.records import (
    BadRecordError,
    Policy,
    Record,
    Usable,
    read_json_lines,
)
from memplan.errors import DataError


@pytest.fixture
def lines(tmp_path):
    """A file of these lines."""

    def write(*texts):
        path = tmp_path / "data.jsonl"
        path.write_bytes(
            b"\n".join(t if isinstance(t, bytes) else t.encode() for t in texts)
        )
        return path

    return write


def caption(record):
    return record.text("caption")


def test_samples_come_in_their_order(lines):
    path = lines('{"caption": "a"}', "", '{"caption": "b"}')
    usable = Usable(read_json_lines(path), caption)
    assert list(usable) == ["a", "b"]
    assert usable.summary() == "2 records used"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "data.jsonl, record 2: is not JSON."),
        (b'{"caption": "\xff"}', "data.jsonl, record 2: is not UTF-8."),
        ("[1]", "data.jsonl, record 2: is a list, not an object."),
        ("[" * 100_000, "data.jsonl, record 2: is nested too deeply."),
        ("{}", "data.jsonl, record 2, field caption: is missing."),
        ('{"caption": " "}', "data.jsonl, record 2, field caption: is empty."),
        (
            '{"caption": 3}',
            "data.jsonl, record 2, field caption: is a whole number, a text is needed.",
        ),
        (
            '{"caption": null}',
            "data.jsonl, record 2, field caption: is null, a text is needed.",
        ),
    ],
)
def test_a_bad_record_is_named(lines, line, problem):
    path = lines('{"caption": "a"}', line)
    with pytest.raises(BadRecordError) as caught:
        list(Usable(read_json_lines(path), caption))
    assert caught.value.message.endswith(problem)


def test_skipped_records_are_counted_by_what_is_wrong(lines):
    path = lines('{"caption": "a"}', "{", '{"caption": 1}', "{", '{"caption": "b"}')
    usable = Usable(read_json_lines(path), caption, Policy.SKIP)
    assert list(usable) == ["a", "b"]
    assert usable.skipped == {
        "is not JSON": 2,
        "caption: is a whole number, a text is needed": 1,
    }
    assert usable.summary().startswith("2 records used, 3 skipped (is not JSON: 2")


def test_a_dataset_without_a_good_record_is_refused(lines):
    path = lines("{", "{}")
    with pytest.raises(DataError, match="None of 2 records can be used; the first"):
        list(Usable(read_json_lines(path), caption, Policy.SKIP))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl cannot be read"):
        list(read_json_lines(tmp_path / "nowhere.jsonl"))


def test_members_of_a_list_have_one_type(tmp_path):
    record = Record(tmp_path, 1, {"urls": ["a", 2]})
    with pytest.raises(BadRecordError, match="urls: has a whole number in it"):
        record.texts("urls")


def test_true_is_no_number(tmp_path):
    record = Record(tmp_path, 1, {"width": True, "height": 3})
    assert record.of_type("height", float) == 3
    with pytest.raises(BadRecordError, match="width: is true or false"):
        record.of_type("width", int)


@given(st.lists(st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text()))))
def test_every_record_is_used_or_counted(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("records") / "data.jsonl"
    path.write_text("\n".join(json.dumps({"caption": v}) for v in values))
    usable = Usable(read_json_lines(path), caption, Policy.SKIP)
    try:
        samples = list(usable)
    except DataError:
        samples = []
    assert len(samples) + usable.skipped.total() == len(values)
