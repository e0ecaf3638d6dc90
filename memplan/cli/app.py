"""All verbs."""

from typing import Annotated

import typer

from memplan.cli.catalogues import env, gpus, models
from memplan.cli.check import check
from memplan.cli.compare import compare
from memplan.cli.config import config
from memplan.cli.diff import diff
from memplan.cli.estimate import estimate
from memplan.cli.fit import fit
from memplan.cli.gather import gather
from memplan.cli.mme import mme
from memplan.cli.profile import profile
from memplan.cli.program import WithProgram
from memplan.cli.recommend import recommend
from memplan.cli.rehearse import rehearse
from memplan.cli.report import report
from memplan.cli.show import show
from memplan.cli.validate import validate
from memplan.cli.worst_batch import worst_batch

app = typer.Typer(
    name="memplan",
    help="How much GPU memory a training run takes, and what to change.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    # --zero_stage and --zero-stage are the same flag.
    context_settings={
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"memplan {version('memplan')}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and leave.",
        ),
    ] = False,
) -> None:
    """How much GPU memory a training run takes, and what to change."""


app.command()(estimate)
app.command(cls=WithProgram, context_settings={"allow_extra_args": True})(rehearse)
app.command(cls=WithProgram, context_settings={"allow_extra_args": True})(profile)
app.command()(compare)
app.command()(recommend)
app.command()(worst_batch)
app.command()(check)
app.command()(fit)
app.command()(config)
app.command()(show)
app.command()(gather)
app.command()(diff)
app.command()(report)
app.command()(validate)
app.add_typer(mme, name="mme")
app.command()(gpus)
app.command()(models)
app.command()(env)
