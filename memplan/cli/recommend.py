"""`memplan recommend`: a model, a global batch and a budget; ways to train, ranked."""

import math
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memplan.cli.output import (
    ForceOption,
    Format,
    JsonOption,
    as_json,
    check_output,
    chosen,
    emit,
)
from memplan.cli.plan_flags import asked, takes_plan
from memplan.cli.program import plan_of, say
from memplan.cli.sweeps import ExecutorOption, JobsOption, sweeping
from memplan.cli.values import parse_targets
from memplan.errors import CommandError

if TYPE_CHECKING:
    from memplan.inputs.configs.reading import Asked

SEARCH = "The search"
TOP = 5
FACTORS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_gpus",
)
"""Of a global batch."""
CHOSEN = {
    "gpu": "the card",
    "per_device_train_batch_size": "the micro-batch",
    "gradient_accumulation_steps": "how many micro-batches are accumulated",
    "num_gpus": "the number of GPUs",
}
"""Fields of a plan that are searched for, and no flags."""
NOT_SEARCHED = (
    "tensor_parallel",
    "pipeline_parallel",
    "context_parallel",
    "expert_parallel",
)
SEARCHED_ANEW = (
    "activation_checkpointing",
    "cross_entropy_chunks",
    "offload_activations",
    "offload_optimizer",
    "offload_parameters",
    "sharding",
    "zero_stage",
)
"""Fields that leave results as they are: files say them of a run that is no more."""
STARTS_FROM = {"precision": "fp32"}
"""What the search begins with where it is not given: tricks lead from there."""


class RankBy(StrEnum):
    """What comes first."""

    THROUGHPUT = "throughput"
    PRICE = "price"


@takes_plan
def recommend(
    global_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Samples of an optimizer step, over all GPUs.  (default: those of "
            "the files)",
            show_default=False,
            rich_help_panel=SEARCH,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="What a cluster may cost, like 20USD/h.", rich_help_panel=SEARCH
        ),
    ] = None,
    gpus: Annotated[
        Any,
        typer.Option(
            help="Cards of `memplan gpus`, with commas.  (default: all with a price)",
            parser=parse_targets,
            rich_help_panel=SEARCH,
        ),
    ] = None,
    max_gpus: Annotated[
        int, typer.Option(min=1, help="Of a cluster.", rich_help_panel=SEARCH)
    ] = 64,
    allow: Annotated[
        Any,
        typer.Option(
            help="Tricks beside those that are exact or round otherwise: names, "
            "techniques (optimizer-choice), what becomes of results, all; -name leaves "
            "one out.",
            parser=parse_targets,
            rich_help_panel=SEARCH,
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file of prices in place of memplan's.", rich_help_panel=SEARCH
        ),
    ] = None,
    rank_by: Annotated[
        RankBy, typer.Option(help="What comes first.", rich_help_panel=SEARCH)
    ] = RankBy.THROUGHPUT,
    top: Annotated[
        int,
        typer.Option(min=1, help="So many are shown.", rich_help_panel=SEARCH),
    ] = TOP,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm", help="Rehearse those that are shown.", rich_help_panel=SEARCH
        ),
    ] = False,
    jobs: JobsOption = None,
    executor: ExecutorOption = "local",
    output_format: Annotated[
        Format,
        typer.Option("--format", help="quiet prints only the best one's command."),
    ] = Format.HUMAN,
    wants_json: JsonOption = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the JSON here.")
    ] = None,
    force: ForceOption = False,
    **flags: Any,
) -> None:
    """Find the fastest ways to train a model that fit and can be paid for.

    Exit code 0: something fits, 1: nothing does.
    """
    from rich.console import Console

    from memplan.comparing.engines import engine_of
    from memplan.recommend import confirm as confirmed
    from memplan.recommend import recommend as run
    from memplan.searching.prices import budget_of, read_prices
    from memplan.searching.recommendation import as_dict

    _check_not_typed(flags)
    of_user = asked(flags)
    fields = {**STARTS_FROM, **of_user.fields}
    _check_parallelism(fields)
    samples = global_batch or _global_batch_of(of_user)
    for name in (*CHOSEN, *SEARCHED_ANEW):
        if flags.get(name) is None:
            fields.pop(name, None)
    plan = plan_of(fields, [], "recommend")
    check_output(output, force=force)
    with sweeping(
        executor, jobs, rehearses=None if confirm else "--confirm"
    ) as workers:
        with Console(stderr=True).status("Searching"):
            found = run(
                plan,
                global_batch=samples,
                gpus=gpus or (),
                budget_usd_per_hour=None if budget is None else budget_of(budget),
                max_gpus=max_gpus,
                allow=allow or (),
                prices=read_prices(prices),
                rank_by=rank_by.value,
            )
        if confirm:
            engine = engine_of("rehearse", jobs, workers)
            found = confirmed(found, engine, top, say)
    lines = (*found.assumptions, *of_user.assumed, *of_user.not_read)
    found = replace(found, assumptions=lines)
    if output is not None:
        emit(as_json(as_dict(found)), output, force=force)
    match chosen(output_format, wants_json):
        case Format.JSON if output is None:
            emit(as_json(as_dict(found)))
        case Format.QUIET:
            emit("-" if found.best is None else found.best.command)
        case Format.HUMAN:
            from memplan.views.recommendation import show_recommendation

            show_recommendation(found, top)
    if found.best is None:
        raise typer.Exit(1)


def _check_not_typed(flags: dict[str, Any]) -> None:
    """What is searched for is no flag; files may say how it was before."""
    for name, noun in CHOSEN.items():
        if flags.get(name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise CommandError(
                f"{noun[0].upper()}{noun[1:]} is searched for, and {flag} gives it.",
                hint="Name the cards to choose from with --gpus."
                if name == "gpu"
                else f"Leave {flag} out; `memplan estimate` takes it.",
            )


def _check_parallelism(fields: dict[str, Any]) -> None:
    for name in NOT_SEARCHED:
        if fields.get(name, 1) > 1:
            raise CommandError(
                "All GPUs are data-parallel ranks here: no model is divided otherwise.",
                hint=f"Leave {name.replace('_', ' ')} out; `memplan estimate` takes "
                "it.",
            )


def _global_batch_of(of_user: "Asked") -> int:
    """That of the files, as the run had it."""
    sizes = [of_user.fields.get(name) for name in FACTORS]
    if not of_user.files or sizes[0] is None:
        raise CommandError(
            "A recommendation is for a global batch, and none is given.",
            hint="Say how many samples an optimizer step has: --global-batch 256",
        )
    return math.prod(size or 1 for size in sizes)
