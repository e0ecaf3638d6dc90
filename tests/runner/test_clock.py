"""Steps that nobody watches are timed, and one more is counted."""

import pytest

pytest.importorskip("torch")

import torch
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader

from memplan.runner import clock as clocks
from memplan.runner.clock import Clock, Waiting
from memplan.runner.flops import Flops
from memplan.runner.settings import Settings


class FakeLaps:
    """Each lap takes as long as the clock on the wall says."""

    now_ms = 0.0

    def __init__(self):
        self.marks = []

    @property
    def has_begun(self):
        return bool(self.marks)

    @property
    def laps_ms(self):
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return [last - first for first, last in pairs]

    def mark(self):
        self.marks.append(FakeLaps.now_ms)

    def finish(self):
        pass


class FakeCounters:
    """Nothing is allocated."""

    def __init__(self):
        self.calls = []

    def attach(self):
        self.calls.append("attach")

    def detach(self):
        self.calls.append("detach")

    def take(self):
        self.calls.append("take")
        return {}


class FakeWaiting(Waiting):
    """Waited for as long as it is told."""

    waited_s = 0.0

    def take(self):
        waited, FakeWaiting.waited_s = FakeWaiting.waited_s, 0.0
        return waited


@pytest.fixture
def counters(monkeypatch):
    counters = FakeCounters()
    monkeypatch.setattr(clocks, "Laps", FakeLaps)
    monkeypatch.setattr(clocks, "COUNTERS", counters)
    monkeypatch.setattr(clocks, "Waiting", FakeWaiting)
    FakeLaps.now_ms = FakeWaiting.waited_s = 0.0
    return counters


@pytest.fixture
def settings(tmp_path):
    def make(**given):
        return Settings(folder=tmp_path, steps=3, **given)

    return make


class Done(Exception):  # noqa: N818
    """All steps are over."""


def done():
    raise Done


def optimizer():
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    return torch.optim.SGD([weight], lr=0.1)


def run(clock, optimizers, times_ms, waits_s=()):
    """Steps that take so long, and wait so long for their batches."""
    waits = [*waits_s, *[0.0] * len(times_ms)]
    clock.attach()
    try:
        for time_ms, wait_s in zip(times_ms, waits, strict=False):
            FakeLaps.now_ms += time_ms
            FakeWaiting.waited_s += wait_s
            for one in optimizers:
                one.step()
    except Done:
        return True
    finally:
        clock.detach()
    return False


def test_warm_up_steps_do_not_count(counters, settings):
    clock = Clock(settings(timed_steps=3, warmup_steps=2), 1, done)
    is_done = run(clock, [optimizer()], [900, 90, 10, 11, 12, 99], [5, 4, 0.001, 0, 0])
    assert is_done
    assert clock.content(0) == {
        "step_ms": [10, 11, 12],
        "stall_ms": [1, 0, 0],
        "warmup_steps": 2,
        "flops_per_step": None,
        "peak_allocated_bytes": None,
    }
    assert counters.calls == ["attach", "take", "take", "detach"]


def test_of_optimizers_that_take_turns_a_round_is_a_step(counters, settings):
    clock = Clock(settings(timed_steps=2, warmup_steps=1), 2, done)
    assert run(clock, [optimizer(), optimizer()], [500, 20, 30])
    assert clock.content(0)["step_ms"] == [20, 30]


def test_a_program_that_ends_earlier_leaves_what_there_is(counters, settings):
    clock = Clock(settings(timed_steps=5, warmup_steps=1, counts_flops=True), 1, done)
    assert not run(clock, [optimizer()], [500, 20, 30])
    content = clock.content(0)
    assert content["step_ms"] == [20, 30]
    assert content["flops_per_step"] is None


def test_nothing_is_called_once_it_is_over(counters, settings):
    hooks = optimizers._global_optimizer_post_hooks
    before, iterator = len(hooks), torch.utils.data.dataloader._BaseDataLoaderIter
    original = iterator.__next__
    clock = Clock(settings(timed_steps=1, warmup_steps=1), 1, done)
    clock.attach()
    assert len(hooks) == before + 1
    assert iterator.__next__ is not original
    clock.detach()
    assert len(hooks) == before
    assert iterator.__next__ is original


class Slow(torch.utils.data.Dataset):
    """Takes its time, by a clock that the test sets."""

    def __init__(self, clock):
        self.clock = clock

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.clock.append(self.clock[-1] + 0.25)
        return index


def test_waiting_for_batches_is_counted(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[-1])
    waiting = Waiting()
    waiting.attach()
    waited = []
    for _ in DataLoader(Slow(now), batch_size=2):
        waited.append(waiting.take())
        now.append(now[-1] + 10)  # a step
    waiting.detach()
    assert waited == [0.5, 0.5]
    assert list(DataLoader(Slow(now), batch_size=4))
    assert waiting.take() == 0


def linear(count):
    model = torch.nn.Linear(32, 16, bias=False)
    for _ in range(count):
        model(torch.randn(8, 32)).sum().backward()


def test_operations_are_those_of_the_formulas():
    flops = Flops()
    flops.begin()
    linear(2)
    flops.end()
    linear(1)
    forward = 2 * 8 * 32 * 16
    assert flops.total == 2 * (forward + forward)  # the input wants no gradient
    assert flops.reason == ""


def test_a_formula_that_fails_costs_the_figure_and_no_more(monkeypatch):
    def fails(*args, **kwargs):
        raise ValueError("no shape")

    from torch.utils.flop_counter import flop_registry

    monkeypatch.setitem(flop_registry, torch.ops.aten.mm, fails)
    flops = Flops()
    flops.begin()
    linear(1)
    flops.end()
    assert flops.total is None
    assert "no shape" in flops.reason


def test_a_step_that_ends_within_another_mode_is_not_counted():
    flops, other = Flops(), Flops()
    flops.begin()
    with other:
        flops.end()
    assert flops.total is None
    assert "another place" in flops.reason
    torch.utils._python_dispatch._pop_mode()


def test_within_the_backward_pass_nothing_begins():
    flops = Flops()
    weight = torch.ones(2, requires_grad=True)
    weight.register_hook(lambda gradient: flops.begin())
    weight.sum().backward()
    flops.end()
    assert flops.total is None
    assert "backward" in flops.reason
