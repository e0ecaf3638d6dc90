"""`memplan check` as a script calls it."""

import json
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "check.md"
EXAMPLE = re.compile(r"^    \$ memplan (check .*)\n((?:    [^$].*\n)+)", re.M)


def test_it_fits(memplan):
    result = memplan("check", "gpt2", "--gpu", "a100-40gb", "--headroom", "5%")
    assert (result.code, result.stderr) == (0, "")
    [line] = result.stdout.splitlines()
    assert line.startswith("fits  gpt2 on a100-40gb: ")
    assert line.endswith(" to spare")


def test_it_does_not_and_the_second_line_is_the_way_out(memplan):
    words = ("check", "llama-2-7b", "--gpu", "a100-80gb", "--torch", "2.14")
    result = memplan(*words)
    assert result.code == 1
    said = " ".join(result.stdout.split())
    assert said.startswith("does not fit llama-2-7b on a100-80gb: ")
    assert " too much it fits with " in said
    fix = json.loads(memplan(*words, "--json").stdout)["fix"]
    again = memplan(*words, *fix["flags"].split())
    assert again.code == 0


def test_the_examples_of_its_page_print_what_the_page_says(memplan):
    examples = EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(examples) == 2
    for words, printed in examples:
        assert memplan(*words.split()).stdout == re.sub(
            "^    ", "", printed, flags=re.M
        )


def test_quiet_is_one_word(memplan):
    cases = {
        ("gpt2",): (0, "fits\n"),
        ("llama-2-7b", "--gpu", "t4"): (1, "no\n"),
        ("--parameters", "1e8"): (2, "unknown\n"),
    }
    for words, expected in cases.items():
        result = memplan("check", *words, "--format", "quiet")
        assert (result.code, result.stdout) == expected


def test_narrowly_is_a_warning_and_fails_if_strict(memplan):
    """Settled bands: reserved is likely 5% above the peak."""
    size = json.loads(memplan("check", "gpt2", "--json").stdout)
    peak = size["report"]["peak"]["device_bytes"]
    words = ("check", "gpt2", "--headroom", "0", "--gpu-memory", str(int(peak * 1.02)))
    usual, strict = memplan(*words), memplan(*words, "--strict")
    assert usual.code == 0
    assert usual.stdout.startswith("fits, narrowly  gpt2")
    assert usual.stderr.startswith("warning: PyTorch likely reserves")
    assert (strict.code, strict.stdout) == (1, usual.stdout)


def test_of_files_a_key_that_was_not_read_is_told_once_and_fails_if_strict(
    memplan, tmp_path
):
    file = tmp_path / "train.yaml"
    file.write_text(
        "per_device_train_batch_size: 4\noptim: adamw_torch\nuse_liger_kernel: true\n"
        "output_dir: out\n"
    )
    words = ("check", "gpt2", "--config", str(file))
    usual, strict = memplan(*words), memplan(*words, "--strict", "--json")
    assert (usual.code, strict.code) == (0, 2)
    assert usual.stderr.count("use_liger_kernel") == 1
    found = json.loads(strict.stdout)
    assert found["verdict"] == "cannot say"
    assert "use_liger_kernel" in found["not_read"][0]
    assert found["report"]["plan"]["per_device_train_batch_size"] == 4


def test_the_lower_bound_lets_doubts_pass(memplan):
    words = ("check", "llama-2-7b", "--gpu")
    assert memplan(*words, "a100-80gb", "--lower-bound").code == 1
    result = memplan(*words, "b200-180gb", "--headroom", "60%", "--lower-bound")
    assert result.code == 0
    assert result.stdout.startswith("cannot say  llama-2-7b")


def test_json_is_written_once(memplan, tmp_path):
    file = tmp_path / "check.json"
    result = memplan("check", "gpt2", "--json", "-o", str(file))
    assert (result.code, result.stdout) == (0, "")
    assert json.loads(file.read_text())["verdict"] == "fits"
    again = memplan("check", "gpt2", "-o", str(file))
    assert again.code == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to check"),
        (["no-such-model"], "no model named"),
        (["gpt2", "--gpu", "no-such-card"], "no GPU named"),
        (["gpt2", "--gpu", "all"], "on one card"),
        (["gpt2", "--strict", "--lower-bound"], "two questions"),
        (["gpt2", "--by", "guess"], "guess"),
        (["gpt2", "--zero-stage", "7"], "no ZeRO stage"),
    ],
    ids=" ".join,
)
def test_who_cannot_say_leaves_with_2_and_a_sentence(memplan, words, said):
    result = memplan("check", *words)
    assert result.code == 2
    assert said in result.stderr
    assert result.stdout == ""


@pytest.mark.slow
def test_a_rehearsal_says_the_same_and_is_kept(process, card_variables, tmp_path):
    """Without the card's variables: memplan plays one by itself."""
    words = ("check", "gpt2", "--batch-size", "1", "--seq-len", "128", "--json")
    kept = {"MEMPLAN_CACHE": str(tmp_path / "kept")}
    first = process(*words, "--by", "rehearse", **kept)
    assert first.code == 0, first.stderr
    found = json.loads(first.stdout)
    assert (found["by"], found["report"]["source"]) == ("rehearse", "rehearsed")
    assert list((tmp_path / "kept").rglob("*.json"))
    assert process(*words, "--by", "rehearse", **kept).stdout == first.stdout
