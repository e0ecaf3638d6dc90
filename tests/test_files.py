"""A file is written whole or not at all, whatever happens meanwhile."""

import errno
import os
import stat
import threading

import pytest

from memplan import files
from memplan.files import whole_file


def write(path, content=b"new", *, overwrite=True):
    with whole_file(path, overwrite=overwrite) as file:
        file.write(content)


def test_what_was_written_is_there_and_nothing_else(tmp_path):
    write(tmp_path / "file", overwrite=False)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError, ValueError])
def test_an_error_leaves_what_was_there_and_no_other_file(tmp_path, error):
    (tmp_path / "file").write_text("old")

    def fail(file):
        file.write(b"half")
        raise error

    with pytest.raises(error), whole_file(tmp_path / "file", overwrite=True) as file:
        fail(file)
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_to_finish_leaves_what_was_there(tmp_path, monkeypatch, call):
    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(files.os, call, fails)
    with pytest.raises(OSError, match="Input/output"):
        write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_without_overwriting_a_file_that_came_meanwhile_stays(tmp_path):
    file = tmp_path / "file"
    with pytest.raises(FileExistsError), whole_file(file, overwrite=False):
        file.write_text("theirs")
    assert file.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["file"]


def test_of_many_writers_at_once_one_wins(tmp_path):
    taken = []

    def attempt(number):
        try:
            write(tmp_path / "file", b"%d" % number * 100_000, overwrite=False)
        except FileExistsError:
            taken.append(number)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 7
    assert len(set((tmp_path / "file").read_bytes())) == 1
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("number", files.NO_LINKS)
def test_a_file_system_without_links_is_written_to_all_the_same(
    tmp_path, monkeypatch, number
):
    def no_link(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "link", no_link)
    write(tmp_path / "file", b"first", overwrite=False)
    with pytest.raises(FileExistsError):
        write(tmp_path / "file", b"second", overwrite=False)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_others_may_read_it_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "latest").symlink_to("folder/run")
    write(tmp_path / "latest", overwrite=False)
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "folder" / "run").read_bytes() == b"new"


def test_a_device_is_written_to_and_stays_one(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        write(files.Path("/dev/full"), overwrite=False)
    write(files.Path("/dev/null"), overwrite=False)
    assert files.Path("/dev/null").is_char_device()


def test_a_name_as_long_as_names_may_be(tmp_path):
    write(tmp_path / ("n" * 255))
    assert os.listdir(tmp_path) == ["n" * 255]
