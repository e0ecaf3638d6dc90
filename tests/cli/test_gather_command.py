"""`memplan gather` as a user types it."""

from pathlib import Path

import pytest
from capture_files import rank, written
from captures import capture

from memplan.captures.capture_file import read_capture


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "0.mplan", rank(0), rank(1))
    written(tmp_path / "1.mplan", rank(2), rank(3))
    written(tmp_path / "other.mplan", rank(2, job="b:1"))
    written(tmp_path / "alone.mplan", capture())


def test_two_machines_become_one_file(memplan, nodes):
    out = memplan("gather", "0.mplan", "1.mplan", "-o", "job.mplan")
    assert (out.code, out.stdout) == (0, "")
    assert out.stderr == "job.mplan: 4 of 4 ranks\n"
    joined = read_capture(Path("job.mplan"))
    assert [process["rank"] for process in joined.processes] == [0, 1, 2, 3]
    assert [row.rank for row in joined.report.ranks] == [0, 1, 2, 3]
    on_the_fly = memplan("show", "0.mplan", "1.mplan").stdout
    assert memplan("show", "job.mplan").stdout == on_the_fly


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("0.mplan", "other.mplan", "-o", "x.mplan"), "different jobs"),
        (("0.mplan", "0.mplan", "-o", "x.mplan"), "Rank 0 is in"),
        (("0.mplan", "alone.mplan", "-o", "x.mplan"), "which job"),
        (("0.mplan", "1.mplan", "-o", "0.mplan"), "exists already"),
        (("0.mplan", "1.mplan", "-o", "job.json"), "no name of a capture"),
        (("0.mplan", "gone.mplan", "-o", "x.mplan"), "No such file"),
    ],
)
def test_mistakes_get_one_sentence_and_write_nothing(memplan, nodes, words, says):
    before = sorted(path.name for path in Path().iterdir())
    out = memplan("gather", *words)
    assert out.code == 2
    assert says in out.stderr.splitlines()[0]
    assert sorted(path.name for path in Path().iterdir()) == before
