"""`memplan show` as a user types it."""

import json
import os
import subprocess
import sys

import pytest
from capture_files import BLOCKS, CURVE, block, capture_file, rank, written
from captures import CAPTURE, MIB, capture

from memplan import from_json
from memplan.captures.capture_file import read_capture
from memplan.report import to_json

ALLOCATED = CAPTURE["peak"]["allocated_bytes"]
EVERY = ("component", "module", "line", "phase", "rank", "time")
HOSTILE = "[red]evil[/red].\x1b[31m\u202e.\nfits  everything"


@pytest.fixture
def run(tmp_path):
    """A capture of one process."""
    return written(tmp_path / "run.mplan", capture(blocks=BLOCKS, curve=CURVE))


@pytest.fixture
def nodes(tmp_path):
    """Captures of the two machines of a job."""
    return (
        written(tmp_path / "0.mplan", rank(0), rank(1)),
        written(tmp_path / "1.mplan", rank(2), rank(3)),
    )


def test_by_default_it_is_the_report(memplan, run, tmp_path):
    out = memplan("show", run)
    report = tmp_path / "run.json"
    report.write_text(to_json(read_capture(tmp_path / "run.mplan").report))
    assert out.code == 0
    assert out.stdout.startswith("fits  Decoder on rtx-4090")
    assert memplan("show", str(report)).stdout == out.stdout


def test_json_is_the_report_and_quiet_its_bytes(memplan, run):
    assert from_json(memplan("show", run, "--json").stdout).source == "rehearsed"
    assert memplan("show", run, "--format", "quiet").stdout == f"{3500 * MIB}\n"


@pytest.mark.parametrize("by", ["component", "module", "line"])
@pytest.mark.parametrize("top", [(), ("--top", "2")], ids=["all", "top"])
def test_rows_of_json_add_up_to_what_was_allocated(memplan, run, by, top):
    data = json.loads(memplan("show", run, "--by", by, "--json", *top).stdout)
    assert sum(row["bytes"] for row in data["rows"]) == ALLOCATED
    assert (data["by"], data["rank"], data["step"]) == (by, 0, 3)


def test_modules_to_a_depth(memplan, run):
    data = json.loads(memplan("show", run, "--by", "module", "--json").stdout)
    assert data["rows"][0]["name"] == "model.layers.0"
    out = memplan("show", run, "--by", "module", "--depth", "2").stdout
    assert "├─ layers" in out
    assert "└─ embed_tokens" in out
    assert "│  ├─" not in out


def test_a_tree_is_folded(memplan, run):
    lines = memplan("show", run, "--by", "module").stdout.splitlines()
    assert lines[0] == (
        "Held at the peak of step 3, in backward, by module (rehearsed, rank 0)"
    )
    (more,) = [line for line in lines if "more" in line]
    assert more.endswith("└─ and 14 more")
    assert lines[-1].split() == ["2.85", "GiB", "allocated"]
    assert any(line.endswith("rounding of blocks") for line in lines)
    assert any(line.endswith("unattributed") for line in lines)


@pytest.mark.parametrize("by", EVERY)
def test_every_view_is_80_columns_wide_and_without_colour(memplan, nodes, by):
    out = memplan("show", *nodes, "--by", by)
    assert out.code == 0
    assert "\x1b" not in out.stdout
    assert max(map(len, out.stdout.splitlines())) <= 80


def test_time_is_drawn_with_phases_below(memplan, run):
    lines = memplan("show", run, "--by", "time").stdout.splitlines()
    assert lines[0] == "Requested bytes over step 3 (rehearsed, rank 0)"
    assert lines[2].startswith("  2.83 GiB ")
    assert lines[-2].split() == ["forward", "backward", "opti"]
    assert "a virtual card has no clock" in lines[-1]
    assert "█" in lines[-3]


def test_time_of_a_card_is_in_milliseconds(memplan, tmp_path):
    timed = {**CURVE, "times_us": [0, 1000, 20_500], "requested_bytes": [1, 9, 4]}
    file = written(tmp_path / "a.mplan", capture(curve=timed, is_virtual=False))
    out = memplan("show", file, "--by", "time").stdout
    assert "(measured, rank 0)" in out
    assert "20.5 ms" in out


