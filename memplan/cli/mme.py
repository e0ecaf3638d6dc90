"""`memplan mme`: ask a model the questions of MME, and score its answers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memplan.cli.output import Format, JsonOption, as_json, chosen, emit
from memplan.cli.values import parse_precision

if TYPE_CHECKING:
    from memplan.mme.benchmark import Question
    from memplan.mme.evaluation import Progress
    from memplan.mme.scoring import MmeScore

FormatOption = Annotated[
    Format,
    typer.Option("--format", help="quiet prints perception and cognition alone."),
]

mme = typer.Typer(
    help="Ask a model the yes-or-no questions of MME, and score its answers.",
    no_args_is_help=True,
)


@mme.command()
def score(
    folder: Annotated[
        Path, typer.Argument(help="The folder with a file of results a subtask.")
    ],
    official: Annotated[
        bool, typer.Option("--official", help="Print what the official tool prints.")
    ] = False,
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
) -> None:
    """Score files of results, exactly as the official tool does."""
    from memplan.mme.results import score_folder

    _emit_score(score_folder(folder), official, chosen(output_format, wants_json))


@mme.command()
def run(
    model: Annotated[
        str, typer.Option(help="A preset, or a folder with a checkpoint.")
    ],
    data: Annotated[Path, typer.Option(help="The folder of MME, as it is unpacked.")],
    out: Annotated[Path, typer.Option(help="The folder for the files of results.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="The trained weights of a preset.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Questions asked at once.")
    ] = 1,
    max_new_tokens: Annotated[
        int,
        typer.Option(min=0, help="Of an answer.  (default: 10)", show_default=False),
    ] = 0,
    precision: Annotated[
        Any,
        typer.Option(
            help="As `memplan estimate` has it.  (default: bf16-mixed)",
            parser=parse_precision,
        ),
    ] = None,
    quantization: Annotated[
        str, typer.Option(help="none, int8 or nf4: answers may change.")
    ] = "none",
    device: Annotated[
        str | None, typer.Option(help="cuda, cuda:1 or cpu.  (default: cuda, else cpu)")
    ] = None,
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Begin anew over answers in --out.")
    ] = False,
    output_format: FormatOption = Format.HUMAN,
    wants_json: JsonOption = False,
) -> None:
    """Ask every question, then score the answers.

    A run that was ended goes on where it was, by the same command.
    """
    from memplan.mme.benchmark import read_benchmark
    from memplan.mme.checkpoints import find_checkpoint
    from memplan.mme.evaluation import evaluate
    from memplan.mme.journal import Journal
    from memplan.mme.results import score_folder
    from memplan.models.workload import ANSWER_TOKENS
    from memplan.plan import TrainingPlan

    wanted = {} if precision is None else {"precision": precision}
    plan = TrainingPlan(
        model=model,
        workload="mme",
        per_device_train_batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        quantization=quantization,  # type: ignore[arg-type]  # the plan checks it
        **wanted,
    )
    found = find_checkpoint(model, checkpoint)
    benchmark = read_benchmark(data)
    _check_libraries(quantization)
    settings = {
        "model": model,
        "weights": found.digest(),
        "precision": plan.precision,
        "quantization": plan.quantization,
        "max_new_tokens": max_new_tokens or ANSWER_TOKENS,
    }
    with Journal(out, settings, force=force) as journal:
        from memplan.mme.loading import load_answerer, measured, usable_device

        used = usable_device(device)
        answerer = load_answerer(found, plan, used)
        with _progress(benchmark) as progress, _told_of_the_rest(out):
            evaluate(
                benchmark, answerer, journal, batch_size=batch_size, progress=progress
            )
        for line in measured(used):
            typer.echo(line, err=True)
    _emit_score(score_folder(out), False, chosen(output_format, wants_json))


@mme.command()
def miniature(
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet.")],
    images: Annotated[int, typer.Option(min=1, help="Of every subtask.")] = 2,
    seed: Annotated[int, typer.Option(help="Another one, other pictures.")] = 0,
) -> None:
    """Write a small benchmark in MME's layout, with the answers in its pictures."""
    from memplan.mme.miniature import write_miniature

    _check_libraries("none")
    emit(str(write_miniature(folder, images, seed)))


def _emit_score(score: "MmeScore", official: bool, wanted: Format) -> None:
    from memplan.mme.scoring import as_official_text
    from memplan.views.mme import score_as_data, show_score

    if official:
        emit(as_official_text(score))
        return
    match wanted:
        case Format.JSON:
            emit(as_json(score_as_data(score)))
        case Format.QUIET:
            emit(f"{score.perception}\n{score.cognition}")
        case Format.HUMAN:
            show_score(score)


@contextmanager
def _progress(benchmark: "Mapping[str, Sequence[Question]]") -> "Iterator[Progress]":
    """A bar on stderr, of a terminal alone; a line for every finished subtask."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True, highlight=False)
    totals = {task: len(questions) for task, questions in benchmark.items()}
    answered = dict.fromkeys(totals, 0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        Remaining(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        whole = bar.add_task("MME", total=sum(totals.values()))

        def progress(task: str, num_answered: int) -> None:
            answered[task] = num_answered
            bar.update(whole, completed=sum(answered.values()), description=task)
            if num_answered == totals[task]:
                console.print(f"{task}: {num_answered} questions answered")

        yield progress


@contextmanager
def _told_of_the_rest(out: Path) -> Iterator[None]:
    """A run that is ended from outside says how it goes on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        message = f"Ended. Answers so far are in {out}: the same command goes on."
        typer.echo(message, err=True)
        raise


def _check_libraries(quantization: str) -> None:
    """Say what is missing before anything is written."""
    from importlib.util import find_spec

    from memplan.errors import PlanError

    needed = {"PIL": "pillow"}
    if quantization != "none":
        needed["bitsandbytes"] = "bitsandbytes"
    for module, package in needed.items():
        if find_spec(module) is None:
            raise PlanError(
                f"This needs {package}, which is not installed.",
                hint=f"pip install {package}",
            )
