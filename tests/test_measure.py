"""`scripts/measure`, whole: a few tiny plans on the virtual device, as on a card."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memplan.validation.records import read_record, records_under

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "measure"

CAMPAIGN = """
[base.openflamingo]
model = "openflamingo-tiny"
[base.pe-net]
model = "pe-net-tiny"
precision = "fp32"
[base.gpt2]
model = "gpt2"

[[group]]
title = "what fits"
of = ["openflamingo", "pe-net"]
[group.variations]
plain = {}

[[group]]
title = "what does not"
of = ["gpt2"]
[group.variations]
exceeds = { batch = "exceeds" }
large = { per_device_train_batch_size = 512 }
"""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    file = tmp_path_factory.mktemp("campaign") / "campaign.toml"
    file.write_text(CAMPAIGN)
    return file


@pytest.fixture(scope="module")
def environment(card_variables):
    return {**os.environ, **card_variables}


@pytest.fixture(scope="module")
def measure(campaign, environment):
    """Runs the script on a virtual card; gives the finished process."""

    def run(*words, campaign=campaign, env=environment, timeout=300):
        return subprocess.run(
            [sys.executable, SCRIPT, "--campaign", campaign, *map(str, words)],
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="module")
def a_round(measure, tmp_path_factory):
    """One round over all plans: its folder, and what was printed."""
    out = tmp_path_factory.mktemp("out")
    done = measure("--out", out, "--minutes", 9)
    assert done.returncode == 0, done.stderr
    return out / "rtx-4090", done.stdout


@pytest.mark.slow
def test_each_plan_has_a_record_and_memory_may_end(a_round):
    folder, said = a_round
    found = records_under(folder)
    assert not found.broken
    ended = {record.entry: record.ended for _, record in found.records}
    assert ended == {
        "openflamingo.plain": "finished",
        "pe-net.plain": "finished",
        "gpt2.exceeds": "out_of_memory",
    }
    assert "gpt2.large" in said
    assert "left out" in said
    assert "2 finished, 1 out of memory, 1 left out" in said


@pytest.mark.slow
def test_on_a_virtual_card_nothing_is_called_measured(a_round):
    folder, _ = a_round
    for _, record in records_under(folder).records:
        assert record.report.source == "rehearsed"
        assert record.report.timing is None
    assert "rehearsed" in (folder / "summary.md").read_text()


@pytest.mark.slow
def test_figures_of_a_record_are_in_order_and_add_up(a_round):
    folder, _ = a_round
    for name in ("openflamingo.plain", "pe-net.plain"):
        report = read_record(folder / f"{name}.json").report
        peak = report.peak
        assert 0 < peak.requested_bytes <= peak.allocated_bytes <= peak.reserved_bytes
        assert peak.reserved_bytes + report.device.context_bytes == peak.device_bytes
        assert report.components.total == peak.allocated_bytes
        assert report.unattributed_bytes < 0.01 * peak.allocated_bytes


@pytest.mark.slow
def test_the_end_of_memory_says_where(a_round):
    folder, _ = a_round
    end = read_record(folder / "gpt2.exceeds.json").report.out_of_memory
    assert end.asked_bytes > 0
    assert end.phase in ("forward", "loss", "backward")


@pytest.mark.slow
def test_records_hold_nothing_of_the_machine(a_round):
    folder, _ = a_round
    for file in folder.glob("*.json"):
        text = file.read_text()
        for private in (str(ROOT), sys.prefix, str(Path.home()), os.uname().nodename):
            assert f'"{private}' not in text
            assert f" {private}" not in text


@pytest.mark.slow
def test_a_second_round_runs_nothing_again(a_round, measure):
    folder, _ = a_round
    before = {file: file.read_bytes() for file in folder.glob("*.json")}
    begins = time.monotonic()
    done = measure("--out", folder.parent)
    assert done.returncode == 0
    assert "3 recorded, 1 left out" in done.stdout
    assert time.monotonic() - begins < 60
    assert {file: file.read_bytes() for file in folder.glob("*.json")} == before


@pytest.mark.slow
def test_a_plan_that_takes_too_long_is_killed_and_the_next_round_goes_on(
    measure, tmp_path
):
    only = ("--out", tmp_path, "--only", "openflamingo.*")
    done = measure(*only, "--limit", 0.2)
    assert done.returncode == 1
    record = read_record(tmp_path / "rtx-4090" / "openflamingo.plain.json")
    assert (record.ended, record.report) == ("timeout", None)
    assert "1 recorded" in measure(*only).stdout
    assert "1 finished" in measure(*only, "--again").stdout
    record = read_record(tmp_path / "rtx-4090" / "openflamingo.plain.json")
    assert record.ended == "finished"


@pytest.mark.slow
def test_ctrl_c_leaves_what_was_written_and_no_process(campaign, environment, tmp_path):
    words = ("--campaign", campaign, "--out", tmp_path)
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert first.split()[:2] == ["openflamingo.plain", "finished"]
    assert "interrupted" in said
    found = records_under(tmp_path)
    assert [record.entry for _, record in found.records] == ["openflamingo.plain"]
    assert not found.broken
    assert "openflamingo.plain" in (tmp_path / "rtx-4090" / "summary.md").read_text()
    assert not _processes_below(tmp_path)


def _processes_below(folder):
    """Of all processes, those whose words name that folder."""
    found = []
    for words in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in words.read_bytes():
                found.append(words)
        except OSError:
            continue
    return found


# ---- what is said at once ----


def test_without_a_card_it_says_so_in_one_sentence(measure, tmp_path):
    bare = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    done = measure("--out", tmp_path, env={**bare, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "CUDA" in done.stderr.splitlines()[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_check_says_what_is_here(measure):
    done = measure("--gpu-check")
    assert done.returncode == 0
    assert "rtx-4090" in done.stdout
    assert "rehearsed" in done.stdout


@pytest.mark.slow
def test_plans_are_listed(measure):
    done = measure("--list", "--only", "gpt2.*")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["gpt2.exceeds", "gpt2.large"]
    assert "does not fit" in lines[2]


def test_a_pattern_that_names_nothing_says_so(measure, tmp_path):
    done = measure("--out", tmp_path, "--only", "gtp2.*")
    assert done.returncode == 2
    assert "gtp2.*" in done.stderr


def test_a_list_that_is_wrong_says_so(measure, tmp_path):
    file = tmp_path / "wrong.toml"
    file.write_text("[base.x]\nmodell = 1\n[[group]]\n")
    done = measure("--out", tmp_path, campaign=file)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "holds no campaign" in done.stderr


def test_records_need_a_place(measure):
    done = measure()
    assert done.returncode == 2
    assert "--out" in done.stderr
