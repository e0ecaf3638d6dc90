"""`memplan recommend` as a user types it."""

import json
import shlex
from datetime import date
from importlib import import_module
from pathlib import Path
from textwrap import indent

import pytest
from recommendations import recommendation

from memplan.views.recommendation import show_recommendation

PAGE = Path(__file__).parents[2] / "docs" / "recommend.md"
WORDS = ("recommend", "gpt2", "--seq-len", "256", "--global-batch", "8")
SMALL = (*WORDS, "--gpus", "rtx-4090", "--max-gpus", "2", "--allow=-rounding")
PRICES = """
provider = "Us"
[[offers]]
gpu = "rtx-4090"
usd_per_gpu_hour = 0.25
as_of = 2026-01-01
source = "our contract"
"""


@pytest.fixture
def prices(tmp_path):
    file = tmp_path / "prices.toml"
    file.write_text(PRICES)
    return ("--prices", str(file))


def shown(capsys, monkeypatch, found):
    monkeypatch.setenv("COLUMNS", "80")
    show_recommendation(found, 5)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "\x1b" not in printed
    return printed


def test_the_view_is_as_seen_before(capsys, monkeypatch, snapshot):
    assert shown(capsys, monkeypatch, recommendation()) == snapshot


def test_the_view_of_nothing(capsys, monkeypatch, snapshot):
    nothing = recommendation(choices=(), beside_best=())
    assert shown(capsys, monkeypatch, nothing) == snapshot


def test_what_it_prints_fits_a_narrow_terminal(memplan, prices):
    result = memplan(*SMALL, *prices, "--budget", "$1/h")
    assert result.code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "0.50 USD/h at Us" in result.stdout
    assert "no measured record of rtx-4090" in " ".join(result.stdout.split())


def test_json_has_a_schema_and_all_that_was_found(memplan, prices):
    result = memplan(*SMALL, *prices, "--json")
    data = json.loads(result.stdout)
    assert (data["schema_version"], data["kind"]) == (1, "recommendation")
    best = data["choices"][data["best"]]
    assert best["price"]["as_of"] == "2026-01-01"
    assert best["throughput"]["samples_per_s"] > 0
    assert best["command"].startswith("memplan estimate gpt2 ")
    assert data["num_considered"] > data["num_estimated"] > 0
    assert data["plan"]["precision"] == "fp32"


def test_quiet_is_a_command_that_estimates_the_best(memplan, prices):
    result = memplan(*SMALL, *prices, "--format", "quiet")
    (command,) = result.stdout.splitlines()
    report = memplan(*command.split()[1:], "--json")
    assert json.loads(report.stdout)["fits"]


def test_exit_codes(memplan, prices):
    nothing = memplan(*SMALL, *prices, "--gpu-memory", "1GiB", "--format", "quiet")
    assert (nothing.code, nothing.stdout) == (1, "-\n")
    dear = memplan(*SMALL, *prices, "--budget", "0.1USD/h")
    assert dear.code == 1
    assert "over budget" in dear.stdout
    assert memplan(*SMALL, *prices, "--budget", "20EUR/h").code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpu", "t4"), "The card is searched for"),
        (("--num-gpus", "4"), "The number of GPUs is searched for"),
        (("--batch-size", "4"), "The micro-batch is searched for"),
        (("--tensor-parallel", "2"), "All GPUs are data-parallel ranks"),
        (("--gpus", "voodoo-2"), "There is no GPU named"),
        (("--allow", "magic"), "There is no trick named"),
        (("--prices", "nowhere.toml"), "nowhere.toml is no list of prices"),
        (("--executor", "dask://here:1"), "An executor runs rehearsals"),
    ],
)
def test_errors_are_a_sentence(memplan, words, said):
    result = memplan(*SMALL, *words)
    assert result.code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_it_is_written_whole_and_never_over_another(memplan, prices, tmp_path):
    file = tmp_path / "found.json"
    assert memplan(*SMALL, *prices, "-o", str(file)).code == 0
    assert json.loads(file.read_text())["kind"] == "recommendation"
    assert memplan(*SMALL, *prices, "-o", str(file)).code == 2
    assert memplan(*SMALL, *prices, "-o", str(file), "-f").code == 0


def test_files_say_the_global_batch_and_keep_what_is_trained(memplan, prices, tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text(
        "output_dir: out\nper_device_train_batch_size: 2\noptim: adafactor\n"
        "gradient_accumulation_steps: 4\ngradient_checkpointing: true\nbf16: true\n"
    )
    words = ("recommend", "gpt2", "--seq-len", "256", "--gpus", "rtx-4090", *prices)
    result = memplan(*words, "--max-gpus", "1", "--config", str(file), "--json")
    assert result.code == 0
    data = json.loads(result.stdout)
    assert data["global_batch"] == 8
    best = data["choices"][0]["plan"]
    assert (best["optim"], best["precision"]) == ("adafactor", "bf16-mixed")
    assert best["activation_checkpointing"] == "none"  # it fits without
    assert "read as" in result.stderr
    none = memplan(*words)
    assert none.code == 2
    assert "A recommendation is for a global batch" in none.stderr


def test_precision_is_searched_unless_it_is_given(memplan, prices):
    words = (*WORDS, "--gpus", "rtx-4090", "--max-gpus", "1", *prices, "--json")
    free = json.loads(memplan(*words).stdout)
    assert free["choices"][0]["plan"]["precision"] == "bf16-mixed"
    kept = json.loads(
        memplan(*words, "--precision", "tf32", "--allow=-rounding").stdout
    )
    assert kept["choices"][0]["plan"]["precision"] == "tf32"


class OnThatDay(date):
    """When the documented example was run."""

    @classmethod
    def today(cls):
        return date(2026, 11, 24)


@pytest.mark.slow
def test_the_documented_example_is_what_is_printed(memplan, monkeypatch):
    monkeypatch.setattr(import_module("memplan.recommend"), "date", OnThatDay)
    section = PAGE.read_text(encoding="utf-8").partition("## An example\n\n")[2]
    command, printed = section.split("\n\n", 1)
    words = shlex.split(command.replace("\\\n", " ").partition("memplan ")[2])
    lines = indent(memplan(*words).stdout, "    ").rstrip().splitlines()
    documented = printed.partition("\n\n* ")[0].splitlines()
    assert [line.rstrip() for line in lines] == documented