def test_ranks_and_one_of_them(memplan, nodes):
    lines = memplan("show", *nodes, "--by", "rank").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2", "3"]
    of_one = memplan("show", *nodes, "--rank", "3", "--json").stdout
    assert from_json(of_one).rank == 3
    assert "rank 3)" in memplan("show", *nodes, "--rank", "3", "--by", "line").stdout


def test_names_are_text_whatever_is_in_them(memplan, tmp_path):
    blocks = [block(HOSTILE, 100, line=HOSTILE), block("m" * 5000, 50)]
    file = written(tmp_path / "a.mplan", capture(blocks=blocks))
    for by in ("module", "line"):
        out = memplan("show", file, "--by", by, "--depth", "9").stdout
        assert "[red]evil[/red]" in out
        assert "\\x1b[31m\\u202e" in out
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert not any(line.startswith("fits") for line in out.splitlines())


def test_in_a_pipe_names_are_whole(tmp_path):
    file = written(tmp_path / "a.mplan", capture(blocks=[block("m" * 300, 50)]))
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-m", "memplan", "show", file, "--by", "module"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert any(line.endswith("m" * 300) for line in done.stdout.splitlines())


def test_redacting_makes_a_file_to_pass_on(memplan, tmp_path):
    private = capture(
        blocks=[block("layers.0", 5, line="/home/me/secret/model.py:1 f")], job="host:1"
    )
    file = written(tmp_path / "run.mplan", private)
    shared = tmp_path / "shared.mplan"
    out = memplan("show", file, "--redact", "-o", str(shared))
    assert out.code == 0
    assert read_capture(shared).is_redacted
    assert read_capture(shared).processes[0]["blocks"][0]["line"] == "model.py:1 f"
    assert memplan("show", file, "--redact", "-o", str(shared)).code == 2
    assert memplan("show", file, "--redact", "-f", "-o", str(shared)).code == 0


@pytest.mark.parametrize("by", ["module", "line", "time"])
def test_a_report_alone_says_what_to_do(memplan, tmp_path, by):
    report = tmp_path / "run.json"
    report.write_text(to_json(capture_file().report))
    out = memplan("show", str(report), "--by", by)
    assert (out.code, out.stdout) == (2, "")
    assert "has a report alone" in out.stderr
    assert "-o run.mplan" in out.stderr
    assert memplan("show", str(report), "--by", "component").code == 0
    assert memplan("show", str(report), "--by", "phase").code == 0


def test_an_estimate_has_components_too(memplan, tmp_path):
    report = tmp_path / "estimate.json"
    report.write_text(memplan("estimate", "gpt2", "--json").stdout)
    out = memplan("show", str(report), "--by", "component", "--json")
    data = json.loads(out.stdout)
    assert sum(row["bytes"] for row in data["rows"]) == data["allocated_bytes"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run.mplan", "--by", "rank"), "of one process"),
        (("run.mplan", "--rank", "9"), "nothing of rank 9"),
        (("run.mplan", "run.mplan"), "does not say which job"),
        (("gone.mplan",), "No such file"),
        (("gone.json",), "No such file"),
        (("pipe.mplan",), "no ordinary file"),
        (("pipe",), "not a memplan report"),
        ((".",), "Is a directory"),
        (("text.mplan",), "cut off, or something else"),
        (("text.txt",), "not a memplan report"),
        (("deep.json",), "nested too deeply"),
        (("bare.mplan", "--by", "module"), "held at its peak is not in the capture"),
        (("bare.mplan", "--by", "time"), "over its step is not in the capture"),
        (("run.mplan", "-o", "no/such/x.mplan"), "cannot be written"),
        (("run.mplan", "-o", "/dev/full"), "No space left on device"),
    ],
)
def test_mistakes_get_one_sentence_one_hint_and_exit_code_two(
    memplan, run, tmp_path, monkeypatch, words, says
):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "bare.mplan", capture())
    os.mkfifo("pipe.mplan")
    os.mkfifo("pipe")
    (tmp_path / "text.mplan").write_text("text" * 100)
    (tmp_path / "text.txt").write_text("text" * 100)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    out = memplan("show", *words)
    assert out.code == 2
    error, hint = out.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert says in error


def test_captures_of_different_jobs_are_for_diff(memplan, tmp_path, nodes):
    other = written(tmp_path / "other.mplan", rank(2, job="b:1"))
    out = memplan("show", nodes[0], other)
    assert out.code == 2
    assert f"memplan diff {nodes[0]} {other}" in out.stderr
