"""`memplan worst-batch` as a user types it."""

import json
from pathlib import Path

import pytest
from example_pages import Step, parts_of, run

PAGE = Path(__file__).parents[2] / "docs" / "worst-batch.md"
STEPS = [
    part for part in parts_of(PAGE.read_text(encoding="utf-8")) if type(part) is Step
]
QUICK = ("worst-batch", "gpt2", "--histogram", "64:8,512:1", "--torch", "2.11")


@pytest.fixture
def data(tmp_path):
    """Two sizes that vary, ids, and one record that is broken."""
    rows = [
        {"length": 40 + 7 * i, "images": i % 3, "id": f"page-{i}"} for i in range(30)
    ]
    file = tmp_path / "data.jsonl"
    lines = [json.dumps(row) for row in rows]
    file.write_text("\n".join([*lines, '{"length": "many", "images": 1}']) + "\n")
    return str(file)


def test_the_view_is_as_seen_before(memplan, data, snapshot, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = memplan(
        *("worst-batch", "openflamingo-9b", "--gpu", "a100-40gb", "--torch", "2.11"),
        *("--data", "data.jsonl", "--length-column", "length", "--id-column", "id"),
        *("--images-column", "images", "--batch-size", "4", "--skip-bad-records"),
        *("--num-gpus", "2", "--gradient-accumulation-steps", "2"),
        *("--pad-to-multiple-of", "8", "--seq-len", "200"),
    )
    assert result.code == 1
    assert result.stdout == snapshot
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "\x1b" not in result.stdout


def test_json_has_what_the_view_has(memplan, tmp_path):
    result = memplan(*QUICK, "--batch-size", "2", "--json")
    found = json.loads(result.stdout)
    assert (result.code, found["fits"]) == (0, True)
    assert found["worst"]["shape"] == {"per_device_train_batch_size": 2, "seq_len": 512}
    assert found["possible"]["expected_per_epoch"] == pytest.approx(8 / 9)
    file = tmp_path / "worst.json"
    assert memplan(*QUICK, "--batch-size", "2", "-o", str(file)).code == 0
    assert json.loads(file.read_text()) == found
    again = memplan(*QUICK, "-o", str(file))
    assert (again.code, "exists already" in again.stderr) == (2, True)


def test_exit_codes_say_whether_every_batch_fits(memplan):
    quiet = ("--format", "quiet")
    fits = memplan(*QUICK, *quiet)
    assert (fits.code, int(fits.stdout) > 0) == (0, True)
    small = memplan(*QUICK, *quiet, "--gpu-memory", "2GiB")
    assert (small.code, small.stdout) == (1, fits.stdout)


@pytest.mark.parametrize(
    "words",
    [
        ["--sampling", "group_by_length"],
        ["--train-sampling-strategy", "random", "--data-seed", "7", "--epochs", "3"],
        ["--packing", "wrapped", "--seq-len", "256"],
        ["--packing", "bfd", "--seq-len", "512"],
        ["--max-tokens-per-batch", "1024"],
        ["--drop-longer", "--seq-len", "100"],
        ["--dataloader-drop-last", "--batch-size", "4"],
    ],
    ids=" ".join,
)
def test_every_rule_is_a_flag(memplan, words):
    result = memplan(*QUICK, *words)
    assert result.code == 0
    assert result.stdout.startswith("fits")


def test_files_of_every_format_are_read(memplan, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"input_ids": [[1] * 64, [1] * 512]})
    parquet.write_table(table, tmp_path / "data.parquet")
    (tmp_path / "data.csv").write_text("length\n64\n512\n")
    printed = [
        memplan("worst-batch", "gpt2", "--data", str(tmp_path / name), "--json")
        for name in ("data.parquet", "data.csv")
    ]
    parquet, csv = (json.loads(result.stdout) for result in printed)
    assert parquet["percentiles"] == csv["percentiles"]


@pytest.mark.slow
def test_texts_are_counted_by_a_tokenizer(memplan, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    fast.save_pretrained(tmp_path / "words")
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "one two three"}\n')
    found = memplan(
        *("worst-batch", "gpt2", "--data", str(file), "--length-column", "text"),
        *("--tokenizer", str(tmp_path / "words"), "--json"),
    )
    assert json.loads(found.stdout)["data"]["largest"] == {"seq_len": 3}
    none = memplan(
        *("worst-batch", "gpt2", "--data", str(file), "--length-column", "text"),
        *("--tokenizer", str(tmp_path)),
    )
    assert (none.code, "no tokenizer in" in none.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gpt2"], "made of one dataset"),
        (["gpt2", "--data", "x.jsonl", "--histogram", "1:1"], "made of one dataset"),
        (["gpt2", "--histogram", "1:1", "--length-column", "x"], "has no columns"),
        (["gpt2", "--data", "/no/such.jsonl"], "cannot be read"),
        (["gpt2", "--histogram", "1:1", "--sampling", "sequential"], "no order"),
        (["gpt2", "--histogram", "1:1", "--sampling", "sorted"], "sorted"),
        (["gpt2", "--histogram", "5000:1"], "longer than gpt2 allows"),
        (["gpt2", "--histogram", "1:1", "--gpu", "all"], "on one card"),
        (["no-such", "--histogram", "1:1"], "no model named"),
        (["--histogram", "1:1"], "no model that batches are for"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_one_sentence(memplan, words, said):
    result = memplan("worst-batch", *words)
    assert result.code == 2
    assert said in result.stderr


def test_a_broken_record_is_named(memplan, data):
    result = memplan("worst-batch", "gpt2", "--data", data)
    assert result.code == 2
    assert f"{data}, record 31, field length: is a text" in result.stderr


@pytest.mark.slow
def test_the_page_prints_what_is_printed_today(tmp_path):
    assert STEPS
    for step in STEPS:
        assert run(step.command, tmp_path) == step.printed, step.command
