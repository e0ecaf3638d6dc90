"""Capture files from anywhere: a sentence and a hint, never anything else."""

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import pytest
from capture_files import capture_file
from captures import capture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memplan.captures.capture_file import read_capture, write_capture
from memplan.errors import CaptureFileError

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
SETTINGS = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def whole(tmp_path):
    """A capture as it is on the disk."""
    write_capture(capture_file(), tmp_path / "whole.mplan")
    return (tmp_path / "whole.mplan").read_bytes()


@pytest.fixture
def refused(tmp_path):
    """Read some bytes, which must not be a capture, and give the sentence."""

    def read(content):
        file = tmp_path / "hostile.mplan"
        file.write_bytes(content)
        with pytest.raises(CaptureFileError) as caught:
            read_capture(file)
        assert caught.value.exit_code == 2
        assert caught.value.hint
        assert "\n" not in caught.value.message
        return caught.value.message

    return read


def members_of(whole):
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    """A zip of names and contents."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def with_members(whole, **changes):
    """The capture with other contents: header, report, or process."""
    names = {
        "header": "header.json",
        "report": "report.json",
        "process": "processes/0.json",
    }
    changed = {names[name]: content for name, content in changes.items()}
    members = {**members_of(whole), **changed}
    return zipped([(n, c) for n, c in members.items() if c is not None])


def test_cut_off_anywhere(whole, refused):
    for length in range(len(whole)):
        refused(whole[:length])


def test_any_byte_changed_is_noticed_or_does_not_matter(whole, tmp_path):
    file = tmp_path / "changed.mplan"
    known = capture_file()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        file.write_bytes(changed)
        try:
            read = read_capture(file)
        except CaptureFileError:
            continue
        assert read.report == known.report


@SETTINGS
@given(st.data())
def test_many_bytes_changed(whole, tmp_path, data):
    changed = bytearray(whole)
    places = st.integers(0, len(whole) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=20)):
        changed[place] = data.draw(st.integers(0, 255))
    file = tmp_path / "changed.mplan"
    file.write_bytes(changed)
    try:
        read_capture(file)
    except CaptureFileError as error:
        assert error.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"PK", "cut off"),
        (b"PK\x05\x06" + bytes(18), "it has no header.json"),
        (b"not a zip at all, just text" * 10, "cut off, or something else"),
        (b"\x80\x04K\x01.", "cut off, or something else"),
        (json.dumps({"schema_version": 1}).encode(), "something else"),
    ],
)
def test_other_files(refused, content, says):
    assert says in refused(content)


@pytest.mark.parametrize("name", ["folder", "pipe", "gone", "no/such/folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaptureFileError, match=r"no ordinary file|No such file"):
        read_capture(tmp_path / name)


def test_a_file_that_may_not_be_read(tmp_path):
    write_capture(capture_file(), tmp_path / "run.mplan")
    (tmp_path / "run.mplan").chmod(0)
    if os.access(tmp_path / "run.mplan", os.R_OK):
        pytest.skip("this user reads everything")
    with pytest.raises(CaptureFileError, match="Permission denied"):
        read_capture(tmp_path / "run.mplan")


@pytest.mark.parametrize("missing", ["header", "report"])
def test_a_part_is_missing(whole, refused, missing):
    assert f"it has no {missing}.json" in refused(
        with_members(whole, **{missing: None})
    )


def test_members_of_other_names_are_ignored_and_go_nowhere(whole, tmp_path):
    strange = [
        "/etc/memplan",
        "../outside",
        "processes/../../outside",
        "processes/00.json",
        "processes/-1.json",
        "processes/1.json/x",
        "C:\\x",
        "\x1b[31m",
    ]
    members = [*members_of(whole).items(), *((name, b"{") for name in strange)]
    file = tmp_path / "in" / "run.mplan"
    file.parent.mkdir()
    file.write_bytes(zipped(members))
    assert len(read_capture(file).processes) == 1
    assert sorted(os.listdir(tmp_path)) == ["in", "whole.mplan"]


def test_a_part_that_is_there_twice(whole, refused):
    members = [*members_of(whole).items(), ("header.json", b"{}")]
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped(members)
    assert "it has header.json twice" in refused(twice)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_take_memory_of_their_own(whole, refused, compression):
    packed = zipped(members_of(whole).items(), compression)
    assert "packed in another way" in refused(packed)


def test_a_member_that_asks_for_a_password(whole, refused):
    changed = bytearray(whole)
    place = changed.index(b"PK\x01\x02")
    while place >= 0:  # of the list of members; zipfile compares it with the member
        changed[place + 8] |= 1
        place = changed.find(b"PK\x01\x02", place + 1)
    assert "damaged" in refused(bytes(changed))


def test_a_newer_version_says_so(whole, refused):
    header = {"format": "memplan capture", "version": 2, "memplan_version": "9.1"}
    newer = with_members(whole, header=json.dumps(header), report="{}")
    message = refused(newer)
    assert "format version 2, written by memplan 9.1" in message
    assert "reads up to version 1" in message


@pytest.mark.parametrize(
    "header",
    [
        {},
        [],
        {"format": "something"},
        {"format": "memplan capture"},
        {"format": "memplan capture", "version": "1"},
        {"format": "memplan capture", "version": True},
        {"format": ["memplan capture"], "version": 1},
    ],
)
def test_headers_of_something_else(whole, refused, header):
    assert "header" in refused(with_members(whole, header=json.dumps(header)))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * 900 + "]" * 900,
        "1" * 5000,
        "{",
        "NaN",
        '{"rank": Infinity}',
        '{"rank": 1e999}',
        '{"rank": 12345678901234567890123}',
        b"\xff\xfe{}",
        b"{\x00}",
    ],
)
@pytest.mark.parametrize("part", ["header", "report", "process"])
def test_json_that_is_none_or_too_much(whole, refused, part, text):
    refused(with_members(whole, **{part: text}))


def paths_of(data, path=()):
    """Every place in plain data."""
    yield path
    if isinstance(data, dict | list):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        for key, value in items:
            yield from paths_of(value, (*path, key))


def changed(data, path, value):
    """Plain data with another value at a place."""
    if not path:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = changed(copy[path[0]], path[1:], value)
    return copy


@SETTINGS
@given(
    part=st.sampled_from(["report", "process"]),
    data=st.data(),
    value=ANYTHING,
)
def test_anything_anywhere_is_read_or_refused(whole, tmp_path, part, data, value):
    members = members_of(whole)
    name = {"report": "report.json", "process": "processes/0.json"}[part]
    content = json.loads(members[name])
    path = data.draw(st.sampled_from(list(paths_of(content))))
    file = tmp_path / "changed.mplan"
    text = json.dumps(changed(content, path, value))
    file.write_bytes(with_members(whole, **{part: text}))
    try:
        read_capture(file)
    except CaptureFileError as error:
        assert "\n" not in error.message


def test_wrong_types_name_the_place(whole, refused):
    process = json.dumps(capture(rank="0"))
    message = refused(with_members(whole, process=process))
    assert "processes/0.json cannot be used (rank" in message
    report = json.loads(members_of(whole)["report.json"])
    report["peak"]["allocated_bytes"] = []
    message = refused(with_members(whole, report=json.dumps(report)))
    assert "peak.allocated_bytes" in message


BOMBS = {
    "declared large": "zipped([('header.json', bytes(64 << 20))])",
    "many lists": (
        "zipped([('header.json', HEADER), "
        "('report.json', b'[' + b'[],' * (4 << 20) + b'[]]')])"
    ),
    "many members": "zipped([(f'x{n}', b'') for n in range(200_000)])",
    "large together": (
        "zipped([('header.json', HEADER), ('report.json', bytes(16 << 20))] "
        "+ [(f'processes/{n}.json', bytes(16 << 20)) for n in range(20)])"
    ),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bombs_stay_small(bomb, tmp_path):
    code = (
        "import json, resource, sys, time\n"
        "from pathlib import Path\n"
        "from test_hostile_captures import zipped\n"
        "from memplan.captures.capture_file import read_capture\n"
        "from memplan.errors import CaptureFileError\n"
        "HEADER = json.dumps({'format': 'memplan capture', 'version': 1})\n"
        "path = Path(sys.argv[1])\n"
        f"path.write_bytes({bomb})\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "began = time.process_time()\n"
        "try:\n    read_capture(path)\n"
        "except CaptureFileError as error:\n    print(error.message)\n"
        "print(time.process_time() - began)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "bomb.mplan"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
        timeout=120,
    )
    message, seconds = done.stdout.splitlines()
    assert "is no capture that can be read" in message, done.stderr
    assert float(seconds) < 20


def test_a_member_longer_than_it_says_is_cut_there(whole, refused):
    """A zip may lie about the size of what it unpacks to."""
    content = zlib.compress(bytes(50 << 20), 9)[2:-4]
    name = b"header.json"
    local = struct.pack(
        "<4s5H3L2H",
        *(b"PK\x03\x04", 20, 0, 8, 0, 0),
        *(zlib.crc32(bytes(100)), len(content), 100, len(name), 0),
    )
    entry = struct.pack(
        "<4s6H3L5H2L",
        *(b"PK\x01\x02", 20, 20, 0, 8, 0, 0),
        *(zlib.crc32(bytes(100)), len(content), 100, len(name)),
        *(0, 0, 0, 0, 0, 0),
    )
    start = len(local) + len(name) + len(content)
    size = len(entry) + len(name)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, start, 0)
    message = refused(local + name + content + entry + name + end)
    assert "header.json is no JSON" in message or "damaged" in message
