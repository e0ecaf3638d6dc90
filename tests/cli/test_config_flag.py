"""`--config`: plans from files, for verbs that take a plan."""

import json
import re
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
SFT = CONFIGS / "trl" / "1.14-sft-defaults.yaml"
FSDP = CONFIGS / "accelerate" / "llama-factory-fsdp2.yaml"
FSDP1 = CONFIGS / "accelerate" / "0.34-fsdp1.yaml"


def test_a_plan_comes_from_files_and_flags_win(memplan):
    words = ("--config", str(SFT), "--config", str(FSDP), "--seq-len", "256", "--json")
    plan = json.loads(memplan("estimate", *words).stdout)["plan"]
    assert plan["model"] == "gpt2"
    assert (plan["sharding"], plan["zero_stage"], plan["num_gpus"]) == ("fsdp2", 3, 2)
    assert plan["seq_len"] == 256


def test_each_file_is_named_with_its_format_beside_the_result(memplan):
    out = memplan("estimate", "--config", str(SFT), "--config", str(FSDP1), "--json")
    assert out.stderr.splitlines() == [
        f"{SFT} read as TRL config",
        f"{FSDP1} read as accelerate config",
        "not read: 0.34-fsdp1.yaml: FSDP1: counted as FSDP2",
    ]
    assert out.stdout.startswith("{")


def test_what_was_not_read_or_left_open_is_in_the_report(memplan):
    out = memplan("estimate", "--config", str(SFT), "--config", str(FSDP1), "--json")
    report = json.loads(out.stdout)
    assert "0.34-fsdp1.yaml: FSDP1: counted as FSDP2" in report["unsupported"]
    batch = "per_device_train_batch_size 8: 1.14-sft-defaults.yaml leaves it to the"
    assert any(line.startswith(batch) for line in report["assumptions"])


def test_every_card_is_compared_with_the_same_notes(memplan):
    words = ("--config", str(SFT), "--config", str(FSDP1), "--gpu", "all", "--json")
    reports = json.loads(memplan("estimate", *words).stdout)
    lines = {report["unsupported"][-1] for report in reports}
    assert lines == {"0.34-fsdp1.yaml: FSDP1: counted as FSDP2"}


def test_a_broken_file_is_answered_with_file_key_and_problem(memplan, tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("output_dir: out\nper_device_train_batch_size: many\n")
    out = memplan("estimate", "gpt2", "--config", str(file))
    assert out.code == 2
    assert out.stdout == ""
    assert f"error: {file}: per_device_train_batch_size must be" in out.stderr


def test_a_file_that_is_not_there_is_named(memplan):
    out = memplan("estimate", "gpt2", "--config", "nowhere.yaml")
    assert (out.code, out.stdout) == (2, "")
    assert "error: nowhere.yaml cannot be read: No such file" in out.stderr


@pytest.mark.parametrize("verb", ["estimate", "compare", "check", "rehearse", "fit"])
def test_a_file_without_a_model_needs_one(memplan, verb):
    more = ("--max", "seq_len") if verb == "fit" else ()
    out = memplan(verb, "--config", str(FSDP), *more)
    assert out.code == 2
    assert "error:" in out.stderr


def test_a_program_decides_what_a_file_would(memplan):
    out = memplan("rehearse", "--config", str(SFT), "--", "python", "train.py")
    assert out.code == 2
    assert "A command decides its model and its step by itself" in out.stderr


def test_a_comparison_tells_it_of_the_plan_as_it_is(memplan):
    words = ("--config", str(SFT), "--config", str(FSDP1), "--tricks", "lion", "--json")
    found = json.loads(memplan("compare", *words).stdout)
    report = found["baseline"]["report"]
    assert "0.34-fsdp1.yaml: FSDP1: counted as FSDP2" in report["unsupported"]


def test_the_example_of_its_page_prints_what_the_page_says(
    memplan, tmp_path, monkeypatch
):
    """The page's files, its command, and both streams, as a terminal has them."""
    page = (Path(__file__).parents[2] / "docs" / "config.md").read_text("utf-8")
    blocks = re.findall(r"(?:^    .*\n)+", page, re.M)
    train, fsdp, example = (re.sub("^    ", "", b, flags=re.M) for b in blocks[:3])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text(train)
    (tmp_path / "fsdp.yaml").write_text(fsdp)
    words, _, printed = example.partition("\n")
    out = memplan(*words.removeprefix("$ memplan ").split())
    assert out.stderr + out.stdout == printed
