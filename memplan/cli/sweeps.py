"""What verbs that rehearse many plans share: how many at once, where, and Ctrl-C."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from memplan.cli.program import say
from memplan.errors import CommandError

if TYPE_CHECKING:
    from concurrent.futures import Executor

SWEEP = "The sweep"

JobsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Rehearsals at once.  (default: as many as there is room for)",
        show_default=False,
        rich_help_panel=SWEEP,
    ),
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|dask://HOST:PORT",
        help="Where rehearsals run: here, or on the workers of a Dask cluster.",
        rich_help_panel=SWEEP,
    ),
]


@contextmanager
def sweeping(
    name: str, jobs: int | None, *, rehearses: str | None
) -> "Iterator[Executor | None]":
    """The executor that flags name; None: threads here. Ctrl-C says what is kept.

    Args:
        name: `--executor`.
        jobs: `--jobs`.
        rehearses: the flag that is missing for anything to be rehearsed, if it is.

    Raises:
        MemplanError: flags contradict each other, or there is no such executor.
    """
    from memplan.running.executors import LOCAL, executor_of

    if name != LOCAL and rehearses is not None:
        raise CommandError(
            "An executor runs rehearsals, and none are asked for.",
            hint=f"Add {rehearses}, or leave --executor out.",
        )
    if name != LOCAL and jobs is not None:
        raise CommandError(
            "--jobs counts rehearsals on this machine, and --executor runs none here.",
            hint="How many a worker runs at once is its --nthreads.",
        )
    try:
        with executor_of(name) as executor:
            yield executor
    except KeyboardInterrupt:
        if rehearses is None:
            say("Stopped: what was answered is kept, and the same command goes on.")
        raise
