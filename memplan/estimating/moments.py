"""The highest point of every phase: the traced step on top of what stands still."""

from dataclasses import dataclass

from memplan.estimating.step import Held, Step
from memplan.report import Components, PhaseMemory


@dataclass(frozen=True, slots=True)
class Moment:
    """The highest point of one phase."""

    step: int
    phase: str
    place: str
    components: Components
    requested: int
    allocated: int
    end: int

    def as_phase(self) -> PhaseMemory:
        return PhaseMemory(
            step=self.step,
            phase=self.phase,
            peak_allocated_bytes=self.allocated,
            end_allocated_bytes=self.end,
        )


def moments_of(step: Step, workspace_bytes: int) -> list[Moment]:
    """Every phase of the first and of the steady step."""
    moments = []
    for index in (1, 2):
        has_states = index > 1
        states = step.optimizer_states if has_states else step.first_states
        states_requested = states.requested_bytes
        states_blocks = states.block_bytes
        left = step.left_gradients
        fixed_blocks = (
            step.weights.and_(step.averaged_weights).block_bytes
            + step.buffers.block_bytes
            + workspace_bytes
        )
        for phase in step.phases:
            at, end = phase.peak.at, phase.end
            gradients = at.gradient_bytes + left.requested_bytes
            cache = step.cache if phase is step.phases[-1] else Held()
            blocks = left.block_bytes + cache.block_bytes
            allocated = fixed_blocks + states_blocks + blocks + at.block_bytes
            moments.append(
                _moment(
                    step,
                    index,
                    phase.name,
                    phase.peak.place,
                    allocated,
                    fixed_blocks + states_blocks + blocks + end.block_bytes,
                    gradients=gradients,
                    optimizer_states=states_requested,
                    activations=at.saved_bytes,
                    temporary=step.buffers.requested_bytes
                    + workspace_bytes
                    + at.temporary_bytes,
                    cache=cache.requested_bytes,
                )
            )
        if step.phases[-1].name != "backward":
            continue
        moments.append(
            _optimizer_moment(step, index, moments[-1], fixed_blocks, workspace_bytes)
        )
    return moments


def _optimizer_moment(
    step: Step,
    index: int,
    backward: Moment,
    fixed_blocks: int,
    workspace_bytes: int,
) -> Moment:
    """Clipping and stepping, or what backward left if that is more.

    The loss is still held where backward returns, and with it what is pinned to its
    graph (`Tape.pin`): the first bytes of the phase are the last of backward.
    """
    gradients, states = step.gradients, step.optimizer_states
    temporaries = step.optimizer_temporaries
    standing = fixed_blocks + gradients.block_bytes + states.block_bytes
    return _moment(
        step,
        index,
        "optimizer",
        "optimizer.step",
        max(standing + temporaries.block_bytes, backward.end),
        standing - gradients.block_bytes,
        gradients=gradients.requested_bytes,
        optimizer_states=states.requested_bytes,
        activations=0,
        temporary=temporaries.requested_bytes
        + step.buffers.requested_bytes
        + workspace_bytes,
    )


def _moment(
    step: Step,
    index: int,
    phase: str,
    place: str,
    allocated: int,
    end: int,
    *,
    gradients: int,
    optimizer_states: int,
    activations: int,
    temporary: int,
    cache: int = 0,
) -> Moment:
    """A moment whose temporary buffers take in the rounding of blocks."""
    weights = step.weights.requested_bytes
    functional = step.averaged_weights.requested_bytes + cache
    requested = (
        weights + gradients + optimizer_states + activations + temporary + functional
    )
    return Moment(
        step=index,
        phase=phase,
        place=place,
        components=Components(
            weights=weights,
            gradients=gradients,
            optimizer_states=optimizer_states,
            activations=activations,
            temporary_buffers=temporary + allocated - requested,
            functionality_specific=functional,
        ),
        requested=requested,
        allocated=allocated,
        end=end,
    )
