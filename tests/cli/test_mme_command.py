"""`memplan mme` as a user types it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from golden import COGNITION, PERCEPTION, write_golden

from memplan.mme.miniature import write_miniature

KILL_TIMEOUT_S = 240


@pytest.fixture
def results(tmp_path):
    return write_golden(tmp_path / "results")


def test_scores_are_as_seen_before(memplan, results, snapshot):
    assert memplan("mme", "score", str(results)).stdout == snapshot


def test_the_official_text_is_as_seen_before(memplan, results, snapshot):
    assert memplan("mme", "score", str(results), "--official").stdout == snapshot


def test_json_has_the_exact_scores_and_their_counts(memplan, results):
    data = json.loads(memplan("mme", "score", str(results), "--json").stdout)
    assert data["schema_version"] == 1
    assert (data["perception"], data["cognition"]) == (PERCEPTION, COGNITION)
    existence = data["tasks"][0]
    assert existence["name"] == "existence"
    assert (existence["tp"], existence["score"]) == (29, 185.0)
    assert len(data["tasks"]) == 14
    assert data["notes"] == []


def test_quiet_prints_the_totals(memplan, results):
    out = memplan("mme", "score", str(results), "--format", "quiet").stdout
    assert out == f"{PERCEPTION}\n{COGNITION}\n"


def test_damage_is_one_sentence_one_hint_and_exit_code_two(process, results):
    (results / "count.txt").write_text("0001.jpg\tIs it?\tYes\n")
    out = process("mme", "score", str(results))
    assert out.code == 2
    assert out.stdout == ""
    error, hint = out.stderr.splitlines()
    assert "count.txt, line 1: has 3 fields" in error
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "mmicl-tiny"), "without weights"),
        (("--model", "gpt2"), "answers no questions"),
        (("--model", "no-such-model"), "neither a preset nor a folder"),
        (("--model", "mmicl-tiny", "--checkpoint", "nowhere"), "no folder nowhere"),
        (("--model", "mmicl-tiny", "--quantization", "int3"), "int8"),
        (("--model", "mmicl-tiny", "--precision", "fp7"), "fp"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(memplan, tmp_path, words, says):
    out = memplan(
        *("mme", "run", "--data", str(tmp_path), "--out", str(tmp_path / "out")), *words
    )
    assert out.code == 2
    assert says in out.stderr
    assert not (tmp_path / "out").exists()


def test_data_that_is_no_benchmark_is_named(memplan, checkpoint, tmp_path):
    out = memplan(
        *("mme", "run", "--model", str(checkpoint), "--data", str(tmp_path)),
        *("--out", str(tmp_path / "out")),
    )
    assert out.code == 2
    assert "no folder of an MME subtask" in out.stderr
    assert not (tmp_path / "out").exists()


def test_the_miniature_is_written_and_not_over_anything(memplan, tmp_path):
    folder = tmp_path / "mme"
    assert memplan("mme", "miniature", str(folder)).stdout == f"{folder}\n"
    assert (folder / "MME_Benchmark" / "OCR" / "0001.txt").is_file()
    again = memplan("mme", "miniature", str(folder))
    assert (again.code, "not empty" in again.stderr) == (2, True)


# With a model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    pytest.importorskip("torch", reason="models need torch")
    pytest.importorskip("transformers", reason="the model is one of transformers")
    from tiny_blip import save_tiny

    folder = tmp_path_factory.mktemp("checkpoint") / "instructblip"
    save_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_miniature(tmp_path_factory.mktemp("data") / "mme", num_images=4)


def words_of(checkpoint, data, out):
    return (
        *("mme", "run", "--model", str(checkpoint), "--data", str(data)),
        *("--out", str(out), "--precision", "fp32", "--batch-size", "4"),
        *("--device", "cpu"),
    )


def answers_in(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.txt")}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # warnings of the libraries
def test_a_run_that_was_killed_has_the_answers_of_an_unbroken_one(
    memplan, checkpoint, data, tmp_path
):
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    done = memplan(*words_of(checkpoint, data, unbroken), "--json")
    assert json.loads(done.stdout)["notes"][0].startswith("56 images")
    assert "code_reasoning: 8 questions answered" in done.stderr
    num_kept = _kill_amid_answers(words_of(checkpoint, data, killed), killed)
    assert 0 < num_kept < 14 * 8
    resumed = memplan(*words_of(checkpoint, data, killed), "--json")
    assert answers_in(killed) == answers_in(unbroken)
    assert resumed.stdout == done.stdout
    scored = memplan("mme", "score", str(killed), "--json")
    assert scored.stdout == done.stdout


@pytest.mark.filterwarnings("default")
def test_other_settings_do_not_mix_with_answers(memplan, checkpoint, data, tmp_path):
    words = words_of(checkpoint, data, tmp_path / "out")
    (tmp_path / "out").mkdir()
    settings = {"model": str(checkpoint), "precision": "bf16-pure"}
    (tmp_path / "out" / "run.json").write_text(json.dumps(settings))
    (tmp_path / "out" / "color.txt").write_text("")
    refused = memplan(*words)
    assert refused.code == 2
    assert "precision was 'bf16-pure', now it is 'fp32'" in refused.stderr


def _kill_amid_answers(words, out):
    """Start, end by kill -9 when there are answers, and count those."""
    run = subprocess.Popen(
        [sys.executable, "-m", "memplan", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    until = time.monotonic() + KILL_TIMEOUT_S
    while not list(out.glob("count.txt")) and time.monotonic() < until:
        assert run.poll() is None, "ended by itself"
        time.sleep(0.001)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    return sum(text.count(b"\n") for text in answers_in(out).values())
