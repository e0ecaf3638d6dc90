"""Two reports term by term: laws of any two, and what is matched with what."""

from dataclasses import asdict, replace

import pytest
from captures import CAPTURE, MIB, capture, figures, out_of_memory_capture, step
from hypothesis import given, settings
from hypothesis import strategies as st

import memplan
from memplan import MemplanError, TrainingPlan, estimate
from memplan.diff import PEAKS, diff, find_term
from memplan.hardware import find_gpu
from memplan.report import Components, PhaseMemory, RankMemory
from memplan.running.rehearsal import Subject, out_of_memory_of, report_of

GPT2 = TrainingPlan(model="gpt2", gpu="rtx-4090", torch="2.14")
ESTIMATED = estimate(GPT2)
SUBJECT = Subject(gpu=find_gpu("rtx-4090"), plan=GPT2)
REHEARSED = report_of(capture(), SUBJECT)
FEW = settings(max_examples=60, deadline=None, derandomize=True, database=None)

sizes = st.integers(0, 2**40)
known = st.none() | sizes


@st.composite
def reports(draw):
    """A report whose figures are in order, and else anything."""
    components = Components(**{name: draw(sizes) for name in asdict(Components())})
    allocated = components.total
    requested = draw(st.integers(0, allocated))
    reserved = allocated + draw(sizes)
    peak = replace(
        REHEARSED.peak,
        requested_bytes=requested,
        allocated_bytes=allocated,
        active_bytes=draw(known),
        reserved_bytes=reserved,
        device_bytes=reserved + draw(sizes),
        step=draw(st.integers(0, 4)),
    )
    phases = draw(
        st.lists(
            st.builds(
                PhaseMemory,
                step=st.integers(1, 4),
                phase=st.sampled_from(("forward", "loss", "backward", "optimizer")),
                peak_allocated_bytes=sizes,
                end_allocated_bytes=sizes,
                peak_reserved_bytes=known,
            ),
            max_size=6,
        )
    )
    ranks = draw(
        st.lists(
            st.builds(
                RankMemory,
                rank=st.integers(0, 3),
                node=st.just(0),
                ended=st.sampled_from(("finished", "died")),
                allocated_bytes=sizes,
            ),
            max_size=4,
            unique_by=lambda rank: rank.rank,
        )
    )
    return replace(
        REHEARSED,
        source=draw(st.sampled_from(("estimated", "rehearsed", "measured"))),
        components=components,
        peak=peak,
        phases=tuple(phases),
        ranks=tuple(ranks),
        fragmentation_bytes=draw(known),
    )


def terms(difference):
    """Every term of a difference, by where it stands."""
    for name in ("peak", "components", "parts"):
        for term in getattr(difference, name):
            yield (name, term.name), term
    for name in ("phases", "marked", "ranks"):
        for group in getattr(difference, name):
            for term in group.terms:
                yield (name, group.role, group.name, term.name), term


@FEW
@given(reports())
def test_a_report_does_not_differ_from_itself(report):
    same = diff(report, report)
    assert same.differing == ()
    for _, term in terms(same):
        assert term.difference_bytes == (None if term.a_bytes is None else 0)
        assert not term.is_beyond(0)


@FEW
@given(reports(), reports())
def test_exchanging_the_reports_changes_the_sign(a, b):
    there, back = dict(terms(diff(a, b))), dict(terms(diff(b, a)))
    assert there.keys() == back.keys()
    for key, term in there.items():
        opposite = back[key].difference_bytes
        expected = None if opposite is None else -opposite
        assert term.difference_bytes == expected


@FEW
@given(reports(), reports())
def test_components_add_up_to_the_difference_of_the_allocated_peak(a, b):
    difference = diff(a, b)
    total = sum(term.difference_bytes for term in difference.components)
    assert total == difference.allocated.difference_bytes


@FEW
@given(reports(), reports())
def test_what_one_does_not_know_has_no_difference(a, b):
    for _, term in terms(diff(a, b)):
        is_known = None not in (term.a_bytes, term.b_bytes)
        assert (term.difference_bytes is not None) == is_known


@FEW
@given(reports(), reports())
def test_every_peak_is_held_against_its_own_kind(a, b):
    difference = diff(a, b)
    for kind in PEAKS:
        term = difference.term(kind)
        assert term.a_bytes == getattr(a.peak, f"{kind}_bytes")
        assert term.b_bytes == getattr(b.peak, f"{kind}_bytes")


def test_the_function_is_there_under_its_verb():
    assert memplan.diff(ESTIMATED, REHEARSED) == diff(ESTIMATED, REHEARSED)


def test_a_fraction_is_of_the_first():
    grown = replace(REHEARSED, peak=replace(REHEARSED.peak, allocated_bytes=2190 * MIB))
    assert diff(REHEARSED, grown).allocated.difference_fraction == -0.25
    assert diff(grown, REHEARSED).allocated.difference_fraction == pytest.approx(1 / 3)


def test_from_nothing_to_something_has_no_fraction_and_is_beyond_any():
    term = diff(ESTIMATED, REHEARSED).term("functionality_specific")
    grown = replace(term, b_bytes=1)
    assert grown.difference_fraction is None
    assert grown.is_beyond(1e9)
    assert term.difference_fraction == 0.0


