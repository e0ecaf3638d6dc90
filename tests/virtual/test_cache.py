"""Folders of the cache appear whole or not at all, whatever happens to their makers."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest

from memplan.errors import VirtualDeviceError
from memplan.virtual import cache
from memplan.virtual.cache import cache_folder, is_intact, keep


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The cache: it is not there yet."""
    monkeypatch.setenv("MEMPLAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "virtual"


@pytest.fixture
def made():
    """What was made, and a function that makes it."""

    def make(folder):
        made.append(folder)
        (folder / "lib").mkdir()
        (folder / "lib" / "libone.so").write_bytes(b"one" * 1000)
        (folder / "libtwo.so").write_bytes(b"two")

    made = []
    return made, make


def names(root):
    return sorted(path.name for path in root.iterdir() if path.name != ".lock")


def test_a_folder_is_made_once_and_kept(root, made):
    makings, make = made
    first, second = keep("key", make), keep("key", make)
    assert first == second == cache.Kept(root / "key")
    assert len(makings) == 1
    assert (root / "key" / "lib" / "libone.so").read_bytes() == b"one" * 1000
    assert names(root) == ["key"]


def test_only_its_owner_can_enter_the_cache(root, made):
    keep("key", made[1])
    assert root.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["truncated", "changed", "removed", "no manifest"])
def test_a_damaged_folder_is_made_anew(root, made, damage):
    makings, make = made
    library = keep("key", make).folder / "lib" / "libone.so"
    match damage:
        case "truncated":
            os.truncate(library, 17)
        case "changed":
            library.write_bytes(b"oNe" * 1000)
        case "removed":
            library.unlink()
        case "no manifest":
            (root / "key" / cache.MANIFEST).write_text("{")
    assert not is_intact(root / "key")
    assert keep("key", make).folder == root / "key"
    assert is_intact(root / "key")
    assert (len(makings), names(root)) == (2, ["key"])


def test_what_cannot_be_made_leaves_nothing(root):
    def make(folder):
        (folder / "half").write_text("half")
        raise VirtualDeviceError("No.", hint="Try.")

    with pytest.raises(VirtualDeviceError, match="No"):
        keep("key", make)
    assert names(root) == []


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.delenv("MEMPLAN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "memplan" / "virtual"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(cache_folder()) == "/home/somebody/.cache/memplan/virtual"


def unusable(tmp_path, why):
    match why:
        case "a file":
            path = tmp_path / "file"
            path.write_text("a file")
            return path, f"{path} is not a folder"
        case "below a file":
            path = tmp_path / "file"
            path.write_text("a file")
            return path / "cache", f"{path} is not a folder"
        case "no folder can be made there":
            return "/proc/self", "/proc/self"
        case "a space":
            return tmp_path / "my cache", "LD_PRELOAD takes no spaces"
        case "a colon":
            return tmp_path / "a:b", "LD_PRELOAD takes no spaces and no colons"


@pytest.mark.parametrize(
    "why",
    ["a file", "below a file", "no folder can be made there", "a space", "a colon"],
)
def test_a_cache_that_cannot_be_used_is_done_without(tmp_path, monkeypatch, made, why):
    path, said = unusable(tmp_path, why)
    monkeypatch.setenv("MEMPLAN_CACHE", str(path))
    kept = keep("key", made[1])
    assert is_intact(kept.folder)
    assert not str(kept.folder).startswith(str(path))
    (warning,) = kept.warnings
    assert said in warning
    assert "MEMPLAN_CACHE" in warning


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_without_permission_to_write(mode):
    code = """if True:
        import os, sys
        from pathlib import Path
        from memplan.virtual.cache import keep, problem_of
        if os.geteuid() == 0:  # root may write anywhere
            os.setgroups([])
            os.setuid(65534)
        assert problem_of(Path(sys.argv[1]))
        kept = keep("key", lambda folder: (folder / "lib.so").write_bytes(b"one"))
        assert (kept.folder / "lib.so").is_file()
        print(*kept.warnings)
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, mode)
        done = subprocess.run(
            [sys.executable, "-c", code, folder],
            env={**os.environ, "MEMPLAN_CACHE": folder},
            capture_output=True,
            text=True,
        )
        os.chmod(folder, 0o700)
    assert done.returncode == 0, done.stderr
    assert f"{folder}/virtual cannot be used" in done.stdout


def test_a_full_disk_is_done_without(root, made):
    def make(folder):
        if root in folder.parents:
            raise OSError(28, "No space left on device")
        made[1](folder)

    (warning,) = keep("key", make).warnings
    assert "No space left on device" in warning
    assert names(root) == []


def test_no_room_anywhere_is_an_error(root):
    def make(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(VirtualDeviceError, match=r"neither in .* nor in") as caught:
        keep("key", make)
    assert "MEMPLAN_CACHE" in caught.value.hint


def test_a_temporary_folder_goes_with_its_process(tmp_path):
    (tmp_path / "file").write_text("no folder")
    printed = start(tmp_path / "file" / "cache", slow=0).communicate()[0]
    folder = re.search(r"PosixPath\('(.*?)'\)", printed)[1]
    assert not os.path.exists(folder)
    assert not os.path.exists(os.path.dirname(folder))


def test_a_cache_for_reading_only_serves_what_it_has(root, made, monkeypatch):
    keep("key", made[1])

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache.os, "utime", refuse)
    assert keep("key", made[1]) == cache.Kept(root / "key")
    assert len(made[0]) == 1


def test_old_folders_go_and_those_used_lately_stay(root, made):
    now = time.time()
    for age, key in enumerate("abcdefg"):
        keep(key, made[1])
        days = 5 - age if age < 5 else 0
        os.utime(root / key, (now - days * 86400 - 60,) * 2)
    keep("new", made[1])
    # Three besides the new one; f and g were used today, c was not.
    assert names(root) == ["e", "f", "g", "new"]
    for key in "hij":
        keep(key, made[1])
    assert set("fg") <= set(names(root))


def start(root, slow):
    code = """
        from memplan.virtual.cache import keep
        import sys, time
        def make(folder):
            (folder / "libone.so").write_bytes(b"one" * 1000)
            print("making", flush=True)
            time.sleep(float(sys.argv[1]))
            (folder / "libtwo.so").write_bytes(b"two")
        print(keep("key", make))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(slow)],
        env={**os.environ, "MEMPLAN_CACHE": str(root.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_maker_that_is_killed_leaves_no_trace_after_the_next(root, made):
    killed = start(root, slow=60)
    assert killed.stdout.readline() == "making\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert names(root) != ["key"], "it was killed half-way"
    assert len(names(root)) == 1
    keep("key", made[1])
    assert names(root) == ["key"]
    assert is_intact(root / "key")


def test_twenty_processes_make_one_folder(root):
    processes = [start(root, slow=0.3) for _ in range(20)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 20
    assert sum("making" in output for output in outputs) == 1
    assert all(f"{root}/key" in output for output in outputs)
    assert names(root) == ["key"]


def test_without_locks_the_first_to_end_wins(root, monkeypatch, made):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(cache.fcntl, "flock", no_locks)

    def make_while_another_ends(folder):
        keep("key", made[1])
        made[1](folder)

    assert keep("key", make_while_another_ends) == cache.Kept(root / "key")
    assert is_intact(root / "key")
    assert names(root) == ["key"]
