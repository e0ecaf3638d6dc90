"""`memplan gather`: the captures of a job's machines, as one."""

from pathlib import Path
from typing import Annotated

import typer

from memplan.cli.output import ForceOption, check_output, emit_capture


def gather(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="The captures (.mplan) of one job."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Write the joined capture here.")
    ],
    force: ForceOption = False,
) -> None:
    """Join the captures that the machines of one job wrote, each its own."""
    from memplan.captures.capture_file import is_capture
    from memplan.cli.show import opened
    from memplan.errors import CaptureFileError

    if not is_capture(output):
        raise CaptureFileError(
            f"{output} is no name of a capture.",
            hint=f"Call it {output.stem}.mplan",
        )
    check_output(output, force=force)
    capture = opened(files)
    emit_capture(capture, output, force=force)
    num_ranks = len({process["rank"] for process in capture.processes})
    typer.echo(f"{output}: {num_ranks} of {capture.report.num_gpus} ranks", err=True)
