"""A run keeps every answer once, whenever it is killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from echo import SETTINGS, Echo

from memplan.errors import DataError
from memplan.mme.benchmark import read_benchmark
from memplan.mme.evaluation import evaluate
from memplan.mme.journal import Journal
from memplan.mme.miniature import write_miniature
from memplan.mme.results import score_folder
from memplan.mme.tasks import TASKS

ENDS_ITSELF = Path(__file__).parent / "killed_run.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_miniature(tmp_path_factory.mktemp("mme") / "data", num_images=3)


def run(data, out, answerer=None, *, batch_size=4, force=False, **more):
    answerer = answerer or Echo()
    with Journal(out, SETTINGS, force=force) as journal:
        benchmark = read_benchmark(data)
        evaluate(benchmark, answerer, journal, batch_size=batch_size, **more)
    return answerer


def answers_in(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.txt")}


@pytest.fixture
def unbroken(data, tmp_path):
    out = tmp_path / "unbroken"
    run(data, out)
    return answers_in(out)


def test_every_question_is_answered_and_scored(data, tmp_path):
    answerer = run(data, tmp_path / "out")
    asked = [question for batch in answerer.batches for question in batch]
    assert len(asked) == 14 * 6
    score = score_folder(tmp_path / "out")
    assert (score.perception, score.cognition) == (500.0, 200.0)
    assert [task.num_images for task in score.tasks] == [3] * 14


def test_right_answers_have_the_full_score(data, tmp_path):
    class Knowing:
        def __init__(self):
            self.truths = iter(
                q.truth
                for questions in read_benchmark(data).values()
                for q in questions
            )

        def answer(self, images, questions):
            return [next(self.truths) for _ in questions]

    run(data, tmp_path / "out", Knowing())
    score = score_folder(tmp_path / "out")
    assert (score.perception, score.cognition) == (2000.0, 800.0)


def test_progress_is_told(data, tmp_path):
    told = []
    run(data, tmp_path / "out", progress=lambda *where: told.append(where))
    assert told[:3] == [("existence", 0), ("existence", 4), ("existence", 6)]
    assert told[-1] == ("code_reasoning", 6)


def test_a_finished_run_asks_nothing_again(data, tmp_path, unbroken):
    again = run(data, tmp_path / "unbroken")
    assert again.batches == []
    assert answers_in(tmp_path / "unbroken") == unbroken


@pytest.mark.parametrize("moment", ["asked", "half-written", "written", "whole-line"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_killed_run_goes_on_as_if_unbroken(data, tmp_path, unbroken, moment, batch):
    out = tmp_path / "killed"
    killed = subprocess.run(
        [sys.executable, ENDS_ITSELF, data, out, moment, str(batch)], timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    before = answers_in(out)
    answerer = run(data, out)
    assert answers_in(out) == unbroken
    num_kept = sum(len(text.splitlines()) for text in before.values())
    num_asked = sum(map(len, answerer.batches))
    # No more is asked again than the batch that was being written.
    assert 14 * 6 - num_kept <= num_asked <= 14 * 6 - num_kept + 4


@pytest.mark.parametrize("cut", range(1, 200, 13))
def test_a_file_cut_anywhere_is_repaired(data, tmp_path, unbroken, cut):
    out = tmp_path / "unbroken"
    file = out / "scene.txt"
    file.write_bytes(file.read_bytes()[:-cut])
    run(data, out)
    assert answers_in(out) == unbroken


def test_another_batch_size_goes_on_too(data, tmp_path):
    out = tmp_path / "out"
    subprocess.run([sys.executable, ENDS_ITSELF, data, out, "written", "3"], timeout=60)
    run(data, out, batch_size=5)
    assert score_folder(out).perception == 500.0


def test_a_run_with_other_settings_is_not_gone_on_with(data, tmp_path):
    run(data, tmp_path / "out")
    with pytest.raises(DataError, match="model was 'echo', now it is 'other'"):
        Journal(tmp_path / "out", {"model": "other"})


def test_force_begins_anew(data, tmp_path):
    run(data, tmp_path / "out")
    again = run(data, tmp_path / "out", force=True)
    assert sum(map(len, again.batches)) == 14 * 6


def test_settings_may_change_before_the_first_answer(tmp_path):
    Journal(tmp_path / "out", {"model": "one"}).__exit__(None, None, None)
    with Journal(tmp_path / "out", {"model": "other"}):
        pass
    settings = json.loads((tmp_path / "out" / "run.json").read_text())
    assert settings == {"model": "other"}


def test_foreign_files_are_not_written_to(tmp_path):
    (tmp_path / "color.txt").write_text("mine")
    with pytest.raises(DataError, match=r"no run\.json"):
        Journal(tmp_path, SETTINGS)
    assert (tmp_path / "color.txt").read_text() == "mine"


@pytest.mark.parametrize("text", ["{", "[]", "null", "\0"])
def test_damaged_settings_are_refused(data, tmp_path, text):
    run(data, tmp_path / "out")
    (tmp_path / "out" / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json is damaged"):
        Journal(tmp_path / "out", SETTINGS)


def test_answers_to_another_benchmark_are_not_gone_on_with(data, tmp_path):
    run(data, tmp_path / "out")
    other = write_miniature(tmp_path / "other", num_images=3, seed=1)
    with pytest.raises(DataError, match=r"line \d+: is no answer to this benchmark"):
        run(other, tmp_path / "out")


def test_two_runs_do_not_share_a_folder(tmp_path):
    with (
        Journal(tmp_path / "out", SETTINGS),
        pytest.raises(DataError, match="Another run is writing"),
    ):
        Journal(tmp_path / "out", SETTINGS)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        Journal(tmp_path / "out", SETTINGS)


def test_a_full_disk_keeps_what_is_there(data, tmp_path, monkeypatch, unbroken):
    import memplan.mme.journal as journal

    writes = iter(range(100))

    def write(descriptor, content):
        if next(writes) == 5:
            real(descriptor, content[:10])
            raise OSError(28, "No space left on device")
        return real(descriptor, content)

    real = journal.os.write
    monkeypatch.setattr(journal.os, "write", write)
    with pytest.raises(DataError, match="No space left"):
        run(data, tmp_path / "full")
    monkeypatch.setattr(journal.os, "write", real)
    run(data, tmp_path / "full")
    assert answers_in(tmp_path / "full") == unbroken


def test_every_subtask_has_a_file(unbroken):
    assert sorted(unbroken) == sorted(f"{task.name}.txt" for task in TASKS)
