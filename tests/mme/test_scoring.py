"""Answers are taken, and scores computed, as MME's own tool does it."""

import pytest
from golden import COGNITION, COUNTS, PERCEPTION, write_golden
from hypothesis import given
from hypothesis import strategies as st

from memplan.mme.results import score_folder
from memplan.mme.scoring import Answered, as_official_text, parse_answer, score_task
from memplan.mme.tasks import NUM_IMAGES, TASKS

PARSED = {
    "yes\n": "yes",
    "no\n": "no",
    " yes\n": "yes",
    "  yes\n": "other",
    "   no\n": "other",
    "not sure": "no",
    "know": "no",
    "now": "no",
    "none": "no",
    "nope": "no",
    "a no": "no",
    "unknown": "other",
    "yesno": "yes",
    "noyes": "no",
    '"yes"': "yes",
    "**yes**": "other",
    "<s>yes": "other",
    "it's no": "other",
    "the answer is yes": "other",
    "": "other",
    "\n": "other",
}
"""Run through the tool's own parser."""


@pytest.mark.parametrize(("response", "answer"), PARSED.items(), ids=repr)
def test_a_response_is_what_the_tool_takes_it_for(response, answer):
    assert parse_answer(response) == answer
    assert parse_answer(response.upper()) == answer


@given(st.text())
def test_only_the_first_four_characters_count(response):
    assert parse_answer(response) == parse_answer(response[:4])


def test_the_published_run_has_its_published_scores_to_the_last_bit(tmp_path):
    score = score_folder(write_golden(tmp_path))
    assert score.perception == PERCEPTION
    assert score.cognition == COGNITION
    assert score.notes == ()


@pytest.mark.parametrize("name", COUNTS)
def test_every_count_of_the_published_run_is_met(name, tmp_path):
    score = score_folder(write_golden(tmp_path))
    task = next(task for task in score.tasks if task.name == name)
    tp, fn, fp, tn, other, acc_plus, points = COUNTS[name]
    assert (task.tp, task.fn, task.fp, task.tn, task.other) == (tp, fn, fp, tn, other)
    assert round(100 * task.acc_plus, 4) == acc_plus
    assert round(task.score, 4) == points
    assert task.precision == tp / (tp + fp)
    assert task.recall == tp / (tp + fn)


def test_what_the_tool_prints_is_printed(tmp_path, snapshot):
    assert as_official_text(score_folder(write_golden(tmp_path))) == snapshot


@pytest.mark.parametrize(
    ("respond", "scores"),
    [
        (lambda truth: "Yes", (500.0, 200.0)),
        (lambda truth: "No", (500.0, 200.0)),
        (lambda truth: truth, (2000.0, 800.0)),
        (lambda truth: {"yes": "No", "no": "Yes"}[truth], (0.0, 0.0)),
    ],
    ids=["all-yes", "all-no", "right", "wrong"],
)
def test_trivial_answers_have_their_scores(respond, scores):
    def images(task):
        pair = [Answered(t, parse_answer(respond(t))) for t in ("yes", "no")]
        return [tuple(pair)] * task.num_images

    found = {"perception": 0.0, "cognition": 0.0}
    for task in TASKS:
        found[task.category] += score_task(task.name, images(task)).score
    assert tuple(found.values()) == pytest.approx(scores)


def test_precision_without_a_yes_is_zero():
    score = score_task("color", [(Answered("yes", "no"), Answered("no", "no"))])
    assert (score.precision, score.recall) == (0.0, 0.0)


def test_other_is_wrong_and_in_no_cell():
    score = score_task("color", [(Answered("yes", "other"), Answered("no", "no"))])
    assert (score.acc, score.acc_plus, score.other) == (0.5, 0.0, 1)
    assert (score.tp, score.fn, score.fp, score.tn) == (0, 0, 0, 1)


def test_the_benchmark_has_its_published_size():
    assert NUM_IMAGES == 1187
    assert len(TASKS) == 14
