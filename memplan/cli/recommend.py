"""`memplan recommend`: a model, a global batch and a budget; ways to train, ranked."""

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
from memplan.cli.plan_flags import given, takes_plan
from memplan.cli.program import plan_of, say
from memplan.cli.values import parse_targets
from memplan.errors import CommandError

if TYPE_CHECKING:
    from memplan.searching.recommendation import Recommendation

SEARCH = "The search"
TOP = 5
STARTS_FROM = {"precision": "fp32"}
"""What the search begins with where it is not given: tricks lead from there."""


class RankBy(StrEnum):
    """What comes first."""

    THROUGHPUT = "throughput"
    PRICE = "price"


@takes_plan
def recommend(
    global_batch: Annotated[
        int,
        typer.Option(
            min=1,
            help="Samples of an optimizer step, over all GPUs.",
            rich_help_panel=SEARCH,
        ),
    ],
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
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rehearsals at once.  (default: as many as there is room for)",
            show_default=False,
            rich_help_panel=SEARCH,
        ),
    ] = None,
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
    from memplan.recommend import recommend as run
    from memplan.searching.prices import budget_of, read_prices
    from memplan.searching.recommendation import as_dict

    fields = given(flags)
    if "gpu" in fields:
        raise CommandError(
            "The card is searched for, and --gpu gives it.",
            hint=f"Name the cards to choose from: --gpus {fields['gpu']}",
        )
    plan = plan_of({**STARTS_FROM, **fields}, [], "recommend")
    check_output(output, force=force)
    found = run(
        plan,
        global_batch=global_batch,
        gpus=gpus or (),
        budget_usd_per_hour=None if budget is None else budget_of(budget),
        max_gpus=max_gpus,
        allow=allow or (),
        prices=read_prices(prices),
        rank_by=rank_by.value,
    )
    if confirm:
        found = _confirmed(found, top, jobs)
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


def _confirmed(found: "Recommendation", top: int, jobs: int | None) -> "Recommendation":
    from memplan.comparing.engines import engine_of
    from memplan.recommend import confirm

    return confirm(found, engine_of("rehearse", jobs), top, say)
