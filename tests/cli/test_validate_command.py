"""`memplan validate` as a user types it."""

import json
from importlib import import_module

import pytest
from record_files import keep, out_of_memory_on, plan_of, record_of

from memplan.errors import ProgramError
from memplan.validation.records import measured_folder


@pytest.fixture
def records(tmp_path):
    """Some near, some far, one rehearsed, one that failed, one that is none."""
    folder = tmp_path / "records"
    keep(
        folder / "rtx-4090",
        plain=record_of(plan_of(), factor=1.004),
        full=record_of(
            plan_of(activation_checkpointing="full", seq_len=512), factor=1.08
        ),
        pure=record_of(plan_of(precision="bf16-pure"), factor=0.97),
        ended=out_of_memory_on(plan_of(per_device_train_batch_size=512)),
        played=record_of(plan_of(), source="rehearsed"),
        broke=record_of(plan_of(), ended="failed", report=None, error="no [network]"),
    )
    (folder / "cut.json").write_text("{")
    return folder


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """memplan's own folder of records is not there."""
    module = import_module("memplan.validation.records")
    monkeypatch.setattr(module, "measured_folder", lambda: tmp_path / "no-such-folder")


def test_the_table_is_as_seen_before(memplan, records, snapshot, monkeypatch):
    monkeypatch.chdir(records)
    out = memplan("validate", ".")
    assert out.code == 0
    assert max(len(line) for line in out.stdout.splitlines()) <= 80
    assert out.stdout == snapshot


def test_no_records_are_one_sentence_and_no_failure(memplan, nothing):
    out = memplan("validate")
    assert out.code == 0
    assert out.stdout.startswith("There is no measured record here")
    assert len(out.stdout.splitlines()) == 1


def test_without_records_a_gate_cannot_tell(memplan, nothing):
    out = memplan("validate", "--fail-over", "5%")
    assert out.code == 2
    assert "--fail-over cannot tell" in out.stderr


def test_memplan_s_own_folder_is_looked_into_by_default(memplan, records, monkeypatch):
    module = import_module("memplan.validation.records")
    monkeypatch.setattr(module, "measured_folder", lambda: records)
    assert memplan("validate").stdout.startswith("4 measured records")


def test_memplan_s_own_folder_is_beside_the_data():
    assert measured_folder().parent.joinpath("gpus", "t4.toml").is_file()


def test_a_gate_is_on_the_worst_under_estimate(memplan, records):
    assert memplan("validate", str(records), "--fail-over", "8%").code == 0
    out = memplan("validate", str(records), "--fail-over", "5%")
    assert out.code == 1
    [line] = out.stderr.splitlines()
    assert line.startswith("1 of 4 predictions are too low by more than the 5%")
    assert "-7.4" in line
    assert "full on rtx-4090" in line


def test_a_run_that_was_said_to_fit_and_did_not_fails_any_gate(memplan, tmp_path):
    keep(tmp_path, missed=out_of_memory_on(plan_of()))
    out = memplan("validate", str(tmp_path), "--fail-over", "90%")
    assert out.code == 1
    assert "ran out of memory, said to fit" in out.stderr


def test_json_has_every_case_with_its_command(memplan, records):
    data = json.loads(memplan("validate", str(records), "--json").stdout)
    assert data["reference"] == "measured"
    assert data["cases"][0]["entry"] == "full"
    assert all(case["command"].startswith("memplan estimate") for case in data["cases"])
    assert data["errors"]["estimated"]["allocated"]["num_cases"] == 3
    assert len(data["skipped"]) == 3


def test_quiet_prints_the_worst_under_estimate(memplan, records):
    out = memplan("validate", str(records), "--format", "quiet")
    assert float(out.stdout) == pytest.approx(1 / 1.08 - 1, abs=1e-5)


def test_several_folders_are_one(memplan, records, tmp_path):
    more = keep(tmp_path / "more", other=record_of(plan_of(gpu="t4")))
    data = json.loads(memplan("validate", str(records), str(more), "--json").stdout)
    assert data["num_records"] == 5


def test_rehearsed_records_are_labelled_wherever_they_stand(memplan, records, tmp_path):
    page = tmp_path / "page.md"
    words = ("validate", str(records), "--against", "rehearsed", "--write", str(page))
    out = memplan(*words)
    assert out.stdout.startswith("1 rehearsed, not measured, record")
    assert "; rehearsed 2026-11-23" in out.stdout
    assert "; measured" not in out.stdout
    text = page.read_text()
    assert "**Nothing here is measured.**" in text
    assert "## Rehearsed records" in text


def test_rehearsals_are_told_on_stderr_and_kept_where_it_is_said(
    memplan, records, tmp_path, monkeypatch
):
    def refuse(plan, *how):
        raise ProgramError("There is no compiler.", hint="x")

    replay = import_module("memplan.validation.replay")
    monkeypatch.setattr(replay, "rehearsed_apart", refuse)
    folder = tmp_path / "kept"
    out = memplan("validate", str(records), "--rehearse", "--keep", str(folder))
    assert "rehearsed 4 of 4: " in out.stderr
    assert "not rehearsed: There is no compiler." in out.stdout
    assert "rehearsed 4" not in out.stdout


def test_markup_in_names_stays_text(memplan, tmp_path):
    keep(tmp_path, **{"[bold]x": record_of(plan_of())})
    (tmp_path / "[red]cut.json").write_text("{")
    out = memplan("validate", str(tmp_path))
    assert "[bold]x on rtx-4090" in out.stdout
    assert "[red]cut.json" in out.stdout.replace("\n  ", "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("missing",), "missing is no folder"),
        (("{records}", "--fail-over", "-1%"), "0 or more"),
        (("{records}", "--write", "no/such/page.md"), "cannot be written"),
        (("{records}", "--write", "."), "Is a directory"),
    ],
)
def test_mistakes_get_one_sentence_one_hint_and_exit_code_two(
    memplan, records, words, says
):
    out = memplan("validate", *(word.format(records=records) for word in words))
    assert (out.code, out.stdout) == (2, "")
    assert says in out.stderr
