"""Snapshots from elsewhere are data, and nothing in them is run."""

import os
import pickle
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import pytest

from memplan.captures.snapshot import read_snapshot, totals_of
from memplan.errors import SnapshotError

MIB = 2**20


def block(size, state):
    return {"address": 0, "size": size, "requested_size": size, "state": state}


def segment(device, *blocks):
    def held(*states):
        return sum(b["size"] for b in blocks if not states or b["state"] in states)

    return {
        "device": device,
        "total_size": held(),
        "allocated_size": held("active_allocated"),
        "active_size": held("active_allocated", "active_pending_free"),
        "blocks": list(blocks),
    }


SNAPSHOT = {
    "segments": [
        segment(0, block(3 * MIB, "active_allocated"), block(MIB, "inactive")),
        segment(0, block(20 * MIB, "active_pending_free")),
        segment(1, block(2 * MIB, "active_allocated")),
    ],
    "device_traces": [[], []],
    "allocator_settings": {"expandable_segments": False, "max_split_size": -1},
}


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def written(tmp_path):
    """A file of these bytes."""

    def write(content):
        file = tmp_path / "snapshot.pickle"
        file.write_bytes(content)
        return file

    return write


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_whatever_protocol_it_was_written_in(written, protocol):
    file = written(pickle.dumps(SNAPSHOT, protocol))
    assert read_snapshot(file) == SNAPSHOT


def test_blocks_of_a_device_are_added_up():
    assert asdict(totals_of(SNAPSHOT, 0)) == {
        "reserved_bytes": 24 * MIB,
        "active_bytes": 23 * MIB,
        "allocated_bytes": 3 * MIB,
        "num_segments": 2,
        "num_blocks": 3,
    }
    assert totals_of(SNAPSHOT, 1).reserved_bytes == 2 * MIB
    assert totals_of(SNAPSHOT, 2).num_segments == 0


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_would_run_is_refused_and_does_not_run(written, tmp_path, protocol):
    trace = tmp_path / "it-ran"
    file = written(pickle.dumps({**SNAPSHOT, "more": Evil(trace)}, protocol))
    with pytest.raises(SnapshotError, match=r"names (posix|nt)\.system"):
        read_snapshot(file)
    assert not trace.exists()


@pytest.mark.parametrize(
    "thing", [print, getattr, Path("x"), OrderedDict(a=1), {1, 2}.__class__, 3 + 4j]
)
def test_no_name_is_looked_up_however_harmless(written, thing):
    file = written(pickle.dumps({**SNAPSHOT, "more": thing}))
    with pytest.raises(SnapshotError, match="it names"):
        read_snapshot(file)


def test_a_persistent_id_is_refused(written):
    with pytest.raises(SnapshotError, match="no snapshot"):
        read_snapshot(written(b"\x80\x02X\x01\x00\x00\x00aQ."))


@pytest.mark.parametrize("length", [0, 1, 10, 100, -1])
def test_a_file_that_is_cut_off_is_refused(written, length):
    file = written(pickle.dumps(SNAPSHOT)[:length])
    with pytest.raises(SnapshotError, match="no snapshot that can be read"):
        read_snapshot(file)


@pytest.mark.parametrize(
    "content", [b"{}", b"\x00" * 64, b"PK\x03\x04 a zip", "händisch\n".encode()]
)
def test_a_file_that_is_no_pickle_is_refused(written, content):
    with pytest.raises(SnapshotError, match="no snapshot that can be read"):
        read_snapshot(written(content))


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"segments": None},
        {"segments": [{}]},
        {"segments": [{**SNAPSHOT["segments"][0], "total_size": "3"}]},
        {"segments": [{**SNAPSHOT["segments"][0], "blocks": [{"size": 3}]}]},
    ],
)
def test_another_pickle_is_refused(written, content):
    with pytest.raises(SnapshotError, match=r"it has no segments|is incomplete"):
        read_snapshot(written(pickle.dumps(content)))


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(SnapshotError, match="No such file"):
        read_snapshot(tmp_path / "missing.pickle")
    with pytest.raises(SnapshotError, match="directory"):
        read_snapshot(tmp_path)
