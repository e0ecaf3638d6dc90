"""`memplan worst-batch`: what the batches of a dataset take."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memplan.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    JsonOption,
    OutputOption,
    as_json,
    check_output,
    chosen,
    emit,
)
from memplan.cli.plan_flags import asked, takes_plan
from memplan.cli.program import check_one_card, plan_of
from memplan.cli.values import parse_targets
from memplan.errors import CommandError

if TYPE_CHECKING:
    from memplan.batching.dataset import Columns, Sizes

DATA = "The dataset"
BATCHES = "The batches"


class Sampling(StrEnum):
    """`train_sampling_strategy` of the Trainer."""

    RANDOM = "random"
    SEQUENTIAL = "sequential"
    GROUP_BY_LENGTH = "group_by_length"


class Packing(StrEnum):
    """`packing_strategy` of TRL."""

    NONE = "none"
    WRAPPED = "wrapped"
    BFD = "bfd"


def _option(*names: str, help: str, panel: str, parser: Any = None) -> Any:
    return typer.Option(
        *names, help=help, rich_help_panel=panel, parser=parser, show_default=False
    )


@takes_plan
def worst_batch(
    data: Annotated[
        Path | None,
        _option(
            "--data",
            help="A file of .jsonl, .json, .csv, .parquet or .arrow.",
            panel=DATA,
        ),
    ] = None,
    histogram: Annotated[
        str | None,
        _option(
            "--histogram",
            help="Lengths and counts, 512:1000,1024:50, or a file of them.",
            panel=DATA,
        ),
    ] = None,
    length_column: Annotated[
        str | None,
        _option(
            "--length-column",
            help="Tokens: a count, or a list.  (default: length, or input_ids)",
            panel=DATA,
        ),
    ] = None,
    target_length_column: Annotated[
        str | None,
        _option("--target-length-column", help="The decoder's tokens.", panel=DATA),
    ] = None,
    images_column: Annotated[
        str | None,
        _option("--images-column", help="Pictures: a count, or a list.", panel=DATA),
    ] = None,
    image_size_column: Annotated[
        Any,
        _option(
            "--image-size-column",
            help="Pixels of a side, pairs of them, or two columns: width,height.",
            panel=DATA,
            parser=parse_targets,
        ),
    ] = None,
    id_column: Annotated[
        str | None, _option("--id-column", help="What samples are called.", panel=DATA)
    ] = None,
    tokenizer: Annotated[
        str | None,
        _option(
            "--tokenizer",
            help="A hub id or a folder: it counts the tokens of texts.",
            panel=DATA,
        ),
    ] = None,
    skip_bad_records: Annotated[
        bool,
        _option("--skip-bad-records", help="Leave out what is broken.", panel=DATA),
    ] = False,
    sampling: Annotated[
        Sampling,
        typer.Option(
            "--sampling",
            "--train-sampling-strategy",
            help="In which order samples come.",
            rich_help_panel=BATCHES,
        ),
    ] = Sampling.RANDOM,
    pad_to_multiple_of: Annotated[
        int | None,
        _option("--pad-to-multiple-of", help="Of lengths.", panel=BATCHES),
    ] = None,
    drop_longer: Annotated[
        bool,
        _option(
            "--drop-longer",
            help="Leave out what is longer than --seq-len; else it is truncated.",
            panel=BATCHES,
        ),
    ] = False,
    packing: Annotated[
        Packing,
        typer.Option(
            help="Samples share rows of --seq-len tokens.", rich_help_panel=BATCHES
        ),
    ] = Packing.NONE,
    max_tokens_per_batch: Annotated[
        int | None,
        _option(
            "--max-tokens-per-batch",
            help="As many samples as fit, in place of a batch size.",
            panel=BATCHES,
        ),
    ] = None,
    drop_last: Annotated[
        bool,
        _option(
            "--drop-last",
            "--dataloader-drop-last",
            help="Leave out the last batch where it is not full.",
            panel=BATCHES,
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", "--data-seed", help="Of the order.", rich_help_panel=BATCHES
        ),
    ] = 42,
    epochs: Annotated[
        int, typer.Option(help="How many to draw.", rich_help_panel=BATCHES)
    ] = 1,
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
    output: OutputOption = None,
    force: ForceOption = False,
    **flags: Any,
) -> None:
    """Find the batch of a dataset that takes most, and the sample that causes it.

    Exit code 0: every batch fits that can come; 1: not every one; 2: a flag or the
    data is wrong.
    """
    from memplan.batching.batches import BatchingRule
    from memplan.batching.dataset import Columns
    from memplan.batching.worst import as_dict
    from memplan.worst_batch import worst_batch as run

    of_user = asked(flags)
    fields = of_user.fields
    check_one_card(fields, "batch")
    if "model" not in fields:
        raise CommandError(
            "There is no model that batches are for.",
            hint="Name a model of `memplan models`.",
        )
    plan = plan_of(fields, [], "worst-batch")
    check_output(output, force=force)
    columns = Columns(
        length=length_column,
        target_length=target_length_column,
        images=images_column,
        image_size=image_size_column or (),
        id=id_column,
    )
    rule = BatchingRule(
        sampling=sampling.value,
        pad_to_multiple_of=pad_to_multiple_of,
        drop_longer=drop_longer,
        packing=packing.value,
        max_tokens_per_batch=max_tokens_per_batch,
        drop_last=drop_last,
        seed=seed,
        epochs=epochs,
    )
    sizes = _sizes(data, histogram, columns, tokenizer, skip_bad_records)
    found = run(plan, sizes, rule)
    found = replace(found, report=of_user.onto(found.report))
    if output is not None:
        emit(as_json(as_dict(found)), output, force=force)
    match chosen(output_format, wants_json):
        case Format.JSON if output is None:
            emit(as_json(as_dict(found)))
        case Format.QUIET:
            emit(str(found.report.peak.device_bytes))
        case Format.HUMAN:
            from memplan.views.worst_batch import show_worst_batch

            show_worst_batch(found)
    if not found.fits:
        raise typer.Exit(1)


def _sizes(
    data: Path | None,
    lengths: str | None,
    columns: "Columns",
    tokenizer: str | None,
    skips: bool,
) -> "Sizes":
    """Of the file or of the histogram, one of which has to be given."""
    from memplan.batching.dataset import histogram, read_sizes, tokenizer_of
    from memplan.data.records import Policy

    if (data is None) == (lengths is None):
        raise CommandError(
            "Batches are made of one dataset.",
            hint="Give --data FILE, or --histogram 512:1000,1024:50.",
        )
    if data is None:
        assert lengths is not None
        if columns.names:
            raise CommandError(
                "A histogram has no columns.", hint="Columns are those of --data."
            )
        return histogram(lengths)
    return read_sizes(
        data,
        columns,
        policy=Policy.SKIP if skips else Policy.REFUSE,
        tokenizer=tokenizer_of(tokenizer) if tokenizer is not None else None,
    )
