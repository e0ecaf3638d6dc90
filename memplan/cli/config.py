"""`memplan config`: a plan as a file of another tool."""

from pathlib import Path
from typing import Annotated, Any

import typer

from memplan.cli.output import ForceOption, check_output, emit
from memplan.cli.plan_flags import given, takes_plan
from memplan.cli.program import plan_of, say


@takes_plan
def config(
    to: Annotated[
        str,
        typer.Option(
            help="accelerate, deepspeed, trainer, llama-factory, trl, axolotl, "
            "torchtune, torchtitan, peft or bitsandbytes."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the file here."),
    ] = None,
    force: ForceOption = False,
    **flags: Any,
) -> None:
    """Write a plan as the configuration of another tool.

    What that has no key for is told on stderr, as flags.
    """
    from memplan.errors import UnknownNameError
    from memplan.inputs.configs.reading import FORMATS
    from memplan.inputs.configs.writing import unsaid_words, written

    kinds = {kind.name: kind for kind in FORMATS}
    if to not in kinds:
        raise UnknownNameError.of("format", to, kinds)
    plan = plan_of(given(flags), [], "config")
    check_output(output, force=force)
    text, unsaid = written(plan, kinds[to])
    emit(text, output, force=force)
    for words in unsaid_words(unsaid):
        say(f"{kinds[to].title} has no key for {words}")
