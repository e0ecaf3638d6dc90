"""Steps and phases, made of what PyTorch tells.

    setup -> [ forward -> loss -> backward ]* -> optimizer -> [ forward -> ...
                 `-- micro-batches --'           `- until the next forward -'

A step ends with an optimizer step; the forward pass that follows begins the next one.
Nothing here knows PyTorch: `take` answers what the counters reached since it was asked
last, and every stretch of time owns what was reached within it.
"""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

from memplan.runner.counters import Reading

SETUP = "setup"
FORWARD = "forward"
LOSS = "loss"
BACKWARD = "backward"
OPTIMIZER = "optimizer"
EVALUATION = "evaluation"


@dataclass(slots=True)
class Stretch:
    """A stretch of time, and what each device reached in it."""

    name: str
    readings: dict[int, Reading] = field(default_factory=dict)
    begins: int = 0
    """The number of the allocator's history at which it begins, and ends."""
    ends: int | None = None

    def add(self, readings: dict[int, Reading]) -> None:
        """It goes on, up to these readings."""
        for device, reading in readings.items():
            before = self.readings.get(device)
            self.readings[device] = before.and_then(reading) if before else reading


@dataclass(slots=True)
class Step:
    """One step; the optimizers that have stepped in it, and how often."""

    number: int
    phases: list[Stretch] = field(default_factory=list)
    optimizers: Counter[int] = field(default_factory=Counter)
    first_update: int = 0
    """Of all updates of the program, the first that fell into this step."""


CALLED = ("_take", "_note_change")
"""What a timeline calls: no part of what it knows."""


class Timeline:
    """Where the program is, and where it has been."""

    def __init__(
        self,
        take: Callable[[], dict[int, Reading]],
        note_change: Callable[[int, str], int] = lambda step, phase: 0,
    ) -> None:
        self._take = take
        self._note_change = note_change
        self.setup = Stretch(SETUP)
        self.steps: list[Step] = []
        self.marked: list[Stretch] = []
        self.now = self.setup
        self._marks: list[Stretch] = []
        self.unfinished: Step | None = None
        """What was begun of a step when the program ended."""
        self._has_stepped = False
        """An optimizer stepped in the stretch that is now."""
        self._num_updates = 0
        self._born: dict[int, int] = {}
        """How many updates there had been when an optimizer was made."""

    @property
    def phase(self) -> str:
        return self.now.name

    @property
    def step(self) -> Step | None:
        return self.steps[-1] if self.steps else None

    @property
    def step_number(self) -> int:
        """The step that is now, or was last; 0 before the first."""
        return len(self.steps)

    @property
    def is_between_steps(self) -> bool:
        """Whether the next forward or backward pass begins a step.

        Where optimizers take turns, all of them step first, or one for a second time.
        """
        step = self.step
        if step is None:
            return True
        if not step.optimizers or len(self.steps) < 2:
            return bool(step.optimizers)
        takers = self.steps[-2].optimizers
        repeats = any(count > 1 for count in step.optimizers.values())
        return len(takers) < 2 or repeats or set(takers) <= set(step.optimizers)

    def advance(self) -> None:
        """What was reached since the last time belongs to all that is open now."""
        readings = self._take()
        for stretch in (self.now, *self._marks):
            stretch.add(readings)

    # What PyTorch tells

    def forward_begins(self) -> None:
        """A module with parameters is called, gradients on."""
        is_new = self.is_between_steps
        self._begin_step_if_due()
        if is_new or self.phase != FORWARD:
            self._move(FORWARD)

    def loss_begins(self) -> None:
        """A loss function is entered, or the model's forward pass is over."""
        if self.phase == FORWARD:
            self._move(LOSS)

    def backward_begins(self) -> None:
        self._begin_step_if_due()
        self._rejoin()
        if self.phase != BACKWARD:
            self._move(BACKWARD)

    def backward_ends(self) -> None:
        """Whether what follows is the optimizer's is known when it steps."""
        self._move(OPTIMIZER)

    def optimizer_made(self, optimizer: int) -> None:
        self._born[optimizer] = self._num_updates

    def optimizer_begins(self) -> None:
        if self.phase in (FORWARD, LOSS):
            self._move(OPTIMIZER)

    def optimizer_ends(self, optimizer: int) -> None:
        step = self.step
        if step is None:
            return
        if self.phase == OPTIMIZER:
            self._has_stepped = True
        if self._takes_turns(step, optimizer):
            self.steps.pop()
            self.steps[-1].phases += step.phases
            step = self.steps[-1]
            self._note_change(self.step_number, self.phase)
        if not step.optimizers:
            step.first_update = self._num_updates
        step.optimizers[optimizer] += 1
        self._num_updates += 1

    def evaluation_begins(self) -> None:
        """A module is called in evaluation mode, gradients off."""
        if self.phase != EVALUATION and self.is_between_steps:
            self._move(EVALUATION)

    # What the user marks

    def begin_mark(self, name: str) -> None:
        self.advance()
        begins = self._note_change(self.step_number, self.phase)
        stretch = Stretch(name, begins=begins)
        self.marked.append(stretch)
        self._marks.append(stretch)

    def end_mark(self, name: str) -> None:
        self.advance()
        for stretch in reversed(self._marks):
            if stretch.name == name:
                stretch.ends = self._note_change(self.step_number, self.phase)
                self._marks.remove(stretch)
                return

    # The end

    def closed(self) -> "Timeline":
        """As it would be if the program ended now; this one goes on."""
        self.advance()
        ended = Timeline(dict)
        state = {name: vars(self)[name] for name in vars(self) if name not in CALLED}
        vars(ended).update(deepcopy(state))
        ended.finish()
        return ended

    def finish(self) -> None:
        """Close what is open; a step that was not completed does not count.

        Where no optimizer ever steps, all there is counts as one, if it goes backward;
        else the program trains nothing, and its forward passes are what there is.
        """
        self.advance()
        self._rejoin()
        step = self.step
        if step is not None and not self.is_between_steps:
            goes_backward = any(phase.name == BACKWARD for phase in step.phases)
            if len(self.steps) > 1 or not goes_backward:
                self.unfinished = self.steps.pop()
        if not self.steps:
            for stretch in self.marked:
                if stretch.name == EVALUATION:
                    stretch.name = FORWARD

    def _begin_step_if_due(self) -> None:
        if self.is_between_steps:
            self.advance()
            self._rejoin()
            self.steps.append(Step(len(self.steps) + 1))

    def _takes_turns(self, step: Step, optimizer: int) -> bool:
        """Whether this step is the second half of the one before.

        Where optimizers take turns, as those of a GAN do, a step is a whole round.
        """
        if len(self.steps) < 2 or step.optimizers:
            return False
        before = self.steps[-2]
        was_there = self._born.get(optimizer, 0) <= before.first_update
        return was_there and optimizer not in before.optimizers

    def _move(self, name: str) -> None:
        self.advance()
        self._rejoin()
        before, self.now = self.now, Stretch(name)
        if name == EVALUATION:
            self.marked.append(self.now)
        elif self.step is not None:
            self.step.phases.append(self.now)
        self._has_stepped = False
        before.ends = self.now.begins = self._note_change(self.step_number, name)

    def _rejoin(self) -> None:
        """After a backward pass without an optimizer step, that pass went on."""
        step = self.step
        if self.phase != OPTIMIZER or self._has_stepped or step is None:
            return
        if len(step.phases) > 1 and step.phases[-1] is self.now:
            self.advance()
            step.phases.pop()
            step.phases[-1].add(self.now.readings)
            self.now = step.phases[-1]
