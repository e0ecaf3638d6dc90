"""The terms of an estimate on a terminal: the lines of a component add up to it."""

from io import StringIO

import pytest
from rich.console import Console

from memplan import TrainingPlan, estimate
from memplan.report import Term
from memplan.views.explanation import show_explanation

PLAN = TrainingPlan(model="gpt2", gpu="t4", torch="2.14")


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    """The width that a user asks for."""
    monkeypatch.setenv("COLUMNS", "80")


def shown(top, terms=None):
    """What is printed."""
    report = estimate(PLAN, explains=True)
    explanation = report.explanation
    if terms is not None:
        explanation = type(explanation)(letters={}, terms=terms)
    file = StringIO()
    console = Console(file=file, width=80, highlight=False)
    show_explanation(report, explanation, top, console)
    return file.getvalue()


def term(size_bytes, name="x", source="a.py"):
    return Term(
        component="weights",
        name=name,
        formula=f"{size_bytes} B",
        bytes=size_bytes,
        source=source,
    )


def test_smaller_terms_are_one_line():
    text = shown(1, (term(2**30), term(2**29), term(2**29)))
    assert "weights  2.00 GiB = 2,147,483,648 B" in text
    assert "1.00 GiB  in 2 smaller terms (--top shows more)" in text


def test_a_single_smaller_term_is_named():
    text = shown(1, (term(2**30), term(2**29, name="the rest")))
    assert "the rest" in text
    assert "smaller" not in text


def test_a_source_is_not_said_twice_in_a_row():
    text = shown(3, (term(30), term(20), term(10, source="b.py")))
    assert (text.count("a.py"), text.count("b.py")) == (1, 1)


def test_letters_stand_above_the_terms():
    text = shown(3)
    assert text.index("vocabulary, 50257") < text.index("Weights".lower())


def test_a_pipe_has_every_line_whole(monkeypatch):
    monkeypatch.delenv("COLUMNS")
    lines = [line.strip() for line in shown(1000).splitlines()]
    for one in estimate(PLAN, explains=True).explanation.terms:
        assert one.formula in lines


def test_no_line_is_wider_than_the_terminal():
    assert max(len(line) for line in shown(1000).splitlines()) <= 80
