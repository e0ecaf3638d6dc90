"""`memplan fit` and `memplan config` as a user types them."""

import json
import re
from pathlib import Path

import pytest

from memplan.cli.fit import field_of
from memplan.inputs.configs.reading import FORMATS, read_files
from memplan.searching.looking import FIELDS

PAGE = Path(__file__).parents[2] / "docs" / "fit.md"
EXAMPLE = re.compile(
    r"^    \$ memplan ((?:fit|config) .*)\n((?:    [^$].*\n|\n(?=    [^$]))+)", re.M
)
GPT2 = ("fit", "gpt2", "--gpu", "rtx-4090")
TRAIN = """\
# the run
model_name_or_path: openai-community/gpt2
per_device_train_batch_size: 64  # too many
gradient_accumulation_steps: 1
bf16: true
gradient_checkpointing: false
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "train.yaml"
    file.write_text(TRAIN)
    return file


def test_the_examples_of_its_page_print_what_the_page_says(memplan, train):
    examples = EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(examples) == 3
    for words, printed in examples:
        result = memplan(*words.split())
        assert result.stdout == re.sub("^    ", "", printed, flags=re.M)


def test_it_is_eighty_columns_wide_and_ends_with_the_next_command(memplan):
    result = memplan(*GPT2, "--max", "batch_size")
    assert result.code == 0
    assert result.stdout.startswith("fits  gpt2 on rtx-4090: up to")
    assert max(map(len, result.stdout.splitlines())) <= 80
    value = memplan(*GPT2, "--max", "batch_size", "--format", "quiet").stdout.strip()
    last = " ".join(result.stdout.split())
    assert f"memplan rehearse gpt2 --per-device-train-batch-size {value}" in last


def test_json_is_public(memplan, tmp_path):
    file = tmp_path / "fit.json"
    result = memplan(*GPT2, "--max", "seq-len", "--json")
    data = json.loads(result.stdout)
    assert (data["schema_version"], data["kind"]) == (1, "fit")
    assert (data["value"], data["stopped_by"]) == (1024, "model")
    assert memplan(*GPT2, "--max", "seq-len", "-o", str(file)).code == 0
    assert json.loads(file.read_text()) == data
    assert memplan(*GPT2, "--max", "seq-len", "-o", str(file)).code == 2


def test_nothing_fits(memplan):
    words = ("fit", "llama-2-7b", "--gpu", "rtx-4090", "--max", "batch-size")
    result = memplan(*words)
    assert result.code == 1
    assert "not even per_device_train_batch_size 1" in result.stdout
    assert memplan(*words, "--format", "quiet").stdout == "-\n"


def test_limits_are_named(memplan):
    by_model = memplan(*GPT2, "--max", "seq_len")
    assert "longer than gpt2 allows (1024)" in by_model.stdout
    by_user = memplan(*GPT2, "--max", "batch-size", "--up-to", "4")
    assert "All values up to 4 fit" in by_user.stdout


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ("batch-size", "per_device_train_batch_size"),
        ("micro_batch_size", "per_device_train_batch_size"),
        ("cutoff-len", "seq_len"),
        ("--max_length", "seq_len"),
        ("lora-r", "lora_rank"),
        ("no-such", "no-such"),
        *((field, field) for field in FIELDS),
        *((field.replace("_", "-"), field) for field in FIELDS),
    ],
)
def test_fields_have_the_names_of_flags(typed, field):
    assert field_of(typed) == field


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max", "batchsize"], "no field to make larger"),
        (["--max", "lora-rank"], "changes nothing"),
        (["--max", "image-size"], "takes no images"),
        (["--max", "seq-len", "--tricks", "lorra"], "no trick named"),
        (["--max", "seq-len", "--gpu", "all"], "on one card"),
        (["--max", "seq-len", "--write"], "no files to change"),
        (["--max", "seq-len", "--patch", "x.diff"], "no files to change"),
        (["--max", "seq-len", "--up-to", "0"], "greater than or equal to 1"),
        ([], "--max"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_one_sentence(memplan, words, said):
    result = memplan("fit", "gpt2", *words)
    assert result.code == 2
    assert said in " ".join(result.stderr.split())


def test_without_a_model_there_is_nothing_to_fit(memplan):
    assert "nothing to fit" in memplan("fit", "--max", "seq-len").stderr


class TestFiles:
    WORDS = (
        "fit",
        "--config",
        "train.yaml",
        "--gpu",
        "rtx-4090",
        "--max",
        "batch-size",
    )

    def test_are_shown_changed_and_stay_as_they_are(self, memplan, train):
        result = memplan(*self.WORDS)
        value = memplan(*self.WORDS, "--format", "quiet").stdout.strip()
        assert f"+per_device_train_batch_size: {value}  # too many\n" in result.stdout
        assert "+gradient_checkpointing: true\n" in result.stdout
        assert train.read_text() == TRAIN

    def test_become_a_patch(self, memplan, train):
        result = memplan(*self.WORDS, "--patch", "fit.diff", "--json")
        patch = Path("fit.diff").read_text()
        assert patch == json.loads(result.stdout)["patch"]
        assert patch.startswith("--- train.yaml\n+++ train.yaml\n@@ ")
        assert train.read_text() == TRAIN
        again = memplan(*self.WORDS, "--patch", "fit.diff")
        assert (again.code, train.read_text()) == (2, TRAIN)

    def test_are_written_where_that_is_asked(self, memplan, train):
        flags = ("--activation-checkpointing", "full", "--seq-len", "512")
        result = memplan(*self.WORDS, *flags, "--write", "--format", "quiet")
        assert "train.yaml changed" in result.stderr
        assert "no file has a key for --seq-len 512" in result.stderr
        assert train.read_text() == TRAIN.replace(
            "64  # too many", f"{result.stdout.strip()}  # too many"
        ).replace("gradient_checkpointing: false", "gradient_checkpointing: true")
        said = read_files([train]).fields
        assert said["per_device_train_batch_size"] == int(result.stdout)
        assert said["activation_checkpointing"] == "full"
        once_more = memplan(*self.WORDS, *flags, "--write", "--format", "quiet")
        assert "The files stay as they are." in once_more.stderr

    def test_are_not_touched_where_nothing_fits(self, memplan, train):
        result = memplan(*self.WORDS, "--gpu-memory", "1GiB", "--write")
        assert result.code == 1
        assert "nothing fits" in result.stderr
        assert train.read_text() == TRAIN


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_a_plan_becomes_a_file_of_every_tool(memplan, tmp_path, kind):
    file = tmp_path / f"plan{kind.suffix}"
    words = ("config", "llama-2-7b", "--trainable", "lora", "--quantization", "nf4")
    result = memplan(*words, "--to", kind.name)
    assert result.code == 0
    assert memplan(*words, "--to", kind.name, "-o", str(file)).code == 0
    assert file.read_text() == result.stdout
    assert read_files([file]).files[0].format is kind


def test_what_a_tool_has_no_key_for_is_told(memplan):
    result = memplan("config", "gpt2", "--batch-size", "4", "--to", "accelerate")
    said = "accelerate config has no key for --per-device-train-batch-size 4\n"
    assert result.stderr == said
    assert (
        "Did you mean deepspeed?"
        in memplan("config", "gpt2", "--to", "deepspee").stderr
    )
