"""Who looks at plans: what is kept, what fails, and what a card cannot say."""

from dataclasses import replace

import pytest
from record_files import plan_of, report_of

from memplan.campaign.attempt import Answer
from memplan.comparing import engines
from memplan.comparing.engines import (
    Estimates,
    Measurements,
    Rehearsals,
    engine_of,
    jobs_here,
)
from memplan.errors import ProgramError
from memplan.estimate import estimate, needed_bytes
from memplan.hardware import find_gpu
from memplan.report import Components, OutOfMemory
from memplan.running.apart import Apart
from memplan.running.card_at_hand import CardAtHand
from memplan.units import GiB
from memplan.validation.replay import Replays

MEASURED = report_of(plan_of(), source="measured")
ENDED = replace(
    MEASURED,
    fits=False,
    out_of_memory=OutOfMemory(
        step=1,
        phase="backward",
        module="",
        line="",
        asked_bytes=GiB,
        segment_bytes=GiB,
        free_bytes=0,
        allocated_bytes=GiB,
        reserved_bytes=GiB,
        message="CUDA out of memory.",
        components=Components(),
        were_changes_tried=False,
    ),
)


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A card at hand that gives these answers; what is asked of it is counted."""

    class Played:
        def __init__(self, entry, folder):
            Played.asked.append(entry.plan)

        def let_in(self):
            pass

        def wait(self, seconds):
            return Played.answers.pop(0)

        def stop(self):
            pass

    Played.answers, Played.asked = [], []
    here = CardAtHand(
        gpu=find_gpu("rtx-4090"), is_catalogued=True, is_virtual=False, num_devices=1
    )
    monkeypatch.setattr(engines, "card_at_hand", lambda interpreter: here)
    monkeypatch.setattr(engines, "Attempt", Played)
    monkeypatch.setattr(engines, "check", lambda plan: None)
    return Played


def looked_at(engine, plan):
    [(asked, found)] = engine.look([plan])
    assert asked == plan
    return found


def test_a_measurement_is_made_once(card, tmp_path):
    card.answers = [Answer(ended="finished", report=MEASURED)]
    engine = Measurements(tmp_path / "rehearsals")
    assert looked_at(engine, plan_of()) == MEASURED
    assert looked_at(Measurements(tmp_path / "rehearsals"), plan_of()) == MEASURED
    assert len(card.asked) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "It took longer than 900 s"),
        (Answer(ended="failed", error="its process was killed by SIGSEGV"), "SIGSEGV"),
    ],
)
def test_what_cannot_be_measured_is_a_reason(card, tmp_path, answer, said):
    card.answers = [answer]
    found = looked_at(Measurements(tmp_path / "rehearsals"), plan_of())
    assert said in found
    assert not (tmp_path / "measurements").exists()


def test_what_runs_out_of_memory_is_rehearsed_for_its_need(card, tmp_path, monkeypatch):
    card.answers = [Answer(ended="out_of_memory", report=ENDED)]
    other = report_of(plan_of(), source="rehearsed")
    monkeypatch.setattr(Replays, "rehearse", lambda self, plan: other)
    found = looked_at(Measurements(tmp_path / "rehearsals"), plan_of())
    assert found.out_of_memory.needed_bytes == other.peak.device_bytes
    assert "known from a rehearsal" in found.assumptions[-1]


def test_where_nothing_can_be_rehearsed_the_need_is_estimated(
    card, tmp_path, monkeypatch
):
    def refuse(self, plan):
        raise ProgramError("There is no compiler.", hint="Install one.")

    card.answers = [Answer(ended="out_of_memory", report=ENDED)]
    monkeypatch.setattr(Replays, "rehearse", refuse)
    found = looked_at(Measurements(tmp_path / "rehearsals"), plan_of())
    assert found.out_of_memory.needed_bytes == needed_bytes(ENDED.plan)
    assert "known from an estimate" in found.assumptions[-1]


def test_rehearsals_are_asked_for_at_once(tmp_path, monkeypatch):
    plans = [plan_of(per_device_train_batch_size=size) for size in (1, 2, 3)]
    asked = []

    def run(self, words, environment):
        asked.append(words)
        raise ProgramError("It failed.", hint="")

    monkeypatch.setattr(engines, "check", lambda plan: None)
    monkeypatch.setattr(Apart, "run", run)
    found = dict(Rehearsals(jobs=3, folder=tmp_path).look(plans))
    assert found == dict.fromkeys(plans, "It failed")
    assert len(asked) == 3
    assert all("--no-try-changes" in words for words in asked)


def test_an_estimate_is_the_verb_s_own():
    assert looked_at(Estimates(), plan_of()) == estimate(plan_of())
    too_long = looked_at(Estimates(), plan_of(seq_len=10**6))
    assert "longer than" in too_long


def test_there_is_room_for_one_rehearsal_at_least(monkeypatch):
    assert jobs_here() >= 1
    monkeypatch.setattr(engines, "_free_bytes", lambda: 0)
    assert jobs_here() == 1
    monkeypatch.setattr(engines, "_free_bytes", lambda: 9 * GiB)
    assert jobs_here() <= 2


def test_engines_have_names(card):
    assert [engine_of(by).by for by in ("estimate", "rehearse", "profile")] == [
        "estimate",
        "rehearse",
        "profile",
    ]