def test_steps_are_matched_by_what_they_are():
    """The steady step of the estimate is its second, that of the run its third."""
    difference = diff(ESTIMATED, REHEARSED)
    steady = {g.name: g for g in difference.phases if g.role == "steady"}
    backward = steady["backward"].term("peak_allocated")
    assert backward.a_bytes == ESTIMATED.peak.allocated_bytes
    assert backward.b_bytes == REHEARSED.peak.allocated_bytes
    first = next(g for g in difference.phases if g.role == "first")
    assert first.term("peak_allocated").b_bytes == 2010 * MIB


def test_steps_between_the_first_and_the_steady_one_are_left_out():
    difference = diff(REHEARSED, REHEARSED)
    assert len(REHEARSED.phases) == 12
    assert [(g.role, g.name) for g in difference.phases] == [
        (role, name)
        for role in ("first", "steady")
        for name in ("forward", "loss", "backward", "optimizer")
    ]


def test_a_phase_that_one_has_alone_is_a_dash_beside_it():
    short = replace(ESTIMATED, phases=ESTIMATED.phases[:1])
    difference = diff(short, REHEARSED)
    [steady] = [
        g for g in difference.phases if (g.role, g.name) == ("steady", "forward")
    ]
    assert steady.term("peak_allocated").a_bytes is None
    assert steady.term("peak_allocated").b_bytes == 2410 * MIB


def test_an_estimate_knows_no_reserved_memory_of_a_phase():
    difference = diff(ESTIMATED, REHEARSED)
    term = difference.phases[0].term("peak_reserved")
    assert (term.a_bytes, term.b_bytes) == (None, 3000 * MIB)


def test_micro_batches_are_one_phase_at_their_highest():
    phases = [*step(3, 500)["phases"][:3], *step(3, 400)["phases"]]
    steps = [*CAPTURE["steps"][:2], {"step": 3, "phases": phases}]
    report = report_of(capture(steps=steps), SUBJECT)
    [backward] = [
        group
        for group in diff(REHEARSED, report).phases
        if (group.role, group.name) == ("steady", "backward")
    ]
    assert backward.term("peak_allocated").difference_bytes == 100 * MIB


def test_marked_stages_are_matched_by_name():
    marks = [{"name": "prompt", **figures(800, 810, 900, 90)}]
    more = [{"name": "prompt", **figures(800, 820, 900, 90)}, {**marks[0], "name": "x"}]
    a, b = (report_of(capture(marked=marked), SUBJECT) for marked in (marks, more))
    prompt, other = diff(a, b).marked
    assert prompt.term("peak_allocated").difference_bytes == 10 * MIB
    assert other.term("peak_allocated").a_bytes is None


def test_ranks_are_compared_where_both_have_them():
    def with_ranks(report, *ranks):
        listed = [
            RankMemory(rank=n, node=0, ended=ended, allocated_bytes=size)
            for n, ended, size in ranks
        ]
        return replace(report, ranks=tuple(listed))

    a = with_ranks(REHEARSED, (0, "finished", 100), (1, "finished", 90))
    b = with_ranks(REHEARSED, (0, "finished", 130), (1, "died", 0))
    assert diff(a, REHEARSED).ranks == ()
    first, second = diff(a, b).ranks
    assert first.term("allocated").difference_bytes == 30
    assert second.term("allocated").b_bytes is None


def test_differing_plans_cards_and_versions_are_listed():
    other = replace(GPT2, seq_len=512, gpu="t4", torch="2.12")
    names = [pair.name for pair in diff(ESTIMATED, estimate(other)).differing]
    assert names == ["plan seq_len", "card", "card's bytes", "torch"]


def test_a_short_version_is_that_of_a_long_one():
    names = [pair.name for pair in diff(ESTIMATED, REHEARSED).differing]
    assert "torch" not in names
    built = replace(REHEARSED, device=replace(REHEARSED.device, torch="2.14.1+cu126"))
    assert "torch" in [pair.name for pair in diff(built, REHEARSED).differing]


def test_another_card_is_no_other_plan():
    elsewhere = estimate(replace(GPT2, gpu="t4"))
    assert diff(ESTIMATED, elsewhere).is_of_one_plan
    assert not diff(ESTIMATED, estimate(replace(GPT2, seq_len=8))).is_of_one_plan


def test_a_plan_and_a_command_are_two_plans():
    ran = replace(REHEARSED, plan=None, command=("python", "train.py"))
    [plan] = [p for p in diff(ESTIMATED, ran).differing if p.name == "plan"]
    assert plan.b == "python train.py"
    assert not diff(ESTIMATED, ran).is_of_one_plan
    other = replace(ran, command=("python", "other.py"))
    assert diff(ran, ran).is_of_one_plan
    assert not diff(ran, other).is_of_one_plan


def test_where_a_run_stopped_is_no_peak():
    stopped = out_of_memory_capture()
    report = report_of(stopped, SUBJECT)
    error = out_of_memory_of(stopped)
    without = replace(report, out_of_memory=error)
    assert diff(ESTIMATED, without).without_peak == (without,)
    played_on = replace(report, out_of_memory=replace(error, needed_bytes=2**34))
    assert diff(ESTIMATED, played_on).without_peak == ()


def test_terms_are_found_by_the_names_that_are_typed():
    assert find_term("optimizer-states") == "optimizer_states"
    assert find_term("Reserved") == "reserved"
    with pytest.raises(MemplanError, match="no term named 'reservd'") as raised:
        find_term("reservd")
    assert "reserved" in raised.value.hint
