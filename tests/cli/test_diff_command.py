"""`memplan diff` as a user types it."""

import json
from dataclasses import replace

import pytest
from captures import MIB, capture, out_of_memory_capture

from memplan import TrainingPlan, estimate, to_json
from memplan.hardware import find_gpu
from memplan.running.rehearsal import Subject, out_of_memory_of, report_of

PLAN = TrainingPlan(model="gpt2", gpu="rtx-4090", torch="2.14")
SUBJECT = Subject(gpu=find_gpu("rtx-4090"), plan=PLAN)
RUN = replace(report_of(capture(), SUBJECT), memplan_version="0.1.0")


def less(fraction):
    """That run with a smaller allocated peak, and the same reserved one."""
    peak = replace(
        RUN.peak, allocated_bytes=round(RUN.peak.allocated_bytes * (1 - fraction))
    )
    return replace(RUN, peak=peak)


@pytest.fixture
def file(tmp_path):
    """Write a report, and name its file."""

    def write(report, name):
        path = tmp_path / name
        path.write_text(to_json(report))
        return str(path)

    return write


@pytest.fixture
def pair(file):
    estimated = replace(estimate(PLAN), memplan_version="0.1.0")
    return file(estimated, "estimate.json"), file(RUN, "run.json")


def test_the_table_is_as_seen_before(memplan, pair, snapshot, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    out = memplan("diff", "estimate.json", "run.json")
    assert out.code == 0
    assert out.stdout == snapshot
    assert max(len(line) for line in out.stdout.splitlines()) <= 80


def test_piped_it_is_plain_text_of_no_more_than_80_columns(process, pair):
    out = process("diff", *pair, COLUMNS="80")
    assert out.code == 0
    assert out.stdout.startswith("allocated peak: estimated ")
    assert "\x1b" not in out.stdout
    assert max(len(line) for line in out.stdout.splitlines() if "/" not in line) <= 80


def test_both_sources_stand_at_the_head(memplan, pair):
    head = memplan("diff", *pair).stdout.split("Peak ")[0]
    assert "A  estimated" in head
    assert "B  rehearsed" in head


def test_json_has_every_term_in_bytes(memplan, pair):
    data = json.loads(memplan("diff", *pair, "--json").stdout)
    assert (data["a"]["source"], data["b"]["source"]) == ("estimated", "rehearsed")
    allocated = next(t for t in data["peak"] if t["name"] == "allocated")
    assert allocated["b_bytes"] == 2920 * MIB
    assert allocated["difference_bytes"] == 2920 * MIB - allocated["a_bytes"]
    assert (
        sum(t["difference_bytes"] for t in data["components"])
        == (allocated["difference_bytes"])
    )
    assert {"first", "steady"} == {phase["role"] for phase in data["phases"]}


def test_quiet_prints_the_difference_in_bytes(memplan, file):
    a, b = file(less(0.5), "a.json"), file(RUN, "b.json")
    quiet = ("diff", a, b, "--format", "quiet")
    assert memplan(*quiet).stdout == f"{1460 * MIB}\n"
    assert memplan(*quiet, "--term", "reserved").stdout == "0\n"
    assert memplan(*quiet, "--term", "active").stdout == "-\n"


def test_a_file_gets_json_beside_the_table(memplan, pair, tmp_path):
    target = tmp_path / "difference.json"
    out = memplan("diff", *pair, "-o", str(target))
    assert out.stdout.startswith("allocated peak")
    assert json.loads(target.read_text())["schema_version"] == 1
    assert memplan("diff", *pair, "-o", str(target)).code == 2
    assert memplan("diff", *pair, "-o", str(target), "--force").code == 0


@pytest.mark.parametrize("is_over", [True, False], ids=["over", "under"])
def test_a_gate_looks_both_ways(memplan, file, is_over):
    small, large = file(less(0.1), "small.json"), file(RUN, "large.json")
    a, b = (small, large) if is_over else (large, small)
    assert memplan("diff", a, b, "--fail-over", "12%").code == 0
    out = memplan("diff", a, b, "--fail-over", "5%")
    assert out.code == 1
    assert out.stderr.startswith("allocated differs by ")
    assert "more than the 5% of A" in out.stderr


def test_a_gate_on_another_term(memplan, file):
    a, b = file(less(0.5), "a.json"), file(RUN, "b.json")
    out = memplan("diff", a, b, "--fail_over", "0", "--term", "reserved")
    assert (out.code, out.stderr) == (0, "")


def test_what_one_does_not_know_cannot_be_gated(memplan, pair):
    out = memplan("diff", *pair, "--fail-over", "5%", "--term", "active")
    assert out.code == 2
    assert "does not know active" in out.stderr


def test_a_run_that_ended_out_of_memory_cannot_be_gated(memplan, pair, file):
    stopped = out_of_memory_capture()
    report = replace(
        report_of(stopped, SUBJECT), out_of_memory=out_of_memory_of(stopped)
    )
    ended = file(report, "ended.json")
    shown = memplan("diff", pair[0], ended)
    assert shown.code == 0
    assert "B ran out of memory" in shown.stdout
    assert memplan("diff", pair[0], ended, "--fail-over", "5%").code == 2


def test_two_plans_are_compared_and_said_to_be_two(memplan, pair, file):
    other = file(estimate(replace(PLAN, seq_len=512)), "other.json")
    out = memplan("diff", pair[0], other)
    assert out.code == 0
    assert "two different plans" in out.stdout
    assert "plan seq len" in out.stdout


def test_markup_in_names_stays_text(memplan, file):
    model = replace(RUN.model, name="[bold]x[/bold]")
    peak = replace(RUN.peak, module="[red]layer", line="a[0].py:3 [/] f")
    named = file(replace(RUN, model=model, peak=peak), "[i]named.json")
    out = memplan("diff", named, named).stdout
    for text in ("[bold]x[/bold] on", "[red]layer", "a[0].py:3 [/] f", "[i]named"):
        assert text in out.replace("\n   ", "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("missing.json", "{b}"), "missing.json cannot be read"),
        (("{b}", "."), "cannot be read"),
        (("{text}", "{b}"), "text.json: This is not a memplan report"),
        (("{zip}", "{b}"), "zip.json is no capture"),
        (("{b}", "{b}", "--term", "reservd"), "Did you mean reserved"),
        (("{b}", "{b}", "--fail-over", "-1%"), "0 or more"),
        (("{b}", "{b}", "--fail-over", "nan"), "0 or more"),
    ],
)
def test_mistakes_get_one_sentence_one_hint_and_exit_code_two(
    memplan, pair, tmp_path, words, says
):
    (tmp_path / "text.json").write_text("[1, 2]")
    (tmp_path / "zip.json").write_bytes(b"PK\x03\x04 and nothing more")
    places = {
        "b": pair[1],
        "text": str(tmp_path / "text.json"),
        "zip": str(tmp_path / "zip.json"),
    }
    out = memplan("diff", *(word.format(**places) for word in words))
    assert (out.code, out.stdout) == (2, "")
    assert says in out.stderr


def test_captures_are_read_as_well_as_reports(memplan, pair, tmp_path):
    from memplan.captures.capture_file import CaptureFile, write_capture

    path = tmp_path / "run.mplan"
    write_capture(CaptureFile(report=RUN, processes=()), path)
    renamed = tmp_path / "run.zip"
    renamed.write_bytes(path.read_bytes())
    for capture_path in (path, renamed):
        out = memplan("diff", pair[1], str(capture_path), "--fail-over", "0")
        assert (out.code, out.stderr) == (0, "")
