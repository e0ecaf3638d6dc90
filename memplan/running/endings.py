"""How a program ended that was run, where it did not end well.

A program fails by itself, or one rank of it does and takes the others along, or it was
well and there was nothing to see. The sentences say which, and leave with its own code.
"""

import signal
from collections.abc import Sequence
from textwrap import shorten

from memplan.errors import ProgramError
from memplan.runner.launch import Outcome
from memplan.running.ranks import missing_ranks
from memplan.running.rehearsal import Capture, out_of_memory_of

LONGEST_ERROR = 120
OWN_ERROR = "That is the program's own error; what it printed is above."
KILLED = "It was killed from outside, as a host does that runs out of memory."
FINISHED, STOPPED = "finished", "stopped"
"""By itself, and by the runner after the last step."""


def failure_of(
    outcome: Outcome, useful: Sequence[Capture], name: str
) -> ProgramError | None:
    """The error of a program that failed before it had come to its last step."""
    code = outcome.exit_code
    if code == 0 or outcome.is_interrupted:
        return None
    dead = missing_ranks(outcome.captures)
    if useful and _went_far_enough(useful) and not dead:
        return None
    reasons = [*_errors(outcome.captures), *_deaths(outcome.captures)]
    said = f" ({'; '.join(reasons)})" if reasons else ""
    was_killed = dead or code == 128 + signal.SIGKILL
    return ProgramError(
        f"{name} left with exit code {_exit_code(code)}{said}.",
        hint=KILLED if was_killed else OWN_ERROR,
        exit_code=code,
    )


def nothing_seen(captures: Sequence[Capture], name: str) -> ProgramError:
    """A program that ended well without anything to report."""
    if not captures:
        return ProgramError(
            f"{name} never imported torch.",
            hint="Give the command that trains; its Python must see PYTHONPATH "
            "(no -I or -E).",
        )
    if not any(capture["device"] for capture in captures):
        return ProgramError(
            f"{name} never used CUDA.",
            hint="Does it ask for a device? The card is cuda:0.",
        )
    return ProgramError(
        f"{name} made no training step: no optimizer step after a backward pass.",
        hint='Mark what to measure: with memplan.phase("name"): ...',
    )


def _went_far_enough(useful: Sequence[Capture]) -> bool:
    """Whether memory ended somewhere, or the last step was reached and nothing failed.

    What a script does after its training may then fail: the training was cut short.
    """
    endings = {capture["ended"] for capture in useful}
    is_done = STOPPED in endings and endings <= {STOPPED, FINISHED}
    return is_done or any(map(out_of_memory_of, useful))


def _errors(captures: Sequence[Capture]) -> list[str]:
    """The first error of the program; those of its ranks before its launcher's."""
    ordered = sorted(captures, key=lambda capture: capture["device"] is None)
    errors = [shorten(c["error"], LONGEST_ERROR) for c in ordered if c["error"]]
    return errors[:1]


def _deaths(captures: Sequence[Capture]) -> list[str]:
    """`rank 1 of 2 died`."""
    dead = missing_ranks(captures)
    if not dead:
        return []
    world_size = max(capture["world_size"] for capture in captures)
    ranks = ", ".join(map(str, dead))
    return [f"rank{'s' * (len(dead) > 1)} {ranks} of {world_size} died"]


def _exit_code(code: int) -> str:
    """`139, SIGSEGV`: from 128 on it is a signal that ended the program."""
    try:
        return f"{code}, {signal.Signals(code - 128).name}"
    except ValueError:
        return str(code)
