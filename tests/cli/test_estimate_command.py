"""`memplan estimate` as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memplan import TrainingPlan, estimate, from_json
from memplan.plan import MAX_COUNT

LLAMA = ("estimate", "llama-2-7b", "--gpu", "a100-80gb", "--torch", "2.14")


def test_json_is_the_report_of_the_library(memplan):
    out = memplan(*LLAMA, "--json")
    plan = TrainingPlan(model="llama-2-7b", gpu="a100-80gb", torch="2.14")
    assert from_json(out.stdout) == estimate(plan)


def test_verdict_comes_first(memplan):
    assert memplan(*LLAMA).stdout.startswith("does not fit")
    small = memplan(*LLAMA, "--trainable", "lora", "--precision", "bf16-pure")
    assert small.stdout.startswith("fits")


def test_terminal_output_is_as_seen_before(memplan, snapshot):
    assert memplan(*LLAMA, "--precision", "bf16-pure").stdout == snapshot


def test_an_evaluation_shows_tricks_with_their_price(memplan, snapshot):
    words = ("openflamingo-9b", "--workload", "mme", "--num-shots", "4")
    out = memplan("estimate", *words, "--gpu", "a100-80gb", "--torch", "2.14")
    assert out.stdout == snapshot
    assert "answers may change" in out.stdout


def test_every_gpu_table_is_as_seen_before(memplan, snapshot):
    out = memplan("estimate", "llama-2-7b", "--gpu", "all", "--torch", "2.14")
    assert out.stdout == snapshot


def test_no_line_is_wider_than_the_terminal(memplan):
    for words in (LLAMA, ("estimate", "llama-2-7b", "--gpu", "all"), ("models",)):
        lines = memplan(*words).stdout.splitlines()
        assert max(len(line) for line in lines) <= 80


def test_every_gpu_as_json_is_a_list_of_reports(memplan):
    reports = json.loads(memplan("estimate", "gpt2", "--gpu", "all", "--json").stdout)
    assert len(reports) >= 30
    assert {report["source"] for report in reports} == {"estimated"}


def test_quiet_prints_the_bytes_of_the_device(memplan):
    report = estimate(TrainingPlan(model="llama-2-7b", gpu="a100-80gb", torch="2.14"))
    out = memplan(*LLAMA, "--format", "quiet").stdout
    assert out == f"{report.peak.device_bytes}\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            ("--zero_stage", "2", "--num_gpus", "8"),
            ("--zero-stage", "2", "--num-gpus", "8"),
        ),
        (("--precision", "bf16"), ("--precision", "bf16-mixed")),
        (("--precision", "torch.bfloat16"), ("--precision", "bf16-mixed")),
        (("--precision", "no"), ("--precision", "fp32")),
        (("--gradient_checkpointing", "true"), ("--activation-checkpointing", "full")),
        (("--attn-implementation", "sdpa"), ("--attn-implementation", "auto")),
        (("--max-seq-length", "512"), ("--seq-len", "512")),
        (("--cutoff_len", "512"), ("--seq-len", "512")),
        (("--gpu", "A100_80GB"), ("--gpu", "a100-80gb")),
        (("--headroom", "10%"), ("--headroom", "0.1")),
        (("--num-processes", "8"), ("--num-gpus", "8")),
        (("--gpu-memory", "24GB"), ("--gpu-memory", "24000000000")),
        (("--gpu-memory", "24GiB"), ("--gpu-memory", "25769803776")),
    ],
)
def test_two_spellings_give_the_same_bytes(memplan, one, other):
    def measured(words):
        data = json.loads(memplan("estimate", "llama-2-7b", *words, "--json").stdout)
        del data["plan"]["gpu"]
        return data

    assert measured(one) == measured(other)


def test_trainer_names_of_optimizers_are_accepted(memplan):
    a = json.loads(memplan(*LLAMA, "--optim", "adamw_torch_fused", "--json").stdout)
    b = json.loads(memplan(*LLAMA, "--optim", "adamw-torch-fused", "--json").stdout)
    assert a["components"] == b["components"]


def test_parameters_alone_give_model_states(memplan):
    out = memplan("estimate", "--parameters", "7.5e9", "--accounting", "zero", "--json")
    components = json.loads(out.stdout)["components"]
    assert components["weights"] == 2 * 7_500_000_000
    assert components["gradients"] == 2 * 7_500_000_000
    assert components["optimizer_states"] == 12 * 7_500_000_000


def test_config_json_is_read_by_path_and_by_folder(memplan, tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    by_path = memplan("estimate", str(tmp_path / "config.json"), "--json")
    by_folder = memplan("estimate", str(tmp_path), "--json")
    assert (
        json.loads(by_path.stdout)["components"]
        == json.loads(by_folder.stdout)["components"]
    )


def test_output_file_holds_the_json_report(memplan, tmp_path):
    file = tmp_path / "report.json"
    memplan(*LLAMA, "-o", str(file))
    assert from_json(file.read_text()).source == "estimated"


def test_output_file_is_not_overwritten_without_force(memplan, tmp_path):
    file = tmp_path / "report.json"
    file.write_text("mine")
    refused = memplan(*LLAMA, "-o", str(file))
    assert refused.code == 2
    assert "exists already" in refused.stderr
    assert file.read_text() == "mine"
    assert memplan(*LLAMA, "-o", str(file), "--force").code == 0
    assert from_json(file.read_text())


def test_output_file_that_cannot_be_written_leaves_nothing(memplan, tmp_path):
    refused = memplan(*LLAMA, "-o", str(tmp_path / "missing" / "report.json"))
    assert refused.code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("lama-2-7b",), "Did you mean llama-2-7b"),
        (("llama-2-7b", "--gpu", "a100-80"), "a100-80gb"),
        (("llama-2-7b", "--optim", "adamwx"), "adamw"),
        (("llama-2-7b", "--precision", "bf17"), "bf16"),
        (("llama-2-7b", "--zero-stage", "4"), "Stages are 0 to 3"),
        (("llama-2-7b", "--batch-size", "0"), "1 or more"),
        (("llama-2-7b", "--seq-len", "5000"), "4096"),
        (("llama-2-7b", "--num-gpus", "0"), "1 or more"),
        (("llama-2-7b", "--num-gpus", "6", "--tensor-parallel", "4"), "multiple of 4"),
        (("llama-2-7b", "--gpu-memory", "much"), "24GiB"),
        (("llama-2-7b", "--headroom", "x"), "5%"),
        (("llama-2-7b", "--headroom", "120%"), "5% is 0.05"),
        (("llama-2-7b", "--activation-checkpointing", "every-0"), "every-2"),
        (("llama-2-7b", "--trainable", "lora", "--lora-targets", "qq"), "q_proj"),
        (("llama-2-7b", "--trainable", "stage-1"), "named"),
        (("llama-2-7b", "--trainable", "("), "Known sets"),
        (("llama-2-7b", "--quantization", "nf4"), "lora"),
        (("llama-2-7b", "--images-per-sample", "3"), "Leave"),
        (("llama-2-7b", "--torch", "new"), "2.11"),
        (("llama-2-7b", "--parameters", "7e9"), "either"),
        (("--parameters", "many"), "7.5e9"),
        (("--parameters", "nan"), "7.5e9"),
        ((), "memplan models"),
        (("/no/such/folder",), "config.json"),
        (("some/repo-that-is-not-cached",), "config.json"),
        (("llama-2-7b", "--offload-optimizer"), "--zero-stage"),
    ],
)
def test_mistakes_get_one_sentence_one_hint_and_exit_code_two(process, words, says):
    out = process("estimate", *words)
    assert out.code == 2
    assert out.stdout == ""
    error, hint = out.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert says in out.stderr
    assert "Traceback" not in out.stderr


def test_unknown_flags_leave_with_two(process):
    out = process("estimate", "llama-2-7b", "--nmu-gpus", "8")
    assert out.code == 2
    assert "Traceback" not in out.stderr


@pytest.mark.parametrize("words", ["models", "estimate gpt2", "estimate gpt2 --json"])
def test_a_reader_that_has_left_is_no_error(tmp_path, words):
    done = subprocess.run(
        f"{sys.executable} -m memplan {words} | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="bash",
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_full_disk_is_a_sentence(flags):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "memplan", "estimate", "gpt2", *flags],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert "No space left" in error
    assert hint.startswith("hint: ")


def test_the_largest_counts_are_answered(memplan):
    out = memplan("estimate", "llama-2-7b", "--batch-size", str(MAX_COUNT), "--json")
    assert json.loads(out.stdout)["fits"] is False


def test_next_command_can_be_typed(memplan):
    lines = memplan(*LLAMA).stdout.split("Next", 1)[1]
    words = " ".join(lines.split()).split()
    assert words[:2] == ["memplan", "estimate"]
    assert memplan(*words[1:]).stdout.startswith("fits")


def test_an_explanation_is_as_seen_before(memplan, snapshot):
    words = ("gpt2", "--gpu", "t4", "--precision", "fp16", "--batch-size", "4")
    more = ("--gradient-accumulation-steps", "2", "--torch", "2.14")
    out = memplan("estimate", *words, *more, "--explain", "--top", "3").stdout
    report, _, terms = out.partition("\nTerm by term")
    assert report == memplan("estimate", *words, *more).stdout
    assert terms == snapshot
    assert max(len(line) for line in out.splitlines()) <= 80


def test_json_has_every_term(memplan):
    data = json.loads(memplan(*LLAMA, "--explain", "--json").stdout)
    terms = data["explanation"]["terms"]
    assert sum(term["bytes"] for term in terms) == data["peak"]["device_bytes"]
    assert set(terms[0]) == {"component", "name", "formula", "bytes", "source"}
    assert json.loads(memplan(*LLAMA, "--json").stdout)["explanation"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--top", "3"), "--top says how much to explain"),
        (("--explain", "--gpu", "all"), "--explain is about one card"),
    ],
)
def test_what_would_be_ignored_of_an_explanation_is_refused(memplan, words, message):
    out = memplan("estimate", "llama-2-7b", *words)
    assert out.code == 2
    assert message in out.stderr


def test_the_documented_explanation_is_what_is_printed(memplan, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "estimate.md"
    section = page.read_text(encoding="utf-8").partition("## Term by term")[2]
    command, printed = section.split("prints, below the report:")
    words = command.partition("    memplan ")[2].replace("\\\n", "").split()
    monkeypatch.setenv("COLUMNS", "76")
    _, title, terms = memplan(*words).stdout.partition("Term by term")
    for line in f"{title}{terms}".splitlines():
        assert not line or f"    {line}\n" in printed, line
